//! What connections to PostgreSQL are like, whatever stands before the server and whatever is set there.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use couponmesh_runtime::database::{Database, OpenError};
use couponmesh_testbed::{Databases, PgBouncer, PostgresServer, config, on_servers};
use sea_orm::{
    ConnectionTrait, DbBackend, Statement,
    sqlx::{
        self, Connection as _, PgConnection,
        postgres::{PgConnectOptions, PgListener, PgPoolOptions},
    },
};

async fn open(url: &str) -> Database {
    let opened = Database::open_postgres(&config(url), "a test").await;
    opened.unwrap()
}

fn query(sql: &str) -> Statement {
    Statement::from_string(DbBackend::Postgres, sql)
}

async fn text(on: &impl ConnectionTrait, sql: &str) -> String {
    let row = on.query_one_raw(query(sql)).await.unwrap().unwrap();
    row.try_get_by_index(0).unwrap()
}

/// What is set in a session: our settings, one by one.
async fn settings(database: &Database) -> Vec<String> {
    let mut settings = Vec::new();
    for name in [
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "synchronous_commit",
        "default_transaction_isolation",
        "enable_seqscan",
        "jit",
        "application_name",
    ] {
        settings.push(text(database.read(), &format!("SHOW {name}")).await);
    }
    settings
}

const EXPECTED: [&str; 7] = ["10s", "12s", "on", "read committed", "off", "off", "a test"];

#[tokio::test]
async fn settings_hold_whatever_role_and_database_say() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["x"]).await;
    let url = databases.url("x");
    let operator = sea_orm::Database::connect(url.as_str()).await.unwrap();
    for set in [
        "synchronous_commit = off",
        "statement_timeout = 0",
        "default_transaction_isolation = 'serializable'",
    ] {
        let name = url.rsplit_once('/').unwrap().1;
        let sql = format!("ALTER DATABASE {name} SET {set}");
        operator.execute_unprepared(&sql).await.unwrap();
    }
    let database = open(&url).await;
    assert_eq!(settings(&database).await, EXPECTED);
    database.close().await.unwrap();
    operator.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_by_session_is_as_good_as_none() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["x"]).await;
    let bouncer = PgBouncer::start(&databases.url("x"), "session");
    let database = open(&bouncer.url(&databases.url("x"))).await;
    assert_eq!(settings(&database).await, EXPECTED);
    let create = "CREATE TABLE things (n BIGINT PRIMARY KEY)";
    database.read().execute_unprepared(create).await.unwrap();
    // Prepared statements, on several connections at once.
    let mut held = Vec::new();
    for n in 0..5_i64 {
        let tx = database.begin().await.unwrap();
        let insert = "INSERT INTO things VALUES ($1)";
        for n in [n, 10 + n] {
            let insert = Statement::from_sql_and_values(DbBackend::Postgres, insert, [n.into()]);
            tx.execute_raw(insert).await.unwrap();
        }
        held.push(tx);
    }
    for tx in held {
        tx.commit().await.unwrap();
    }
    let count = "SELECT CAST(count(*) AS TEXT) FROM things";
    assert_eq!(text(database.read(), count).await, "10");
    // Locks of rows, and the one of migrations.
    let first = database.begin().await.unwrap();
    let lock = "SELECT n FROM things WHERE n = 1 FOR UPDATE";
    first.query_one_raw(query(lock)).await.unwrap().unwrap();
    let second = database.begin().await.unwrap();
    let refused = second.query_one_raw(query(&format!("{lock} NOWAIT"))).await;
    assert!(refused.is_err());
    drop((first, second));
    let migration = database.begin_migration().await.unwrap().unwrap();
    let lock = "SELECT CAST(pg_try_advisory_xact_lock(7305804402) AS TEXT)";
    assert_eq!(text(database.read(), lock).await, "false");
    migration.rollback().await.unwrap();
    // LISTEN as the signals between replicas do it.
    let options = database.postgres().unwrap().connect_options();
    let own = PgPoolOptions::new().max_connections(1);
    let own = own.connect_with(options.as_ref().clone()).await.unwrap();
    let mut listener = PgListener::connect_with(&own).await.unwrap();
    listener.listen("here").await.unwrap();
    let notify = "SELECT CAST(pg_notify('here', 'heard') AS TEXT)";
    text(database.read(), notify).await;
    assert_eq!(listener.recv().await.unwrap().payload(), "heard");
    drop(listener);
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_shares_sessions_is_refused_by_name() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["x"]).await;
    for mode in ["transaction", "statement"] {
        let bouncer = PgBouncer::start(&databases.url("x"), mode);
        let url = bouncer.url(&databases.url("x"));
        // Sessions that rest at the pooler, from one that nobody used yet to several.
        for busy in [0, 1, 3] {
            let mut others = Vec::new();
            for _ in 0..busy {
                let options: PgConnectOptions = url.parse().unwrap();
                let options = options.extra_float_digits(None);
                others.push(PgConnection::connect_with(&options).await.unwrap());
            }
            // All at once.
            let sleep = async |other: &mut PgConnection| {
                let slept = sqlx::raw_sql("SELECT pg_sleep(0.2)").execute(other).await;
                slept.unwrap();
            };
            futures::future::join_all(others.iter_mut().map(sleep)).await;
            let refused = Database::open_postgres(&config(&url), "a test").await;
            let refused = refused.unwrap_err();
            assert!(matches!(refused, OpenError::SharedSessions), "{refused}");
            let text = refused.to_string();
            assert!(
                text.contains("set PgBouncer's pool_mode to session"),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_name_is_refused() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["x"]).await;
    let url = databases.url("x");
    let (server, name) = url.rsplit_once('/').unwrap();
    let operator = sea_orm::Database::connect(format!("{server}/postgres"))
        .await
        .unwrap();
    let create =
        format!("CREATE DATABASE {name}_1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    operator.execute_unprepared(&create).await.unwrap();
    let opened = Database::open_postgres(&config(&format!("{url}_1")), "a test").await;
    let refused = opened.unwrap_err().to_string();
    let drop = format!("DROP DATABASE {name}_1 WITH (FORCE)");
    operator.execute_unprepared(&drop).await.unwrap();
    operator.close().await.unwrap();
    assert!(
        refused.contains("encoding is LATIN1 and must be UTF8"),
        "{refused}"
    );
    assert!(refused.contains("CREATE DATABASE"), "{refused}");
}

#[tokio::test]
async fn a_plan_from_before_a_migration_costs_nobody_an_error() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["x"]).await;
    let database = open(&databases.url("x")).await;
    let create = "CREATE TABLE things (n BIGINT PRIMARY KEY)";
    database.read().execute_unprepared(create).await.unwrap();
    let all = async || {
        database
            .read()
            .query_all_raw(query("SELECT * FROM things"))
            .await
    };
    let add = "ALTER TABLE things ADD COLUMN more TEXT";
    for _ in 0..8 {
        all().await.unwrap();
    }
    database.read().execute_unprepared(add).await.unwrap();
    all().await.unwrap();
    // A transaction learns of it once, as of an outage.
    let add = "ALTER TABLE things ADD COLUMN yet_more TEXT";
    database.read().execute_unprepared(add).await.unwrap();
    let mut failed = 0;
    for _ in 0..8 {
        let tx = database.begin().await.unwrap();
        if let Err(error) = tx.query_all_raw(query("SELECT * FROM things")).await {
            assert!(
                couponmesh_runtime::database::is_transient(&error),
                "{error}"
            );
            failed += 1;
        }
    }
    assert_eq!(failed, 1);
    database.close().await.unwrap();
}

