//! The state behind the log's lock: groups, segments, and the buffer that collects records for the next flush.
//!
//! Invariants: the buffer is written at offset `base` of segment `active`; where it is not empty it starts with room
//! for a mark, which the flusher fills in when it takes the buffer; `synced <= written <= (active, base)`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::WalOptions;
use super::batch::{Batch, Failure, Move, Removal, Waiting};
use super::group::{GroupState, Place, Slot};
use super::pieces::Pieces;
use super::record::{INDEX_MAX, Kind, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, RecordHeader, SegmentMask};
use super::segment::{SEGMENT_HEADER_BYTES, Segment};
use crate::disk::DiskFile;
use crate::log::{Completion, GroupId, LogEntry, LogPosition, SyncPolicy};
use crate::volume::VolumeId;

pub(crate) struct State {
    pub(crate) groups: BTreeMap<GroupId, GroupState>,
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) volume: VolumeId,
    pub(crate) active: u64,
    base: u64,
    mask: SegmentMask,
    buffer: Pieces,
    spare: Pieces,
    waiting: Vec<Waiting>,
    moves: Vec<Move>,
    flush: u64,
    tail_bytes_max: usize,
    segment_bytes: u64,
    /// Everything before is in the file.
    pub(crate) written: Place,
    /// Everything before survives a power cut.
    pub(crate) synced: Place,
    /// The next flush syncs, whatever it holds.
    pub(crate) wants_sync: bool,
    /// Somebody waits for the next flush.
    pub(crate) urgent: bool,
    /// Nothing more is accepted.
    pub(crate) closing: bool,
    /// All that was accepted is durable, and the end.
    pub(crate) closed: bool,
    pub(crate) failed: Option<Failure>,
    pub(crate) removal: Option<Removal>,
    pub(crate) flush_began: Option<Instant>,
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

impl State {
    /// A log that goes on in the empty segment `active`.
    pub(crate) fn new(
        groups: BTreeMap<GroupId, GroupState>,
        segments: BTreeMap<u64, Segment>,
        volume: VolumeId,
        active: u64,
        options: &WalOptions,
    ) -> Self {
        let start = Place {
            segment: active,
            offset: SEGMENT_HEADER_BYTES,
        };
        Self {
            groups,
            segments,
            volume,
            active,
            base: SEGMENT_HEADER_BYTES,
            mask: SegmentMask::new(volume, active),
            buffer: Pieces::default(),
            spare: Pieces::default(),
            waiting: Vec::new(),
            moves: Vec::new(),
            flush: 1,
            tail_bytes_max: options.tail_bytes_max,
            segment_bytes: options.segment_bytes,
            written: start,
            synced: start,
            wants_sync: false,
            urgent: false,
            closing: false,
            closed: false,
            failed: None,
            removal: None,
            flush_began: None,
        }
    }

    pub(crate) fn group(&mut self, group: GroupId) -> &mut GroupState {
        self.groups.entry(group).or_default()
    }

    /// Bytes that wait for the next flush.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Where the next record goes, or the next buffer's mark.
    pub(crate) fn end(&self) -> Place {
        Place {
            segment: self.active,
            offset: self.base + self.buffer.len() as u64,
        }
    }

    /// The end of what was submitted: once synced up to here, all of it is durable.
    pub(crate) fn submitted_end(&self) -> Place {
        if self.buffer.is_empty() {
            self.written
        } else {
            self.end()
        }
    }

