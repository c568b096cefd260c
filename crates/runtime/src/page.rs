//! Keyset paging by id, newest first: ids are UUID v7, so a later row has a greater id.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use tonic::Status;
use uuid::Uuid;

use crate::status::{self, Reason};

/// Rows on a page when the caller does not say.
const DEFAULT_SIZE: u64 = 50;
/// Rows on a page at the most; a greater wish is lowered to it.
const MAX_SIZE: u64 = 1_000;
/// Bytes of the filter's digest in a token: enough against accidents; a token grants nothing.
const DIGEST: usize = 8;

/// One page's bounds, and the filter that its tokens are bound to.
#[derive(Debug)]
pub struct Page {
    size: u64,
    after: Option<Uuid>,
    filter: [u8; DIGEST],
}

impl Page {
    /// Reads `page_size` and `page_token` of a request. `filter` names the list and its filters,
    /// in any form that differs when they do.
    ///
    /// # Errors
    /// FIELD_INVALID for a negative size, PAGE_TOKEN_INVALID for a token that this list did not make.
    // The size is tonic's: every door of every service returns it.
    #[allow(clippy::result_large_err)]
    pub fn parse(page_size: i32, page_token: &str, filter: &str) -> Result<Self, Status> {
        let size = match u64::try_from(page_size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => return Err(status::field_invalid("page_size", "must not be negative")),
        };
        let filter = digest(filter);
        let after = match page_token {
            "" => None,
            token => Some(read_token(token, filter).ok_or_else(|| {
                let text = "page_token: is not a token of this list with these filters";
                status::status(Reason::PageTokenInvalid, text)
            })?),
        };
        Ok(Self {
            size,
            after,
            filter,
        })
    }

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

fn read_token(token: &str, filter: [u8; DIGEST]) -> Option<Uuid> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let id = bytes.strip_prefix(&filter)?;
    Uuid::from_slice(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_on_in_its_own_list_only() {
        let page = Page::parse(2, "", "members|ACTIVE").unwrap();
        let mut rows: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        let token = page.finish(&mut rows, |id| *id);
        assert_eq!(rows.len(), 2);
        let next = Page::parse(2, &token, "members|ACTIVE").unwrap();
        assert_eq!(next.after(), Some(Uuid::from_u128(2)));
        for (token, filter) in [
            (token.as_str(), "members|"),
            ("!", "members|ACTIVE"),
            ("AAAA", "members|ACTIVE"),
        ] {
            assert!(Page::parse(2, token, filter).is_err());
        }
    }

    #[test]
    fn sizes_default_are_capped_and_never_negative() {
        assert_eq!(Page::parse(0, "", "").unwrap().limit(), 51);
        assert_eq!(Page::parse(i32::MAX, "", "").unwrap().limit(), 1_001);
        assert!(Page::parse(-1, "", "").is_err());
    }
}