#[tokio::test]
async fn connections_to_a_server_that_was_demoted_are_not_used_again() {
    if !on_servers() {
        return;
    }
    let server = PostgresServer::start();
    let mut config = config(&server.url());
    config.acquire_timeout = Duration::from_secs(1);
    let database = Database::open_postgres(&config, "a test").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..config.max_connections {
        held.push(database.begin().await.unwrap());
    }
    drop(held);
    let operator = sea_orm::Database::connect(server.url()).await.unwrap();
    let set = async |value: &str| {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        operator.execute_unprepared(&set).await.unwrap();
        operator
            .execute_unprepared("SELECT pg_reload_conf()")
            .await
            .unwrap();
    };
    let create = "CREATE TABLE IF NOT EXISTS things (n BIGINT)";
    set("on").await;
    // One of them finds out, and no other is tried.
    let end = Instant::now() + Duration::from_secs(10);
    while database.read().execute_unprepared(create).await.is_ok() {
        assert!(Instant::now() < end, "it takes writes");
    }
    let refused = database.begin().await.unwrap_err();
    assert!(
        couponmesh_runtime::database::is_transient(&refused),
        "{refused}"
    );
    set("off").await;
    // Not even one that was made before.
    for _ in 0..config.max_connections {
        database.read().execute_unprepared(create).await.unwrap();
    }
    database.close().await.unwrap();
}

/// A database whose statements may take a second, and all of its connections, which are busy for longer than such
/// a statement may take, one short statement after another.
async fn overloaded(databases: &Databases) -> (Database, Vec<tokio::task::JoinHandle<()>>) {
    let mut config = config(&databases.url("x"));
    config.max_connections = 4;
    // They are busy for four seconds.
    config.acquire_timeout = Duration::from_secs(30);
    config.statement_timeout = Duration::from_secs(1);
    config.commit_timeout = Duration::from_secs(3);
    let database = Database::open_postgres(&config, "a test").await.unwrap();
    let mut busy = Vec::new();
    for _ in 0..config.max_connections {
        let tx = database.begin().await.unwrap();
        busy.push(tokio::spawn(async move {
            for _ in 0..8 {
                text(&tx, "SELECT CAST(pg_sleep(0.5) AS TEXT)").await;
            }
        }));
    }
    (database, busy)
}

