//! What a person tells of itself, checked at the door.

use email_address::{EmailAddress, Options};
use sha2::{Digest as _, Sha256};
use unicode_normalization::UnicodeNormalization as _;

use couponmesh_runtime::{field::Violation, id::RequestId};

/// Longest address, in bytes (RFC 5321, 4.5.3.1.3).
const MAX_EMAIL: usize = 254;
/// Longest name, in characters.
const MAX_NAME: usize = 100;

/// An e-mail address in the one form that is stored and compared: trimmed, NFC, lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Email(String);

impl Email {
    /// Checks and normalises an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let wrong = |why| Violation::new("email", why);
        // Bounded before it is worked on: normalising costs by length.
        if text.len() > 4 * MAX_EMAIL {
            return Err(wrong("must be at most 254 bytes"));
        }
        let address: String = text.trim().nfc().collect::<String>().to_lowercase();
        if address.is_empty() {
            return Err(wrong("must not be empty"));
        }
        if address.len() > MAX_EMAIL {
            return Err(wrong("must be at most 254 bytes"));
        }
        if address.chars().any(char::is_control) {
            return Err(wrong("must not contain control characters"));
        }
        let strict = Options::default()
            .without_display_text()
            .without_domain_literal();
        EmailAddress::parse_with_options(&address, strict)
            .map_err(|_| wrong("must be an e-mail address such as ann@example.com"))?;
        Ok(Self(address))
    }

    /// The address. Personal data: for the database only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Personal data stays out of logs.
impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Email(..)")
    }
}

/// The name to show.
#[derive(Clone, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    /// Checks and trims a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let wrong = |why| Violation::new("display_name", why);
        if text.len() > 8 * MAX_NAME {
            return Err(wrong("must be at most 100 characters"));
        }
        let name: String = text.trim().nfc().collect();
        if name.is_empty() {
            return Err(wrong("must not be empty"));
        }
        if name.chars().count() > MAX_NAME {
            return Err(wrong("must be at most 100 characters"));
        }
        if name.chars().any(char::is_control) {
            return Err(wrong("must not contain control characters"));
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
impl std::fmt::Debug for DisplayName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DisplayName(..)")
    }
}

/// Tells one registration's content from another's under the same request id.
///
/// It is kept when the address itself is erased. The request id salts it, so that digests of one
/// address differ.
#[must_use]
pub fn digest(request_id: RequestId, email: &Email, name: &DisplayName) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(request_id.0.as_bytes());
    hash.update(email.0.as_bytes());
    // Not part of any address or name, so two fields cannot pass for two others.
    hash.update([0]);
    hash.update(name.0.as_bytes());
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_one_form() {
        let forms = ["Ann@Example.COM", " ann@example.com ", "ann@example.com"];
        assert!(
            forms
                .iter()
                .all(|form| Email::parse(form).unwrap().expose() == "ann@example.com")
        );
        let composed = Email::parse("jos\u{e9}@example.com").unwrap();
        assert_eq!(composed, Email::parse("jose\u{301}@example.com").unwrap());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.com", "x".repeat(250));
        for bad in [
            "",
            " ",
            "ann",
            "@example.com",
            "ann@",
            "a b@example.com",
            "ann@ex\u{7}ample.com",
            "Ann <ann@example.com>",
            "a@[127.0.0.1]",
            "a\0@example.com",
            &long,
        ] {
            assert!(
                matches!(Email::parse(bad), Err(wrong) if wrong.field == "email"),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_name_is_one_to_a_hundred_characters_without_control() {
        assert_eq!(DisplayName::parse(" Ann ").unwrap().expose(), "Ann");
        assert!(DisplayName::parse(&"é".repeat(100)).is_ok());
        for bad in [
            "",
            "  ",
            "a\nb",
            "\u{9f}x",
            &"x".repeat(101),
            &"x".repeat(10_000),
        ] {
            assert!(
                matches!(DisplayName::parse(bad), Err(wrong) if wrong.field == "display_name"),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn neither_is_shown_by_debug() {
        let shown = format!(
            "{:?}{:?}",
            Email::parse("ann@example.com").unwrap(),
            DisplayName::parse("Ann").unwrap()
        );
        assert!(!shown.to_lowercase().contains("ann"), "{shown}");
    }
}
