//! Withdraws the members, and waits for the withdrawals that were not completed at once.

use std::{collections::HashSet, pin::pin, time::Duration};

use couponmesh_proto::member::v1::{
    GetWithdrawalRequest, WithdrawMemberRequest, Withdrawal, WithdrawalState,
};
use couponmesh_runtime::{Clock, Random};
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;

use super::{
    LoadArgs,
    client::{Client, timed},
    errors::Errors,
    latency::Latency,
    pace::Start,
    progress::Progress,
    retry::Retrier,
};

const POLL_PAUSE: Duration = Duration::from_millis(200);

/// What became of the withdrawals.
pub(super) struct Withdrawals {
    /// Of every answer, until it came, repeats included.
    pub(super) latency: Latency,
    /// Of the PENDING answers among them.
    pub(super) pending_latency: Latency,
    pub(super) completed_at_once: usize,
    pub(super) pending: usize,
    /// Withdrawals that were never answered or were refused.
    pub(super) failed: usize,
    pub(super) retries: u64,
    pub(super) elapsed: Duration,
    /// From the last answer until the last pending one was seen COMPLETED, if all were.
    pub(super) completed_after: Option<Duration>,
    /// How many were still PENDING in the end.
    pub(super) unfinished: usize,
}

/// Withdraws every one of `members` at the run's pace, then waits up to the timeout for the
/// pending ones.
pub(super) async fn withdraw(
    args: &LoadArgs,
    members: &[String],
    client: &Client,
    errors: &Errors,
    (clock, random): (&Clock, &Random),
) -> Withdrawals {
    let retrier = Retrier::new(
        "WithdrawMember",
        errors.clone(),
        random.clone(),
        args.timeout,
    );
    let one = |start: Start| {
        let retrier = &retrier;
        let request = WithdrawMemberRequest {
            request_id: random.uuid_v7(clock.now()).to_string(),
            member_id: members[start.index].clone(),
        };
        async move {
            let answer = retrier
                .answer(|| {
                    let request = timed(request.clone());
                    let mut client = client.members(start.index);
                    async move { client.withdraw_member(request).await }
                })
                .await;
            (
                start.at.elapsed(),
                answer.and_then(|response| response.withdrawal),
            )
        }
    };
    let begun = Instant::now();
    let mut withdrawals = Withdrawals::none();
    let mut pending = HashSet::new();
    let mut progress = Progress::new("withdrawn", members.len());
    let mut answers = pin!(args.pace().run(members.len(), one));
    while let Some((latency, withdrawal)) = answers.next().await {
        progress.advance();
        pending.extend(withdrawals.enter(latency, withdrawal));
    }
    withdrawals.retries = retrier.retries();
    let last_answer = Instant::now();
    withdrawals.elapsed = last_answer - begun;
    wait(
        &mut pending,
        client,
        errors,
        last_answer + args.timeout,
        args.pace().pollers(),
    )
    .await;
    withdrawals.unfinished = pending.len();
    withdrawals.completed_after = pending.is_empty().then(|| last_answer.elapsed());
    withdrawals
}

impl Withdrawals {
    fn none() -> Self {
        Self {
            latency: Latency::new(),
            pending_latency: Latency::new(),
            completed_at_once: 0,
            pending: 0,
            failed: 0,
            retries: 0,
            elapsed: Duration::ZERO,
            completed_after: None,
            unfinished: 0,
        }
    }

    /// Enters an answer; the withdrawal's id when it is still pending.
    fn enter(&mut self, latency: Duration, withdrawal: Option<Withdrawal>) -> Option<String> {
        let Some(withdrawal) = withdrawal else {
            self.failed += 1;
            return None;
        };
        self.latency.record(latency);
        if withdrawal.state() == WithdrawalState::Completed {
            self.completed_at_once += 1;
            return None;
        }
        self.pending += 1;
        self.pending_latency.record(latency);
        Some(withdrawal.withdrawal_id)
    }
}

/// Polls the `pending` withdrawals until each is COMPLETED; leaves those that are not in time.
async fn wait(
    pending: &mut HashSet<String>,
    client: &Client,
    errors: &Errors,
    deadline: Instant,
    at_once: usize,
) {
    let total = pending.len();
    let mut progress = Progress::new("completed later", total);
    while !pending.is_empty() && Instant::now() < deadline {
        let mut polls = stream::iter(pending.clone())
            .map(|id| async move { (is_completed(client, &id).await, id) })
            .buffer_unordered(at_once);
        while let Ok(Some((completed, id))) = timeout_at(deadline, polls.next()).await {
            match completed {
                Ok(true) => {
                    pending.remove(&id);
                    progress.reach(total - pending.len());
                }
                Ok(false) => {}
                Err(status) => errors.count("GetWithdrawal", &status),
            }
        }
        if !pending.is_empty() {
            sleep(POLL_PAUSE).await;
        }
    }
}

async fn is_completed(client: &Client, withdrawal_id: &str) -> Result<bool, Status> {
    let request = GetWithdrawalRequest {
        withdrawal_id: withdrawal_id.to_owned(),
    };
    let response = client
        .withdrawals()
        .get_withdrawal(timed(request))
        .await?
        .into_inner();
    Ok(response
        .withdrawal
        .is_some_and(|withdrawal| withdrawal.state() == WithdrawalState::Completed))
}
