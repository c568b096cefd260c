//! Two releases at once: the one before this, and this one.

use std::path::PathBuf;

use couponmesh::node::ServiceName;
use tokio_util::sync::CancellationToken;

use crate::{
    binary::process::{Call, previous_release},
    load::Load,
    production::{Plan, Production},
    soak::{pick, say},
};

const CALLERS: usize = 4;
/// Numbers of the replicas of each release.
const PREVIOUS: usize = 0;
const THIS: usize = 1;
/// Calls that each replica of member answers before anything changes again.
const SOME: usize = 5;

async fn version(call: Call) -> String {
    let printed = call.finish().await;
    assert!(printed.status.success(), "{printed:?}");
    printed.stdout.trim().to_owned()
}

/// Goes over to the other release, service by service: first every service runs in both, then in the other one
/// alone. Leaving in reverse lets each release of member call the other one's coupon.
async fn roll(
    production: &mut Production,
    load: &Load,
    from: usize,
    to: (usize, Option<&PathBuf>),
) {
    let (to, binary) = to;
    for service in ServiceName::all() {
        match binary {
            Some(binary) => production.start_all_of(binary, &[(service, to)]).await,
            None => production.start_all(&[(service, to)]).await,
        }
        let members = production.addresses(ServiceName::Member);
        load.is_answered_by(&members, SOME).await;
    }
    assert_eq!(production.addresses(ServiceName::Member).len(), 2);
    for service in ServiceName::all().into_iter().rev() {
        production.terminate(service, from).await;
        let members = production.addresses(ServiceName::Member);
        load.is_answered_by(&members, SOME).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_run_together_and_either_takes_over_from_the_other() {
    const TEST: &str = "two releases";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let Some(previous) = previous_release() else {
        say(TEST, "NOT TESTED: there is no release before this one");
        return;
    };
    let asked = Call::new(&["--version"]);
    let releases = [asked.clone().built_as(&previous), asked].map(version);
    let [before, this] = futures::future::join_all(releases)
        .await
        .try_into()
        .unwrap();
    assert_ne!(before, this, "it is the same release");

    let mut production = Production::idle(Plan::replicas(1).counts_cancels()).await;
    let all: Vec<(ServiceName, usize)> = ServiceName::all()
        .into_iter()
        .map(|service| (service, PREVIOUS))
        .collect();
    production.start_all_of(&previous, &all).await;
    let auditor = production.auditor().await;
    let watched = CancellationToken::new();
    let watch = auditor.watch_leavers(watched.clone());
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller.roaming());
    load.goes_on(20).await;
    let turns = pick(1, 10);
    for _ in 0..turns {
        // The databases are brought up to date while the release before works on them.
        roll(&mut production, &load, PREVIOUS, (THIS, None)).await;
        // And back, on databases as this one left them.
        roll(&mut production, &load, THIS, (PREVIOUS, Some(&previous))).await;
    }
    // The upgrade that stays.
    roll(&mut production, &load, PREVIOUS, (THIS, None)).await;
    let acknowledged = load.go_home().await;
    let took = auditor.check(&acknowledged).await;
    watched.cancel();
    let left = watch.await.unwrap();
    let cancels = production.cancels();
    assert_eq!(
        cancels.overlaps(),
        0,
        "CancelCoupon calls of one withdrawal"
    );
    for service in ServiceName::all() {
        for what in ["parked as a dead letter", "panicked"] {
            let logged = production.logged(service, what);
            assert_eq!(logged, 0, "{service:?}: lines with {what}");
        }
    }
    say(
        TEST,
        &format!(
            "{before} and {this}, there and back {turns} times, {left} members seen leaving, at rest after {took:.1?}"
        ),
    );
}
