//! A hash index: finds a `u32` by 32 bits of hash. The trie has two, for literal children and for interned texts.
//!
//! An entry holds its hash, so growing the table looks at nothing else, and a lookup looks at (almost) nothing but the
//! right entry's target. The table is split by hash, so that growing one part while publishers wait takes well under a
//! millisecond for each million of entries.

use hashbrown::HashTable;

const SHARD_BITS: u32 = 6;
/// Capacity below which memory is not worth giving back.
const CAPACITY_KEPT: usize = 16;

/// Positions by hash. What a position stands for, and so when two are the same, the caller knows.
#[derive(Debug)]
pub(super) struct HashIndex {
    shards: Box<[HashTable<Entry>]>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    position: u32,
}

impl HashIndex {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..1 << SHARD_BITS).map(|_| HashTable::new()).collect(),
        }
    }

    /// The position for which `is_wanted` holds, among those with this hash.
    pub(super) fn find(&self, hash: u32, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let shard = &self.shards[shard_of(hash)];
        let entry = shard.find(spread(hash), |entry| {
            entry.hash == hash && is_wanted(entry.position)
        })?;
        Some(entry.position)
    }

    /// Adds a position that is not in the index.
    pub(super) fn insert(&mut self, hash: u32, position: u32) {
        let shard = &mut self.shards[shard_of(hash)];
        shard.insert_unique(spread(hash), Entry { hash, position }, |entry| spread(entry.hash));
    }

    /// Removes a position. Panics when it is not there: the index and what it indexes disagree.
    pub(super) fn remove(&mut self, hash: u32, position: u32) {
        let shard = &mut self.shards[shard_of(hash)];
        match shard.find_entry(spread(hash), |entry| entry.position == position) {
            Ok(entry) => entry.remove(),
            Err(_) => panic!("position {position} is missing from the hash index"),
        };
        shrink(shard, |entry| spread(entry.hash));
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.shards) + self.shards.iter().map(HashTable::allocation_size).sum::<usize>()
    }
}

/// Gives a table's memory back once it is used to less than an eighth; not earlier, so that a table whose size swings
/// is not rebuilt again and again.
pub(super) fn shrink<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    if table.capacity() > CAPACITY_KEPT && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2, hash);
    }
}

/// The top bits choose the shard; the low ones, which `spread` keeps apart, the place in it.
const fn shard_of(hash: u32) -> usize {
    (hash >> (u32::BITS - SHARD_BITS)) as usize
}

/// The 64 bits the table wants: its place from the low bits, its tag from the top seven.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut index = HashIndex::new();
        index.insert(7, 1);
        index.insert(7, 2);
        assert_eq!(index.find(7, |position| position == 2), Some(2));
        assert_eq!(index.find(7, |position| position == 1), Some(1));
        assert_eq!(index.find(8, |_| true), None);
        index.remove(7, 1);
        assert_eq!(index.find(7, |_| true), Some(2));
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn memory_is_given_back() {
        let mut index = HashIndex::new();
        let hash = |position: u32| position.wrapping_mul(0x9E37_79B9);
        for position in 0..100_000 {
            index.insert(hash(position), position);
        }
        let full = index.bytes();
        for position in 0..100_000 {
            index.remove(hash(position), position);
        }
        assert!(
            index.bytes() < full / 10,
            "{} of {full} bytes held",
            index.bytes()
        );
    }
}
