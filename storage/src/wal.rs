//! The segmented write-ahead log of all groups of a node: one file being written, one flusher, one fdatasync for all
//! that waits.
//!
//! ```text
//! append, save_vote, ...          flusher                                     disk
//!   checksum (no lock)
//!   encode into the buffer  --->  take the buffer, fill in its mark   --->   write
//!   (short lock; readable         run completions of `Written` groups
//!    from here on)                                                    --->   fdatasync, if anybody waits for it
//!                                 run the other completions, in order
//!                                 next segment when full              --->   create, sync file, sync directory, mark
//!                                 delete or empty the oldest segment  --->   remove, sync directory
//! ```
//!
//! Formats: `record` and `segment`. What is believed after a crash, and why: `replay`. How space comes back:
//! `collect`.
//!
//! Invariants:
//! - Records of all groups are in the file in the order in which they were submitted, and what survives a crash is a
//!   prefix of that order that holds everything that was synced.
//! - A segment is noted outside of the log's directory before it takes records.
//! - A segment is synced as a whole before the next one exists. Segments are deleted oldest first, each only after
//!   everything that replaces its content is synced, and one at a time with the directory synced between.
//! - After an I/O error nothing is written any more: a failed fdatasync says nothing about what is on disk.
//!
//! Every start begins a new segment; the file that an earlier run left is never appended to.

mod batch;
mod buffer;
mod collect;
mod error;
mod flusher;
mod group;
mod pieces;
mod record;
mod replay;
mod segment;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::disk::Disk;
use crate::log::{Completion, GroupId, GroupLogState, Log, LogEntry, LogPosition, SyncPolicy};
use crate::volume::{LogMark, LogMarkFile, VolumeId};
use buffer::State;
pub use error::WalError;
use group::Place;
pub use record::PAYLOAD_BYTES_MAX;
pub(crate) use record::{Kind, RecordHeader, SegmentMask};
pub use replay::{Recovery, TornTail};
pub(crate) use segment::{SEGMENT_HEADER_BYTES, encode_header, file_name};

/// Who flushes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlusherMode {
    /// A thread of the log's own.
    #[default]
    Thread,
    /// The owner, by calling [`Wal::flush_once`]: for the simulator.
    Manual,
}

/// Called with the duration of every fdatasync, on the flusher's thread.
pub type SyncObserver = Arc<dyn Fn(Duration) + Send + Sync>;

/// Settings of a log.
#[derive(Clone)]
pub struct WalOptions {
    /// Bytes after which a segment is closed (one flush may go beyond it).
    pub segment_bytes: u64,
    /// Payload bytes kept in memory for each group; older entries are read from the file.
    pub tail_bytes_max: usize,
    /// Bytes that may wait for a flush; above it, callers wait for the disk.
    pub pending_bytes_max: usize,
    /// With more segments than this, few live entries of the oldest one are copied forward so that it can go.
    pub segments_kept: usize,
    /// With more segments than this, [`Log::crowding`] names the groups that keep the older ones.
    pub segments_max: usize,
    /// Longest time that data of [`SyncPolicy::Written`] groups stays unsynced.
    pub sync_written_after: Duration,
    /// Who flushes.
    pub flusher: FlusherMode,
    /// Told the duration of every sync.
    pub sync_observer: Option<SyncObserver>,
    /// Where the newest segment is noted, so that a log whose files are gone is not taken for a new one. Without it only
    /// a gap between files is noticed.
    pub mark: Option<LogMarkFile>,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_bytes_max: 8 << 20,
            pending_bytes_max: 32 << 20,
            segments_kept: 4,
            segments_max: 16,
            sync_written_after: Duration::from_secs(1),
            flusher: FlusherMode::Thread,
            sync_observer: None,
            mark: None,
        }
    }
}

