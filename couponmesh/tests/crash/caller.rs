//! Callers that insist: they call again, under the same request id, until they have an answer.

use std::{future::Future, net::SocketAddr, time::Duration};

use couponmesh_proto::member::v1::{
    Member, RegisterMemberRequest, WithdrawMemberRequest, Withdrawal,
    member_service_client::MemberServiceClient,
};
use couponmesh_runtime::Random;
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::process::channel;

/// Pause of a caller between two members: the load lasts as long as the killing.
const PACE: Duration = Duration::from_millis(40);
/// Pause before a call is made again.
const AGAIN: Duration = Duration::from_millis(10);

/// What the service said yes to.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) member_id: String,
    pub(crate) email: String,
    /// Present when the member asked to leave, too.
    pub(crate) withdrawal_id: Option<String>,
}

/// Where the service is at the moment; none while it is away.
pub(crate) type Whereabouts = watch::Receiver<Option<SocketAddr>>;

/// An id that is the same for the same seed.
pub(crate) fn request_id(random: &Random) -> String {
    let bytes: [u8; 16] =
        std::array::from_fn(|_| u8::try_from(random.below(256)).unwrap_or_default());
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// Registers members until it is time to go home, and lets one in four leave again. Gives up no call.
pub(crate) async fn keep_calling(
    name: usize,
    random: Random,
    mut whereabouts: Whereabouts,
    home: CancellationToken,
) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !home.is_cancelled() {
        pace.tick().await;
        let email = format!("{name}-{}@example.com", acknowledged.len());
        let member = register(&mut whereabouts, &request_id(&random), &email).await;
        let mut withdrawal_id = None;
        if random.below(4) == 0 {
            let id = request_id(&random);
            let withdrawal = withdraw(&mut whereabouts, &id, &member.member_id).await;
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

async fn register(whereabouts: &mut Whereabouts, request_id: &str, email: &str) -> Member {
    let request = registration(request_id, email);
    let answer = insist(whereabouts, |address| {
        let request = request.clone();
        async move {
            let mut members = MemberServiceClient::new(channel(address));
            members.register_member(request).await
        }
    })
    .await;
    answer.into_inner().member.unwrap()
}

async fn withdraw(whereabouts: &mut Whereabouts, request_id: &str, member_id: &str) -> Withdrawal {
    let request = WithdrawMemberRequest {
        request_id: request_id.to_owned(),
        member_id: member_id.to_owned(),
    };
    let answer = insist(whereabouts, |address| {
        let request = request.clone();
        async move {
            let mut members = MemberServiceClient::new(channel(address));
            members.withdraw_member(request).await
        }
    })
    .await;
    answer.into_inner().withdrawal.unwrap()
}

pub(crate) fn registration(request_id: &str, email: &str) -> RegisterMemberRequest {
    RegisterMemberRequest {
        request_id: request_id.to_owned(),
        email: email.to_owned(),
        display_name: "Ann".to_owned(),
    }
}

async fn insist<T, F: Future<Output = Result<T, Status>>>(
    whereabouts: &mut Whereabouts,
    call: impl Fn(SocketAddr) -> F,
) -> T {
    loop {
        let address = whereabouts
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .unwrap();
        match call(address).await {
            Ok(answer) => return answer,
            Err(refused) => assert!(is_outage(&refused), "{refused:?}"),
        }
        // Elsewhere soon, or here again in a moment.
        let _ = tokio::time::timeout(AGAIN, whereabouts.changed()).await;
    }
}

/// Whether the service is away, or the connection broke: whether the call took place is not known.
fn is_outage(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// A new seed's worth of randomness for caller number `name`.
pub(crate) fn randomness(seed: u64, name: usize) -> Random {
    Random::seeded(seed.wrapping_mul(1_000) + name as u64)
}
