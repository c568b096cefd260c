//! What is personal stays where it belongs, and goes when the member goes.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use couponmesh::config::Config;

use couponmesh_member::{
    profile::{self, DisplayName, Email},
    requests,
};
use couponmesh_runtime::{id::RequestId, telemetry};
use couponmesh_testbed::on_servers;
use sea_orm::EntityTrait as _;
use tracing_subscriber::{
    Layer as _,
    fmt::{MakeWriter, format::FmtSpan},
    layer::SubscriberExt as _,
};

use crate::harness::{
    Mesh,
    calls::{refused, registration},
    eventually, eventually_within,
};

const EMAIL: &str = "zebulon.quux@example.com";
const NAME: &str = "Zebulon Quux";
const SERVICES: [&str; 4] = ["member", "coupon", "notification", "mypage"];

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

// On one thread, whose subscriber this test may set: everything that the services do is done there.
#[tokio::test(flavor = "current_thread")]
async fn address_and_name_are_never_logged_and_leave_with_the_member() {
    let log = Log::default();
    let lines = tracing_subscriber::fmt::layer()
        .with_span_events(FmtSpan::FULL)
        .with_writer(log.clone());
    let everything =
        telemetry::log_filter("trace,async_nats=trace,sea_orm_migration=trace,sqlx=trace").unwrap();
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(everything));
    let _logging = tracing::subscriber::set_default(subscriber);
    // As long as there is one subscriber, only the thread that comes by a log line first is asked whether
    // it is wanted, and that may be another test's.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());

    let mesh = Mesh::start().await;
    let request = couponmesh_proto::member::v1::RegisterMemberRequest {
        display_name: NAME.to_owned(),
        request_id: mesh.new_id().to_string(),
        ..registration(EMAIL)
    };
    let member = mesh.try_register(request).await.unwrap();
    mesh.joined(&member.member_id).await;
    refused(mesh.try_register(registration(EMAIL)).await);
    mesh.settled().await;
    // Only where it belongs, even while the member is there.
    assert_eq!(
        places_that_hold(&mesh, EMAIL).await,
        ["member members.email"]
    );

    mesh.withdraw(&member.member_id).await;
    mesh.settled().await;
    assert_eq!(places_that_hold(&mesh, EMAIL).await, [""; 0]);
    // Events keep the name for their retention time and no longer.
    let names = places_that_hold(&mesh, NAME).await;
    let bus = if on_servers() {
        "bus events.payload"
    } else {
        "bus outbox.payload"
    };
    assert_eq!(names, ["member outbox.payload", bus]);
    mesh.finish().await;

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).to_lowercase();
    for target in [
        "couponmesh_runtime",
        "couponmesh_notification",
        "h2",
        "sea_orm",
    ] {
        assert!(log.contains(target), "nothing of {target} was captured");
    }
    for personal in ["zebulon", "quux"] {
        let line = log.lines().find(|line| line.contains(personal));
        assert_eq!(line, None);
    }
}

#[tokio::test]
async fn after_the_retention_nothing_of_a_member_who_left_is_found_anywhere() {
    let mesh = Mesh::start().await;
    let request = couponmesh_proto::member::v1::RegisterMemberRequest {
        display_name: NAME.to_owned(),
        ..registration(EMAIL)
    };
    let member = mesh.try_register(request).await.unwrap();
    mesh.joined(&member.member_id).await;
    mesh.withdraw(&member.member_id).await;
    mesh.settled().await;
    assert!(!places_that_hold(&mesh, NAME).await.is_empty());

    let mut shut = mesh.shut().await;
    let retention = Config::load(None).unwrap().messaging.retention;
    shut.later(retention + Duration::from_secs(60)).await;
    // Every service's janitor comes by when it starts, and the bus's, too.
    let mesh = shut.open().await;
    eventually("the name is gone", || async {
        let mut places = places_that_hold(&mesh, NAME).await;
        if on_servers() {
            // NATS goes by a clock of its own, which nobody moved.
            places.retain(|place| !place.starts_with("bus "));
        }
        places.is_empty().then_some(()).ok_or(places.join(", "))
    })
    .await;
    assert_eq!(places_that_hold(&mesh, EMAIL).await, [""; 0]);
    // What became of the member is still known.
    assert!(mesh.member(&member.member_id).await.coupon_cancelled);
    mesh.shut().await.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_seconds_after_a_member_left_the_address_is_nowhere_while_all_goes_on() {
    let mesh = Mesh::start().await;
    // So that pages are split, and rows move, before and after.
    mesh.join_many(150).await;
    let request = couponmesh_proto::member::v1::RegisterMemberRequest {
        display_name: NAME.to_owned(),
        request_id: mesh.new_id().to_string(),
        ..registration(EMAIL)
    };
    let member = mesh.try_register(request.clone()).await.unwrap();
    mesh.joined(&member.member_id).await;
    for number in 0..50 {
        mesh.register(&format!("more{number}@example.com")).await;
    }
    let withdrawal = mesh.withdraw(&member.member_id).await;
    mesh.completed(&withdrawal.withdrawal_id).await;
    eventually_within(Duration::from_secs(10), "the address is gone", || async {
        let mut places = places_that_hold(&mesh, EMAIL).await;
        places.extend(mesh.files_that_hold(EMAIL));
        // The page's name comes with an event.
        let names = places_that_hold(&mesh, NAME).await;
        let files = mesh.files_that_hold(NAME).into_iter();
        places.extend(files.filter(|file| file.contains("mypage.db")));
        places.extend(
            names
                .into_iter()
                .filter(|place| !place.starts_with("bus ") && !place.ends_with("outbox.payload")),
        );
        places.is_empty().then_some(()).ok_or(places.join(", "))
    })
    .await;
    // Whoever guesses the address finds nothing that confirms it.
    let guess = profile::digest(
        RequestId::parse(&request.request_id).unwrap(),
        &Email::parse(EMAIL).unwrap(),
        &DisplayName::parse(NAME).unwrap(),
    );
    let file = mesh.file("member").await;
    let remembered = requests::Entity::find().all(file.db()).await.unwrap();
    assert!(!remembered.is_empty());
    assert!(remembered.iter().all(|row| row.digest != guess));
    mesh.join("later@example.com").await;
    mesh.finish().await;
}

async fn places_that_hold(mesh: &Mesh, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in SERVICES {
        let columns = mesh.file(name).await.columns_that_hold(needle).await;
        found.extend(columns.into_iter().map(|column| format!("{name} {column}")));
    }
    let parts = mesh.log().await.parts_that_hold(needle).await;
    found.extend(parts.into_iter().map(|part| format!("bus {part}")));
    found
}
