//! A set of numbers that are mostly consecutive, kept as ranges: a run of days takes no more room than its gaps.

use std::collections::BTreeMap;

/// A set of numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    /// First to last number of each range; no two ranges touch.
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl Numbers {
    /// Adds a number; false when it was there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let below = self.ranges.range_mut(..=number).next_back();
        let mut first = number;
        if let Some((&start, end)) = below {
            if number <= *end {
                return false;
            }
            if *end + 1 == number {
                *end = number;
                first = start;
            }
        }
        let last = self.ranges.remove(&(number + 1)).unwrap_or(number);
        self.ranges.insert(first, last);
        self.len += 1;
        self.check_invariants();
        true
    }

    /// Whether a number is there.
    pub(crate) fn contains(&self, number: u64) -> bool {
        let below = self.ranges.range(..=number).next_back();
        below.is_some_and(|(_, end)| number <= *end)
    }

    /// How many numbers there are.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// How many ranges they make, which is what the set costs.
    pub(crate) fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// The first numbers of this set, at most `count`, that are not in `other`. Passes over whole ranges.
    pub(crate) fn first_without(&self, other: &Self, count: usize) -> Vec<u64> {
        let mut found = Vec::new();
        for (first, last) in &self.ranges {
            let mut number = *first;
            while number <= *last && found.len() < count {
                let below = other.ranges.range(..=number).next_back();
                match below.filter(|(_, end)| number <= **end) {
                    Some((_, end)) => number = end + 1,
                    None => {
                        found.push(number);
                        number += 1;
                    }
                }
            }
        }
        found
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.ranges.len() as u64 <= self.len,
            "no range of the set is empty: {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn consecutive_numbers_are_one_range() {
        let mut numbers = Numbers::default();
        for number in [1, 2, 4, 3, 7, 6, 5] {
            assert!(numbers.insert(number));
        }
        assert_eq!((numbers.range_count(), numbers.len()), (1, 7));
        assert!(!numbers.insert(4));
        assert!(!numbers.contains(8) && numbers.contains(7) && !numbers.contains(0));
    }

    #[test]
    fn what_another_set_lacks_is_named() {
        let (mut all, mut some) = (Numbers::default(), Numbers::default());
        for number in 1..=10 {
            all.insert(number);
            if number % 3 != 0 {
                some.insert(number);
            }
        }
        assert_eq!(all.first_without(&some, 2), [3, 6]);
        assert_eq!(all.first_without(&some, 9), [3, 6, 9]);
        assert_eq!(some.first_without(&all, 9), [0; 0]);
        assert_eq!(some.first_without(&Numbers::default(), 3), [1, 2, 4]);
    }

    proptest! {
        #[test]
        fn it_is_a_set(inserted in prop::collection::vec(0_u64..60, 0..100)) {
            let mut numbers = Numbers::default();
            let mut model = BTreeSet::new();
            for number in inserted {
                prop_assert_eq!(numbers.insert(number), model.insert(number));
            }
            prop_assert_eq!(numbers.len(), model.len() as u64);
            let gaps = model.iter().filter(|number| !model.contains(&(*number + 1))).count();
            prop_assert_eq!(numbers.range_count(), gaps);
            for number in 0..61 {
                prop_assert_eq!(numbers.contains(number), model.contains(&number));
            }
        }
    }
}
