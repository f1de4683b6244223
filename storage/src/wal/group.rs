//! What the log keeps in memory of one group: where its entries lie, and the payloads of the newest.
//!
//! Invariants: `slots[i]` is the entry of index `first + i`; exactly the slots from `cached_from` on hold their
//! payload; a slot whose bytes are not yet written to the file holds its payload; `synced` is at most the last index.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::log::{GroupLogState, LogPosition, SyncPolicy};

/// Where a record starts: segment, then offset in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// Slots that a group keeps room for.
const SLOTS_KEPT: usize = 256;

/// One entry.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) place: Place,
    pub(crate) payload_bytes: u32,
    pub(crate) payload: Option<Bytes>,
}

impl Slot {
    pub(crate) fn position(&self, index: u64) -> LogPosition {
        LogPosition {
            term: self.term,
            leader: self.leader,
            index,
        }
    }
}

/// The segments that hold a group's newest vote, purge and commit records.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StateSegments {
    pub(crate) vote: u64,
    pub(crate) purged: u64,
    pub(crate) committed: u64,
}

/// One group.
#[derive(Debug, Default)]
pub(crate) struct GroupState {
    pub(crate) policy: SyncPolicy,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<LogPosition>,
    pub(crate) state_segments: StateSegments,
    /// Number of the flush in which a completion of this group waits for a sync: later ones of that flush do too.
    pub(crate) sync_in_flush: u64,
    first: u64,
    slots: VecDeque<Slot>,
    cached_from: u64,
    cached_bytes: usize,
    synced: u64,
}

impl GroupState {
    /// A group as replayed: `slots` start at index `first`, all on disk, none cached.
    pub(crate) fn replayed(first: u64, slots: VecDeque<Slot>) -> Self {
        let end = first + slots.len() as u64;
        Self {
            first,
            slots,
            cached_from: end,
            synced: end.saturating_sub(1),
            ..Self::default()
        }
    }

    /// Forgets everything but the policy.
    pub(crate) fn reset(&mut self) {
        let (policy, sync_in_flush) = (self.policy, self.sync_in_flush);
        *self = Self {
            policy,
            sync_in_flush,
            ..Self::default()
        };
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The indexes held.
    pub(crate) fn held(&self) -> std::ops::Range<u64> {
        self.first..self.end()
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = (u64, &Slot)> {
        (self.first..).zip(&self.slots)
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots
            .get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots
            .get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn last(&self) -> Option<LogPosition> {
        match self.slots.back() {
            Some(slot) => Some(slot.position(self.end() - 1)),
            None => self.purged,
        }
    }

    /// The index that the next entry must have; `None` where any will do.
    pub(crate) fn next_index(&self) -> Option<u64> {
        self.last().map(|last| last.index + 1)
    }

    pub(crate) fn state(&self) -> GroupLogState {
        GroupLogState {
            purged: self.purged,
            last: self.last(),
            vote: self.vote.clone(),
            committed: self.committed,
        }
    }

    /// Last synced index, 0 where there is none. What was purged counts as synced.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.max(self.purged.map_or(0, |purged| purged.index))
    }

    /// Adds the entry that follows the last.
    pub(crate) fn push(&mut self, index: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.first = index;
            self.cached_from = index;
        }
        debug_assert_eq!(index, self.end(), "entries are consecutive");
        self.cached_bytes += slot.payload_bytes as usize;
        self.slots.push_back(slot);
    }

    /// Drops cached payloads of written entries, oldest first, until at most `bytes_max` are held.
    pub(crate) fn evict(&mut self, bytes_max: usize, written: Place) {
        while self.cached_bytes > bytes_max {
            let at = self.cached_from;
            let Some(slot) = self.slot_mut(at).filter(|slot| slot.place < written) else {
                break;
            };
            slot.payload = None;
            let freed = slot.payload_bytes as usize;
            self.cached_bytes -= freed;
            self.cached_from += 1;
        }
    }

    /// Removes the entries after `index`, handing each to `release`.
    pub(crate) fn truncate_after(&mut self, index: Option<u64>, mut release: impl FnMut(&Slot)) {
        let keep_to = index.map_or(self.first, |index| index.saturating_add(1));
        while self.end() > keep_to
            && let Some(slot) = self.slots.pop_back()
        {
            if self.cached_from <= self.end() {
                self.cached_bytes -= slot.payload_bytes as usize;
            }
            release(&slot);
        }
        self.cached_from = self.cached_from.min(self.end());
        self.synced = if self.slots.is_empty() {
            0
        } else {
            self.synced.min(self.end() - 1)
        };
    }

    /// Forgets everything up to `position`, handing each entry to `release`. A position at or below the purged one
    /// changes nothing.
    pub(crate) fn purge(&mut self, position: LogPosition, mut release: impl FnMut(&Slot)) {
        if self.purged.is_some_and(|purged| purged.index >= position.index) {
            return;
        }
        self.purged = Some(position);
        while self.first <= position.index
            && let Some(slot) = self.slots.pop_front()
        {
            if self.cached_from <= self.first {
                self.cached_bytes -= slot.payload_bytes as usize;
            }
            self.first += 1;
            release(&slot);
        }
        self.first = self.first.max(position.index.saturating_add(1));
        self.cached_from = self.cached_from.max(self.first);
        if self.slots.is_empty() {
            self.first = position.index.saturating_add(1);
            self.cached_from = self.first;
            self.synced = 0;
        }
        // What a burst of entries needed is given back; half of it stays, so that a steady flow does not copy.
        if self.slots.capacity() > SLOTS_KEPT && self.slots.capacity() / 4 > self.slots.len() {
            self.slots.shrink_to((2 * self.slots.len()).max(SLOTS_KEPT));
        }
    }

    /// Counts the entries that lie before `synced` as synced.
    pub(crate) fn advance_synced(&mut self, synced: Place) {
        if self.slots.is_empty() {
            return;
        }
        let mut next = if self.synced < self.first {
            self.first
        } else {
            self.synced + 1
        };
        // `synced` is 0 for "none": where the log starts at index 0 that entry is looked at again, which is harmless.
        while self.slot(next).is_some_and(|slot| slot.place < synced) {
            self.synced = next;
            next += 1;
        }
    }

    /// Checks the invariants.
    pub(crate) fn check_invariants(&self) {
        let cached: usize = (self.slots().filter(|(index, _)| *index >= self.cached_from))
            .map(|(_, slot)| slot.payload_bytes as usize)
            .sum();
        assert_eq!(cached, self.cached_bytes, "cached bytes are counted");
        for (index, slot) in self.slots() {
            assert_eq!(
                slot.payload.is_some(),
                index >= self.cached_from,
                "payload of {index} is where it should be"
            );
        }
        assert!(
            self.slots.is_empty() || self.synced < self.end(),
            "synced is held"
        );
        assert!(
            self.purged
                .is_none_or(|purged| self.slots.is_empty() || self.first > purged.index)
        );
    }
}
