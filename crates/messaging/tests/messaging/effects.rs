//! What is committed is seen, exactly once in effect; what is not is never seen.

use couponmesh_messaging::{checkpoint, consume::positions, outbox};
use couponmesh_runtime::id::MemberId;
use couponmesh_testbed::{Message, on_servers};
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr};

use crate::{
    check::{violations, violations_of},
    nats_bus::{events, nats},
    support::{Mesh, TICKED, eventually},
};

#[tokio::test]
async fn an_event_of_a_transaction_that_did_not_commit_is_never_seen() {
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    for point in ["register:begin", "register:commit"] {
        mesh.publisher.faults().arm(point, 1);
        mesh.register(3).await.unwrap_err();
    }
    // Left, not refused: what is dropped without a commit never happened either.
    let tx = mesh.publisher.begin("register").await.unwrap();
    crate::check::insert_fact(&tx, mesh.loose_event().member_id)
        .await
        .unwrap();
    drop(tx);
    let seen = mesh.register(2).await.unwrap();
    mesh.settle().await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    assert_eq!(mesh.log().await.len(), seen.len() + 1);
    mesh.close().await;
}

#[tokio::test]
async fn an_event_is_handled_as_often_as_it_is_published_at_the_most() {
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.register(40).await.unwrap();
    mesh.settle().await;
    let log = mesh.log().await;
    // In one batch with itself, and backwards.
    let twice = log.iter().chain(log.iter().rev()).cloned().collect();
    mesh.deliver_again(twice).await;
    mesh.settle().await;
    assert_eq!(violations_of(&mesh, 1..=3).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn a_repeat_in_one_batch_with_the_first_is_handled_with_it() {
    let (_home, mesh) = Mesh::new().await;
    mesh.start_relay();
    mesh.register(50).await.unwrap();
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    let log = mesh.log().await;
    let pairs = log.into_iter().flat_map(|event| [event.clone(), event]);
    mesh.deliver_again(pairs.collect()).await;
    // The consumer comes late and finds each pair in one batch, but for a pair that stands at a batch's end.
    mesh.start_consumer();
    mesh.settle().await;
    let thrice = violations_of(&mesh, 1..=2).await;
    assert!(thrice.len() < 10, "{thrice:?}");
    mesh.close().await;
}

#[tokio::test]
async fn a_consumer_goes_on_where_it_left_off_after_a_restart() {
    let (home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.register(10).await.unwrap();
    mesh.settle().await;
    mesh.stop_consumer().await;
    let missed = mesh.register(10).await.unwrap();
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    mesh.close().await;

    let mesh = Mesh::open(&home).await;
    assert_eq!(mesh.handler.count_of(&mesh.consumer, missed[0]).await, 0);
    mesh.start();
    mesh.register(10).await.unwrap();
    mesh.settle().await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn a_bus_that_begins_anew_is_read_from_its_beginning() {
    if !on_servers() {
        return;
    }
    let (mut home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.register(200).await.unwrap();
    mesh.settle().await;
    mesh.close().await;

    // The bus begins anew, as one does whose disk was lost, and somebody fills it.
    let mesh = Mesh::open(&home).await;
    let log = mesh.log().await;
    mesh.close().await;
    home.lose_bus();
    let mesh = Mesh::open(&home).await;
    assert!(log.len() > 200);
    mesh.publish(log).await;
    mesh.start();
    mesh.settle().await;
    // Before, what was put there, and what the relay puts there.
    assert_eq!(violations_of(&mesh, 1..=3).await, [""; 0]);
    assert_eq!(mesh.dead_letters().await, []);
    mesh.close().await;
}

/// Whether or not others have published more since than what was lost.
#[tokio::test]
async fn a_bus_that_lost_its_events_is_filled_again_without_being_asked() {
    if !on_servers() {
        return;
    }
    for others in [0, 300] {
        let (mut home, mesh) = Mesh::new().await;
        mesh.start_relay();
        mesh.register(200).await.unwrap();
        eventually("all is published", async || mesh.outbox().await.1 == 0).await;
        mesh.close().await;
        home.lose_bus();
        let mesh = Mesh::open(&home).await;
        mesh.publish(events(TICKED, others)).await;
        mesh.start();
        eventually("all are handled", async || {
            violations(&mesh).await.is_empty()
        })
        .await;
        mesh.settle().await;
        assert_eq!(mesh.dead_letters().await, []);
        mesh.close().await;
    }
}

/// Everyone remembers where the bus is now as they do after some minutes.
async fn remember(mesh: &Mesh) {
    use checkpoint::Column as Checkpoint;
    use positions::Column as Position;
    let relay = checkpoint::Entity::update_many()
        .col_expr(Checkpoint::OlderPosition, Expr::col(Checkpoint::Position))
        .col_expr(
            Checkpoint::OlderSequence,
            Expr::col(Checkpoint::BusSequence),
        )
        .col_expr(Checkpoint::OlderStamp, Expr::col(Checkpoint::BusStamp));
    let tx = mesh.publisher.begin("test").await.unwrap();
    relay.exec(&*tx).await.unwrap();
    tx.commit().await.unwrap();
    let consumer = positions::Entity::update_many()
        .col_expr(Position::OlderSequence, Expr::col(Position::Sequence))
        .col_expr(Position::OlderStamp, Expr::col(Position::Stamp));
    let tx = mesh.consumer.begin("test").await.unwrap();
    consumer.exec(&*tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// The server comes back as it was some time before, while everybody goes on.
#[tokio::test]
async fn of_a_bus_that_lost_its_tail_only_what_came_after_an_older_place_comes_again() {
    if !on_servers() {
        return;
    }
    let (mut home, mesh) = Mesh::new().await;
    mesh.start();
    let before = mesh.register(200).await.unwrap();
    mesh.settle().await;
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    mesh.close().await;
    let mesh = Mesh::open(&home).await;
    remember(&mesh).await;
    mesh.start();
    let server = nats(&mut home);
    let kept = mesh.register(20).await.unwrap();
    mesh.settle().await;
    server.kill();
    let copy = server.copy_store();
    server.restart();
    let lost = mesh.register(50).await.unwrap();
    mesh.settle().await;
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    server.kill();
    server.put_back(copy);
    server.restart();
    mesh.register(80).await.unwrap();
    let events = server.events();
    let times = async |members: &[MemberId], wanted: usize| {
        let published = events.messages().await;
        let count = |member: &MemberId| {
            let member = member.to_string();
            let is_of = |one: &&Message| one.header("ce-subject") == Some(&member);
            published.iter().filter(is_of).count()
        };
        members.iter().all(|member| count(member) == wanted)
    };
    eventually("what came after is published again", async || {
        times(&kept, 2).await && times(&lost, 1).await
    })
    .await;
    mesh.settle().await;
    assert_eq!(violations_of(&mesh, 1..=3).await, [""; 0]);
    // What came before was neither published nor read again.
    assert!(times(&before, 1).await);
    for member in &before {
        assert_eq!(mesh.handler.count_of(&mesh.consumer, *member).await, 1);
    }
    mesh.close().await;
}

#[tokio::test]
async fn a_lost_bus_is_filled_again_from_an_outbox_whose_oldest_rows_are_gone() {
    if !on_servers() {
        return;
    }
    let (mut home, mesh) = Mesh::new().await;
    mesh.start_relay();
    mesh.register(100).await.unwrap();
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    mesh.start_consumer();
    mesh.settle().await;
    mesh.stop().await;
    let tx = mesh.publisher.begin("test").await.unwrap();
    let oldest = outbox::Entity::delete_many().filter(outbox::Column::Seq.lte(50));
    oldest.exec(&*tx).await.unwrap();
    tx.commit().await.unwrap();
    mesh.close().await;
    home.lose_bus();
    let mesh = Mesh::open(&home).await;
    mesh.start();
    mesh.settle().await;
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    assert_eq!(violations_of(&mesh, 1..=2).await, [""; 0]);
    assert!(mesh.log().await.len() > 50);
    mesh.close().await;
}
