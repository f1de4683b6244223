//! Slots addressed by `u32`, in chunks: what the trie's nodes live in.
//!
//! Chunks rather than one `Vec`, so that growing never copies a gigabyte while publishers wait, and so that a chunk
//! whose slots are all free gives its memory back. A new value goes to the lowest chunk that has room, which lets the
//! high chunks run empty.
//!
//! Invariants: a chunk is in `open` exactly if it has a free slot; a chunk without a live slot holds no memory.

use std::collections::BTreeSet;
use std::mem;

const CHUNK_BITS: u32 = 10;
const CHUNK_SLOTS: usize = 1 << CHUNK_BITS;
/// Ends a chunk's list of free slots.
const NO_SLOT: u16 = u16::MAX;

/// An arena of `T`; indices stay valid until the value is removed and are then used again.
#[derive(Debug)]
pub(super) struct Arena<T> {
    chunks: Vec<Chunk<T>>,
    open: BTreeSet<u32>,
    len: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    slots: Vec<Slot<T>>,
    first_free: u16,
    live: u16,
}

#[derive(Debug)]
enum Slot<T> {
    Free { next: u16 },
    Live(T),
}

impl<T> Arena<T> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            open: BTreeSet::new(),
            len: 0,
        }
    }

    /// Number of live values.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Bytes held, without what the values own elsewhere.
    pub(super) fn bytes(&self) -> usize {
        let slots: usize = self.chunks.iter().map(|chunk| chunk.slots.capacity()).sum();
        slots * mem::size_of::<Slot<T>>() + self.chunks.capacity() * mem::size_of::<Chunk<T>>()
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        let chunk_at = self.open.first().copied().unwrap_or_else(|| self.add_chunk());
        let chunk = &mut self.chunks[chunk_at as usize];
        let slot_at = chunk.insert(value);
        if usize::from(chunk.live) == CHUNK_SLOTS {
            self.open.remove(&chunk_at);
        }
        self.len += 1;
        (chunk_at << CHUNK_BITS) | u32::from(slot_at)
    }

    /// Takes the value at `index` out. Panics when there is none: that index is a bug of the caller.
    pub(super) fn remove(&mut self, index: u32) -> T {
        let (chunk_at, slot_at) = split(index);
        let chunk = &mut self.chunks[chunk_at];
        let value = chunk.remove(slot_at);
        self.open.insert(chunk_at as u32);
        self.len -= 1;
        if chunk.live == 0 {
            *chunk = Chunk::new();
        }
        value
    }

    pub(super) fn at(&self, index: u32) -> &T {
        let (chunk_at, slot_at) = split(index);
        match &self.chunks[chunk_at].slots[slot_at] {
            Slot::Live(value) => value,
            Slot::Free { .. } => panic!("index {index} refers to a freed slot"),
        }
    }

    pub(super) fn at_mut(&mut self, index: u32) -> &mut T {
        let (chunk_at, slot_at) = split(index);
        match &mut self.chunks[chunk_at].slots[slot_at] {
            Slot::Live(value) => value,
            Slot::Free { .. } => panic!("index {index} refers to a freed slot"),
        }
    }

    /// All live values with their indices, in the order of the indices.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().enumerate().flat_map(|(chunk_at, chunk)| {
            let first = (chunk_at as u32) << CHUNK_BITS;
            chunk
                .slots
                .iter()
                .enumerate()
                .filter_map(move |(slot_at, slot)| match slot {
                    Slot::Live(value) => Some((first | slot_at as u32, value)),
                    Slot::Free { .. } => None,
                })
        })
    }

    fn add_chunk(&mut self) -> u32 {
        let chunk_at = self.chunks.len();
        // The last index is left out: the trie uses it for "no node".
        assert!(
            chunk_at < (u32::MAX >> CHUNK_BITS) as usize,
            "arena is full: more than 4 billion values"
        );
        self.chunks.push(Chunk::new());
        self.open.insert(chunk_at as u32);
        chunk_at as u32
    }

    /// Panics when an invariant of this file does not hold.
    pub(super) fn check_invariants(&self) {
        for (chunk_at, chunk) in self.chunks.iter().enumerate() {
            let live = chunk
                .slots
                .iter()
                .filter(|slot| matches!(slot, Slot::Live(_)))
                .count();
            assert_eq!(live, usize::from(chunk.live), "live count of chunk {chunk_at}");
            assert_eq!(
                self.open.contains(&(chunk_at as u32)),
                live < CHUNK_SLOTS,
                "chunk {chunk_at} in the open set"
            );
            assert!(
                live > 0 || chunk.slots.capacity() == 0,
                "empty chunk {chunk_at} holds memory"
            );
            let (mut free, mut next) = (0, chunk.first_free);
            while next != NO_SLOT {
                let Slot::Free { next: after } = &chunk.slots[usize::from(next)] else {
                    panic!("free list of chunk {chunk_at} holds a live slot");
                };
                (free, next) = (free + 1, *after);
            }
            assert_eq!(live + free, chunk.slots.len(), "free list of chunk {chunk_at}");
        }
        assert_eq!(self.iter().count(), self.len, "length of the arena");
    }
}

