//! Looking into the databases, past the services.

use std::path::Path;

use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DbBackend, FromQueryResult,
    Statement, TryGetable,
};
use uuid::Uuid;

/// A database file.
pub(crate) struct File(DatabaseConnection);

/// An event as the log of the `bus` keeps it.
#[derive(Debug, FromQueryResult)]
pub(crate) struct Logged {
    pub(crate) event_id: Uuid,
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) correlation_id: String,
    pub(crate) causation_id: Option<Uuid>,
    pub(crate) traceparent: Option<String>,
}

#[derive(FromQueryResult)]
struct Column {
    name: String,
}

impl File {
    pub(super) async fn open(path: &Path) -> Self {
        let mut options = ConnectOptions::new(format!("sqlite://{}?mode=rw", path.display()));
        options.max_connections(1).sqlx_logging(false);
        Self(Database::connect(options).await.unwrap())
    }

    /// For queries of the services' own tables.
    pub(crate) fn db(&self) -> &DatabaseConnection {
        &self.0
    }

    /// Runs SQL that changes something; for meshes that are shut.
    pub(crate) async fn execute(&self, sql: &str) {
        self.0.execute_unprepared(sql).await.unwrap();
    }

    /// One column of rows.
    pub(crate) async fn column<T: TryGetable>(&self, sql: &str) -> Vec<T> {
        let query = Statement::from_string(DbBackend::Sqlite, sql);
        let rows = self.0.query_all_raw(query).await.unwrap();
        let first = |row: &sea_orm::QueryResult| row.try_get_by_index(0).unwrap();
        rows.iter().map(first).collect()
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        self.column(&format!("SELECT count(*) FROM {table}")).await[0]
    }

    /// The events about a member in the order of the log; of the file `bus`.
    pub(crate) async fn log_of(&self, member_id: &str) -> Vec<Logged> {
        let sql = "SELECT * FROM events WHERE member_id = ? ORDER BY seq";
        let member_id: Uuid = member_id.parse().unwrap();
        let query = Statement::from_sql_and_values(DbBackend::Sqlite, sql, [member_id.into()]);
        Logged::find_by_statement(query).all(&self.0).await.unwrap()
    }

    /// The tables of the service and of messaging.
    pub(crate) async fn tables(&self) -> Vec<String> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
                   AND name NOT LIKE '%migrations' ORDER BY name";
        self.column(sql).await
    }

    async fn columns(&self, table: &str) -> Vec<String> {
        let query = format!("SELECT name FROM pragma_table_info('{table}')");
        let query = Statement::from_string(DbBackend::Sqlite, query);
        let columns = Column::find_by_statement(query).all(&self.0).await.unwrap();
        columns.into_iter().map(|column| column.name).collect()
    }

    /// Every row of a table, as text that differs when any value does.
    pub(crate) async fn rows(&self, table: &str) -> Vec<String> {
        let columns = self.columns(table).await;
        let quoted: Vec<String> = columns.iter().map(|c| format!("quote({c})")).collect();
        let all = quoted.join(" || ',' || ");
        self.column(&format!("SELECT {all} FROM {table} ORDER BY 1"))
            .await
    }

    /// The tables with a row that holds `needle` in any column, whatever its type.
    pub(crate) async fn tables_that_hold(&self, needle: &str) -> Vec<String> {
        let mut found = Vec::new();
        for table in self.tables().await {
            for column in self.columns(&table).await {
                let sql = format!(
                    "SELECT count(*) FROM {table} \
                     WHERE instr(lower(CAST({column} AS BLOB)), lower('{needle}')) > 0"
                );
                let count: Vec<i64> = self.column(&sql).await;
                if count[0] > 0 {
                    found.push(format!("{table}.{column}"));
                }
            }
        }
        found
    }
}
