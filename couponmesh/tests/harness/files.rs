//! Looking into the databases, past the services.

use std::path::Path;

use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DbBackend, FromQueryResult,
    Statement, TryGetable,
};

/// A service's database: a file, or a database on a server.
pub(crate) struct File(DatabaseConnection);

#[derive(FromQueryResult)]
struct Column {
    name: String,
    data_type: String,
}

impl File {
    pub(super) async fn open_sqlite(dir: &Path, name: &str) -> Self {
        let path = dir.join(format!("{name}.db"));
        Self::connect(&format!("sqlite://{}?mode=rw", path.display())).await
    }

    pub(super) async fn connect(url: &str) -> Self {
        let mut options = ConnectOptions::new(url);
        options
            .max_connections(1)
            .sqlx_logging(false)
            // The pool's own keeper of lifetimes may spin for good (sqlx 0.9).
            .idle_timeout(None::<std::time::Duration>)
            .max_lifetime(None::<std::time::Duration>);
        Self(Database::connect(options).await.unwrap())
    }

    fn backend(&self) -> DbBackend {
        self.0.get_database_backend()
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
        let query = Statement::from_string(self.backend(), sql);
        let rows = self.0.query_all_raw(query).await.unwrap();
        let first = |row: &sea_orm::QueryResult| row.try_get_by_index(0).unwrap();
        rows.iter().map(first).collect()
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        self.column(&format!("SELECT count(*) FROM {table}")).await[0]
    }

    /// The tables of the service and of messaging.
    pub(crate) async fn tables(&self) -> Vec<String> {
        let all = match self.backend() {
            DbBackend::Postgres => {
                "SELECT table_name AS name FROM information_schema.tables \
                 WHERE table_schema = 'public'"
            }
            _ => "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'",
        };
        self.column(&format!(
            "SELECT CAST(name AS TEXT) FROM ({all}) AS tables \
             WHERE name NOT LIKE '%migrations' ORDER BY name"
        ))
        .await
    }

    async fn columns(&self, table: &str) -> Vec<Column> {
        let query = match self.backend() {
            DbBackend::Postgres => format!(
                "SELECT CAST(column_name AS TEXT) AS name, CAST(data_type AS TEXT) AS data_type \
                 FROM information_schema.columns WHERE table_name = '{table}'"
            ),
            _ => format!("SELECT name, type AS data_type FROM pragma_table_info('{table}')"),
        };
        let query = Statement::from_string(self.backend(), query);
        Column::find_by_statement(query).all(&self.0).await.unwrap()
    }

    /// Every row of a table, as text that differs when any value does.
    pub(crate) async fn rows(&self, table: &str) -> Vec<String> {
        let row = match self.backend() {
            DbBackend::Postgres => format!("CAST({table} AS TEXT)"),
            _ => {
                let columns = self.columns(table).await;
                let quoted: Vec<String> = columns
                    .iter()
                    .map(|Column { name, .. }| format!("quote({name})"))
                    .collect();
                quoted.join(" || ',' || ")
            }
        };
        self.column(&format!("SELECT {row} FROM {table} ORDER BY 1"))
            .await
    }

    /// The columns with a value that holds `needle`, whatever their type.
    pub(crate) async fn columns_that_hold(&self, needle: &str) -> Vec<String> {
        let mut found = Vec::new();
        for table in self.tables().await {
            for Column { name, data_type } in self.columns(&table).await {
                let found_at = match (self.backend(), data_type.as_str()) {
                    (DbBackend::Postgres, "bytea") => {
                        format!("strpos(lower(encode({name}, 'escape')), lower('{needle}'))")
                    }
                    (DbBackend::Postgres, _) => {
                        format!("strpos(lower(CAST({name} AS TEXT)), lower('{needle}'))")
                    }
                    _ => format!("instr(lower(CAST({name} AS BLOB)), lower('{needle}'))"),
                };
                let holds = format!("{found_at} > 0");
                let count: Vec<i64> = self
                    .column(&format!("SELECT count(*) FROM {table} WHERE {holds}"))
                    .await;
                if count[0] > 0 {
                    found.push(format!("{table}.{name}"));
                }
            }
        }
        found
    }

    /// How the database would carry a query out if there were many rows: a line for each step.
    pub(crate) async fn plan(&self, query: &str) -> Vec<String> {
        match self.backend() {
            DbBackend::Postgres => {
                // A table of few rows is read from end to end otherwise.
                self.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
                    .await;
                self.column(&format!("EXPLAIN (COSTS OFF) {query}")).await
            }
            backend => {
                let sql = format!("EXPLAIN QUERY PLAN {query}");
                let rows = self.0.query_all_raw(Statement::from_string(backend, sql));
                let detail = |row: &sea_orm::QueryResult| row.try_get("", "detail").unwrap();
                rows.await.unwrap().iter().map(detail).collect()
            }
        }
    }
}
