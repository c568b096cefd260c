//! The ids of the contract, as types: a coupon's id cannot be passed where a member's belongs.

use std::fmt;

use sea_orm::DeriveValueType;
use uuid::Uuid;

use crate::{clock::Timestamp, field::Violation};

/// Parses a UUID in its hyphenated form, any version; `None` for anything else.
fn parse_uuid(text: &str) -> Option<Uuid> {
    // `Uuid::parse_str` also takes the braced, URN and simple forms, which the contract does not.
    (text.len() == uuid::fmt::Hyphenated::LENGTH)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}

/// A UUID that sorts after all of ours that were made before `time`, and before all others of ours.
#[must_use]
pub fn boundary(time: Timestamp) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(time.unix_millis(), &[0; 10]).into_uuid()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, DeriveValueType)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Parses the contract's form of an id; `None` for anything else.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                parse_uuid(text).map(Self)
            }

            /// Parses an id out of the request field `field`.
            ///
            /// # Errors
            /// What is wrong with the field.
            pub fn from_field(field: &'static str, text: &str) -> Result<Self, Violation> {
                Self::parse(text).ok_or_else(|| {
                    let why = if text.is_empty() { "must not be empty" } else { "must be a UUID such as 0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11" };
                    Violation::new(field, why)
                })
            }

            /// Parses an id out of the request field `field`, which may be empty.
            ///
            /// # Errors
            /// What is wrong with the field.
            pub fn from_optional_field(field: &'static str, text: &str) -> Result<Option<Self>, Violation> {
                if text.is_empty() {
                    return Ok(None);
                }
                Self::from_field(field, text).map(Some)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        // sea-orm asks every primary key for it; only auto-increment keys are ever made from one.
        impl sea_orm::TryFromU64 for $name {
            fn try_from_u64(_: u64) -> Result<Self, sea_orm::DbErr> {
                Err(sea_orm::DbErr::ConvertFromU64(stringify!($name)))
            }
        }
    )*};
}

ids! {
    /// A member.
    MemberId;
    /// A member's welcome coupon.
    CouponId;
    /// A member's leaving.
    WithdrawalId;
    /// A message to the administrator.
    NotificationId;
    /// An event, on the bus and in every outbox.
    EventId;
    /// A caller's own name for a call, which makes its repeats harmless.
    RequestId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_parts_the_ids_of_before_and_after() {
        let (random, second) = (crate::Random::seeded(1), Timestamp(1_800_000_000_000_000));
        let before = random.uuid_v7(Timestamp(second.0 - 1_000));
        let (after, boundary) = (random.uuid_v7(second), boundary(second));
        assert!(before < boundary && boundary < after);
    }

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let text = "0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11";
        assert_eq!(MemberId::parse(text).unwrap().to_string(), text);
        assert!(MemberId::parse(&text.to_uppercase()).is_some_and(|id| id.to_string() == text));
        for bad in [
            "",
            "x",
            "{0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11}",
            &text.replace('-', ""),
            &text[1..],
        ] {
            assert!(MemberId::parse(bad).is_none(), "{bad}");
        }
    }
}
