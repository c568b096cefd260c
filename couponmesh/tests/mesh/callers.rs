//! Callers at the gateway.

use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use couponmesh_proto::{
    member::v1::{
        GetWithdrawalRequest, PendingReason, WithdrawMemberRequest, Withdrawal, WithdrawalState,
        member_service_client::MemberServiceClient,
    },
    mypage::v1::{GetMyPageRequest, my_page_service_client::MyPageServiceClient},
};
use couponmesh_runtime::Random;
use futures::{StreamExt as _, stream};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{
    binary::{
        caller::{Acknowledged, Caller, Diary, randomness, registration, request_id},
        process::{eventually_within, patient_channel},
    },
    cluster::Cluster,
    soak,
};

/// Longer than any bound of the mesh.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a coupon may take to come, also for the last of a thousand.
const SAGA: Duration = Duration::from_secs(120);
/// Longer than any read takes whose pod is well.
const SLOW: Duration = Duration::from_secs(2);
/// Callers that act at the same moment.
const AT_ONCE: usize = 64;

/// A number that no caller of this or an earlier run has.
fn name() -> usize {
    static CALLERS: AtomicUsize = AtomicUsize::new(0);
    static RUN: LazyLock<usize> = LazyLock::new(|| Random::from_os().below(1_000_000_000));
    *RUN * 1_000 + CALLERS.fetch_add(1, Ordering::Relaxed)
}

/// A connection of its own.
pub(crate) fn members(cluster: &Cluster) -> MemberServiceClient<Channel> {
    MemberServiceClient::new(patient_channel(cluster.gateway, PATIENCE))
}

/// A connection of its own.
pub(crate) fn pages(cluster: &Cluster) -> MyPageServiceClient<Channel> {
    MyPageServiceClient::new(patient_channel(cluster.gateway, PATIENCE))
}

/// Who registers, leaves and looks at pages without a pause, until told to go home.
pub(crate) struct Callers {
    test: &'static str,
    writers: JoinSet<Vec<Acknowledged>>,
    readers: JoinSet<Reads>,
    refused_pages: Arc<Mutex<Vec<String>>>,
    diary: Arc<Diary>,
    home: CancellationToken,
    begin: Instant,
    _address: watch::Sender<Vec<std::net::SocketAddr>>,
}

/// What they were promised, and what went wrong.
pub(crate) struct Promised {
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Calls that failed; each was made again.
    pub(crate) failed: Vec<String>,
    /// All calls.
    pub(crate) calls: usize,
    /// Reads that took longer than two seconds.
    pub(crate) slow_reads: usize,
}

/// What one reader saw.
#[derive(Default)]
struct Reads {
    calls: usize,
    slow: usize,
}

impl Promised {
    /// No call failed, not even one that was made again.
    pub(crate) fn assert_kept(&self) {
        let (failed, calls) = (&self.failed, self.calls);
        assert!(failed.is_empty(), "of {calls} calls failed: {failed:?}");
    }
}

impl Callers {
    /// `writers` who register a member every 100 ms and let one in `leavers` leave, and one who looks at each of the `pages`.
    pub(crate) fn begin(
        test: &'static str,
        cluster: &Cluster,
        writers: usize,
        leavers: usize,
        pages: Vec<String>,
    ) -> Self {
        let (diary, home) = (Arc::<Diary>::default(), CancellationToken::new());
        let (sender, address) = watch::channel(vec![cluster.gateway]);
        let mut all = JoinSet::new();
        for _ in 0..writers {
            let name = name();
            let caller = Caller::new(name, randomness(1, name), address.clone())
                .writing(&diary)
                .every(Duration::from_millis(100))
                .patient(PATIENCE)
                .leavers(leavers);
            all.spawn(caller.keep_calling(home.clone()));
        }
        let refused_pages = Arc::<Mutex<Vec<String>>>::default();
        let mut readers = JoinSet::new();
        for member_id in pages {
            let (cluster, refused) = (cluster.clone(), refused_pages.clone());
            readers.spawn(read_page(cluster, member_id, refused, home.clone()));
        }
        Self {
            test,
            writers: all,
            readers,
            refused_pages,
            diary,
            home,
            begin: Instant::now(),
            _address: sender,
        }
    }

    /// Members that were acknowledged so far.
    pub(crate) fn registered(&self) -> usize {
        self.diary.registered()
    }

    /// Waits until `more` members were acknowledged from now on.
    pub(crate) async fn go_on(&self, more: usize) {
        let wanted = self.registered() + more;
        eventually_within(PATIENCE, "registrations go on", async || {
            (self.registered() >= wanted).then_some(())
        })
        .await;
    }

