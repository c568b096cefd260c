//! `COUPONMESH__SECTION__KEY` variables as a configuration layer.

use std::env;

use figment::{
    Error, Metadata, Profile, Provider,
    util::nest,
    value::{Dict, Map, Value},
};

const PREFIX: &str = "COUPONMESH__";

/// Every variable of ours, each a layer of its own so that errors name the variable.
pub(super) fn variables() -> Vec<Variable> {
    let all = env::vars_os().map(|(name, value)| {
        let value = value.to_string_lossy().into_owned();
        (name.to_string_lossy().into_owned(), value)
    });
    all.filter_map(|(name, value)| Variable::new(&name, value))
        .collect()
}

/// One variable.
///
/// Its value stays text: figment's own provider would guess a type, and a password `007` would
/// become the number 7.
pub(super) struct Variable {
    name: String,
    value: String,
}

impl Variable {
    /// The variable when it is one of ours.
    pub(super) fn new(name: &str, value: String) -> Option<Self> {
        let name = name.strip_prefix(PREFIX)?.to_owned();
        Some(Self { name, value })
    }
}

impl Provider for Variable {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("environment variable {PREFIX}{}", self.name))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let key = self.name.to_ascii_lowercase().replace("__", ".");
        let nested = nest(&key, Value::from(self.value.clone()));
        let dict = nested.into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}
