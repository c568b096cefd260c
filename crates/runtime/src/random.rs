//! Randomness and ids: one injected source.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use crate::clock::Timestamp;

/// Where ids, codes and jitter come from.
#[derive(Clone, Debug)]
pub struct Random(Arc<Mutex<StdRng>>);

impl Random {
    /// Seeded by the operating system.
    #[must_use]
    pub fn from_os() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    /// The same numbers for the same seed, for tests.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A UUID v7: ids made later sort later, so that new rows are inserted at the index's end.
    #[must_use]
    pub fn uuid_v7(&self, now: Timestamp) -> Uuid {
        let mut bytes = [0; 10];
        self.with(|rng| rng.fill_bytes(&mut bytes));
        uuid::Builder::from_unix_timestamp_millis(now.unix_millis(), &bytes).into_uuid()
    }

    /// A number below `bound`, which must not be 0.
    #[must_use]
    pub fn below(&self, bound: usize) -> usize {
        self.with(|rng| rng.random_range(0..bound))
    }

    /// `duration` shortened by a random part of at most a quarter, so that what failed together
    /// does not come back together.
    #[must_use]
    pub fn jitter(&self, duration: Duration) -> Duration {
        duration.mul_f64(self.with(|rng| rng.random_range(0.75..1.0)))
    }

    /// `duration`, shortened or lengthened by a random part of at most a third, so that what began
    /// together does not end together.
    #[must_use]
    pub fn around(&self, duration: Duration) -> Duration {
        const THIRD: f64 = 1.0 / 3.0;
        duration.mul_f64(self.with(|rng| rng.random_range(1.0 - THIRD..1.0 + THIRD)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn around_is_a_third_less_to_a_third_more() {
        let (random, base) = (Random::seeded(1), Duration::from_secs(45 * 60));
        let drawn: Vec<Duration> = (0..1_000).map(|_| random.around(base)).collect();
        let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
        let minutes = |duration: &Duration| duration.as_secs() / 60;
        assert_eq!((minutes(least), minutes(most)), (30, 59));
    }
}
