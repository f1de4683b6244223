//! The subscribers of one filter: none and one without memory of their own, many as a dense list.
//!
//! A fan-out walks the list from end to end, so it is a plain array; above [`INDEX_ABOVE`] entries an index from key to
//! position makes insertion and removal independent of its length. Removal moves the last entry into the gap: the order
//! follows from the history of calls and from nothing else.

use std::hash::{BuildHasher, Hash};
use std::mem;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Up to here a search through the list is faster than the index.
const INDEX_ABOVE: usize = 32;
/// The index goes when the list is this short again; well below, so that a list whose length swings keeps it.
const INDEX_UNTIL: usize = INDEX_ABOVE / 2;

/// A set of (key, value), unique by key.
#[derive(Debug)]
pub(super) enum Subscribers<K, V> {
    None,
    One(K, V),
    Many(Box<Many<K, V>>),
}

/// Two or more subscribers.
#[derive(Debug)]
pub(super) struct Many<K, V> {
    entries: Vec<(K, V)>,
    /// Positions in `entries`; empty unless there are more than [`INDEX_ABOVE`] (or, while shrinking,
    /// [`INDEX_UNTIL`]).
    index: HashTable<u32>,
}

impl<K: Copy + Eq + Hash, V> Subscribers<K, V> {
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(many) => many.entries.len(),
        }
    }

    /// Calls `visit` with each subscriber.
    pub(super) fn visit(&self, visit: &mut impl FnMut(&K, &V)) {
        match self {
            Self::None => {}
            Self::One(key, value) => visit(key, value),
            Self::Many(many) => many.entries.iter().for_each(|(key, value)| visit(key, value)),
        }
    }

    pub(super) fn find(&self, key: &K, hasher: &FixedState) -> Option<&V> {
        match self {
            Self::None => None,
            Self::One(only, value) => (only == key).then_some(value),
            Self::Many(many) => many.position(key, hasher).map(|at| &many.entries[at].1),
        }
    }

    /// Adds or replaces; returns the value that was replaced.
    pub(super) fn insert(&mut self, key: K, value: V, hasher: &FixedState) -> Option<V> {
        match self {
            Self::None => *self = Self::One(key, value),
            Self::One(only, old) if *only == key => return Some(mem::replace(old, value)),
            Self::One(..) => {
                let Self::One(first, old) = mem::replace(self, Self::None) else {
                    unreachable!("it was one subscriber");
                };
                let entries = vec![(first, old), (key, value)];
                *self = Self::Many(Box::new(Many {
                    entries,
                    index: HashTable::new(),
                }));
            }
            Self::Many(many) => return many.insert(key, value, hasher),
        }
        None
    }

    /// Removes a subscriber; returns its value.
    pub(super) fn remove(&mut self, key: &K, hasher: &FixedState) -> Option<V> {
        match self {
            Self::One(only, _) if only == key => match mem::replace(self, Self::None) {
                Self::One(_, value) => Some(value),
                _ => unreachable!("it was one subscriber"),
            },
            Self::None | Self::One(..) => None,
            Self::Many(many) => {
                let removed = many.remove(key, hasher)?;
                if many.entries.len() == 1
                    && let Some((last, value)) = many.entries.pop()
                {
                    *self = Self::One(last, value);
                }
                Some(removed)
            }
        }
    }

    /// Bytes held outside the node.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::None | Self::One(..) => 0,
            Self::Many(many) => {
                let entries = many.entries.capacity() * size_of::<(K, V)>();
                size_of::<Many<K, V>>() + entries + many.index.allocation_size()
            }
        }
    }

    /// Panics when an invariant of this file does not hold.
    pub(super) fn check_invariants(&self, hasher: &FixedState) {
        let Self::Many(many) = self else { return };
        let length = many.entries.len();
        assert!(length > 1, "a list of {length} subscribers");
        assert!(
            length <= INDEX_ABOVE || !many.index.is_empty(),
            "{length} subscribers without an index"
        );
        if !many.index.is_empty() {
            assert!(length > INDEX_UNTIL, "{length} subscribers with an index");
            assert_eq!(many.index.len(), length, "length of the index");
        }
        for (at, (key, _)) in many.entries.iter().enumerate() {
            assert_eq!(many.position(key, hasher), Some(at), "position of a subscriber");
        }
    }
}

