//! Validation that reports everything that is wrong at once, by full key.

use std::{fmt, ops::RangeInclusive, time::Duration};

/// A section that knows which of its values make sense.
pub trait Validate {
    /// Adds what is wrong with the values to `problems`.
    fn validate(&self, problems: &mut Problems);
}

/// What is wrong with a configuration, collected.
#[derive(Debug, Default)]
pub struct Problems {
    prefix: String,
    messages: Vec<String>,
}

impl Problems {
    /// What is wrong with `config`; empty when nothing is.
    #[must_use]
    pub fn of(config: &impl Validate) -> Vec<String> {
        let mut problems = Self::default();
        config.validate(&mut problems);
        problems.messages
    }

    /// Adds that `key` of this section `is_wrong`: "must not be empty".
    pub fn add(&mut self, key: &str, is_wrong: impl fmt::Display) {
        self.messages
            .push(format!("{}{key} {is_wrong}", self.prefix));
    }

    /// Validates the section at `key`.
    pub fn within(&mut self, key: &str, section: &impl Validate) {
        let outer = self.prefix.len();
        self.prefix.push_str(key);
        self.prefix.push('.');
        section.validate(self);
        self.prefix.truncate(outer);
    }

    /// Checks that a number is in `range`.
    pub fn range<N: PartialOrd + fmt::Display>(
        &mut self,
        key: &str,
        value: N,
        range: RangeInclusive<N>,
    ) {
        if !range.contains(&value) {
            let (low, high) = (range.start(), range.end());
            self.add(
                key,
                format_args!("must be between {low} and {high}, is {value}"),
            );
        }
    }

    /// Checks that a duration is in `range`.
    pub fn duration(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let (low, high) = (range.start(), range.end());
            self.add(
                key,
                format_args!("must be between {low:?} and {high:?}, is {value:?}"),
            );
        }
    }
}
