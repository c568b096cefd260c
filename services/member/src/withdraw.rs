//! Asking to withdraw: the request is stored first, so that whatever happens next, it is carried out.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use couponmesh_messaging::{Store, Transaction, rows};
use couponmesh_runtime::{
    Context, Timestamp,
    database::answered_by,
    group_commit::{GroupCommit, Work},
    id::{MemberId, RequestId, WithdrawalId},
    running::Running,
    wake::Wake,
};
use sea_orm::{ActiveModelTrait as _, DbErr, IntoActiveModel as _};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    attempt::Finisher,
    error::Error,
    members::{self, State},
    requests::{self, Rpc},
    withdrawals::{self, Model, Reason},
};

/// A request to withdraw, checked.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// The caller's id for the call.
    pub request_id: Option<RequestId>,
    /// Who leaves.
    pub member_id: MemberId,
    /// What caused it.
    pub context: Context,
}

impl Leaving {
    /// The member's id is all the content that there is, and no secret.
    fn digest(&self) -> &[u8] {
        self.member_id.0.as_bytes()
    }
}

/// A withdrawal, stored.
#[derive(Debug)]
enum Stored {
    /// It was there before, or there is no room for an attempt now: the worker's.
    AsItIs(Model),
    /// New, and claimed for an attempt on behalf of the caller.
    Claimed(Model),
}

/// Takes requests to withdraw. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Withdrawer {
    finisher: Finisher,
    asking: GroupCommit<Asking>,
}

impl Withdrawer {
    pub(crate) fn new(finisher: Finisher, running: &Running) -> Self {
        let asking = Asking {
            store: finisher.store.clone(),
            claim: finisher.config.claim(),
            pending: finisher.pending.clone(),
        };
        Self {
            finisher,
            asking: GroupCommit::new(asking, running),
        }
    }

    /// Stores the withdrawal, tells `stored` of it, and attempts it when there is room for one more caller.
    /// Returns it as it then is. When it is not stored by `answer_by`, the caller is told so.
    ///
    /// # Errors
    /// [`Error::MemberNotFound`], [`Error::RequestIdReused`], [`Error::Storage`], [`Error::Overloaded`].
    pub(crate) async fn withdraw(
        self,
        leaving: Leaving,
        answer_by: Option<Instant>,
        stored: oneshot::Sender<Model>,
    ) -> Result<Model, Error> {
        // Held until the attempt ends, whether or not the caller still waits.
        let permit = self.finisher.foreground.try_acquire().ok();
        let asked = Asked {
            leaving,
            room: permit.is_some(),
        };
        // When it is stored later, nobody attempts it until the claim ends, and then the worker does.
        match answered_by(answer_by, self.asking.submit(asked)).await? {
            Stored::AsItIs(withdrawal) => Ok(withdrawal),
            Stored::Claimed(withdrawal) => {
                // Nobody listens when the caller has no deadline.
                let _ = stored.send(withdrawal.clone());
                let attempted = self.finisher.attempt(withdrawal.clone(), false).await;
                // It is stored, and the worker's once the claim ends: what the caller asked for will be done.
                Ok(attempted.unwrap_or_else(|error| {
                    let id = withdrawal.withdrawal_id;
                    tracing::warn!(withdrawal.id = %id, error = &error as &dyn std::error::Error, "the outcome of an attempt could not be stored");
                    withdrawal
                }))
            }
        }
    }
}

/// A request, and whether an attempt on behalf of its caller may follow.
#[derive(Debug)]
struct Asked {
    leaving: Leaving,
    room: bool,
}

#[derive(Debug)]
struct Asking {
    store: Store,
    claim: Duration,
    pending: Wake,
}

#[async_trait]
impl Work for Asking {
    type Request = Asked;
    type Answer = Stored;
    type Error = Error;

    async fn commit(&self, asked: &[Asked]) -> Result<Vec<Result<Stored, Error>>, DbErr> {
        let tx = self.store.begin("member.withdraw").await?;
        let mut books = Books::open(&tx, asked).await?;
        let claim_end = tx.now().plus(self.claim);
        let answers = asked.iter().map(|one| books.store(&tx, one, claim_end));
        let answers = answers.collect();
        if books.is_unchanged() {
            return Ok(answers);
        }
        if books.new_withdrawals.iter().any(Model::is_unclaimed) {
            let pending = self.pending.clone();
            tx.after_commit(move || pending.wake());
        }
        books.close(&tx).await?;
        tx.commit().await?;
        Ok(answers)
    }
}

