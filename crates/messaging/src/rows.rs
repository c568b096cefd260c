//! Many rows in one statement, in a few statement shapes only.
//!
//! A database connection keeps prepared statements by their text, and the text of a statement over
//! many rows differs with their number. Cutting batches into powers of two keeps the texts few.

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, Insert, IntoActiveModel,
    QueryTrait as _,
    sea_query::{OnConflict, Query},
};

/// Rows in one statement at the most.
const MAX_ROWS: usize = 64;

/// Cuts `rows` into runs whose lengths are powers of two, the largest first.
pub fn runs<T>(mut rows: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let length = rows.len().min(MAX_ROWS);
        let run = 1 << length.checked_ilog2()?;
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

/// `rows` groups of `columns` placeholders for a hand-written `VALUES`: `(?, ?), (?, ?)`.
#[must_use]
pub fn placeholders(backend: DbBackend, rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let one = |column: usize| match backend {
            DbBackend::Postgres => format!("${}", row * columns + column + 1),
            _ => "?".to_owned(),
        };
        format!("({})", (0..columns).map(one).collect::<Vec<_>>().join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
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
    A: sea_orm::ActiveModelTrait<Entity = E> + IntoActiveModel<A> + Send,
    C: ConnectionTrait,
{
    for run in runs(rows) {
        let mut insert = E::insert_many(run);
        if let Some(on_conflict) = &on_conflict {
            insert = insert.on_conflict(on_conflict.clone());
        }
        insert.exec_without_returning(db).await?;
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
    A: sea_orm::ActiveModelTrait<Entity = E> + Send,
    C: ConnectionTrait,
    T: FromQueryResult,
{
    let mut inserted = Vec::with_capacity(rows.len());
    for run in runs(rows) {
        let mut insert = Insert::many(run)
            .on_conflict(on_conflict.clone())
            .into_query();
        insert.returning(Query::returning().columns(columns.clone()));
        for row in db.query_all(&insert).await? {
            inserted.push(T::from_query_result(&row, "")?);
        }
    }
    Ok(inserted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_the_backends_own() {
        assert_eq!(placeholders(DbBackend::Sqlite, 2, 2), "(?, ?), (?, ?)");
        assert_eq!(
            placeholders(DbBackend::Postgres, 2, 2),
            "($1, $2), ($3, $4)"
        );
    }

    #[test]
    fn runs_keep_every_row_in_order_and_have_few_lengths() {
        for count in [0, 1, 2, 3, 63, 64, 65, 1_000] {
            let all: Vec<usize> = (0..count).collect();
            let runs: Vec<Vec<usize>> = runs(all.clone()).collect();
            assert!(
                runs.iter()
                    .all(|run| run.len().is_power_of_two() && run.len() <= MAX_ROWS)
            );
            assert_eq!(runs.concat(), all);
        }
    }
}
