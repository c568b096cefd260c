//! Keyset paging by id, newest first: ids are UUID v7, so a later row has a greater id.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    field::{self, Violation, Violations},
    status::Reason,
};

/// Rows on a page when the caller does not say.
const DEFAULT_SIZE: u64 = 50;
/// Rows on a page at the most; a greater wish is lowered to it.
const MAX_SIZE: u64 = 1_000;
/// Bytes of the filter's digest in a token: enough against accidents; a token grants nothing.
const DIGEST: usize = 8;
/// Characters of a token: base64 of the digest and an id.
const TOKEN: usize = (DIGEST + size_of::<Uuid>()) * 4 / 3;

/// A token of any list.
#[derive(Debug)]
struct Token {
    filter: [u8; DIGEST],
    after: Uuid,
}

/// `page_size` and `page_token` of a request, before its filters are known to be right.
#[derive(Debug)]
pub struct Paging {
    size: u64,
    token: Option<Token>,
}

impl Paging {
    /// Reads both fields.
    ///
    /// # Errors
    /// FIELD_INVALID for a negative size, PAGE_TOKEN_INVALID for a token that no list made.
    pub fn parse(page_size: i32, page_token: &str) -> Result<Self, Violations> {
        let size = match u64::try_from(page_size) {
            Ok(0) => Ok(DEFAULT_SIZE),
            Ok(size) => Ok(size.min(MAX_SIZE)),
            Err(_) => Err(Violation::new("page_size", "must not be negative")),
        };
        let token = match page_token {
            "" => Ok(None),
            text => Token::read(text).map(Some).ok_or(NOT_OURS),
        };
        let (size, token) = field::all((size, token))?;
        Ok(Self { size, token })
    }

    /// The page of one list. `filter` names the list and its filters, in any form that differs when
    /// they do.
    ///
    /// # Errors
    /// PAGE_TOKEN_INVALID for a token that this list did not make.
    pub fn of(self, filter: &str) -> Result<Page, Violation> {
        let filter = digest(filter);
        let after = match self.token {
            Some(token) if token.filter != filter => return Err(NOT_OURS),
            token => token.map(|token| token.after),
        };
        Ok(Page {
            size: self.size,
            after,
            filter,
        })
    }
}

const NOT_OURS: Violation = Violation {
    field: "page_token",
    why: "is not a token of this list with these filters",
    reason: Reason::PageTokenInvalid,
};

/// One page's bounds, and the filter that its tokens are bound to.
#[derive(Debug)]
pub struct Page {
    size: u64,
    after: Option<Uuid>,
    filter: [u8; DIGEST],
}

impl Page {
    /// Rows come after (have a smaller id than) this one; from the start when none.
    #[must_use]
    pub fn after(&self) -> Option<Uuid> {
        self.after
    }

    /// How many rows to ask for: one more than the page holds, to learn whether another page follows.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.size + 1
    }

    /// Cuts the rows that were asked for with [`limit`](Self::limit) to the page's size and makes the
    /// next page's token; empty on the last page.
    pub fn finish<T>(&self, rows: &mut Vec<T>, id: impl Fn(&T) -> Uuid) -> String {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if rows.len() <= size {
            return String::new();
        }
        rows.truncate(size);
        rows.last()
            .map(|last| self.token(id(last)))
            .unwrap_or_default()
    }

    fn token(&self, last: Uuid) -> String {
        URL_SAFE_NO_PAD.encode([&self.filter[..], last.as_bytes()].concat())
    }
}

fn digest(filter: &str) -> [u8; DIGEST] {
    let mut short = [0; DIGEST];
    short.copy_from_slice(&Sha256::digest(filter)[..DIGEST]);
    short
}

impl Token {
    fn read(text: &str) -> Option<Self> {
        if text.len() != TOKEN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (filter, after) = bytes.split_first_chunk()?;
        let after = Uuid::from_slice(after).ok()?;
        let filter = *filter;
        Some(Self { filter, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_on_in_its_own_list_only() {
        let page = Paging::parse(2, "").unwrap().of("members|ACTIVE").unwrap();
        let mut rows: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        let token = page.finish(&mut rows, |id| *id);
        assert_eq!(rows.len(), 2);
        let next = Paging::parse(2, &token).unwrap();
        let next = next.of("members|ACTIVE").unwrap();
        assert_eq!(next.after(), Some(Uuid::from_u128(2)));
        let elsewhere = Paging::parse(2, &token).unwrap().of("members|");
        assert_eq!(elsewhere.unwrap_err(), NOT_OURS);
        let long = "A".repeat(TOKEN + 4);
        for token in ["!", "AAAA", &"!".repeat(TOKEN), &long] {
            assert_eq!(Paging::parse(2, token).unwrap_err(), NOT_OURS.into());
        }
    }

    #[test]
    fn sizes_default_are_capped_and_never_negative() {
        let limit = |size| Some(Paging::parse(size, "").ok()?.of("").ok()?.limit());
        assert_eq!(limit(0), Some(51));
        assert_eq!(limit(i32::MAX), Some(1_001));
        assert_eq!(limit(-1), None);
        let both = Paging::parse(-1, "!").unwrap_err().to_string();
        assert!(both.contains("page_size: ") && both.contains("page_token: "));
    }
}
