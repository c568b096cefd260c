//! The name to show.

use std::fmt;

use couponmesh_runtime::field::Violation;
use unicode_normalization::UnicodeNormalization as _;

use super::characters;

/// Longest name, in characters after composition.
const MAX: usize = 100;
/// Longest text that can still be a name: no character is longer than 12 bytes before composition.
/// Bounds the work, which grows by length.
const MAX_TYPED: usize = 12 * MAX;

const TOO_LONG: &str = "must be at most 100 characters";

/// A name that people can see: trimmed, composed (NFC), without characters that hide in it.
#[derive(Clone, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    /// Checks and normalises a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        Self::normalise(text).map_err(|why| Violation::new("display_name", why))
    }

    fn normalise(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("must not be empty");
        }
        if text.len() > MAX_TYPED {
            return Err(TOO_LONG);
        }
        let name: String = text.nfc().collect();
        if name.chars().count() > MAX {
            return Err(TOO_LONG);
        }
        if let Some(why) = characters::fault(&name) {
            return Err(why);
        }
        if !name.chars().any(characters::is_visible) {
            return Err("must have a visible character");
        }
        Ok(Self(name))
    }

    /// The name. Personal data: for the database and member events only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Personal data stays out of logs.
impl fmt::Debug for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DisplayName(..)")
    }
}
