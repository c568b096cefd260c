//! Callers that insist: they call again, under the same request id, until they have an answer.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use couponmesh_proto::member::v1::{
    Member, RegisterMemberRequest, WithdrawMemberRequest, Withdrawal,
    member_service_client::MemberServiceClient,
};
use couponmesh_runtime::Random;
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

use super::process::patient_channel;

/// Pause of a caller between two members: the load lasts as long as the killing.
const PACE: Duration = Duration::from_millis(40);
/// Pause before a call is made again.
const AGAIN: Duration = Duration::from_millis(10);
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the service said yes to.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) member_id: String,
    pub(crate) email: String,
    /// Present when the member asked to leave, too.
    pub(crate) withdrawal_id: Option<String>,
}

/// Where the replicas of the service are at the moment; nowhere while it is away.
pub(crate) type Whereabouts = watch::Receiver<Vec<SocketAddr>>;

/// What callers met so far, all together.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    registered: AtomicUsize,
    withdrawn: AtomicUsize,
    refused: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
    /// Calls that each replica answered.
    answers: Mutex<HashMap<SocketAddr, usize>>,
}

impl Diary {
    /// Members that were acknowledged.
    pub(crate) fn registered(&self) -> usize {
        self.registered.load(Ordering::Relaxed)
    }

    /// Withdrawals that were acknowledged.
    pub(crate) fn withdrawn(&self) -> usize {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// Calls that met an outage and were made again.
    pub(crate) fn refused(&self) -> usize {
        self.refused.lock().unwrap().len()
    }

    /// What they were told.
    pub(crate) fn refusals(&self) -> Vec<String> {
        self.refused.lock().unwrap().clone()
    }

    /// The longest that a single call took, whatever became of it.
    pub(crate) fn slowest(&self) -> Duration {
        *self.slowest.lock().unwrap()
    }

    /// Calls that the replica at `address` answered.
    pub(crate) fn answered_by(&self, address: SocketAddr) -> usize {
        let answers = self.answers.lock().unwrap();
        answers.get(&address).copied().unwrap_or_default()
    }

    fn answered(&self, address: SocketAddr) {
        *self.answers.lock().unwrap().entry(address).or_default() += 1;
    }

    fn took(&self, time: Duration) {
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = time.max(*slowest);
    }
}

/// An id that is the same for the same seed.
pub(crate) fn request_id(random: &Random) -> String {
    let bytes: [u8; 16] =
        std::array::from_fn(|_| u8::try_from(random.below(256)).unwrap_or_default());
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// One who registers members and lets some leave again. Gives up no call.
pub(crate) struct Caller {
    name: usize,
    random: Random,
    whereabouts: Whereabouts,
    diary: Arc<Diary>,
    pace: Duration,
    patience: Duration,
    /// One in so many members leaves; none at 0.
    leavers: usize,
    /// Goes to any replica with each member, and not to the same as long as it is there.
    roams: bool,
    /// The connection that is in use; given up when a call on it fails.
    connection: Option<(SocketAddr, Channel)>,
}

impl Caller {
    /// One who lets one member in four leave.
    pub(crate) fn new(name: usize, random: Random, whereabouts: Whereabouts) -> Self {
        Self {
            name,
            random,
            whereabouts,
            diary: Arc::default(),
            pace: PACE,
            patience: PATIENCE,
            leavers: 4,
            roams: false,
            connection: None,
        }
    }

    /// Writes into a diary that others write into, too.
    pub(crate) fn writing(mut self, diary: &Arc<Diary>) -> Self {
        self.diary = diary.clone();
        self
    }

    /// Begins with a member every `pace`.
    pub(crate) fn every(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// Waits this long for the answer to a call.
    pub(crate) fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Lets one member in `leavers` leave; none at 0.
    pub(crate) fn leavers(mut self, leavers: usize) -> Self {
        self.leavers = leavers;
        self
    }

    /// Goes to any replica with each member.
    pub(crate) fn roaming(mut self) -> Self {
        self.roams = true;
        self
    }

    /// Registers members until it is time to go home.
    pub(crate) async fn keep_calling(mut self, home: CancellationToken) -> Vec<Acknowledged> {
        let mut acknowledged = Vec::new();
        let mut pace = tokio::time::interval(self.pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !home.is_cancelled() {
            pace.tick().await;
            if self.roams {
                self.connection = None;
            }
            let email = format!("{}-{}@example.com", self.name, acknowledged.len());
            let member = self.register(&email).await;
            self.diary.registered.fetch_add(1, Ordering::Relaxed);
            let mut withdrawal_id = None;
            if self.leavers > 0 && self.random.below(self.leavers) == 0 {
                let withdrawal = self.withdraw(&member.member_id).await;
                self.diary.withdrawn.fetch_add(1, Ordering::Relaxed);
                withdrawal_id = Some(withdrawal.withdrawal_id);
            }
            acknowledged.push(Acknowledged {
                member_id: member.member_id,
                email,
                withdrawal_id,
            });
        }
        acknowledged
    }

    async fn register(&mut self, email: &str) -> Member {
        let request = registration(&request_id(&self.random), email);
        let answer = self
            .insist(|mut members| {
                let request = request.clone();
                async move { members.register_member(request).await }
            })
            .await;
        answer.into_inner().member.unwrap()
    }

    async fn withdraw(&mut self, member_id: &str) -> Withdrawal {
        let request = WithdrawMemberRequest {
            request_id: request_id(&self.random),
            member_id: member_id.to_owned(),
        };
        let answer = self
            .insist(|mut members| {
                let request = request.clone();
                async move { members.withdraw_member(request).await }
            })
            .await;
        answer.into_inner().withdrawal.unwrap()
    }

    async fn insist<T, F: Future<Output = Result<T, Status>>>(
        &mut self,
        call: impl Fn(MemberServiceClient<Channel>) -> F,
    ) -> T {
        loop {
            let (address, connection) = self.connection().await;
            let begin = Instant::now();
            let outcome = call(MemberServiceClient::new(connection)).await;
            self.diary.took(begin.elapsed());
            match outcome {
                Ok(answer) => {
                    self.diary.answered(address);
                    return answer;
                }
                Err(refused) => {
                    assert!(is_outage(&refused), "{refused:?}");
                    self.diary.refused.lock().unwrap().push(refused.to_string());
                }
            }
            self.connection = None;
            // Elsewhere soon, or here again in a moment.
            let _ = tokio::time::timeout(AGAIN, self.whereabouts.changed()).await;
        }
    }

    /// To any replica that is there, and then to the same as long as it is.
    async fn connection(&mut self) -> (SocketAddr, Channel) {
        let there = self.whereabouts.wait_for(|there| !there.is_empty()).await;
        let there = there.unwrap().clone();
        if let Some((address, channel)) = &self.connection
            && there.contains(address)
        {
            return (*address, channel.clone());
        }
        let address = there[self.random.below(there.len())];
        let channel = patient_channel(address, self.patience);
        self.connection = Some((address, channel.clone()));
        (address, channel)
    }
}

pub(crate) fn registration(request_id: &str, email: &str) -> RegisterMemberRequest {
    RegisterMemberRequest {
        request_id: request_id.to_owned(),
        email: email.to_owned(),
        display_name: "Ann".to_owned(),
    }
}

/// Whether the service is away or took too long, or the connection broke: whether the call took place is not known.
fn is_outage(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
        || std::error::Error::source(status).is_some()
}

/// A new seed's worth of randomness for caller number `name`.
pub(crate) fn randomness(seed: u64, name: usize) -> Random {
    Random::seeded(seed.wrapping_mul(1_000) + name as u64)
}
