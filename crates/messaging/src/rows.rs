//! Many rows in one statement, in a few statement shapes only.
//!
//! A database connection keeps prepared statements by their text, and the text of a statement over
//! many rows differs with their number. Cutting batches into powers of two keeps the texts few.

mod array;

use sea_orm::{
    ActiveModelTrait, ColumnTrait as _, ColumnType, ConnectionTrait, DbBackend, DbErr, EntityTrait,
    FromQueryResult, Insert, Iterable as _, QueryTrait as _, Statement, Value,
    sea_query::{Expr, InsertStatement, OnConflict, Query},
};

/// Rows in one statement on SQLite at the most.
const MAX_ROWS: usize = 64;

/// Cuts `rows` into runs whose lengths are powers of two, the largest first. On PostgreSQL all of them are one run,
/// since a [`table`] of any number of rows is one text there.
pub fn runs<T>(backend: DbBackend, mut rows: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let length = rows.len().min(MAX_ROWS);
        let run = match backend {
            DbBackend::Postgres if !rows.is_empty() => rows.len(),
            _ => 1 << length.checked_ilog2()?,
        };
        let rest = rows.split_off(run);
        Some(std::mem::replace(&mut rows, rest))
    })
}

/// Repeats the last of `ids` until their number is a power of two: for `IN (…)`, where it changes nothing.
pub fn pad<T: Clone>(mut ids: Vec<T>) -> Vec<T> {
    if let Some(last) = ids.last().cloned() {
        ids.resize(ids.len().next_power_of_two(), last);
    }
    ids
}

/// Rows of values as a table for hand-written SQL: `FROM ({fragment}) AS news`, whose columns are `column1`,
/// `column2`, … `types` are the columns' types, for PostgreSQL.
#[must_use]
pub fn table<const N: usize>(
    backend: DbBackend,
    types: &[ColumnType; N],
    rows: Vec<[Value; N]>,
) -> (String, Vec<Value>) {
    if backend == DbBackend::Postgres {
        let columns = (0..N).map(|column| {
            let (number, of) = (column + 1, array::type_name(&types[column]));
            format!("UNNEST(CAST(${number} AS text)::{of}[]) AS column{number}")
        });
        let fragment = format!("SELECT {}", columns.collect::<Vec<_>>().join(", "));
        let literals = (0..N).map(|column| {
            let values = rows.iter().map(|row| &row[column]);
            Value::from(array::literal(values))
        });
        return (fragment, literals.collect());
    }
    let row = format!("({})", ["?"; N].join(", "));
    let fragment = format!("VALUES {}", vec![row; rows.len()].join(", "));
    (fragment, rows.into_iter().flatten().collect())
}

/// Inserts all `rows`; with `on_conflict`, what that says happens to rows that are already there.
///
/// # Errors
/// The database's.
pub async fn insert<E, A, C>(
    db: &C,
    rows: Vec<A>,
    on_conflict: Option<OnConflict>,
) -> Result<(), DbErr>
where
    E: EntityTrait<ActiveModel = A>,
    A: ActiveModelTrait<Entity = E> + Send,
    C: ConnectionTrait,
{
    for mut insert in statements::<E, A>(db.get_database_backend(), rows) {
        if let Some(on_conflict) = &on_conflict {
            insert.on_conflict(on_conflict.clone());
        }
        db.execute(&insert).await?;
    }
    Ok(())
}

/// Inserts `rows` as `on_conflict` says, and returns `columns` of those that were inserted or changed.
///
/// # Errors
/// The database's.
pub async fn insert_returning<E, A, C, T>(
    db: &C,
    rows: Vec<A>,
    on_conflict: OnConflict,
    columns: impl IntoIterator<Item = E::Column> + Clone,
) -> Result<Vec<T>, DbErr>
where
    E: EntityTrait<ActiveModel = A>,
    A: ActiveModelTrait<Entity = E> + Send,
    C: ConnectionTrait,
    T: FromQueryResult,
{
    let mut inserted = Vec::with_capacity(rows.len());
    for mut insert in statements::<E, A>(db.get_database_backend(), rows) {
        insert
            .on_conflict(on_conflict.clone())
            .returning(Query::returning().columns(columns.clone()));
        for row in db.query_all(&insert).await? {
            inserted.push(T::from_query_result(&row, "")?);
        }
    }
    Ok(inserted)
}

