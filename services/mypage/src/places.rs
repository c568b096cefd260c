//! Room for calls that last: so many at once about one member.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use couponmesh_runtime::id::MemberId;

/// Counts calls that last, by member. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    of_each: usize,
    taken: Mutex<HashMap<MemberId, usize>>,
}

/// The place of one call, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    member_id: MemberId,
}

impl Places {
    /// Room for `of_each` calls about each member.
    pub(crate) fn new(of_each: usize) -> Self {
        Self(Arc::new(Inner {
            of_each,
            taken: Mutex::default(),
        }))
    }

    /// A place for one call more; none when this member's are taken.
    pub(crate) fn take(&self, member_id: MemberId) -> Option<Place> {
        let mut taken = self.lock();
        let count = taken.entry(member_id).or_default();
        (*count < self.0.of_each).then(|| {
            *count += 1;
            Place {
                places: self.clone(),
                member_id,
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MemberId, usize>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(count) = taken.get_mut(&self.member_id) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.member_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_its_own_places_and_nobody_is_remembered() {
        let places = Places::new(2);
        let [ann, ben] = [
            "0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11",
            "0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b12",
        ]
        .map(|id| MemberId::parse(id).unwrap());
        let taken = (places.take(ann), places.take(ann), places.take(ben));
        assert!(taken.0.is_some() && taken.1.is_some() && taken.2.is_some());
        assert!(places.take(ann).is_none());
        drop(taken.0);
        assert!(places.take(ann).is_some());
        drop((taken.1, taken.2));
        assert!(places.lock().is_empty());
    }
}
