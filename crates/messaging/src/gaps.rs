//! Positions that were not seen between those that were.
//!
//! PostgreSQL hands positions out before transactions commit, so a row may become visible after rows
//! that follow it, or never. When a gap is noticed, the relay notes which transactions are writing to
//! the outbox. When all of them have ended and a further look finds no row, nobody can fill the gap,
//! and it is given up. No time is waited for, and nobody else's transaction.

use std::{
    collections::{BTreeMap, HashSet},
    ops::RangeInclusive,
    sync::Arc,
};

/// Transactions, by what PostgreSQL calls each of them for as long as it lives.
pub(crate) type Writers = Arc<HashSet<String>>;

/// Gaps that are looked into at once.
const LOOK: usize = 256;

/// The gaps below the newest position that was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gaps {
    by_first: BTreeMap<i64, Gap>,
    /// Where the last look ended, so that each gap has its turn.
    looked_up_to: i64,
}

#[derive(Clone, Debug)]
struct Gap {
    last: i64,
    /// Who wrote when it was first looked into; none before that.
    writers: Option<Writers>,
}

impl Gaps {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_first.len()
    }

    /// The lowest position of all.
    pub(crate) fn first(&self) -> Option<i64> {
        self.by_first.keys().next().copied()
    }

    /// Notes what is missing in `positions`, which follow `newest` in their order.
    pub(crate) fn note(&mut self, mut newest: i64, positions: impl IntoIterator<Item = i64>) {
        for position in positions {
            if position > newest + 1 {
                let gap = Gap {
                    last: position - 1,
                    writers: None,
                };
                self.by_first.insert(newest + 1, gap);
            }
            newest = position;
        }
    }

    /// The gaps to look into now.
    pub(crate) fn look(&mut self) -> Vec<RangeInclusive<i64>> {
        let after = self.by_first.range(self.looked_up_to + 1..);
        let before = self.by_first.range(..=self.looked_up_to);
        let gaps: Vec<_> = after
            .chain(before)
            .take(LOOK)
            .map(|(first, gap)| *first..=gap.last)
            .collect();
        self.looked_up_to = gaps.last().map_or(0, |gap| *gap.start());
        gaps
    }

    /// Takes note of a look into `gaps`, before which `writers` wrote. It found rows at `found`, in their order, and
    /// `all` is whether those are all that there were.
    pub(crate) fn looked(
        &mut self,
        gaps: &[RangeInclusive<i64>],
        writers: &Writers,
        found: &[i64],
        all: bool,
    ) {
        for range in gaps {
            let Some(gap) = self.by_first.remove(range.start()) else {
                continue;
            };
            let at_first = gap.writers.unwrap_or_else(|| writers.clone());
            if all && at_first.is_disjoint(writers) {
                continue;
            }
            let mut first = *range.start();
            let filled = found.partition_point(|position| position < range.start());
            let filled = found[filled..].iter().take_while(|at| range.contains(at));
            let ends = filled.map(|position| (position - 1, position + 1));
            for (last, next) in ends.chain([(gap.last, gap.last)]) {
                if first <= last {
                    let writers = Some(at_first.clone());
                    self.by_first.insert(first, Gap { last, writers });
                }
                first = next;
            }
        }
    }
}

#[cfg(test)]
impl Gaps {
    /// What is the same in two that go on alike.
    pub(crate) fn key(&self) -> String {
        let gaps = self.by_first.iter().map(|(first, gap)| {
            let writers = gap.writers.as_ref();
            let writers: Option<std::collections::BTreeSet<_>> =
                writers.map(|writers| writers.iter().collect());
            (first, gap.last, writers)
        });
        format!("{:?}", gaps.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writers<const N: usize>(names: [&str; N]) -> Writers {
        Arc::new(names.map(str::to_owned).into())
    }

    fn ranges(gaps: &Gaps) -> Vec<RangeInclusive<i64>> {
        let ranges = gaps.by_first.iter();
        ranges.map(|(first, gap)| *first..=gap.last).collect()
    }

    fn gaps(newest: i64, positions: &[i64]) -> Gaps {
        let mut gaps = Gaps::default();
        gaps.note(newest, positions.iter().copied());
        gaps
    }

    fn look(gaps: &mut Gaps, writers: &Writers, found: &[i64]) {
        let ranges = gaps.look();
        gaps.looked(&ranges, writers, found, true);
    }

    #[test]
    fn what_is_missing_is_a_gap() {
        assert!(gaps(0, &[1, 2, 3]).is_empty());
        assert_eq!(ranges(&gaps(3, &[5, 6, 10])), [4..=4, 7..=9]);
        assert_eq!(gaps(3, &[5, 6, 10]).first(), Some(4));
    }

    #[test]
    fn a_gap_stays_while_one_who_wrote_when_it_was_noticed_still_writes() {
        let mut gaps = gaps(0, &[3]);
        look(&mut gaps, &writers(["a", "b"]), &[]);
        look(&mut gaps, &writers(["b", "c"]), &[]);
        assert_eq!(ranges(&gaps), [1..=2]);
        // Those who came later took later positions.
        look(&mut gaps, &writers(["c", "d"]), &[]);
        assert!(gaps.is_empty());
    }

    #[test]
    fn a_gap_that_nobody_can_fill_is_given_up_at_once() {
        let mut gaps = gaps(0, &[3]);
        look(&mut gaps, &writers([]), &[]);
        assert!(gaps.is_empty());
    }

    #[test]
    fn what_is_found_leaves_the_rest_of_its_gap() {
        let mut gaps = gaps(0, &[10]);
        look(&mut gaps, &writers(["a"]), &[1, 4, 5, 9]);
        assert_eq!(ranges(&gaps), [2..=3, 6..=8]);
        look(&mut gaps, &writers(["a"]), &[2, 3]);
        assert_eq!(ranges(&gaps), [6..=8]);
        look(&mut gaps, &writers(["b"]), &[6]);
        assert!(gaps.is_empty());
    }

    #[test]
    fn a_look_that_did_not_see_everything_gives_nothing_up() {
        let mut gaps = gaps(0, &[10]);
        let ranges = gaps.look();
        gaps.looked(&ranges, &writers([]), &[1, 2], false);
        assert_eq!(self::ranges(&gaps), [3..=9]);
    }

    #[test]
    fn each_gap_has_its_turn() {
        let many = 3 * LOOK as i64 / 2;
        let mut gaps = Gaps::default();
        gaps.note(0, (1..=many).map(|number| number * 2));
        let first = gaps.look();
        assert_eq!(first.len(), LOOK);
        let second = gaps.look();
        assert_eq!(*second[0].start(), *first[LOOK - 1].start() + 2);
        let starts = first.iter().chain(&second).map(RangeInclusive::start);
        assert_eq!(starts.collect::<HashSet<_>>().len(), many as usize);
    }
}
