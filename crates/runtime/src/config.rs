//! Configuration: compiled-in defaults, then a file, then the environment, then validation.
//!
//! Sections are plain structs with `#[serde(deny_unknown_fields)]`, so that a misspelt key is an
//! error and never a silent default.

mod environment;
mod problems;
mod secret;

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    error::Kind,
    providers::{Format, Toml},
};
use serde::{Serialize, de::DeserializeOwned};

use self::environment::Variable;
pub use self::{
    problems::{Problems, Validate},
    secret::{REDACTED, Secret, redact_url, serialize_url},
};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was asked for cannot be read.
    #[error("cannot read configuration file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A key is unknown, missing or of the wrong type, or the file is not TOML: a line each.
    #[error("configuration: {}", .0.join("; "))]
    Malformed(Vec<String>),
    /// Values that are well formed but make no sense: a line each, naming the key.
    #[error("configuration: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The configuration has no form in TOML: a bug in its types.
    #[error("configuration cannot be written as TOML")]
    Print(#[from] toml::ser::Error),
}

/// Reads `default_toml`, then `file`, then `COUPONMESH__SECTION__KEY` variables, later ones
/// overriding earlier ones key by key, and validates what comes out.
///
/// # Errors
///
/// When the file cannot be read, a key is unknown, or a value does not pass: each named.
pub fn load<T>(default_toml: &str, file: Option<&Path>) -> Result<T, ConfigError>
where
    T: DeserializeOwned + Validate,
{
    load_layers(default_toml, file, environment::variables())
}

fn load_layers<T>(
    default_toml: &str,
    file: Option<&Path>,
    variables: Vec<Variable>,
) -> Result<T, ConfigError>
where
    T: DeserializeOwned + Validate,
{
    let mut layers = Figment::from(Toml::string(default_toml));
    if let Some(path) = file {
        // Figment takes a missing file for an empty one.
        File::open(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        layers = layers.merge(Toml::file_exact(path));
    }
    for variable in variables {
        layers = layers.merge(variable);
    }
    // Lossy: environment variables are text and become numbers only where a number is wanted.
    let config: T = layers.extract_lossy().map_err(malformed)?;
    let problems = Problems::of(&config);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Invalid(problems))
    }
}

/// The configuration as TOML, for people. Secrets redact themselves.
///
/// # Errors
///
/// When a type has no form in TOML.
pub fn print<T: Serialize>(config: &T) -> Result<String, ConfigError> {
    Ok(toml::to_string_pretty(config)?)
}

fn malformed(errors: figment::Error) -> ConfigError {
    ConfigError::Malformed(errors.into_iter().map(|e| line(&e)).collect())
}

/// One line for one error: the full key, what is wrong with it, where it was read.
fn line(error: &figment::Error) -> String {
    let key = |last: Option<&str>| {
        let path = error.path.iter().map(String::as_str);
        path.chain(last).collect::<Vec<_>>().join(".")
    };
    let place = Place(error);
    match &error.kind {
        Kind::UnknownField(name, known) => {
            // Figment may or may not have walked down to the field itself.
            let last = (error.path.last() != Some(name)).then_some(name.as_str());
            let known = known.join(", ");
            format!("{} is not a known key{place}, known are {known}", key(last))
        }
        Kind::MissingField(name) => format!("{} is missing", key(Some(name))),
        other if error.path.is_empty() => format!("{}{place}", without_drawing(&other.to_string())),
        other => format!("{}: {other}{place}", key(None)),
    }
}

/// A syntax error without the line that it quotes, which may hold a password.
fn without_drawing(text: &str) -> String {
    let is_drawn = |line: &str| {
        line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit())
            .starts_with('|')
    };
    let said = text.lines().filter(|line| !is_drawn(line));
    said.collect::<Vec<_>>().join(", ")
}

/// Where figment found a value.
struct Place<'a>(&'a figment::Error);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(metadata) = &self.0.metadata else {
            return Ok(());
        };
        match metadata.source.as_ref().and_then(|s| s.file_path()) {
            Some(path) => write!(f, " (in {})", path.display()),
            None => write!(f, " (in {})", metadata.name),
        }
    }
}

#[cfg(test)]
mod tests;