/// What the database knows of those who ask, and what is to be added to it.
struct Books {
    /// Locked: two calls for one member take turns, also at different replicas.
    before: HashMap<MemberId, members::Model>,
    /// The same as they are to be.
    members: HashMap<MemberId, members::Model>,
    withdrawals: HashMap<MemberId, Model>,
    /// Requests that succeeded before, and their digests.
    requests: HashMap<RequestId, Vec<u8>>,
    new_withdrawals: Vec<Model>,
    new_requests: Vec<(RequestId, requests::ActiveModel)>,
}

impl Books {
    async fn open(tx: &Transaction, asked: &[Asked]) -> Result<Self, DbErr> {
        let ids = asked.iter().map(|one| one.leaving.member_id).collect();
        let request_ids = asked.iter().filter_map(|one| one.leaving.request_id);
        let request_ids = request_ids.collect();
        // The members first: what others did with them is committed by then, and seen.
        let members = members::find_all_for_update(tx, ids).await?;
        let leave = members.values().filter(|member| member.state.leaves());
        let leave = leave.map(|member| member.member_id).collect();
        let withdrawals = withdrawals::find_by_members(&**tx, leave).await?;
        let requests = requests::find(&**tx, Rpc::Withdraw, request_ids).await?;
        let requests = requests.into_iter();
        Ok(Self {
            before: members.clone(),
            members,
            withdrawals,
            requests: requests.map(|row| (row.request_id, row.digest)).collect(),
            new_withdrawals: Vec::new(),
            new_requests: Vec::new(),
        })
    }

    fn store(
        &mut self,
        tx: &Transaction,
        asked: &Asked,
        claim_end: Timestamp,
    ) -> Result<Stored, Error> {
        let leaving = &asked.leaving;
        let known = leaving.request_id.and_then(|id| self.requests.get(&id));
        if known.is_some_and(|digest| digest != leaving.digest()) {
            return Err(Error::RequestIdReused);
        }
        let member = self.members.get_mut(&leaving.member_id);
        let member = member.ok_or(Error::MemberNotFound)?;
        if let Some(before) = self.withdrawals.get(&leaving.member_id).cloned() {
            // Nothing is made, so nothing has to be remembered: whoever repeats this fills no disk.
            return Ok(Stored::AsItIs(before));
        }
        let room = asked.room;
        let withdrawal = Model {
            withdrawal_id: WithdrawalId(tx.new_id()),
            member_id: leaving.member_id,
            state: withdrawals::State::Pending,
            attempt_count: i32::from(room),
            next_attempt_time: Some(if room { claim_end } else { tx.now() }),
            claim_end_time: room.then_some(claim_end),
            pending_reason: (!room).then_some(Reason::Overloaded),
            request_time: tx.now(),
            complete_time: None,
            correlation_id: leaving.context.correlation_id.as_str().to_owned(),
            traceparent: leaving.context.traceparent.clone(),
        };
        members::apply(tx, &leaving.context, member, None, |member| {
            member.state = State::Withdrawing;
        });
        self.remember(leaving, withdrawal.withdrawal_id);
        self.new_withdrawals.push(withdrawal.clone());
        self.withdrawals
            .insert(leaving.member_id, withdrawal.clone());
        Ok(if room {
            Stored::Claimed(withdrawal)
        } else {
            Stored::AsItIs(withdrawal)
        })
    }

    fn remember(&mut self, leaving: &Leaving, made: WithdrawalId) {
        let Some(id) = leaving.request_id else { return };
        let digest = leaving.digest().to_vec();
        if self.requests.insert(id, digest.clone()).is_none() {
            let row = requests::row(Rpc::Withdraw, id, digest, made.0);
            self.new_requests.push((id, row));
        }
    }

    fn is_unchanged(&self) -> bool {
        self.new_withdrawals.is_empty()
    }

    async fn close(mut self, tx: &Transaction) -> Result<(), DbErr> {
        let withdrawals = self.new_withdrawals.into_iter();
        let withdrawals = withdrawals.map(|row| row.into_active_model().reset_all());
        rows::insert::<withdrawals::Entity, _, _>(&**tx, withdrawals.collect(), None).await?;
        // In the order of what has to be unique: two replicas with the same callers wait for each other, and do
        // not deadlock.
        self.new_requests.sort_unstable_by_key(|(id, _)| id.0);
        let requests = self.new_requests.into_iter().map(|(_, row)| row).collect();
        rows::insert::<requests::Entity, _, _>(&**tx, requests, None).await?;
        members::save_changed(tx, &self.before, self.members).await
    }
}
