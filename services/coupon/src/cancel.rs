//! Cancelling members' coupons, once, whether or not they were issued yet.

use std::collections::HashMap;

use async_trait::async_trait;
use couponmesh_messaging::{Store, Transaction};
use couponmesh_proto::coupon::v1::CouponCancelled;
use couponmesh_runtime::{
    Context,
    group_commit::{GroupCommit, Work},
    id::{CouponId, MemberId, WithdrawalId},
    running::Running,
};
use sea_orm::DbErr;

use crate::{
    coupons::{self, Model, State},
    error::Error,
};

/// A request to cancel, checked.
#[derive(Clone, Debug)]
pub struct Cancelling {
    /// Whose coupon.
    pub member_id: MemberId,
    /// The cause.
    pub withdrawal_id: WithdrawalId,
    /// What caused it.
    pub context: Context,
}

/// Cancels coupons. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Canceller(GroupCommit<Cancellations>);

impl Canceller {
    /// Cancels in tasks of `running`.
    #[must_use]
    pub fn new(store: &Store, running: &Running) -> Self {
        let work = Cancellations {
            store: store.clone(),
        };
        Self(GroupCommit::new(work, running))
    }

    /// Cancels the coupon and returns it; one that is cancelled already is returned as it is. When the caller goes
    /// away it is still cancelled.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Overloaded`].
    pub async fn cancel(&self, cancelling: Cancelling) -> Result<Model, Error> {
        self.0.submit(cancelling).await
    }
}

#[derive(Debug)]
struct Cancellations {
    store: Store,
}

#[async_trait]
impl Work for Cancellations {
    type Request = Cancelling;
    type Answer = Model;
    type Error = Error;

    async fn commit(&self, cancellings: &[Cancelling]) -> Result<Vec<Result<Model, Error>>, DbErr> {
        let tx = self.store.begin("coupon.cancel").await?;
        // Of several that want one coupon cancelled any will do.
        let causes = cancellings.iter().map(|one| (one.member_id, one));
        let causes: HashMap<MemberId, &Cancelling> = causes.collect();
        let members = causes.keys().copied().collect();
        let mut coupons = coupons::find_by_members_for_update(&tx, members).await?;
        let missing = causes.iter().filter(|(id, _)| !coupons.contains_key(id));
        let missing: HashMap<_, _> = missing.map(|(id, cause)| (*id, *cause)).collect();
        let before_issue = cancel_before_issue(&tx, &missing).await?;
        let mut changed = before_issue.len();
        coupons.extend(before_issue);
        let others = missing.keys().filter(|id| !coupons.contains_key(id));
        let others: Vec<MemberId> = others.copied().collect();
        if !others.is_empty() {
            // On PostgreSQL they came in between. The insert waited for their commit.
            coupons.extend(coupons::find_by_members_for_update(&tx, others).await?);
        }
        changed += cancel_issued(&tx, &causes, &mut coupons).await?;
        let answers = cancellings.iter().map(|one| coupons.get(&one.member_id));
        let answers: Option<Vec<_>> = answers.map(|found| found.cloned().map(Ok)).collect();
        let answers = answers.ok_or(DbErr::RecordNotUpdated)?;
        // All were cancelled before: there is nothing to wait for.
        if changed > 0 {
            tx.commit().await?;
        }
        Ok(answers)
    }
}

/// Stores cancelled records without a code, so that the late registrations issue nothing. Returns those that were
/// stored: where a record has come in meanwhile, none is.
async fn cancel_before_issue(
    tx: &Transaction,
    causes: &HashMap<MemberId, &Cancelling>,
) -> Result<HashMap<MemberId, Model>, DbErr> {
    let cancelled = |(member_id, cause): (&MemberId, &&Cancelling)| Model {
        coupon_id: CouponId(tx.new_id()),
        member_id: *member_id,
        code: None,
        state: State::Cancelled,
        issue_time: None,
        cancel_time: Some(tx.now()),
        withdrawal_id: Some(cause.withdrawal_id),
        version: 1,
    };
    let rows: Vec<Model> = causes.iter().map(cancelled).collect();
    let inserted = coupons::insert_new(tx, rows.clone()).await?;
    let rows = rows.into_iter();
    let stored = rows.filter(|row| inserted.contains(&row.coupon_id));
    let stored: HashMap<MemberId, Model> = stored.map(|row| (row.member_id, row)).collect();
    for coupon in stored.values() {
        append(tx, causes, coupon);
    }
    Ok(stored)
}

/// Cancels those of `coupons` that are not cancelled yet; returns how many they were.
async fn cancel_issued(
    tx: &Transaction,
    causes: &HashMap<MemberId, &Cancelling>,
    coupons: &mut HashMap<MemberId, Model>,
) -> Result<usize, DbErr> {
    let mut cancelled = Vec::new();
    for (member_id, coupon) in coupons {
        let (State::Issued, Some(cause)) = (coupon.state, causes.get(member_id)) else {
            continue;
        };
        coupon.cancel(cause.withdrawal_id, tx.now());
        append(tx, causes, coupon);
        cancelled.push(coupon.clone());
    }
    let count = cancelled.len();
    coupons::save_cancelled(tx, cancelled).await?;
    Ok(count)
}

fn append(tx: &Transaction, causes: &HashMap<MemberId, &Cancelling>, coupon: &Model) {
    if let Some(cause) = causes.get(&coupon.member_id) {
        tx.append(&cause.context, coupon.member_id, &event(coupon));
    }
}

fn event(coupon: &Model) -> CouponCancelled {
    CouponCancelled {
        coupon_id: coupon.coupon_id.to_string(),
        member_id: coupon.member_id.to_string(),
        code: coupon.code.clone().unwrap_or_default(),
        withdrawal_id: coupon
            .withdrawal_id
            .map(|id| id.to_string())
            .unwrap_or_default(),
        cancel_time: coupon.cancel_time.map(Into::into),
        version: coupon.version,
        issue_time: coupon.issue_time.map(Into::into),
    }
}