/// Counters since the log was opened, and sizes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Writes.
    pub flushes: u64,
    /// Calls of fdatasync.
    pub syncs: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Segment files deleted.
    pub segments_removed: u64,
    /// Entries copied forward out of old segments.
    pub entries_moved: u64,
    /// Segment files there are.
    pub segments: u64,
    /// Bytes that wait for a flush.
    pub bytes_pending: u64,
}

#[derive(Debug, Default)]
struct Counters {
    flushes: AtomicU64,
    syncs: AtomicU64,
    bytes_written: AtomicU64,
    segments_removed: AtomicU64,
    entries_moved: AtomicU64,
}

struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    volume: VolumeId,
    options: WalOptions,
    state: Mutex<State>,
    /// Wakes the flusher.
    wake: Condvar,
    /// Wakes callers that wait for room.
    room: Condvar,
    /// Held during a flush.
    flushing: Mutex<()>,
    flusher: Mutex<Option<ThreadId>>,
    counters: Counters,
}

/// The log. Dropping it flushes, syncs and stops the flusher.
pub struct Wal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    recovery: Recovery,
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Wal")
            .field("dir", &self.shared.dir)
            .finish_non_exhaustive()
    }
}

impl Wal {
    /// Opens the log in `dir`, creating it where there is none, and replays it.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        volume: VolumeId,
        options: WalOptions,
    ) -> Result<Self, WalError> {
        let expected = options
            .mark
            .as_ref()
            .map(LogMarkFile::read)
            .transpose()?
            .flatten();
        let replayed = replay::replay(&*disk, dir, volume, expected)?;
        if let Some(mark) = &options.mark {
            mark.write(LogMark {
                segment: replayed.active,
                bytes: None,
            })?;
        }
        if let Some(TornTail { file, offset, bytes }) = &replayed.recovery.torn {
            tracing::debug!(file = %file.display(), offset, bytes, "cut off an unsynced end of the log");
        }
        let state = State::new(
            replayed.groups,
            replayed.segments,
            volume,
            replayed.active,
            &options,
        );
        let mode = options.flusher;
        let shared = Arc::new(Shared {
            disk,
            dir: dir.to_owned(),
            volume,
            options,
            state: Mutex::new(state),
            wake: Condvar::new(),
            room: Condvar::new(),
            flushing: Mutex::new(()),
            flusher: Mutex::new(None),
            counters: Counters::default(),
        });
        let thread = match mode {
            FlusherMode::Manual => None,
            FlusherMode::Thread => {
                let flusher = Arc::clone(&shared);
                let thread = std::thread::Builder::new()
                    .name("log-flusher".to_owned())
                    .spawn(move || flusher.run())
                    .map_err(|source| WalError::Io {
                        dir: dir.to_owned(),
                        source,
                    })?;
                *shared.flusher.lock() = Some(thread.thread().id());
                Some(thread)
            }
        };
        Ok(Self {
            shared,
            thread: Mutex::new(thread),
            recovery: replayed.recovery,
        })
    }

    /// What opening found.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Writes, syncs and completes everything that waits; false where nothing did. For [`FlusherMode::Manual`];
    /// completions must not call it.
    pub fn flush_once(&self) -> io::Result<bool> {
        self.shared.flush()
    }

    /// Makes the next flush sync what `Written` groups wrote, soon.
    pub fn request_sync(&self) {
        let mut state = self.shared.state.lock();
        state.wants_sync = true;
        state.urgent = true;
        self.shared.wake.notify_one();
    }

    /// Groups whose live entries are in the oldest segment, with their lowest index there: to be checkpointed and
    /// purged so that the file can go. Empty while there is one segment.
    pub fn oldest_segment_groups(&self) -> Vec<(GroupId, u64)> {
        self.shared.state.lock().oldest_segment_groups()
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> WalStats {
        let (segments, pending) = {
            let state = self.shared.state.lock();
            (state.segments.len() as u64, state.pending_bytes() as u64)
        };
        let counters = &self.shared.counters;
        WalStats {
            flushes: counters.flushes.load(Ordering::Relaxed),
            syncs: counters.syncs.load(Ordering::Relaxed),
            bytes_written: counters.bytes_written.load(Ordering::Relaxed),
            segments_removed: counters.segments_removed.load(Ordering::Relaxed),
            entries_moved: counters.entries_moved.load(Ordering::Relaxed),
            segments,
            bytes_pending: pending,
        }
    }

    /// How long the flush under way has been running; `None` where none is. A node whose disk stalls is given no groups to lead
    /// (R15).
    pub fn flush_running_for(&self) -> Option<Duration> {
        self.shared.state.lock().flush_began.map(|began| began.elapsed())
    }

    /// Why the log has failed, where it has.
    pub fn failure(&self) -> Option<io::Error> {
        self.shared
            .state
            .lock()
            .failed
            .as_ref()
            .map(|failure| failure.error())
    }

    /// Flushes, syncs and stops; later operations fail. The result says whether everything submitted is durable.
    /// Completions must not call it.
    pub fn close(&self) -> io::Result<()> {
        self.stop_thread();
        self.shared.close()
    }

    /// Checks the invariants of what is in memory.
    pub(crate) fn check_invariants(&self) {
        let state = self.shared.state.lock();
        let mut live: std::collections::BTreeMap<u64, u64> = std::collections::BTreeMap::new();
        for group in state.groups.values() {
            group.check_invariants();
            for (_, slot) in group.slots() {
                *live.entry(slot.place.segment).or_default() += 1;
            }
        }
        for (sequence, segment) in &state.segments {
            assert_eq!(
                segment.live_entries,
                live.remove(sequence).unwrap_or_default(),
                "segment {sequence}"
            );
        }
        assert!(live.is_empty(), "entries lie in segments that exist: {live:?}");
    }

    /// Stops without writing what waits, as a killed process would; its completions get an error. For tests.
    #[doc(hidden)]
    pub fn abandon(&self) {
        self.shared.fail(&io::Error::other("abandoned"), Vec::new());
        self.stop_thread();
    }

    fn stop_thread(&self) {
        self.shared.state.lock().closing = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log's flusher panicked");
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        if self.shared.is_flusher() {
            // A completion held the last reference, amid a flush: the flusher closes the log when that has ended.
            self.shared.state.lock().closing = true;
            return;
        }
        if let Err(error) = self.close() {
            tracing::error!(%error, "the log was not closed cleanly");
        }
    }
}

