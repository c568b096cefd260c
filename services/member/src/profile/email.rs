//! An e-mail address, in one form however a person types it.

use std::fmt;

use couponmesh_runtime::field::Violation;
use icu_properties::{CodePointMapData, props::EastAsianWidth};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization as _;

use super::characters;

/// Longest address, in bytes (RFC 5321, 4.5.3.1.3).
const MAX: usize = 254;
/// Longest part before the @, in bytes (RFC 5321, 4.5.3.1.1).
const MAX_LOCAL: usize = 64;
/// Longest text that can still be an address: one byte of it may be typed as a syllable in three
/// parts of three bytes. Bounds the work, which grows by length.
const MAX_TYPED: usize = 12 * MAX;

const NO_ADDRESS: &str = "must be an e-mail address such as ann@example.com";
const TOO_LONG: &str = "must be at most 254 bytes";

/// An e-mail address in the one form that is stored and compared.
///
/// The domain is in ASCII, as the DNS has it (UTS 46); the part before it is in narrow, lower-case,
/// composed letters, without quotes that it does not need.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Email(String);

impl Email {
    /// Checks and normalises an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        Self::normalise(text).map_err(|why| Violation::new("email", why))
    }

    fn normalise(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("must not be empty");
        }
        if text.len() > MAX_TYPED {
            return Err(TOO_LONG);
        }
        let narrow = narrow(text);
        let (local, domain) = narrow.rsplit_once('@').ok_or(NO_ADDRESS)?;
        let local = normalise_local(local)?;
        let domain = normalise_domain(domain)?;
        let address = format!("{local}@{domain}");
        if local.len() > MAX_LOCAL {
            return Err("must have at most 64 bytes before the @");
        }
        if address.len() > MAX {
            return Err(TOO_LONG);
        }
        Ok(Self(address))
    }

    /// The address. Personal data: for the database only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Personal data stays out of logs.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(..)")
    }
}

/// Full-width letters as narrow ones, and half-width kana as wide ones: a keyboard's mode is not
/// part of an address (the width mapping of RFC 8265, 3.3).
fn narrow(text: &str) -> String {
    let widths = CodePointMapData::<EastAsianWidth>::new();
    let mut narrow = String::with_capacity(text.len());
    for c in text.chars() {
        match widths.get(c) {
            EastAsianWidth::Fullwidth | EastAsianWidth::Halfwidth => {
                narrow.extend(std::iter::once(c).nfkc());
            }
            _ => narrow.push(c),
        }
    }
    narrow
}

/// The domain as the DNS has it.
fn normalise_domain(domain: &str) -> Result<String, &'static str> {
    let ascii = Uts46::new().to_ascii(
        domain.as_bytes(),
        AsciiDenyList::STD3,
        // Names with hyphens in the third and fourth place exist.
        Hyphens::CheckFirstLast,
        DnsLength::Verify,
    );
    let ascii = ascii.map_err(|_| NO_ADDRESS)?;
    let (_, last) = ascii
        .rsplit_once('.')
        .ok_or("must have a domain with a dot, such as example.com")?;
    // An IP address, which is nobody's domain.
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NO_ADDRESS);
    }
    Ok(ascii.into_owned())
}

/// The part before the @ (RFC 5321's Local-part, with the characters of RFC 6531).
///
/// Stands in for the crate `email_address`, which leaves quotes where they are and refuses letters
/// beyond ASCII that are not alphanumeric by themselves, such as a virama.
fn normalise_local(local: &str) -> Result<String, &'static str> {
    let local: String = local.to_lowercase().nfc().collect();
    if let Some(why) = characters::fault_of_identifier(&local) {
        return Err(why);
    }
    let within = |text: &str| Some(text.strip_prefix('"')?.strip_suffix('"')?.to_owned());
    let Some(quoted) = within(&local) else {
        return if is_dot_atom(&local) {
            Ok(local)
        } else {
            Err(NO_ADDRESS)
        };
    };
    let content = unescape(&quoted).ok_or(NO_ADDRESS)?;
    Ok(if is_dot_atom(&content) {
        content
    } else {
        escape(&content)
    })
}

/// Whether it needs no quotes.
fn is_dot_atom(text: &str) -> bool {
    let is_atext =
        |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let mut atoms = text.split('.');
    atoms.all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// What stands in quotes, which is something.
fn unescape(quoted: &str) -> Option<String> {
    let mut content = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(c) = characters.next() {
        content.push(match c {
            '"' => return None,
            '\\' => characters.next().filter(char::is_ascii)?,
            c => c,
        });
    }
    (!content.is_empty()).then_some(content)
}

fn escape(content: &str) -> String {
    let escaped = content.replace('\\', r"\\").replace('"', r#"\""#);
    format!("\"{escaped}\"")
}
