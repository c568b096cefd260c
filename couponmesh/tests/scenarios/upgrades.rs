//! PostgreSQL: a database is brought up to date while the release before works on it. A file has one process.

use couponmesh::{migrate::migrate, node::ServiceName};
use couponmesh_runtime::database::Database;
use couponmesh_testbed::{Databases, config, on_servers};
use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DatabaseTransaction, Statement, TransactionTrait as _,
};

use crate::harness::eventually;

/// Longer than a caller is held up, and shorter than a caller waits.
const HELD_UP: &str = "SET lock_timeout = '4s'";
const SERVICE: ServiceName = ServiceName::Member;

/// Member's database, some of whose migrations are to be done again.
struct Upgrade(Databases);

impl Upgrade {
    /// Takes the migration `name` back by `undo`.
    async fn of(name: &str, undo: &[&str]) -> Self {
        let databases = Databases::create(&[SERVICE.name()]).await;
        let upgrade = Self(databases);
        upgrade.migrate().await;
        let operator = upgrade.connect().await;
        let undone = format!("DELETE FROM seaql_migrations WHERE version = '{name}'");
        for sql in undo.iter().copied().chain([undone.as_str()]) {
            operator.execute_unprepared(sql).await.unwrap();
        }
        upgrade
    }

    /// Brings it up to date, as a replica does.
    fn migrate(&self) -> impl Future<Output = ()> + Send + 'static {
        let config = config(&self.0.url(SERVICE.name()));
        async move {
            let database = Database::open_postgres(&config, "a test").await.unwrap();
            migrate(SERVICE, &database).await.unwrap();
            database.close().await.unwrap();
        }
    }

    async fn connect(&self) -> DatabaseConnection {
        let mut options = sea_orm::ConnectOptions::new(self.0.url(SERVICE.name()));
        options.max_connections(1).sqlx_logging(false);
        sea_orm::Database::connect(options).await.unwrap()
    }

    /// A transaction that stays open after `sql`.
    async fn hold(&self, sql: &str) -> DatabaseTransaction {
        let held = self.connect().await.begin().await.unwrap();
        held.execute_unprepared(sql).await.unwrap();
        held
    }

    /// Migrates, in two replicas, while `held` is open, and calls `sql` meanwhile, which has to be answered in time.
    async fn runs_beside(&self, held: DatabaseTransaction, sql: &str) {
        let replicas = [self.migrate(), self.migrate()].map(tokio::spawn);
        let caller = self.connect().await;
        caller.execute_unprepared(HELD_UP).await.unwrap();
        eventually("the migration waits", || async {
            let waiting = "SELECT count(*) FROM pg_stat_activity \
                           WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event <> 'advisory'";
            number(&caller, waiting).await > 0
        })
        .await;
        caller.execute_unprepared(sql).await.unwrap();
        for replica in &replicas {
            assert!(!replica.is_finished(), "it did not wait");
        }
        held.commit().await.unwrap();
        for replica in replicas {
            replica.await.unwrap();
        }
    }
}

async fn number(on: &DatabaseConnection, sql: &str) -> i64 {
    let query = Statement::from_string(on.get_database_backend(), sql);
    let row = on.query_one_raw(query).await.unwrap().unwrap();
    row.try_get_by_index(0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_waits_for_a_table_holds_up_nobody_for_long() {
    if !on_servers() {
        return;
    }
    let upgrade = Upgrade::of(
        "m0004_count_redrives",
        &[
            "DROP INDEX dead_letters_redrive",
            "ALTER TABLE dead_letters DROP COLUMN redrive_attempts",
        ],
    )
    .await;
    let reads = "SELECT 1 FROM dead_letters";
    let held = upgrade.hold(reads).await;
    upgrade.runs_beside(held, reads).await;
}

/// Request ids, of which every second one registered a member who left since.
const REQUESTS: &str = "INSERT INTO requests (rpc, request_id, digest, resource_id) \
    SELECT 'register', gen_random_uuid(), 'x'::bytea, \
    ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid FROM generate_series(1, 3000) AS n";
const LEAVERS: &str = "INSERT INTO members (member_id, display_name, state, register_time, version) \
    SELECT resource_id, '', CASE n % 2 WHEN 0 THEN 'WITHDRAWN' ELSE 'ACTIVE' END, 0, 1 \
    FROM (SELECT resource_id, row_number() OVER (ORDER BY resource_id) AS n FROM requests) AS all_of_them";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_are_indexed_while_callers_come_with_more_of_them() {
    if !on_servers() {
        return;
    }
    let undo = ["DROP INDEX requests_resource", REQUESTS, LEAVERS];
    let upgrade = Upgrade::of("m0006_index_requests", &undo).await;
    let another =
        "INSERT INTO requests VALUES ('register', gen_random_uuid(), 'x', gen_random_uuid())";
    let held = upgrade.hold(another).await;
    // As fast as if nobody migrated.
    upgrade
        .runs_beside(held, &format!("SET lock_timeout = '100ms'; {another}"))
        .await;
    let operator = upgrade.connect().await;
    let valid = "SELECT count(*) FROM pg_index WHERE indisvalid \
                 AND indexrelid = 'requests_resource'::regclass";
    assert_eq!(number(&operator, valid).await, 1);
    let erased = "SELECT count(*) FROM requests WHERE digest = ''";
    assert_eq!(number(&operator, erased).await, 1_500);
    let of_leavers = format!(
        "{erased} AND resource_id IN (SELECT member_id FROM members WHERE state = 'WITHDRAWN')"
    );
    assert_eq!(number(&operator, &of_leavers).await, 1_500);
}
