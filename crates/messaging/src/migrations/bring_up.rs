//! Bringing a database up to date, by one replica at a time.

use std::collections::HashSet;

use couponmesh_runtime::database::Database;
use sea_orm::{
    ConnectionTrait as _, DbErr,
    sea_query::{Alias, Query},
};
use sea_orm_migration::MigratorTrait;

use super::record;

/// Why a database cannot be used by this binary.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// It refused.
    #[error(transparent)]
    Storage(#[from] DbErr),
    /// Another process is at it, or hangs in it.
    #[error(
        "another process was migrating it for all of database.start_timeout; let it finish, or end it"
    )]
    Busy,
    /// A newer release has changed it beyond what this one understands.
    #[error("it needs couponmesh {needs} or newer, and this is {is}; run the newer release")]
    TooOld {
        /// The oldest release that can use it.
        needs: String,
        /// This one.
        is: &'static str,
    },
    /// It holds migrations of a newer release, and lacks some of this one.
    #[error(
        "it is another service's database, or one of another line of releases (database.url): {0} is missing in it"
    )]
    Diverged(String),
}

/// Brings the database up to date with `M`'s migrations, all or none of them. Replicas that start at once
/// take turns, and a database that a newer release has brought further is left as it is.
///
/// # Errors
/// See [`MigrateError`].
pub async fn bring_up<M: MigratorTrait>(database: &Database) -> Result<(), MigrateError> {
    let begun = database.begin_migration().await?;
    let tx = begun.ok_or(MigrateError::Busy)?;
    let applied: HashSet<String> = M::get_migration_models(&tx)
        .await?
        .into_iter()
        .map(|migration| migration.version)
        .collect();
    let ours: Vec<String> = M::migrations()
        .iter()
        .map(|one| one.name().to_owned())
        .collect();
    if applied.iter().all(|name| ours.contains(name)) {
        M::up(&tx, None).await?;
        return Ok(tx.commit().await?);
    }
    let needs = record::oldest_binary(&tx).await?.unwrap_or_default();
    if parse(env!("CARGO_PKG_VERSION")) < parse(&needs) {
        return Err(MigrateError::TooOld {
            needs,
            is: env!("CARGO_PKG_VERSION"),
        });
    }
    if let Some(missing) = ours.into_iter().find(|name| !applied.contains(name)) {
        return Err(MigrateError::Diverged(missing));
    }
    tracing::info!("a newer release has brought the database further; this one can use it as well");
    Ok(())
}

/// The first of `M`'s migrations that `database` lacks: it belongs to another service, or is not up to date.
/// Changes nothing.
///
/// # Errors
/// The database's, also when it was never migrated by anyone.
pub async fn missing<M: MigratorTrait>(database: &Database) -> Result<Option<String>, DbErr> {
    let db = database.read();
    let query = Query::select()
        .column(Alias::new("version"))
        .from(M::migration_table_name())
        .to_owned();
    let rows = db.query_all(&query).await?;
    let applied: HashSet<String> = rows
        .iter()
        .map(|row| row.try_get("", "version"))
        .collect::<Result<_, _>>()?;
    let ours = M::migrations().into_iter().map(|one| one.name().to_owned());
    Ok(ours.into_iter().find(|name| !applied.contains(name)))
}

/// The numbers of a release.
fn parse(release: &str) -> Vec<u64> {
    let numbers = release.split(['.', '-', '+']);
    numbers.map_while(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        assert!(parse("0.9.0") < parse("0.10.0"));
        assert!(parse("0.2.0") < parse("1.0.0"));
        assert!(parse("0.2.0") >= parse("0.2.0"));
    }
}