impl<K: Copy + Eq + Hash, V> Many<K, V> {
    fn position(&self, key: &K, hasher: &FixedState) -> Option<usize> {
        if self.index.is_empty() {
            return self.entries.iter().position(|(candidate, _)| candidate == key);
        }
        let at = self
            .index
            .find(hasher.hash_one(key), |at| self.entries[*at as usize].0 == *key)?;
        Some(*at as usize)
    }

    fn insert(&mut self, key: K, value: V, hasher: &FixedState) -> Option<V> {
        if let Some(at) = self.position(&key, hasher) {
            return Some(mem::replace(&mut self.entries[at].1, value));
        }
        self.entries.push((key, value));
        if !self.index.is_empty() {
            self.index_entry(self.entries.len() - 1, hasher);
        } else if self.entries.len() > INDEX_ABOVE {
            (0..self.entries.len()).for_each(|at| self.index_entry(at, hasher));
        }
        None
    }

    fn index_entry(&mut self, at: usize, hasher: &FixedState) {
        let position = u32::try_from(at).expect("keys of one filter are fewer than 4 billion");
        let entries = &self.entries;
        let hash = |at: &u32| hasher.hash_one(entries[*at as usize].0);
        self.index.insert_unique(hash(&position), position, hash);
    }

    fn remove(&mut self, key: &K, hasher: &FixedState) -> Option<V> {
        let at = self.position(key, hasher)?;
        let last = self.entries.len() - 1;
        if !self.index.is_empty() {
            let entries = &self.entries;
            match self
                .index
                .find_entry(hasher.hash_one(key), |position| *position as usize == at)
            {
                Ok(entry) => entry.remove(),
                Err(_) => panic!("a subscriber is missing from the index"),
            };
            if at != last {
                let moved = hasher.hash_one(entries[last].0);
                let position = self.index.find_mut(moved, |position| *position as usize == last);
                *position.expect("every subscriber is in the index") = at as u32;
            }
        }
        let (_, value) = self.entries.swap_remove(at);
        self.give_memory_back(hasher);
        Some(value)
    }

    fn give_memory_back(&mut self, hasher: &FixedState) {
        let length = self.entries.len();
        if length <= INDEX_UNTIL {
            self.index = HashTable::new();
        }
        if length < self.entries.capacity() / 4 {
            self.entries.shrink_to(length * 2);
        }
        let entries = &self.entries;
        super::index::shrink(&mut self.index, |at| hasher.hash_one(entries[*at as usize].0));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn contents(subscribers: &Subscribers<u32, u64>) -> Vec<(u32, u64)> {
        let mut all = Vec::new();
        subscribers.visit(&mut |key, value| all.push((*key, *value)));
        all.sort_unstable();
        all
    }

    proptest! {
        /// Few keys, so that the length crosses the thresholds in both directions.
        #[test]
        fn behaves_like_a_map(operations in prop::collection::vec((0u32..80, any::<bool>()), 0..600)) {
            let hasher = FixedState::with_seed(1);
            let (mut subscribers, mut model) = (Subscribers::None, BTreeMap::new());
            for (number, (key, is_insert)) in operations.into_iter().enumerate() {
                if is_insert {
                    let value = number as u64;
                    prop_assert_eq!(subscribers.insert(key, value, &hasher), model.insert(key, value));
                } else {
                    prop_assert_eq!(subscribers.remove(&key, &hasher), model.remove(&key));
                }
                subscribers.check_invariants(&hasher);
                prop_assert_eq!(subscribers.len(), model.len());
                prop_assert_eq!(subscribers.find(&key, &hasher), model.get(&key));
            }
            prop_assert_eq!(contents(&subscribers), model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn memory_is_given_back() {
        let hasher = FixedState::with_seed(1);
        let mut subscribers = Subscribers::None;
        for key in 0..100_000u32 {
            subscribers.insert(key, 0u64, &hasher);
        }
        let full = subscribers.bytes();
        for key in 0..99_998 {
            assert_eq!(subscribers.remove(&key, &hasher), Some(0));
        }
        subscribers.check_invariants(&hasher);
        assert!(
            subscribers.bytes() < full / 1_000,
            "{} of {full} bytes held",
            subscribers.bytes()
        );
        subscribers.remove(&99_998, &hasher);
        assert!(matches!(subscribers, Subscribers::One(99_999, 0)));
        assert_eq!(subscribers.bytes(), 0);
    }
}