#[tokio::test]
async fn who_waits_for_a_connection_takes_no_time_of_its_statement() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["x"]).await;
    let (database, busy) = overloaded(&databases).await;
    let mut losses = database.losses();
    let create = sea_orm::sea_query::Table::create()
        .table("things")
        .col(sea_orm::sea_query::ColumnDef::new("n").integer())
        .to_owned();
    let (read, begun, executed) = tokio::join!(
        database.read().query_one_raw(query("SELECT 1")),
        database.begin(),
        database.execute(&create),
    );
    read.unwrap();
    begun.unwrap();
    executed.unwrap();
    for one in busy {
        one.await.unwrap();
    }
    let lost = tokio::time::timeout(Duration::ZERO, losses.next()).await;
    assert!(lost.is_err(), "the connections were taken for lost");
    database.close().await.unwrap();
}

#[tokio::test]
async fn a_commit_that_takes_too_long_is_given_up_after_its_own_time() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["x"]).await;
    let mut config = config(&databases.url("x"));
    config.commit_timeout = Duration::from_secs(1);
    let database = Database::open_postgres(&config, "a test").await.unwrap();
    let create = "CREATE TABLE things (n BIGINT PRIMARY KEY)";
    database.read().execute_unprepared(create).await.unwrap();
    let holder = database.begin().await.unwrap();
    let insert = "INSERT INTO things VALUES (1)";
    holder.execute_unprepared(insert).await.unwrap();
    let same = sea_orm::sea_query::Query::insert()
        .into_table("things")
        .columns(["n"])
        .values_panic([1.into()])
        .to_owned();
    let begun = Instant::now();
    let refused = database.execute(&same).await.unwrap_err();
    assert!(refused.to_string().contains("no answer"), "{refused}");
    let took = begun.elapsed();
    assert!(took < config.acquire_timeout, "given up after {took:?}");
    drop(holder);
    database.close().await.unwrap();
}

/// The server's processes of all connections of `database`, which are used at the same time for it.
async fn processes(database: &Database, connections: u32) -> Vec<String> {
    let (mut held, mut processes) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let tx = database.begin().await.unwrap();
        processes.push(text(&tx, "SELECT CAST(pg_backend_pid() AS TEXT)").await);
        held.push(tx);
    }
    processes
}

fn signal(name: &str, processes: &[String]) {
    let kill = std::process::Command::new("kill")
        .arg(name)
        .args(processes)
        .status();
    assert!(kill.unwrap().success());
}

#[tokio::test]
async fn one_slow_answer_costs_one_connection_and_a_server_that_stays_silent_all() {
    if !on_servers() {
        return;
    }
    let server = PostgresServer::start();
    let mut config = config(&server.url());
    config.max_connections = 5;
    let database = Database::open_postgres(&config, "a test").await.unwrap();
    // Longer at rest than a connection may be without being tried.
    let rest = || tokio::time::sleep(Duration::from_millis(1_500));
    let before = processes(&database, config.max_connections).await;
    rest().await;
    signal("-STOP", &before[..1]);
    let after = processes(&database, config.max_connections).await;
    let kept = before.iter().filter(|one| after.contains(one)).count();
    signal("-CONT", &before[..1]);
    assert_eq!(kept, before.len() - 1, "{before:?}, then {after:?}");

    rest().await;
    signal("-STOP", &after);
    let mut losses = database.losses();
    let anew = processes(&database, config.max_connections).await;
    signal("-CONT", &after);
    let kept = anew.iter().filter(|one| after.contains(one)).count();
    assert_eq!(kept, 0, "{after:?}, then {anew:?}");
    let lost = tokio::time::timeout(Duration::ZERO, losses.next()).await;
    assert!(lost.is_ok(), "no connection was taken for lost");
    database.close().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_given_back_busy_is_soon_replaced() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["x"]).await;
    let config = config(&databases.url("x"));
    let database = Database::open_postgres(&config, "a test").await.unwrap();
    let pool = database.postgres().unwrap();
    for _ in 0..config.max_connections {
        let mut connection = pool.acquire().await.unwrap();
        // Until the server ends it, which is later than anyone waits for a connection.
        let asked = sqlx::raw_sql("SELECT pg_sleep(60)").execute(&mut *connection);
        let asked = tokio::time::timeout(Duration::from_millis(50), asked).await;
        assert!(asked.is_err(), "it slept");
    }
    database.begin().await.unwrap();
    database.close().await.unwrap();
}