    /// Why nothing can be submitted any more.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        let closed = || io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed");
        match &self.failed {
            Some(failure) => Some(failure.error()),
            None => self.closing.then(closed),
        }
    }

    /// Whether something was submitted that is not yet in the file.
    pub(crate) fn has_pending(&self) -> bool {
        !self.buffer.is_empty() || !self.waiting.is_empty()
    }

    /// Puts a record into the buffer.
    pub(crate) fn push_record(&mut self, header: RecordHeader, payload: &Bytes) -> Place {
        if self.buffer.is_empty() {
            self.buffer.put(&[0; RECORD_HEADER_BYTES]);
        }
        let place = self.end();
        self.buffer.put(&header.sealed(self.mask.at(place.offset)));
        self.buffer.put_payload(payload);
        place
    }

    /// Encodes and buffers a record without a payload's worth of work.
    fn push_small(&mut self, kind: Kind, group: GroupId, position: LogPosition, payload: &Bytes) -> u64 {
        self.push_record(RecordHeader::new(kind, group, position, payload), payload)
            .segment
    }

    /// Queues a completion behind everything submitted so far.
    fn wait(&mut self, group: GroupId, must_sync: bool, done: Completion) {
        let flush = self.flush;
        let state = self.group(group);
        // A group's completions run in order: behind one that waits for the sync, all of this flush do.
        let needs_sync = must_sync || state.policy == SyncPolicy::Synced || state.sync_in_flush == flush;
        if needs_sync {
            state.sync_in_flush = flush;
        }
        self.waiting.push(Waiting {
            done,
            needs_sync,
            rejected: None,
        });
        self.urgent = true;
    }

    fn reject(&mut self, done: Completion, reason: &'static str) {
        self.waiting.push(Waiting {
            done,
            needs_sync: true,
            rejected: Some(invalid(reason)),
        });
        self.urgent = true;
    }

    /// Appends entries whose headers were made outside the lock.
    pub(crate) fn append(
        &mut self,
        group: GroupId,
        entries: Vec<LogEntry>,
        headers: &[RecordHeader],
        done: Completion,
    ) {
        let expected = self.group(group).next_index();
        let first = entries.first().map(|entry| entry.position.index);
        let follows = expected.is_none() || first.is_none() || expected == first;
        let consecutive = entries
            .windows(2)
            .all(|pair| pair[0].position.index.checked_add(1) == Some(pair[1].position.index));
        if !follows || !consecutive {
            return self.reject(done, "entries do not follow the last one");
        }
        if entries
            .iter()
            .any(|entry| entry.payload.len() > PAYLOAD_BYTES_MAX)
        {
            return self.reject(done, "payload is longer than 64 MiB");
        }
        if entries
            .last()
            .is_some_and(|entry| entry.position.index > INDEX_MAX)
        {
            return self.reject(done, "index is too high");
        }
        self.buffer.reserve(
            entries.len() * RECORD_HEADER_BYTES,
            entries.iter().map(|entry| &entry.payload),
        );
        for (entry, header) in entries.into_iter().zip(headers) {
            let place = self.push_record(*header, &entry.payload);
            let LogPosition { term, leader, index } = entry.position;
            let payload_bytes = entry.payload.len() as u32;
            let slot = Slot {
                term,
                leader,
                place,
                payload_bytes,
                payload: Some(entry.payload),
            };
            self.group(group).push(index, slot);
            if let Some(segment) = self.segments.get_mut(&place.segment) {
                segment.add(payload_bytes);
            }
        }
        let (bytes_max, written) = (self.tail_bytes_max, self.written);
        self.group(group).evict(bytes_max, written);
        self.wait(group, false, done);
    }

    pub(crate) fn save_vote(&mut self, group: GroupId, vote: Bytes, done: Completion) {
        if vote.len() > PAYLOAD_BYTES_MAX {
            return self.reject(done, "vote is longer than 64 MiB");
        }
        let segment = self.push_small(Kind::Vote, group, LogPosition::default(), &vote);
        let state = self.group(group);
        state.vote = Some(vote);
        state.state_segments.vote = segment;
        self.wait(group, true, done);
    }

    pub(crate) fn save_committed(&mut self, group: GroupId, committed: LogPosition) {
        let segment = self.push_small(Kind::Committed, group, committed, &Bytes::new());
        let state = self.group(group);
        state.committed = Some(committed);
        state.state_segments.committed = segment;
    }

    pub(crate) fn truncate_after(&mut self, group: GroupId, index: Option<u64>, done: Completion) {
        let position = LogPosition {
            term: u64::from(index.is_some()),
            leader: 0,
            index: index.unwrap_or_default(),
        };
        self.push_small(Kind::Truncate, group, position, &Bytes::new());
        let segments = &mut self.segments;
        self.groups
            .entry(group)
            .or_default()
            .truncate_after(index, |slot| release(segments, slot));
        self.wait(group, false, done);
    }

    pub(crate) fn purge(&mut self, group: GroupId, position: LogPosition, done: Completion) {
        if position.index > INDEX_MAX {
            return self.reject(done, "index is too high");
        }
        let purged = self.group(group).purged;
        if purged.is_none_or(|purged| purged.index < position.index) {
            let segment = self.push_small(Kind::Purge, group, position, &Bytes::new());
            let segments = &mut self.segments;
            let state = self.groups.entry(group).or_default();
            state.purge(position, |slot| release(segments, slot));
            state.state_segments.purged = segment;
        }
        self.wait(group, false, done);
    }

    pub(crate) fn reset(&mut self, group: GroupId, done: Completion) {
        self.push_small(Kind::Reset, group, LogPosition::default(), &Bytes::new());
        let segments = &mut self.segments;
        let state = self.groups.entry(group).or_default();
        state.truncate_after(None, |slot| release(segments, slot));
        state.reset();
        self.wait(group, true, done);
    }

    /// Writes a group's newest vote, purge and commit records again where `segment` holds them.
    pub(crate) fn move_state_records(&mut self, segment: u64) {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            let state = self.group(group);
            let held = state.state_segments;
            let (vote, purged, committed) = (state.vote.clone(), state.purged, state.committed);
            if let Some(vote) = vote.filter(|_| held.vote == segment) {
                let moved = self.push_small(Kind::Vote, group, LogPosition::default(), &vote);
                self.group(group).state_segments.vote = moved;
            }
            if let Some(purged) = purged.filter(|_| held.purged == segment) {
                let moved = self.push_small(Kind::Purge, group, purged, &Bytes::new());
                self.group(group).state_segments.purged = moved;
            }
            if let Some(committed) = committed.filter(|_| held.committed == segment) {
                let moved = self.push_small(Kind::Committed, group, committed, &Bytes::new());
                self.group(group).state_segments.committed = moved;
            }
        }
    }

    /// Copies an entry forward if it still lies where it did.
    pub(crate) fn move_entry(&mut self, group: GroupId, index: u64, from: Place, payload: &Bytes) {
        let slot = self
            .groups
            .get(&group)
            .and_then(|state| state.slot(index))
            .filter(|slot| slot.place == from);
        let Some(position) = slot.map(|slot| slot.position(index)) else {
            return;
        };
        let to = self.push_record(RecordHeader::new(Kind::Moved, group, position, payload), payload);
        self.moves.push(Move {
            group,
            index,
            from,
            to,
        });
        self.urgent = true;
    }

    /// Takes what the next flush writes; `None` where there is nothing to do.
    pub(crate) fn take_batch(&mut self) -> Option<Batch> {
        let only_sync = self.wants_sync && self.synced < self.written;
        if !(self.has_pending() || only_sync) {
            self.wants_sync = false;
            self.urgent = false;
            return None;
        }
        let start = Place {
            segment: self.active,
            offset: self.base,
        };
        let mut bytes = std::mem::replace(&mut self.buffer, std::mem::take(&mut self.spare));
        if !bytes.is_empty() {
            let mark = RecordHeader::mark(self.synced_in_active()).sealed(self.mask.at(self.base));
            bytes.put_first(&mark);
        }
        self.base += bytes.len() as u64;
        let waiting = std::mem::take(&mut self.waiting);
        let file = self
            .segments
            .get(&self.active)
            .and_then(|segment| segment.file.clone());
        let next_segment = (self.base >= self.segment_bytes).then(|| self.open_next_segment());
        let sync = self.wants_sync || next_segment.is_some() || waiting.iter().any(|it| it.needs_sync);
        self.wants_sync = false;
        self.urgent = false;
        self.flush += 1;
        self.flush_began = Some(Instant::now());
        Some(Batch {
            file,
            start,
            bytes,
            waiting,
            moves: std::mem::take(&mut self.moves),
            sync,
            next_segment,
        })
    }

    /// Offset in the active segment up to which it is synced.
    fn synced_in_active(&self) -> u64 {
        if self.synced.segment == self.active {
            self.synced.offset
        } else {
            SEGMENT_HEADER_BYTES
        }
    }

    fn open_next_segment(&mut self) -> u64 {
        self.active += 1;
        self.base = SEGMENT_HEADER_BYTES;
        self.mask = SegmentMask::new(self.volume, self.active);
        self.segments.insert(self.active, Segment::new(None));
        self.active
    }

    /// Everything of a flush is in the file.
    pub(crate) fn handle_written(&mut self, end: Place, moves: Vec<Move>, spare: Option<Pieces>) {
        self.written = end;
        for Move {
            group,
            index,
            from,
            to,
        } in moves
        {
            let slot = self
                .groups
                .get_mut(&group)
                .and_then(|state| state.slot_mut(index));
            if let Some(slot) = slot.filter(|slot| slot.place == from) {
                slot.place = to;
                release_at(&mut self.segments, from.segment, slot.payload_bytes);
                if let Some(segment) = self.segments.get_mut(&to.segment) {
                    segment.add(slot.payload_bytes);
                }
            }
        }
        for state in self.groups.values_mut() {
            state.evict(self.tail_bytes_max, end);
        }
        if let Some(spare) = spare {
            self.spare = spare;
        }
    }

    /// Everything written survives a power cut.
    pub(crate) fn handle_synced(&mut self, through: Place) {
        self.synced = through;
        for state in self.groups.values_mut() {
            state.advance_synced(through);
        }
    }

    /// The next segment can be written.
    pub(crate) fn handle_segment(&mut self, sequence: u64, file: Arc<dyn DiskFile>) {
        if let Some(segment) = self.segments.get_mut(&sequence) {
            segment.file = Some(file);
        }
        let start = Place {
            segment: sequence,
            offset: SEGMENT_HEADER_BYTES,
        };
        self.written = start;
        self.synced = start;
    }

    /// With nothing waiting, a mark that says that all is synced: so that damage to the last flush is told from a
    /// torn one. Returns where it goes and its bytes.
    pub(crate) fn take_idle_mark(&mut self) -> Option<(Arc<dyn DiskFile>, Place, [u8; RECORD_HEADER_BYTES])> {
        let place = self.end();
        if self.failed.is_some()
            || self.has_pending()
            || self.synced != place
            || place.offset == SEGMENT_HEADER_BYTES
        {
            return None;
        }
        let file = self.segments.get(&self.active)?.file.clone()?;
        self.base += RECORD_HEADER_BYTES as u64;
        Some((
            file,
            place,
            RecordHeader::mark(place.offset).sealed(self.mask.at(place.offset)),
        ))
    }

    /// Fails the log for ever and hands out what waits.
    pub(crate) fn fail(&mut self, error: &io::Error) -> (Failure, Vec<Waiting>) {
        let failure = self.failed.get_or_insert_with(|| Failure::new(error)).clone();
        self.buffer = Pieces::default();
        self.urgent = false;
        (failure, std::mem::take(&mut self.waiting))
    }
}

fn release(segments: &mut BTreeMap<u64, Segment>, slot: &Slot) {
    release_at(segments, slot.place.segment, slot.payload_bytes);
}

fn release_at(segments: &mut BTreeMap<u64, Segment>, segment: u64, payload_bytes: u32) {
    if let Some(segment) = segments.get_mut(&segment) {
        segment.release(payload_bytes);
    }
}