impl<T> Chunk<T> {
    const fn new() -> Self {
        Self {
            slots: Vec::new(),
            first_free: NO_SLOT,
            live: 0,
        }
    }

    fn insert(&mut self, value: T) -> u16 {
        self.live += 1;
        if self.first_free == NO_SLOT {
            self.slots.push(Slot::Live(value));
            return (self.slots.len() - 1) as u16;
        }
        let slot_at = self.first_free;
        match mem::replace(&mut self.slots[usize::from(slot_at)], Slot::Live(value)) {
            Slot::Free { next } => self.first_free = next,
            Slot::Live(_) => panic!("slot {slot_at} is on the free list but live"),
        }
        slot_at
    }

    fn remove(&mut self, slot_at: usize) -> T {
        match mem::replace(
            &mut self.slots[slot_at],
            Slot::Free {
                next: self.first_free,
            },
        ) {
            Slot::Live(value) => {
                self.first_free = slot_at as u16;
                self.live -= 1;
                value
            }
            Slot::Free { .. } => panic!("slot {slot_at} was freed before"),
        }
    }
}

const fn split(index: u32) -> (usize, usize) {
    ((index >> CHUNK_BITS) as usize, index as usize & (CHUNK_SLOTS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_slots_are_used_again_lowest_chunk_first() {
        let mut arena = Arena::new();
        let indices: Vec<u32> = (0..3 * CHUNK_SLOTS).map(|value| arena.insert(value)).collect();
        assert_eq!(indices, (0..3 * CHUNK_SLOTS as u32).collect::<Vec<_>>());
        assert_eq!(arena.remove(2_500), 2_500);
        assert_eq!(arena.remove(7), 7);
        arena.check_invariants();
        assert_eq!(arena.insert(0), 7);
        assert_eq!(arena.insert(0), 2_500);
        assert_eq!(arena.insert(0), 3 * CHUNK_SLOTS as u32);
        arena.check_invariants();
    }

    #[test]
    fn an_empty_chunk_gives_its_memory_back() {
        let mut arena = Arena::new();
        for value in 0..10 * CHUNK_SLOTS {
            arena.insert(value);
        }
        let full = arena.bytes();
        for index in 0..9 * CHUNK_SLOTS as u32 {
            arena.remove(index);
        }
        arena.check_invariants();
        assert!(arena.bytes() < full / 5, "{} of {full} bytes held", arena.bytes());
        assert_eq!(*arena.at(9 * CHUNK_SLOTS as u32), 9 * CHUNK_SLOTS);
        assert_eq!(arena.insert(1), 0);
        arena.check_invariants();
    }

    #[test]
    #[should_panic(expected = "freed slot")]
    fn a_stale_index_is_a_bug() {
        let mut arena = Arena::new();
        let (first, _second) = (arena.insert(1), arena.insert(2));
        arena.remove(first);
        arena.at(first);
    }
}
