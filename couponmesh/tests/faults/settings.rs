//! Set up wrongly: a clear line now and then, an end after a while, and no secret anywhere.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use couponmesh_testbed::{Databases, Nats, PostgresServer};
use sea_orm::{ConnectionTrait as _, Database, TransactionTrait as _};

use crate::binary::process::{Call, Finished, eventually};

const SECRET: &str = "hunter2";
/// How long what is away is tried.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// More than the start timeout, and less than a restart by an impatient operator.
const ENDED_BY: Duration = Duration::from_secs(20);

/// A replica of `service` that gives up soon.
fn serve(service: &str, database: &str, bus: &str) -> Call {
    Call::serve(service)
        .set("DATABASE__URL", database)
        .set("DATABASE__START_TIMEOUT", "5s")
        .set("DATABASE__ACQUIRE_TIMEOUT", "1s")
        .set("BUS__URL", bus)
        .set("BUS__START_TIMEOUT", "5s")
        .set("MEMBER__COUPON_ADDRESS", "http://127.0.0.1:1")
}

fn assert_silent_about_secrets(finished: &Finished) {
    for output in [&finished.stdout, &finished.stderr] {
        assert!(!output.contains(SECRET), "a secret: {finished:?}");
    }
}

/// Asserts that it tried for a while, said `meanwhile` now and then, and ended with a line that holds `last`.
async fn gives_up(call: Call, meanwhile: &str, last: &[&str]) {
    let begin = Instant::now();
    let finished = call.finish().await;
    let took = begin.elapsed();
    assert_silent_about_secrets(&finished);
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(took < ENDED_BY, "gave up after {took:?}: {finished:?}");
    let lines: Vec<&str> = finished.stderr.lines().collect();
    let said = lines.iter().filter(|line| line.contains(meanwhile)).count();
    // Every three seconds.
    assert!((1..=3).contains(&said), "{said} times: {finished:?}");
    // Whoever waits for it says so, too, ever more seldom.
    assert!(lines.len() <= 30, "a flood: {finished:?}");
    let end = lines.last().unwrap();
    assert!(end.starts_with("couponmesh: "), "{finished:?}");
    for what in last {
        assert!(end.contains(what), "{what:?} is not in {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_let_us_in_is_tried_for_a_while_and_named() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut server = PostgresServer::start();
    let connection = Database::connect(server.url()).await.unwrap();
    let create = "CREATE ROLE locked LOGIN PASSWORD 'another'";
    connection.execute_unprepared(create).await.unwrap();
    connection.close().await.unwrap();
    server.ask_for_password_of("locked");
    server.kill();
    server.restart();
    let nats = Nats::start();
    let right = server.url();
    let named = |name: &str| right.replace("/postgres", name);
    let locked = right.replace("couponmesh@", &format!("locked:{SECRET}@"));
    let unreachable = format!("postgres://member:{SECRET}@127.0.0.1:1/member");
    let meanwhile = "the database is not there yet (database.url)";
    let cases = [
        (unreachable, "refused"),
        (locked, "password authentication failed"),
        (named("/nowhere"), "\"nowhere\" does not exist"),
    ];
    let cases = cases.map(|(url, why)| {
        let call = serve("member", &url, &nats.url());
        let after = format!("no connection within {START_TIMEOUT:?}");
        async move { gives_up(call, meanwhile, &["database.url", &after, why]).await }
    });
    futures::future::join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_is_not_there_is_tried_for_a_while_and_named() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let databases = Databases::create(&["coupon", "mypage"]).await;
    // Nobody there, and somebody there who is no NATS.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf = deaf.local_addr().unwrap();
    let meanwhile = "the bus is not there yet (bus.url)";
    let cases = [
        ("coupon", "127.0.0.1:1".to_owned()),
        ("mypage", deaf.to_string()),
    ];
    let cases = cases.map(|(service, address)| {
        let bus = format!("nats://ann:{SECRET}@{address}");
        let call = serve(service, &databases.url(service), &bus);
        async move { gives_up(call, meanwhile, &["bus.url", "within 5s"]).await }
    });
    futures::future::join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_installation_on_the_same_bus_ends_and_names_the_first() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let [first, second] = [
        Databases::create(&["member"]).await,
        Databases::create(&["member"]).await,
    ];
    let nats = Nats::start();
    let logs = tempfile::tempdir().unwrap();
    let made = async |log: &Path, stream: &str| {
        eventually("it has made its stream", async || {
            let log = std::fs::read_to_string(log).unwrap();
            let line = log.lines().find(|line| line.contains("stream made"));
            line.filter(|line| line.contains(stream)).map(drop)
        })
        .await;
    };
    let log = logs.path().join("first");
    let call = serve("member", &first.url("member"), &nats.url());
    let (running, _) = call.log_to(&log).start().await;
    made(&log, "COUPONMESH").await;
    let strange = serve("member", &second.url("member"), &nats.url());
    let told = "stream COUPONMESH belongs to another installation";
    let last = ["bus.prefix", told];
    gives_up(strange.clone(), "the bus is not there yet", &last).await;
    // With a prefix of its own it stays.
    let log = logs.path().join("second");
    let call = strange.set("BUS__PREFIX", "shop-2").log_to(&log);
    let (apart, _) = call.start().await;
    made(&log, "SHOP-2").await;
    drop((running, apart));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_does_not_come_to_an_end_with_migrating_is_waited_for_and_named() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let databases = Databases::create(&["coupon"]).await;
    let url = databases.url("coupon");
    let hangs = Database::connect(&url)
        .await
        .unwrap()
        .begin()
        .await
        .unwrap();
    let lock = "SELECT pg_advisory_xact_lock(7305804402)";
    hangs.execute_unprepared(lock).await.unwrap();
    let nats = Nats::start();
    let meanwhile = "waiting for another process to migrate the database";
    let last = ["coupon database", "database.start_timeout"];
    let migrate = Call::new(&["migrate", "coupon"])
        .set("DATABASE__URL", &url)
        .set("DATABASE__START_TIMEOUT", "5s");
    tokio::join!(
        gives_up(serve("coupon", &url, &nats.url()), meanwhile, &last),
        gives_up(migrate.clone(), meanwhile, &last),
    );
    // As soon as the lock is there it goes on by itself.
    drop(hangs);
    let migrated = migrate.finish().await;
    assert!(migrated.status.success(), "{migrated:?}");
}

#[tokio::test]
async fn what_is_missing_or_no_url_is_named_at_once_and_kept_secret() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    // None of these is ever called.
    let database = format!("postgres://member:{SECRET}@127.0.0.1:1/member");
    let bus = format!("nats://ann:{SECRET}@127.0.0.1:1");
    let coupon = ("MEMBER__COUPON_ADDRESS", "");
    for (call, names) in [
        (serve("member", &database, ""), "bus.url"),
        (serve("member", "", &bus), "database.url"),
        (
            serve("member", &format!("member:{SECRET}"), &bus),
            "database.url",
        ),
        (
            serve("member", &database, &format!("nats://ann:{SECRET}@a b")),
            "bus.url",
        ),
        (
            serve("member", &database, &bus).set(coupon.0, coupon.1),
            "member.coupon_address",
        ),
    ] {
        let finished = call.finish().await;
        assert_silent_about_secrets(&finished);
        finished.assert_refused(&[names]);
    }
}

#[tokio::test]
async fn the_printed_configuration_hides_the_secrets_of_servers() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    for (database, bus) in [
        (
            format!("postgres://member:{SECRET}@postgres/member"),
            format!("nats://ann:{SECRET}@one:4222,tls://{SECRET}@two:4222"),
        ),
        (
            format!("postgres://postgres/member?user=member&password={SECRET}"),
            // A token, and no scheme.
            format!("{SECRET}@nats:4222"),
        ),
    ] {
        let call = Call::new(&["config", "print"])
            .set("DATABASE__URL", &database)
            .set("DATABASE__INSECURE", "true")
            .set("BUS__URL", &bus)
            .set("BUS__INSECURE", "true");
        let printed = call.finish().await;
        assert!(printed.status.success(), "{printed:?}");
        assert_silent_about_secrets(&printed);
        assert!(printed.stdout.contains("postgres"), "{printed:?}");
        assert!(printed.stdout.contains(":4222"), "{printed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_beyond_this_machine_are_verified_unless_told_otherwise_which_is_said() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    // This machine all the same, where nobody listens.
    let (database, bus) = ("postgres://member@0.0.0.0:1/member", "nats://0.0.0.0:1");
    let serve = serve("coupon", database, bus).set("DATABASE__START_TIMEOUT", "1s");
    let refused = serve.finish().await;
    refused.assert_refused(&[
        "database.url",
        "sslmode=verify-full",
        "database.insecure = true",
        "bus.url",
        "tls://",
        "bus.insecure = true",
    ]);
    for verified in ["sslmode=verify-full", "ssl-mode=verify-full"] {
        let url = format!("{database}?{verified}");
        let print = Call::new(&["config", "print"]).set("DATABASE__URL", &url);
        let printed = print.finish().await;
        assert!(printed.status.success(), "{printed:?}");
    }
    let told = serve
        .set("DATABASE__INSECURE", "true")
        .set("BUS__INSECURE", "true");
    let told = told.finish().await;
    for key in ["database.insecure", "bus.insecure"] {
        let said = told.stderr.lines().filter(|line| line.contains(key));
        let said: Vec<&str> = said.collect();
        assert!(
            matches!(said[..], [line] if line.contains("WARN")),
            "{key}: {told:?}"
        );
    }
}
