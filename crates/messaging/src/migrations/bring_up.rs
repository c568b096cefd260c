//! Bringing a database up to date, by one replica at a time.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use couponmesh_runtime::database::{self, Database};
use sea_orm::{
    ConnectionTrait, DbErr,
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
    /// A transaction goes on for too long with a table that is to be changed.
    #[error(
        "another session held a table that it changes for all of database.start_timeout; end it (pg_stat_activity): {0}"
    )]
    Held(DbErr),
    /// Migrations are missing, and we may not carry them out.
    #[error(
        "it is not up to date, and this role may not change its tables: run couponmesh migrate as the role that owns \
         them ({0})"
    )]
    NotAllowed(DbErr),
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

/// The pause after a table was held, in which those go on who waited behind the migration.
const TRY_AGAIN: Duration = Duration::from_secs(3);

/// Brings the database up to date with `M`'s migrations, all or none of them. Replicas that start at once
/// take turns, and a database that a newer release has brought further is left as it is.
///
/// # Errors
/// See [`MigrateError`].
pub async fn bring_up<M: MigratorTrait>(database: &Database) -> Result<(), MigrateError> {
    bring_up_prepared::<M>(database, async { Ok(()) }).await
}

/// The same. When migrations are missing, `prepare` first does what would hold others up in their transaction, and
/// what PostgreSQL does outside of transactions only. It has to bear being interrupted and begun anew.
///
/// # Errors
/// See [`MigrateError`].
pub async fn bring_up_prepared<M: MigratorTrait>(
    database: &Database,
    prepare: impl Future<Output = Result<(), DbErr>>,
) -> Result<(), MigrateError> {
    // Looking takes no right to make tables, and beginning to migrate does, also when there is nothing to do.
    if let Some(applied) = applied_by_others::<M>(database).await?
        && is_up_to_date::<M>(&applied, database.read()).await?
    {
        return Ok(());
    }
    let mut prepare = Some(prepare);
    let end = Instant::now() + database.start_timeout();
    loop {
        match migrate::<M>(database, &mut prepare).await {
            Err(MigrateError::Storage(error)) if database::waited_in_vain(&error) => {
                if Instant::now() >= end {
                    return Err(MigrateError::Held(error));
                }
                tracing::warn!("waiting for a session that holds a table which is to be changed");
                tokio::time::sleep(TRY_AGAIN).await;
            }
            ended => return ended,
        }
    }
}

/// Does all of `M`'s migrations that are missing, or none of them.
async fn migrate<M: MigratorTrait>(
    database: &Database,
    prepare: &mut Option<impl Future<Output = Result<(), DbErr>>>,
) -> Result<(), MigrateError> {
    let begun = database.begin_migration().await?;
    let tx = begun.ok_or(MigrateError::Busy)?;
    let applied = M::get_migration_models(&tx).await.map_err(refused)?;
    let applied = applied.into_iter().map(|migration| migration.version);
    if !is_up_to_date::<M>(&applied.collect(), &tx).await? {
        // Under the lock that the transaction holds.
        if let Some(prepare) = prepare.take() {
            prepare.await.map_err(refused)?;
        }
        M::up(&tx, None).await.map_err(refused)?;
    }
    Ok(tx.commit().await?)
}

fn refused(error: DbErr) -> MigrateError {
    /// PostgreSQL's code of a missing grant.
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    if database::code_of(&error).as_deref() == Some(INSUFFICIENT_PRIVILEGE) {
        MigrateError::NotAllowed(error)
    } else {
        MigrateError::Storage(error)
    }
}

/// What was applied to a database on a server; none when it was never migrated.
async fn applied_by_others<M: MigratorTrait>(
    database: &Database,
) -> Result<Option<HashSet<String>>, DbErr> {
    /// PostgreSQL's code of a table that is not there.
    const UNDEFINED_TABLE: &str = "42P01";
    if database.postgres().is_none() {
        return Ok(None);
    }
    match applied::<M>(database).await {
        Err(error) if database::code_of(&error).as_deref() == Some(UNDEFINED_TABLE) => Ok(None),
        applied => applied.map(Some),
    }
}

/// Whether a database to which `applied` was done has all of `M`'s migrations, and serves this binary.
async fn is_up_to_date<M: MigratorTrait>(
    applied: &HashSet<String>,
    db: &impl ConnectionTrait,
) -> Result<bool, MigrateError> {
    let migrations = M::migrations();
    let ours: Vec<&str> = migrations.iter().map(|one| one.name()).collect();
    let missing = ours.iter().find(|&&name| !applied.contains(name));
    if applied.iter().all(|name| ours.contains(&name.as_str())) {
        return Ok(missing.is_none());
    }
    let needs = record::oldest_binary(db).await?.unwrap_or_default();
    if parse(env!("CARGO_PKG_VERSION")) < parse(&needs) {
        return Err(MigrateError::TooOld {
            needs,
            is: env!("CARGO_PKG_VERSION"),
        });
    }
    if let Some(&missing) = missing {
        return Err(MigrateError::Diverged(missing.to_owned()));
    }
    tracing::info!("a newer release has brought the database further; this one can use it as well");
    Ok(true)
}

/// The first of `M`'s migrations that `database` lacks: it belongs to another service, or is not up to date.
/// Changes nothing.
///
/// # Errors
/// The database's, also when it was never migrated by anyone.
pub async fn missing<M: MigratorTrait>(database: &Database) -> Result<Option<String>, DbErr> {
    let applied = applied::<M>(database).await?;
    let ours = M::migrations().into_iter().map(|one| one.name().to_owned());
    Ok(ours.into_iter().find(|name| !applied.contains(name)))
}

async fn applied<M: MigratorTrait>(database: &Database) -> Result<HashSet<String>, DbErr> {
    let db = database.read();
    let query = Query::select()
        .column(Alias::new("version"))
        .from(M::migration_table_name())
        .to_owned();
    let rows = db.query_all(&query).await?;
    rows.iter().map(|row| row.try_get("", "version")).collect()
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
