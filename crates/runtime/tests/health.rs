//! What readiness finds out about a database, on the stack that the tests run on.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use couponmesh_runtime::database::{
    Database,
    health::{Health, Probe},
};
use couponmesh_testbed::{Home, PostgresServer, config, on_servers};
use sea_orm::{ConnectionTrait as _, DatabaseConnection};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn callers_who_hold_every_connection_are_no_outage() {
    let home = Home::new(&["x"]).await;
    let database = home.database("x").await;
    // A file has one connection that writes.
    let connections = if on_servers() {
        config("").max_connections
    } else {
        1
    };
    let mut held = Vec::new();
    for _ in 0..connections {
        held.push(database.begin().await.unwrap());
    }
    assert_eq!(Probe::new(&database).ask().await, Health::Well);
    drop(held);
    database.close().await.unwrap();
}

async fn becomes(health: Health, probe: &mut Probe) {
    let end = Instant::now() + PATIENCE;
    loop {
        let is = probe.ask().await;
        if is == health {
            return;
        }
        assert!(Instant::now() < end, "it is {is:?}, not {health:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn set_read_only(operator: &DatabaseConnection, value: &str) {
    let set = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
    operator.execute_unprepared(&set).await.unwrap();
    let reload = "SELECT pg_reload_conf()";
    operator.execute_unprepared(reload).await.unwrap();
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_told_from_one_that_is_away() {
    if !on_servers() {
        return;
    }
    let mut server = PostgresServer::start();
    let config = config(&server.url());
    let database = Database::open_postgres(&config, "a test").await.unwrap();
    let operator = sea_orm::Database::connect(server.url()).await.unwrap();
    let mut probe = Probe::new(&database);
    assert_eq!(probe.ask().await, Health::Well);
    set_read_only(&operator, "on").await;
    becomes(Health::ReadOnly, &mut probe).await;
    set_read_only(&operator, "off").await;
    becomes(Health::Well, &mut probe).await;
    server.kill();
    becomes(Health::Away, &mut probe).await;
    server.restart();
    becomes(Health::Well, &mut probe).await;
}
