//! How space comes back: the oldest segment is emptied and deleted.
//!
//! A segment without live entries is deleted after its newest vote, purge and commit records were written again at
//! the log's end and everything up to there is synced: also the purges and truncations that made its entries dead.
//! Only the oldest is ever deleted, and its directory synced before the next, because a truncation in a newer segment
//! must not vanish before the entries it removed.
//!
//! A group that lags would keep its old entries' files for ever. When there are more than `segments_kept` files and
//! the oldest holds few live bytes, these entries are copied to the log's end, a piece with every flush. A group that
//! keeps much alive is not copied: `oldest_segment_groups` names it, for a checkpoint.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::batch::Removal;
use super::buffer::State;
use super::group::Place;
use super::record::SegmentMask;
use super::segment;
use crate::disk::DiskFile;
use crate::log::GroupId;

/// Bytes copied forward with one flush.
const MOVE_BYTES_MAX: u64 = 1 << 20;

/// A segment is emptied by copying when at most this part of a full one is alive.
const MOVE_LIVE_DIVISOR: u64 = 4;

struct LiveEntry {
    group: GroupId,
    index: u64,
    place: Place,
    payload_bytes: u32,
}

enum Step {
    Nothing,
    Move(Arc<dyn DiskFile>, Vec<LiveEntry>),
    Remove(u64),
}

impl State {
    /// Groups with live entries in the oldest segment, and the lowest such index of each.
    pub(super) fn oldest_segment_groups(&self) -> Vec<(GroupId, u64)> {
        let Some(oldest) = self
            .segments
            .keys()
            .next()
            .copied()
            .filter(|oldest| *oldest != self.active)
        else {
            return Vec::new();
        };
        let lowest = |(group, state): (&GroupId, &super::group::GroupState)| {
            let slot = state.slots().find(|(_, slot)| slot.place.segment == oldest);
            slot.map(|(index, _)| (*group, index))
        };
        self.groups.iter().filter_map(lowest).collect()
    }

    /// Groups with live entries in segments beyond the newest `segments_max`, and the last such index of each.
    pub(super) fn crowding(&self, segments_max: usize) -> Vec<(GroupId, u64)> {
        let Some(newest_old) = self.segments.keys().rev().nth(segments_max.max(1)).copied() else {
            return Vec::new();
        };
        let last = |(group, state): (&GroupId, &super::group::GroupState)| {
            let old = state.slots().filter(|(_, slot)| slot.place.segment <= newest_old);
            old.last().map(|(index, _)| (*group, index))
        };
        self.groups.iter().filter_map(last).collect()
    }

    fn next_step(&mut self, segment_bytes: u64, segments_kept: usize) -> Step {
        // What is in memory no longer says what is on its way to the disk.
        if self.failed.is_some() {
            return Step::Nothing;
        }
        let files = self.segments.len();
        let Some((&oldest, segment)) = self.segments.iter().next() else {
            return Step::Nothing;
        };
        if oldest == self.active {
            return Step::Nothing;
        }
        if segment.live_entries > 0 {
            let few = segment.live_bytes <= segment_bytes / MOVE_LIVE_DIVISOR;
            return match &segment.file {
                Some(file) if few && files > segments_kept => {
                    let file = Arc::clone(file);
                    Step::Move(file, self.live_entries(oldest))
                }
                _ => Step::Nothing,
            };
        }
        let removal = match self.removal.filter(|removal| removal.segment == oldest) {
            Some(removal) => removal,
            None => {
                self.move_state_records(oldest);
                *self.removal.insert(Removal {
                    segment: oldest,
                    after: self.submitted_end(),
                })
            }
        };
        if self.synced >= removal.after {
            self.removal = None;
            return Step::Remove(oldest);
        }
        self.wants_sync = true;
        self.urgent = true;
        Step::Nothing
    }

    fn live_entries(&self, segment: u64) -> Vec<LiveEntry> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for (group, state) in &self.groups {
            for (index, slot) in state.slots().filter(|(_, slot)| slot.place.segment == segment) {
                if bytes >= MOVE_BYTES_MAX {
                    return found;
                }
                bytes += u64::from(slot.payload_bytes);
                let (place, payload_bytes) = (slot.place, slot.payload_bytes);
                found.push(LiveEntry {
                    group: *group,
                    index,
                    place,
                    payload_bytes,
                });
            }
        }
        found
    }
}

impl Shared {
    /// Takes the next steps towards deleting the oldest segment; called after every flush.
    pub(super) fn collect(&self) -> io::Result<()> {
        loop {
            let step = {
                let mut state = self.state.lock();
                state.next_step(self.options.segment_bytes, self.options.segments_kept)
            };
            match step {
                Step::Nothing => return Ok(()),
                Step::Move(file, entries) => return self.move_entries(&*file, entries),
                Step::Remove(sequence) => {
                    self.disk.remove(&self.segment_path(sequence))?;
                    self.disk.sync_dir(&self.dir)?;
                    self.state.lock().segments.remove(&sequence);
                    self.counters.segments_removed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn move_entries(&self, file: &dyn DiskFile, entries: Vec<LiveEntry>) -> io::Result<()> {
        for entry in entries {
            let LiveEntry {
                group,
                index,
                place,
                payload_bytes,
            } = entry;
            let payload = segment::read_entry(
                file,
                || self.segment_path(place.segment),
                SegmentMask::new(self.volume, place.segment).at(place.offset),
                place.offset,
                payload_bytes,
                (group, index),
            )?;
            self.state.lock().move_entry(group, index, place, &payload);
            self.counters.entries_moved.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
