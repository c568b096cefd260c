//! Opens the database that an operator means, and no other.

use std::path::{Path, PathBuf};

use couponmesh::{config::Config, migrate, node::ServiceName, stack::Sources};
use couponmesh_messaging::{Store, event::is_published_by};
use couponmesh_runtime::database::Database;

use super::args::{DatabaseArgs, Place};
use crate::run::{BoxError, block_on};

/// Where `couponmesh run` keeps its files when it is not told otherwise.
const DATA_DIR: &str = "./data";

/// Does `work` on the database of `args`.
pub(super) fn with(
    args: &DatabaseArgs,
    file: Option<&Path>,
    work: impl AsyncFnOnce(&Store) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let service = args
        .service
        .ok_or("--service is missing: member, coupon, notification or mypage")?;
    of_service(service, &args.place, file, work)
}

/// Does `work` on the database of `service`.
pub(super) fn of_service(
    service: ServiceName,
    place: &Place,
    file: Option<&Path>,
    work: impl AsyncFnOnce(&Store) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let config = Config::load(file)?;
    block_on(async {
        let database = match &place.data_dir {
            Some(data_dir) => open_file(data_dir, service).await?,
            None if config.database.url.is_empty() => {
                open_file(Path::new(DATA_DIR), service).await?
            }
            None => open_server(&config, service).await?,
        };
        let store = store(service, database.clone());
        let outcome = work(&store).await;
        // What was done is committed, however closing goes.
        let _ = database.close().await;
        outcome
    })?
}

/// The services that read what `of` publishes, when it is one of a data directory.
pub(super) async fn readers(place: &Place, of: &Store) -> Result<Option<Vec<Store>>, BoxError> {
    if of.database().postgres().is_some() {
        return Ok(None);
    }
    let data_dir = place.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR));
    let mut readers = Vec::new();
    for service in ServiceName::all() {
        let mut types = service.types().iter();
        if types.any(|name| is_published_by(of.service(), name)) {
            readers.push(store(service, open_file(data_dir, service).await?));
        }
    }
    Ok(Some(readers))
}

fn store(service: ServiceName, database: Database) -> Store {
    let Sources {
        clock,
        random,
        faults,
    } = Sources::system();
    let clock = database.clock(&clock);
    let replica = random.uuid_v7(clock.now());
    Store::new(service.name(), replica, database, clock, random, faults)
}

/// The services may run on it: SQLite lets several processes in, and the directory's lock is not needed.
async fn open_file(data_dir: &Path, service: ServiceName) -> Result<Database, BoxError> {
    let name = service.name();
    let path: PathBuf = data_dir.join(format!("{name}.db"));
    // Opening it would make it.
    if !path.is_file() {
        return Err(format!(
            "there is no database {}; choose the directory of `couponmesh run` with --data-dir, or set database.url",
            path.display()
        )
        .into());
    }
    let place = format!("database file {}", path.display());
    let database = Database::open_sqlite(&path)
        .await
        .map_err(|error| format!("{place}: {error}"))?;
    check(&place, service, database).await
}

async fn open_server(config: &Config, service: ServiceName) -> Result<Database, BoxError> {
    let application = format!("couponmesh operator {}", service.name());
    let database = Database::open_postgres(&config.database, &application)
        .await
        .map_err(|error| format!("database.url: {error}"))?;
    check("database.url", service, database).await
}

/// Nothing may be looked for, let alone changed, in the database of another service.
async fn check(
    place: &str,
    service: ServiceName,
    database: Database,
) -> Result<Database, BoxError> {
    let name = service.name();
    let problem = match migrate::missing(service, &database).await {
        Ok(None) => return Ok(database),
        Ok(Some(missing)) => format!(
            "{place}: this is not the {name} database, or it is older than this release (it lacks {missing}); \
             check --service, or start this release on it first"
        ),
        Err(error) => format!("{place}: this is not the database of a service: {error}"),
    };
    let _ = database.close().await;
    Err(problem.into())
}
