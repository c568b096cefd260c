//! What is logged.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::{FilterExt as _, ParseError, Targets},
    layer::Filter,
};

/// Modules that say more than an operator wants to read, and what he gets of them as long as
/// `log_level` does not name them. The bus's client tells in every line what our own line tells.
const QUIET: [(&str, LevelFilter); 5] = [
    ("async_nats", LevelFilter::OFF),
    ("sea_orm_migration", LevelFilter::WARN),
    ("sqlx::pool::acquire", LevelFilter::ERROR),
    ("sqlx::postgres::notice", LevelFilter::WARN),
    ("sqlx_core::pool", LevelFilter::OFF),
];

/// What no directive lifts. Further on the bus's client logs its own password, and then whole events,
/// which hold names; the database's logs parts of its URL that it does not know, which may be secret.
const DISCREET: [(&str, LevelFilter); 2] = [
    ("async_nats", LevelFilter::INFO),
    ("sqlx_postgres::options", LevelFilter::OFF),
];

/// What is logged at `log_level`. A few libraries log less as long as it does not name them, and
/// never what may be secret.
///
/// # Errors
/// When it does not parse.
pub fn log_filter(
    log_level: &str,
) -> Result<impl Filter<Registry> + Send + Sync + 'static, ParseError> {
    let named = || log_level.split(',').filter_map(module);
    // The most specific of its targets counts, and of two that are the same the later.
    let mut ceiling = Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_targets(DISCREET);
    for (quiet, level) in QUIET {
        // As in the directives themselves, a name stands for all that begin with it.
        if !named().any(|name| quiet.starts_with(name)) {
            ceiling = ceiling.with_target(quiet, level);
        }
    }
    for name in named() {
        let discreet = DISCREET.iter().find(|(module, _)| name.starts_with(module));
        let level = discreet.map_or(LevelFilter::TRACE, |(_, level)| *level);
        ceiling = ceiling.with_target(name, level);
    }
    Ok(EnvFilter::builder().parse(log_level)?.and(ceiling))
}

/// Whether `log_level` makes sense. A lone word that is no level would be taken for a module's name.
pub(super) fn is_filter(log_level: &str) -> bool {
    let makes_sense = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    EnvFilter::builder().parse(log_level).is_ok() && log_level.split(',').all(makes_sense)
}

/// The module that a directive like `couponmesh_member=debug` names.
fn module(directive: &str) -> Option<&str> {
    let (name, _) = directive.split_once(['=', '['])?;
    let name = name.trim();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged at `log_level` of the same lines, each by its module and level.
    fn logged(log_level: &str) -> Vec<String> {
        let log = Log::default();
        let written = log.clone();
        let lines = tracing_subscriber::fmt::layer()
            .without_time()
            .with_ansi(false)
            .with_writer(move || written.clone())
            .with_filter(log_filter(log_level).unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::debug!(target: "async_nats::connection", "debug");
            tracing::info!(target: "async_nats::connection", "info");
            tracing::info!(target: "couponmesh_member", "info");
            tracing::debug!(target: "couponmesh_member", "debug");
            tracing::warn!(target: "sea_orm_migration::seaql", "warn");
            tracing::info!(target: "sea_orm_migration::seaql", "info");
            tracing::warn!(target: "sqlx::pool::acquire", "warn");
            tracing::info!(target: "sqlx::query", "info");
            tracing::warn!(target: "sqlx_postgres::options::parse", "warn");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let words = text.lines().map(|line| {
            let mut words = line.split_whitespace();
            let (level, module) = (words.next().unwrap(), words.next().unwrap());
            format!("{} {level}", module.trim_end_matches(':'))
        });
        words.collect()
    }

    #[test]
    fn what_the_user_says_adds_to_what_is_quiet_by_itself() {
        let member = "couponmesh_member INFO";
        let migration = "sea_orm_migration::seaql WARN";
        let query = "sqlx::query INFO";
        assert_eq!(logged("info"), [member, migration, query]);
        assert_eq!(
            logged("info,couponmesh_member=debug"),
            [member, "couponmesh_member DEBUG", migration, query]
        );
        // Never louder than what was asked for.
        assert_eq!(logged("error"), [""; 0]);
        assert_eq!(logged("off"), [""; 0]);
        // The same module, one that holds it, and one within it.
        for named in ["sqlx::pool::acquire=warn", "sqlx=info"] {
            let log = logged(&format!("info,{named}"));
            assert_eq!(log, [member, migration, "sqlx::pool::acquire WARN", query]);
        }
        let log = logged("warn,sea_orm_migration::seaql=info");
        assert_eq!(log, [migration, "sea_orm_migration::seaql INFO"]);
        // Never as much as holds passwords.
        for named in ["async_nats", "async_nats::connection", "async"] {
            let log = logged(&format!("warn,{named}=trace"));
            assert_eq!(log, ["async_nats::connection INFO", migration], "{named}");
        }
        let secret = "sqlx_postgres::options::parse";
        for named in ["sqlx_postgres", "sqlx_postgres::options", secret] {
            let log = logged(&format!("warn,{named}=trace"));
            assert_eq!(log, [migration], "{named}");
        }
    }
}