    /// Lets every caller finish what it is about.
    pub(crate) async fn go_home(mut self) -> Promised {
        self.home.cancel();
        let mut acknowledged = Vec::new();
        while let Some(caller) = self.writers.join_next().await {
            acknowledged.extend(caller.unwrap());
        }
        let mut read = Reads::default();
        while let Some(reader) = self.readers.join_next().await {
            let Reads { calls, slow } = reader.unwrap();
            read.calls += calls;
            read.slow += slow;
        }
        let mut failed = self.diary.refusals();
        failed.extend(self.refused_pages.lock().unwrap().drain(..));
        let calls = self.diary.registered() + self.diary.withdrawn() + read.calls + failed.len();
        let figures = format!(
            "{:.0} s, {calls} calls, {} failed, {} slow reads, slowest write {:.1} s",
            self.begin.elapsed().as_secs_f64(),
            failed.len(),
            read.slow,
            self.diary.slowest().as_secs_f64(),
        );
        soak::say(self.test, &figures);
        Promised {
            acknowledged,
            failed,
            calls,
            slow_reads: read.slow,
        }
    }
}

/// Looks at a page again and again.
async fn read_page(
    cluster: Cluster,
    member_id: String,
    refused: Arc<Mutex<Vec<String>>>,
    home: CancellationToken,
) -> Reads {
    let mut pages = pages(&cluster);
    let mut reads = Reads::default();
    while !home.is_cancelled() {
        let request = GetMyPageRequest {
            member_id: member_id.clone(),
            min_version: 1,
        };
        let begin = Instant::now();
        match pages.get_my_page(request).await {
            Ok(_) => reads.calls += 1,
            Err(status) => refused.lock().unwrap().push(format!("GetMyPage: {status}")),
        }
        reads.slow += usize::from(begin.elapsed() > SLOW);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    reads
}

/// Registers that many members, and waits until each has its coupon.
pub(crate) async fn register(cluster: &Cluster, count: usize) -> Vec<String> {
    let (members, pages) = (members(cluster), pages(cluster));
    let name = name();
    let random = randomness(2, name);
    stream::iter(0..count)
        .map(|number| {
            let (mut members, pages) = (members.clone(), pages.clone());
            let request = registration(
                &request_id(&random),
                &format!("{name}-{number}@example.com"),
            );
            async move {
                let answer = members.register_member(request).await.unwrap();
                let member_id = answer.into_inner().member.unwrap().member_id;
                let request = GetMyPageRequest {
                    member_id: member_id.clone(),
                    min_version: 2,
                };
                eventually_within(SAGA, "the coupon is on its page", async || {
                    // Or it is not there yet.
                    let page = pages.clone().get_my_page(request.clone()).await.ok()?;
                    let page = page.into_inner().page.unwrap();
                    (!page.coupon_code.is_empty()).then_some(())
                })
                .await;
                member_id
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// What a caller was told who let a member leave, and how long that took.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) withdrawal: Withdrawal,
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn is_pending(&self) -> bool {
        self.withdrawal.state() == WithdrawalState::Pending
    }

    pub(crate) fn is_because(&self, reason: PendingReason) -> bool {
        self.is_pending() && self.withdrawal.pending_reason() == reason
    }
}

/// Lets all of them leave, `at_once` at the same moment.
pub(crate) async fn withdraw(
    cluster: &Cluster,
    member_ids: &[String],
    at_once: usize,
) -> Vec<Answer> {
    let members = members(cluster);
    stream::iter(member_ids)
        .map(|member_id| {
            let mut members = members.clone();
            let request = WithdrawMemberRequest {
                request_id: String::new(),
                member_id: member_id.clone(),
            };
            async move {
                let begin = Instant::now();
                let answer = members.withdraw_member(request).await.unwrap();
                Answer {
                    withdrawal: answer.into_inner().withdrawal.unwrap(),
                    took: begin.elapsed(),
                }
            }
        })
        .buffer_unordered(at_once)
        .collect()
        .await
}

/// Waits until all of them are completed; returns how long that took.
pub(crate) async fn completed(
    cluster: &Cluster,
    answers: &[Answer],
    patience: Duration,
) -> Duration {
    let begin = Instant::now();
    let mut members = members(cluster);
    for answer in answers {
        let withdrawal_id = &answer.withdrawal.withdrawal_id;
        loop {
            let request = GetWithdrawalRequest {
                withdrawal_id: withdrawal_id.clone(),
            };
            let now = members.get_withdrawal(request).await.unwrap().into_inner();
            let now = now.withdrawal.unwrap();
            if now.state() == WithdrawalState::Completed {
                break;
            }
            assert!(begin.elapsed() < patience, "after {patience:?}: {now:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    begin.elapsed()
}

/// The median, the 99th percentile and the longest of how long answers took.
pub(crate) fn latencies<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> String {
    let mut times: Vec<_> = answers.into_iter().map(|answer| answer.took).collect();
    times.sort();
    let Some(last) = times.last() else {
        return "no answer".to_owned();
    };
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    format!(
        "p50 {:.0} ms, p99 {:.0} ms, longest {:.0} ms",
        at(50),
        at(99),
        last.as_secs_f64() * 1e3
    )
}
