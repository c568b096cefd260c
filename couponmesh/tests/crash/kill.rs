//! SIGKILL at random moments, under load. What was acknowledged is kept, once.

use std::{path::Path, time::Duration};

use couponmesh::config::Config;
use couponmesh_runtime::Random;
use couponmesh_testbed::on_servers;
use futures::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    binary::{
        caller::{Caller, randomness},
        process::{Call, previous_release},
        webhook::Webhook,
    },
    books::{Books, by_member, check_files},
};

const SEED: u64 = 20_261_123;
const KILLS: usize = 20;
const CALLERS: usize = 6;

/// A call that announces members to `webhook`.
fn announcing(call: Call, webhook: &Webhook) -> Call {
    let mut config = Config::load(None).unwrap();
    webhook.receives(&mut config);
    let settings = &config.notification.channel.webhook;
    call.set("NOTIFICATION__CHANNEL__KIND", "webhook")
        .set("NOTIFICATION__CHANNEL__WEBHOOK__URL", settings.url.expose())
        .set(
            "NOTIFICATION__CHANNEL__WEBHOOK__SECRET",
            settings.secret.expose(),
        )
        // A delivery that was under way at a kill is tried again a few of these later.
        .set("NOTIFICATION__CHANNEL__WEBHOOK__TIMEOUT", "500ms")
}

/// Starts `lives` on one data directory, one after the other and under load, and kills all but the last.
async fn live_and_die(dir: &Path, webhook: &Webhook, lives: &[Call]) {
    let random = Random::seeded(SEED);
    let (whereabouts, _) = watch::channel(Vec::new());
    let home = CancellationToken::new();
    let callers: Vec<_> = (0..CALLERS)
        .map(|name| {
            let caller = Caller::new(name, randomness(SEED, name), whereabouts.subscribe());
            tokio::spawn(caller.keep_calling(home.clone()))
        })
        .collect();
    let (last, killed) = lives.split_last().unwrap();
    for (kill, call) in killed.iter().enumerate() {
        // The moments are what is random here: nothing is waited for.
        if kill % 4 == 0 {
            // Once more while it starts, the first time even while it makes its tables.
            let starting = call.spawn();
            tokio::time::sleep(Duration::from_millis(random.below(100) as u64)).await;
            starting.kill();
        }
        let (process, address) = call.start().await;
        whereabouts.send_replace(vec![address]);
        tokio::time::sleep(Duration::from_millis(random.below(600) as u64)).await;
        // Nobody calls a port that may be another's by now; the calls under way are torn apart.
        whereabouts.send_replace(Vec::new());
        process.kill();
    }
    let (process, address) = last.start().await;
    whereabouts.send_replace(vec![address]);
    // However slow the machine, some of them come and go.
    tokio::time::sleep(Duration::from_secs(2)).await;
    home.cancel();
    let mut acknowledged = Vec::new();
    for caller in callers {
        acknowledged.extend(caller.await.unwrap());
    }
    let left = acknowledged
        .iter()
        .filter(|member| member.withdrawal_id.is_some());
    assert!(left.count() >= killed.len(), "there was to be more load");

    // Everything comes to its end by itself, and what it ends as is right.
    let books = Books::at(address);
    stream::iter(&acknowledged)
        .for_each_concurrent(16, async |member| {
            drop(books.comes_to_its_end(member).await);
        })
        .await;
    let delivered = by_member(webhook.delivered());
    assert_eq!(
        delivered.len(),
        acknowledged.len(),
        "members that were announced"
    );
    stream::iter(&acknowledged)
        .for_each_concurrent(16, async |member| {
            books.check(member, &delivered[&member.member_id]).await;
        })
        .await;
    let (status, _) = process.terminate().await;
    assert!(status.success(), "{status}");
    check_files(dir, acknowledged.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_is_kept_once_through_twenty_kills() {
    let dir = tempfile::tempdir().unwrap();
    let webhook = Webhook::refusing(0).await;
    let call = announcing(Call::run(dir.path()), &webhook);
    live_and_die(dir.path(), &webhook, &vec![call; KILLS + 1]).await;
}

/// Where the release before this one is tried, whatever stack the other tests run on there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_release_before_left_in_a_data_directory_is_taken_over_through_kills() {
    if !on_servers() {
        return;
    }
    let Some(previous) = previous_release() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let webhook = Webhook::refusing(0).await;
    let this = announcing(Call::run(dir.path()), &webhook);
    let before = this.clone().built_as(&previous);
    let mut lives = vec![before.clone(); 4];
    lives.extend(vec![this; 5]);
    live_and_die(dir.path(), &webhook, &lives).await;
    // It has no log there any more, and would find nothing of what others are behind with.
    before.finish().await.assert_refused(&["0.4.0 or newer"]);
}

#[tokio::test]
async fn a_run_that_was_killed_while_it_made_its_tables_starts_again() {
    let random = Random::seeded(SEED);
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let call = Call::run(dir.path());
        let starting = call.spawn();
        tokio::time::sleep(Duration::from_millis(random.below(120) as u64)).await;
        starting.kill();
        let (process, _) = call.start().await;
        process.kill();
    }
}
