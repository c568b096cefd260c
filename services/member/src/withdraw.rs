//! Asking to withdraw: the request is stored first, so that whatever happens next, it is carried out.

use couponmesh_messaging::{Store, Transaction};
use couponmesh_runtime::{
    Context, database,
    id::{MemberId, RequestId, WithdrawalId},
};
use tokio::sync::oneshot;

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

/// A withdrawal, stored.
enum Stored {
    /// It was there before, or there is no room for an attempt now: the worker's.
    AsItIs(Model),
    /// New, and claimed for an attempt on behalf of the caller.
    Claimed(Model),
}

/// Stores the withdrawal, tells `stored` of it, and attempts it when there is room for one more caller.
/// Returns it as it then is.
///
/// # Errors
/// [`Error::MemberNotFound`], [`Error::RequestIdReused`], [`Error::Storage`].
pub(crate) async fn withdraw(
    finisher: Finisher,
    leaving: Leaving,
    stored: oneshot::Sender<Model>,
) -> Result<Model, Error> {
    // Held until the attempt ends, whether or not the caller still waits.
    let permit = finisher.foreground.try_acquire().ok();
    let stored_now = match store(&finisher, &leaving, permit.is_some()).await {
        // The same request id at the same time, at another replica or for another member: it is committed
        // by now, and a second look finds it.
        Err(Error::Storage(error)) if database::is_unique_violation(&error) => {
            store(&finisher, &leaving, permit.is_some()).await
        }
        stored => stored,
    };
    match stored_now? {
        Stored::AsItIs(withdrawal) => Ok(withdrawal),
        Stored::Claimed(withdrawal) => {
            // Nobody listens when the caller has no deadline.
            let _ = stored.send(withdrawal.clone());
            Ok(finisher.attempt(&withdrawal, false).await?)
        }
    }
}

async fn store(finisher: &Finisher, leaving: &Leaving, room: bool) -> Result<Stored, Error> {
    let store: &Store = &finisher.store;
    let tx = store.begin("member.withdraw").await?;
    if let Some(before) = same_request(&tx, leaving).await? {
        return Ok(Stored::AsItIs(before));
    }
    // Locked: two calls for one member take turns here.
    let mut member = members::find_for_update(&tx, leaving.member_id)
        .await?
        .ok_or(Error::MemberNotFound)?;
    if let Some(before) = withdrawals::find_by_member(&*tx, leaving.member_id).await? {
        remember(&tx, leaving, before.withdrawal_id).await?;
        tx.commit().await?;
        return Ok(Stored::AsItIs(before));
    }
    let claim_end = tx
        .now()
        .plus(finisher.config.deadline + std::time::Duration::from_secs(1));
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
    let withdrawal = withdrawals::insert(&tx, withdrawal).await?;
    remember(&tx, leaving, withdrawal.withdrawal_id).await?;
    let before = member.version;
    members::apply(&tx, &leaving.context, &mut member, None, |member| {
        member.state = State::Withdrawing;
    });
    members::save(&tx, before, &member).await?;
    if !room {
        let pending = finisher.pending.clone();
        tx.after_commit(move || pending.wake());
    }
    tx.commit().await?;
    Ok(if room {
        Stored::Claimed(withdrawal)
    } else {
        Stored::AsItIs(withdrawal)
    })
}

/// The withdrawal that the same request made before, as it is now.
async fn same_request(tx: &Transaction, leaving: &Leaving) -> Result<Option<Model>, Error> {
    let ids = leaving.request_id.into_iter().collect();
    let Some(before) = requests::find(&**tx, Rpc::Withdraw, ids).await?.pop() else {
        return Ok(None);
    };
    if before.digest != digest(leaving) {
        return Err(Error::RequestIdReused);
    }
    Ok(withdrawals::find(&**tx, WithdrawalId(before.resource_id)).await?)
}

async fn remember(tx: &Transaction, leaving: &Leaving, made: WithdrawalId) -> Result<(), Error> {
    let request = leaving
        .request_id
        .map(|id| requests::row(Rpc::Withdraw, id, digest(leaving), made.0));
    let rows = request.into_iter().collect();
    Ok(couponmesh_messaging::rows::insert::<requests::Entity, _, _>(&**tx, rows, None).await?)
}

/// The member's id is all the content that there is, and no secret.
fn digest(leaving: &Leaving) -> Vec<u8> {
    leaving.member_id.0.as_bytes().to_vec()
}
