//! Faults that tests inject: a step that fails once, a safety property that is switched off.
//!
//! Without the feature `faults` every check here is a constant that the compiler removes; a release
//! binary has no way to switch anything on.

#[cfg(feature = "faults")]
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use sea_orm::{DbErr, RuntimeErr};

/// Where tests put faults. Empty outside tests.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    #[cfg(feature = "faults")]
    inner: Arc<Mutex<Inner>>,
}

#[cfg(feature = "faults")]
#[derive(Debug, Default)]
struct Inner {
    reached: BTreeMap<String, u64>,
    armed: HashMap<String, u32>,
    sabotaged: BTreeSet<String>,
}

impl Faults {
    /// No faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A step named `scope:step`.
    ///
    /// # Errors
    /// A connection error, as if the database had gone away here, when a test armed this step.
    #[inline]
    pub fn step(&self, scope: &'static str, step: &'static str) -> Result<(), DbErr> {
        #[cfg(feature = "faults")]
        {
            let point = format!("{scope}:{step}");
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(left) = inner.armed.get_mut(&point)
                && *left > 0
            {
                *left -= 1;
                return Err(DbErr::Conn(RuntimeErr::Internal(format!(
                    "fault at {point}"
                ))));
            }
            *inner.reached.entry(point).or_default() += 1;
        }
        let _ = (scope, step, |text| DbErr::Conn(RuntimeErr::Internal(text)));
        Ok(())
    }

    /// Whether a test switched the safety property `property` off.
    #[inline]
    #[must_use]
    pub fn sabotaged(&self, property: &'static str) -> bool {
        #[cfg(feature = "faults")]
        {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.sabotaged.contains(property)
        }
        #[cfg(not(feature = "faults"))]
        {
            let _ = property;
            false
        }
    }
}

#[cfg(feature = "faults")]
impl Faults {
    /// Lets the step `point` (`scope:step`) fail the next `times` times.
    pub fn arm(&self, point: &str, times: u32) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.armed.insert(point.to_owned(), times);
    }

    /// Whether every armed fault has happened.
    #[must_use]
    pub fn spent(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.armed.values().all(|left| *left == 0)
    }

    /// Every step that was passed so far.
    #[must_use]
    pub fn reached(&self) -> Vec<String> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.reached.keys().cloned().collect()
    }

    /// How often the step `point` was passed so far.
    #[must_use]
    pub fn times(&self, point: &str) -> u64 {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.reached.get(point).copied().unwrap_or_default()
    }

    /// Switches the safety property `property` off.
    pub fn sabotage(&self, property: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sabotaged.insert(property.to_owned());
    }
}
