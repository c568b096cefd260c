//! A time on the command line: a moment, or how long ago.

use std::{str::FromStr, time::Duration};

use couponmesh_runtime::Timestamp;
use humantime_serde::re::humantime;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    pub(super) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::Ago(duration) => now.minus(duration),
        }
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| "must be a time such as 2026-11-23T13:00:00Z, or how long ago, such as 2h")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let now = Timestamp(10_000_000_000);
        let two_hours_ago: Moment = "2h".parse().unwrap();
        assert_eq!(two_hours_ago.at(now), Timestamp(2_800_000_000));
        let fixed: Moment = "1970-01-01T00:00:01Z".parse().unwrap();
        assert_eq!(fixed.at(now), Timestamp(1_000_000));
        assert!("soon".parse::<Moment>().is_err());
    }
}