impl Shared {
    fn segment_path(&self, sequence: u64) -> PathBuf {
        self.dir.join(segment::file_name(sequence))
    }

    /// Runs one operation on the state and wakes the flusher, or fails `done` at once when the log has failed.
    fn submit(&self, done: Completion, operation: impl FnOnce(&mut State, Completion)) {
        let mut state = self.state.lock();
        while state.pending_bytes() > self.options.pending_bytes_max
            && state.refusal().is_none()
            && self.may_wait()
        {
            self.room.wait(&mut state);
        }
        if let Some(error) = state.refusal() {
            drop(state);
            return done(Err(error));
        }
        let was_urgent = state.urgent;
        operation(&mut state, done);
        drop(state);
        if !was_urgent {
            self.wake.notify_one();
        }
    }

    fn is_flusher(&self) -> bool {
        *self.flusher.lock() == Some(std::thread::current().id())
    }

    /// The flusher cannot wait for itself, nor the owner where it is the flusher.
    fn may_wait(&self) -> bool {
        self.options.flusher == FlusherMode::Thread && !self.is_flusher()
    }
}

impl Log for Wal {
    fn set_sync_policy(&self, group: GroupId, policy: SyncPolicy) {
        self.shared.state.lock().group(group).policy = policy;
    }

    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Completion) {
        // The checksums are the long part, and need no lock. A payload that is too long is refused under it.
        let headers: Vec<RecordHeader> = (entries.iter())
            .filter(|entry| entry.payload.len() <= PAYLOAD_BYTES_MAX)
            .map(|entry| RecordHeader::new(Kind::Entry, group, entry.position, &entry.payload))
            .collect();
        self.shared
            .submit(done, |state, done| state.append(group, entries, &headers, done));
    }

    fn save_vote(&self, group: GroupId, vote: Bytes, done: Completion) {
        self.shared
            .submit(done, |state, done| state.save_vote(group, vote, done));
    }

    fn save_committed(&self, group: GroupId, committed: LogPosition) {
        let mut state = self.shared.state.lock();
        if state.refusal().is_some() {
            return;
        }
        let idle = !state.has_pending();
        state.save_committed(group, committed);
        drop(state);
        if idle {
            // Not urgent: the flusher only starts the clock after which it writes it.
            self.shared.wake.notify_one();
        }
    }

    fn truncate_after(&self, group: GroupId, index: Option<u64>, done: Completion) {
        self.shared
            .submit(done, |state, done| state.truncate_after(group, index, done));
    }

    fn purge(&self, group: GroupId, position: LogPosition, done: Completion) {
        self.shared
            .submit(done, |state, done| state.purge(group, position, done));
    }

    fn reset(&self, group: GroupId, done: Completion) {
        self.shared.submit(done, |state, done| state.reset(group, done));
    }

    fn state(&self, group: GroupId) -> GroupLogState {
        let state = self.shared.state.lock();
        state
            .groups
            .get(&group)
            .map(|group| group.state())
            .unwrap_or_default()
    }

    fn reads_file(&self, group: GroupId, start: u64) -> bool {
        let state = self.shared.state.lock();
        let slot = state.groups.get(&group).and_then(|held| held.slot(start));
        slot.is_some_and(|slot| slot.payload.is_none())
    }

    fn is_crowded(&self) -> bool {
        self.shared.state.lock().pending_bytes() > self.shared.options.pending_bytes_max / 2
    }

    fn read(&self, group: GroupId, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        enum Source {
            Memory(Bytes),
            File(Arc<dyn crate::disk::DiskFile>, Place, u32),
        }
        let mut found = Vec::new();
        {
            let state = self.shared.state.lock();
            let Some(held) = state.groups.get(&group) else {
                return Ok(Vec::new());
            };
            let mut bytes = 0;
            for index in start.max(held.held().start)..end.min(held.held().end) {
                let Some(slot) = held.slot(index) else { break };
                bytes += slot.payload_bytes as usize;
                if bytes > bytes_max && !found.is_empty() {
                    break;
                }
                let source = match &slot.payload {
                    Some(payload) => Source::Memory(payload.clone()),
                    None => {
                        let file = state
                            .segments
                            .get(&slot.place.segment)
                            .and_then(|it| it.file.clone());
                        let file =
                            file.ok_or_else(|| io::Error::other("segment of a written entry is gone"))?;
                        Source::File(file, slot.place, slot.payload_bytes)
                    }
                };
                found.push((slot.position(index), source));
            }
        }
        let read = |(position, source): (LogPosition, Source)| {
            let payload = match source {
                Source::Memory(payload) => payload,
                Source::File(file, place, payload_bytes) => segment::read_entry(
                    &*file,
                    || self.shared.segment_path(place.segment),
                    SegmentMask::new(self.shared.volume, place.segment).at(place.offset),
                    place.offset,
                    payload_bytes,
                    (group, position.index),
                )?,
            };
            Ok(LogEntry { position, payload })
        };
        found.into_iter().map(read).collect()
    }

    fn synced_index(&self, group: GroupId) -> u64 {
        self.shared
            .state
            .lock()
            .groups
            .get(&group)
            .map_or(0, |group| group.synced())
    }

    fn flush_running_for(&self) -> Option<Duration> {
        Self::flush_running_for(self)
    }

    fn crowding(&self, times: usize) -> Vec<(GroupId, u64)> {
        let segments_max = self.shared.options.segments_max.saturating_mul(times);
        self.shared.state.lock().crowding(segments_max)
    }
}
