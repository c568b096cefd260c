//! Registers the members.

use std::pin::pin;

use couponmesh_proto::member::v1::RegisterMemberRequest;
use couponmesh_runtime::{Clock, Random};
use futures::StreamExt as _;
use tokio::time::Instant;

use super::{
    LoadArgs,
    client::{Client, timed},
    errors::Errors,
    latency::Latency,
    pace::Start,
    progress::Progress,
    retry::Retrier,
    watch::Watchers,
};

/// What became of the registrations.
pub(super) struct Registrations {
    /// The member_id in every acknowledgement.
    pub(super) acknowledged: Vec<String>,
    /// Until accepted, repeats included.
    pub(super) latency: Latency,
    pub(super) retries: u64,
    pub(super) begun: Instant,
    /// When the last acknowledgement came.
    pub(super) last_answer: Instant,
}

/// Registers every member of the run; `watchers` watch those that are in the sample.
pub(super) async fn register(
    args: &LoadArgs,
    run_id: &str,
    client: &Client,
    errors: &Errors,
    (clock, random): (&Clock, &Random),
    watchers: &mut Watchers,
) -> Registrations {
    let retrier = Retrier::new(
        "RegisterMember",
        errors.clone(),
        random.clone(),
        args.timeout,
    );
    let members = args.members.get();
    let one = |start: Start| {
        let retrier = &retrier;
        let request = RegisterMemberRequest {
            request_id: random.uuid_v7(clock.now()).to_string(),
            email: email(run_id, start.index),
            display_name: format!("Load {}", start.index),
        };
        async move {
            let answer = retrier
                .answer(|| {
                    let request = timed(request.clone());
                    let mut client = client.members(start.index);
                    async move { client.register_member(request).await }
                })
                .await;
            let member_id = answer
                .and_then(|response| response.member)
                .map(|m| m.member_id);
            (start, Instant::now(), member_id)
        }
    };
    let begun = Instant::now();
    let mut registrations = Registrations {
        acknowledged: Vec::with_capacity(members),
        latency: Latency::new(),
        retries: 0,
        begun,
        last_answer: begun,
    };
    let mut progress = Progress::new("registered", members);
    let mut answers = pin!(args.pace().run(members, one));
    while let Some((start, answered, member_id)) = answers.next().await {
        progress.advance();
        let Some(member_id) = member_id else { continue };
        registrations.latency.record(answered - start.at);
        registrations.last_answer = registrations.last_answer.max(answered);
        watchers.offer(start.index, &member_id, answered);
        registrations.acknowledged.push(member_id);
    }
    registrations.retries = retrier.retries();
    registrations
}

/// Unique to this run and member.
fn email(run_id: &str, index: usize) -> String {
    format!("load-{run_id}-{index}@example.com")
}