/// Updates rows of `table` from rows of values: `UPDATE {table} SET {set} FROM … AS news WHERE {which}`, whose columns
/// are as [`table()`] names them, for which sea-query has no words.
///
/// # Errors
/// The database's; `RecordNotUpdated` when not every row of values met one of the table.
pub async fn update<C: ConnectionTrait, const N: usize>(
    db: &C,
    table: &str,
    types: [ColumnType; N],
    rows: Vec<[Value; N]>,
    set: &str,
    which: &str,
) -> Result<(), DbErr> {
    let backend = db.get_database_backend();
    for run in runs(backend, rows) {
        let expected = run.len() as u64;
        let (news, values) = self::table(backend, &types, run);
        let sql = format!("UPDATE {table} SET {set} FROM ({news}) AS news WHERE {which}");
        let statement = Statement::from_sql_and_values(backend, sql, values);
        if db.execute_raw(statement).await?.rows_affected() != expected {
            return Err(DbErr::RecordNotUpdated);
        }
    }
    Ok(())
}

/// PostgreSQL takes any number of rows as one array for each column; SQLite takes them one by one.
pub(crate) fn statements<E, A>(backend: DbBackend, rows: Vec<A>) -> Vec<InsertStatement>
where
    E: EntityTrait<ActiveModel = A>,
    A: ActiveModelTrait<Entity = E> + Send,
{
    if rows.is_empty() {
        Vec::new()
    } else if backend == DbBackend::Postgres {
        vec![from_arrays::<E, A>(&rows)]
    } else {
        runs(backend, rows)
            .map(|run| Insert::many(run).into_query())
            .collect()
    }
}

fn from_arrays<E, A>(rows: &[A]) -> InsertStatement
where
    E: EntityTrait<ActiveModel = A>,
    A: ActiveModelTrait<Entity = E>,
{
    let mut columns = Vec::new();
    let mut arrays = Query::select();
    for column in E::Column::iter() {
        let values: Vec<Value> = rows
            .iter()
            .filter_map(|row| row.get(column).into_value())
            .collect();
        // All rows leave the same columns to the database: a number that it counts.
        if values.len() != rows.len() {
            continue;
        }
        let of = array::type_name(column.def().get_column_type());
        let unnest = format!("UNNEST(CAST($1 AS text)::{of}[])");
        arrays.expr(Expr::cust_with_values(unnest, [array::literal(&values)]));
        columns.push(column);
    }
    let mut insert = Query::insert();
    insert.into_table(E::default()).columns(columns);
    // Fails only when there are more or fewer expressions than columns.
    let _ = insert.select_from(arrays);
    insert
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_values_is_written_as_each_database_wants_it() {
        let rows = || {
            vec![
                [Value::from(1_i64), Value::from("a")],
                [2_i64.into(), "b".into()],
            ]
        };
        let types = || [ColumnType::BigInteger, ColumnType::Text];
        let (sql, values) = table(DbBackend::Sqlite, &types(), rows());
        assert_eq!(sql, "VALUES (?, ?), (?, ?)");
        assert_eq!(values.len(), 4);
        let (sql, values) = table(DbBackend::Postgres, &types(), rows());
        assert_eq!(
            sql,
            "SELECT UNNEST(CAST($1 AS text)::bigint[]) AS column1, \
             UNNEST(CAST($2 AS text)::text[]) AS column2"
        );
        assert_eq!(values, [Value::from("{1,2}"), Value::from("{\"a\",\"b\"}")]);
    }

    #[test]
    fn runs_keep_every_row_in_order_and_have_few_lengths() {
        for count in [0, 1, 2, 3, 63, 64, 65, 1_000] {
            let all: Vec<usize> = (0..count).collect();
            let one: Vec<Vec<usize>> = runs(DbBackend::Postgres, all.clone()).collect();
            assert_eq!((one.len(), one.concat()), (count.min(1), all.clone()));
            let runs: Vec<Vec<usize>> = runs(DbBackend::Sqlite, all.clone()).collect();
            assert!(
                runs.iter()
                    .all(|run| run.len().is_power_of_two() && run.len() <= MAX_ROWS)
            );
            assert_eq!(runs.concat(), all);
        }
    }
}
