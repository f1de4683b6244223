//! All literal children of all nodes in one table: (parent, level) -> child.
//!
//! One table, because a map in every node would cost an idle connection's node more than all the rest of it. An entry
//! holds 32 bits of its hash, so growing the table touches no node, and a lookup touches (almost) no node but the right
//! one. The table is split by hash, so that growing one part while publishers wait takes well under a millisecond for
//! each million of entries.

use hashbrown::HashTable;

use super::label::shrink;

const SHARD_BITS: u32 = 6;

/// One literal child; which parent and which level it belongs to stands in the child's node.
#[derive(Clone, Copy, Debug)]
struct Edge {
    hash: u32,
    child: u32,
}

/// The table of literal children. `hash` is [`edge_hash`] throughout.
#[derive(Debug)]
pub(super) struct Edges {
    shards: Box<[HashTable<Edge>]>,
}

impl Edges {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..1 << SHARD_BITS).map(|_| HashTable::new()).collect(),
        }
    }

    /// The child for which `is_wanted` holds, among those with this hash.
    pub(super) fn find(&self, hash: u32, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let shard = &self.shards[shard_of(hash)];
        let edge = shard.find(spread(hash), |edge| edge.hash == hash && is_wanted(edge.child))?;
        Some(edge.child)
    }

    /// Adds a child that is not in the table.
    pub(super) fn insert(&mut self, hash: u32, child: u32) {
        self.shards[shard_of(hash)]
            .insert_unique(spread(hash), Edge { hash, child }, |edge| spread(edge.hash));
    }

    /// Removes a child. Panics when it is not there: the trie and its table disagree.
    pub(super) fn remove(&mut self, hash: u32, child: u32) {
        let shard = &mut self.shards[shard_of(hash)];
        match shard.find_entry(spread(hash), |edge| edge.child == child) {
            Ok(entry) => entry.remove(),
            Err(_) => panic!("node {child} is missing from the table of children"),
        };
        shrink(shard, |edge| spread(edge.hash));
    }

    /// Number of children.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.shards) + self.shards.iter().map(HashTable::allocation_size).sum::<usize>()
    }
}

/// Joins a level's hash and its parent's index. The level's hash is seeded, so that a client cannot choose levels that
/// collide; the index is added by a bijection, which keeps that.
pub(super) const fn edge_hash(level: u64, parent: u32) -> u32 {
    let mixed =
        (level ^ (parent as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (mixed >> 32) as u32
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
        let mut edges = Edges::new();
        edges.insert(7, 1);
        edges.insert(7, 2);
        assert_eq!(edges.find(7, |child| child == 2), Some(2));
        assert_eq!(edges.find(7, |child| child == 1), Some(1));
        assert_eq!(edges.find(8, |_| true), None);
        edges.remove(7, 1);
        assert_eq!(edges.find(7, |_| true), Some(2));
        assert_eq!(edges.len(), 1);
    }

    /// A poor hash would show as shards of very different size, or as long probes (time), not as wrong answers.
    #[test]
    fn sequential_parents_spread_over_the_shards() {
        let mut edges = Edges::new();
        for parent in 0..64_000 {
            edges.insert(edge_hash(0x1234_5678_9ABC_DEF0, parent), parent);
        }
        let sizes: Vec<usize> = edges.shards.iter().map(HashTable::len).collect();
        assert!(sizes.iter().all(|size| (700..1_300).contains(size)), "{sizes:?}");
    }

    #[test]
    fn memory_is_given_back() {
        let mut edges = Edges::new();
        let hash = |child| edge_hash(u64::from(child) << 20, 0);
        for child in 0..100_000 {
            edges.insert(hash(child), child);
        }
        let full = edges.bytes();
        for child in 0..100_000 {
            edges.remove(hash(child), child);
        }
        assert!(
            edges.bytes() < full / 10,
            "{} of {full} bytes held",
            edges.bytes()
        );
    }
}
