//! An event that kills the process is found and parked, because attempts are counted before they are made.

use couponmesh_runtime::id::MemberId;
use couponmesh_testbed::Home;

use crate::{
    check::{Trouble, violations},
    support::{MAX_ATTEMPTS, Mesh, eventually, new_home},
};

/// One process's life: its tasks, connections and locks end with it, wherever they are.
pub(crate) fn life<T>(home: &Home, story: impl AsyncFnOnce(&Mesh) -> T) -> T {
    in_a_process(async || {
        let mesh = Mesh::open(home).await;
        story(&mesh).await
    })
}

fn in_a_process<T>(story: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let told = runtime.block_on(story());
    runtime.shutdown_background();
    told
}

pub(crate) fn home() -> Home {
    in_a_process(async || new_home().await)
}

/// Members whose events wait on the bus.
pub(crate) fn published(home: &Home) -> Vec<MemberId> {
    life(home, async |mesh| {
        mesh.start_relay();
        let members = mesh.register(12).await.unwrap();
        eventually("all is published", async || mesh.outbox().await.1 == 0).await;
        mesh.close().await;
        members
    })
}

#[test]
fn an_event_that_kills_the_process_is_parked_after_a_few_lives_and_its_neighbours_are_handled() {
    let home = home();
    let members = published(&home);
    let killer = members[3];
    // The first is counted where its batch began.
    for _ in 0..=MAX_ATTEMPTS {
        life(&home, async |mesh| {
            mesh.handler.troubled_by(killer, Trouble::Hangs);
            mesh.start_consumer();
            mesh.handler.hangs().await;
        });
    }
    life(&home, async |mesh| {
        mesh.handler.troubled_by(killer, Trouble::Hangs);
        mesh.start();
        mesh.settle().await;
        let letters = mesh.dead_letters().await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(letters[0].member_id, killer);
        assert_eq!(letters[0].attempts, MAX_ATTEMPTS);
        assert!(letters[0].error.contains("died"), "{}", letters[0].error);
        assert_eq!(violations(mesh).await, [format!("{killer} is lost")]);
        mesh.close().await;
    });
}

#[test]
fn an_event_that_was_being_handled_when_the_process_died_is_handled_in_the_next_life() {
    let home = home();
    let members = published(&home);
    life(&home, async |mesh| {
        mesh.handler.troubled_by(members[3], Trouble::Hangs);
        mesh.start_consumer();
        mesh.handler.hangs().await;
    });
    life(&home, async |mesh| {
        mesh.start();
        mesh.settle().await;
        assert_eq!(violations(mesh).await, [""; 0]);
        assert_eq!(mesh.dead_letters().await, []);
        mesh.close().await;
    });
}
