//! The log on sled 0.34: the second implementation of [`Log`], for comparison and as a fallback.
//!
//! Formats are in `encoding`. An operation changes the trees at once, under one lock that also gives its completion
//! a place in the queue; the flusher takes all that waits, runs sled's `flush`, which writes, then the completions of
//! [`SyncPolicy::Written`] groups, then our fdatasync if anybody waits for it, and then the other completions in order.
//! sled recovers a prefix of what was applied, so vote and entries keep their order.
//!
//! sled keeps pages above 128 KiB, which entries of many KiB make up, in files of their own and does not sync the names of
//! these: a power cut may damage a log with such entries. The write-ahead log has no such bound.
//!
//! What is purged is recorded first and ignored from then on; the flusher removes its keys in small batches, because
//! sled's batches hold a lock of the whole process. Truncation removes from the end backwards, so that a crash amid
//! it leaves no hole.

mod encoding;
mod flusher;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::log::{Completion, GroupId, GroupLogState, Log, LogEntry, LogPosition, SyncPolicy};
use crate::state::{SledOptions, SyncedDatabase, sled_syncs};
pub use encoding::PAYLOAD_BYTES_MAX;
use encoding::StateKind;

/// Keys removed in one batch.
const REMOVE_KEYS_MAX: usize = 256;

/// What is known of one entry without reading it.
#[derive(Clone, Copy, Debug)]
struct Held {
    term: u64,
    leader: u64,
    payload_bytes: u32,
}

#[derive(Debug, Default)]
struct Group {
    policy: SyncPolicy,
    /// Number of the flush in which a completion of this group waits for a sync: later ones of that flush do too.
    sync_in_flush: u64,
    purged: Option<LogPosition>,
    committed: Option<LogPosition>,
    vote: Option<Bytes>,
    /// The entries, by index: consecutive.
    entries: BTreeMap<u64, Held>,
    synced: u64,
    /// The last index that the sync under way covers.
    syncing: u64,
    /// Keys up to this index are still to be removed.
    leftover_to: Option<u64>,
    /// A reset was cut off: no entry counts.
    resetting: bool,
}

impl Group {
    fn last(&self) -> Option<LogPosition> {
        match self.entries.last_key_value() {
            Some((&index, held)) => Some(LogPosition {
                term: held.term,
                leader: held.leader,
                index,
            }),
            None => self.purged,
        }
    }

    fn last_index(&self) -> u64 {
        self.last().map_or(0, |last| last.index)
    }
}

struct Waiting {
    done: Completion,
    needs_sync: bool,
    rejected: Option<io::Error>,
}

struct State {
    groups: BTreeMap<GroupId, Group>,
    waiting: Vec<Waiting>,
    /// Number of the flush that takes what waits.
    flush: u64,
    /// Since when there is something unsynced that no completion waits for.
    unsynced_since: Option<Instant>,
    closing: bool,
    failed: Option<(io::ErrorKind, String)>,
}

impl State {
    fn new(groups: BTreeMap<GroupId, Group>) -> Self {
        Self {
            groups,
            waiting: Vec::new(),
            flush: 1,
            unsynced_since: None,
            closing: false,
            failed: None,
        }
    }

    /// Queues a completion behind those before it.
    fn wait(&mut self, group: GroupId, must_sync: bool, done: Completion, rejected: Option<io::Error>) {
        let flush = self.flush;
        let group = self.groups.entry(group).or_default();
        let needs_sync = must_sync || group.policy == SyncPolicy::Synced || group.sync_in_flush == flush;
        if needs_sync {
            group.sync_in_flush = flush;
        }
        self.waiting.push(Waiting {
            done,
            needs_sync,
            rejected,
        });
    }

    fn refusal(&self) -> Option<io::Error> {
        match &self.failed {
            Some((kind, text)) => Some(io::Error::new(*kind, format!("the log has failed: {text}"))),
            None => self
                .closing
                .then(|| io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")),
        }
    }
}

struct Shared {
    log: sled::Tree,
    hard_state: sled::Tree,
    state: Mutex<State>,
    wake: Condvar,
    /// Dropped last: sled unlocks its directory with it.
    database: SyncedDatabase,
}

/// The log. Dropping it syncs and stops the flusher.
pub struct SledLog {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for SledLog {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SledLog").finish_non_exhaustive()
    }
}

impl SledLog {
    /// Opens the log in `path`, creating it where there is none. `InvalidData` where it is damaged.
    pub fn open(path: &Path, options: &SledOptions) -> io::Result<Self> {
        let database = SyncedDatabase::open(path, options)?;
        let log = database.tree("log")?;
        let hard_state = database.tree("hard state")?;
        let groups = encoding::load(&log, &hard_state)?;
        let (reset, groups): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(_, group)| group.resetting);
        let state = Mutex::new(State::new(groups.into_iter().collect()));
        let shared = Shared {
            log,
            hard_state,
            state,
            wake: Condvar::new(),
            database,
        };
        reset
            .iter()
            .try_for_each(|(number, _)| shared.finish_reset(*number))?;
        shared.database.sync()?;
        let shared = Arc::new(shared);
        let flusher = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("sled-log-flusher".to_owned())
            .spawn(move || flusher.run())?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Syncs and stops; later operations fail. Completions must not call it.
    pub fn close(&self) -> io::Result<()> {
        self.stop();
        match &self.shared.state.lock().failed {
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
            None => Ok(()),
        }
    }

    /// Stops without syncing what waits; its completions get an error. For tests.
    #[doc(hidden)]
    pub fn abandon(&self) {
        self.shared.fail(&io::Error::other("abandoned"), Vec::new());
        self.stop();
    }

    fn stop(&self) {
        self.shared.state.lock().closing = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().take();
        // A completion may hold the last reference: the flusher ends by itself then.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the log's flusher panicked");
        }
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        self.stop();
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

impl Shared {
    /// Runs an operation on trees and state, and queues its completion. `InvalidInput` concerns the caller alone; any
    /// other error fails the log.
    fn submit(
        &self,
        group: GroupId,
        must_sync: bool,
        done: Completion,
        operation: impl FnOnce(&Self, &mut Group) -> io::Result<()>,
    ) {
        sled_syncs::ensure();
        let mut state = self.state.lock();
        if let Some(error) = state.refusal() {
            drop(state);
            return done(Err(error));
        }
        let result = operation(self, state.groups.entry(group).or_default());
        match result {
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
                drop(state);
                let failed = Waiting {
                    done,
                    needs_sync: true,
                    rejected: None,
                };
                self.fail(&error, vec![failed]);
            }
            result => {
                state.wait(group, must_sync, done, result.err());
                drop(state);
                self.wake.notify_one();
            }
        }
    }

    fn append(&self, number: GroupId, group: &mut Group, entries: &[LogEntry]) -> io::Result<()> {
        let mut expected = group.last().map(|last| last.index + 1);
        for entry in entries {
            if expected.is_some_and(|expected| expected != entry.position.index) {
                return Err(invalid("entries do not follow the last one"));
            }
            if entry.payload.len() > PAYLOAD_BYTES_MAX {
                return Err(invalid("payload is longer than 64 MiB"));
            }
            expected = entry.position.index.checked_add(1);
        }
        let mut batch = sled::Batch::default();
        for entry in entries {
            encoding::insert_entry(&mut batch, number, entry);
        }
        self.log.apply_batch(batch).map_err(encoding::io_error)?;
        for LogEntry { position, payload } in entries {
            let payload_bytes = payload.len() as u32;
            let held = Held {
                term: position.term,
                leader: position.leader,
                payload_bytes,
            };
            group.entries.insert(position.index, held);
        }
        Ok(())
    }

    fn truncate(&self, number: GroupId, group: &mut Group, index: Option<u64>) -> io::Result<()> {
        let from = index.map_or(0, |index| index.saturating_add(1));
        while let Some(mut entry) = group.entries.last_entry().filter(|entry| *entry.key() >= from) {
            let mut batch = sled::Batch::default();
            let mut keys = 0;
            loop {
                keys += encoding::remove_entry(&mut batch, number, *entry.key(), entry.get().payload_bytes);
                entry.remove();
                match group.entries.last_entry() {
                    Some(next) if *next.key() >= from && keys < REMOVE_KEYS_MAX => entry = next,
                    _ => break,
                }
            }
            self.log.apply_batch(batch).map_err(encoding::io_error)?;
        }
        let last = group.entries.last_key_value().map_or(0, |(index, _)| *index);
        group.synced = group.synced.min(last);
        group.syncing = group.syncing.min(last);
        Ok(())
    }

    fn purge(&self, number: GroupId, group: &mut Group, position: LogPosition) -> io::Result<()> {
        if group.purged.is_some_and(|purged| purged.index >= position.index) {
            return Ok(());
        }
        let key = encoding::state_key(number, StateKind::Purged);
        self.hard_state
            .insert(key, encoding::encode_position(position).as_slice())
            .map_err(encoding::io_error)?;
        let kept = group.entries.split_off(&position.index.saturating_add(1));
        if !std::mem::replace(&mut group.entries, kept).is_empty() {
            group.leftover_to = Some(position.index);
        }
        group.purged = Some(position);
        Ok(())
    }

    /// Forgets a group. The first batch decides: it takes the hard state away and says that entries no longer count.
    fn reset(&self, number: GroupId, group: &mut Group) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for kind in [StateKind::Vote, StateKind::Committed, StateKind::Purged] {
            batch.remove(encoding::state_key(number, kind).as_slice());
        }
        batch.insert(encoding::state_key(number, StateKind::Reset).as_slice(), &[]);
        self.hard_state.apply_batch(batch).map_err(encoding::io_error)?;
        let (policy, sync_in_flush) = (group.policy, group.sync_in_flush);
        *group = Group {
            policy,
            sync_in_flush,
            ..Group::default()
        };
        self.finish_reset(number)
    }

    fn finish_reset(&self, number: GroupId) -> io::Result<()> {
        while self.remove_some(number, u64::MAX)? {}
        self.hard_state
            .remove(encoding::state_key(number, StateKind::Reset))
            .map_err(encoding::io_error)?;
        Ok(())
    }

    fn save(&self, number: GroupId, kind: StateKind, value: &[u8]) -> io::Result<()> {
        let value = encoding::encode_state(value);
        self.hard_state
            .insert(encoding::state_key(number, kind), value)
            .map_err(encoding::io_error)?;
        Ok(())
    }
}

impl Log for SledLog {
    fn set_sync_policy(&self, group: GroupId, policy: SyncPolicy) {
        self.shared.state.lock().groups.entry(group).or_default().policy = policy;
    }

    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Completion) {
        self.shared.submit(group, false, done, |shared, held| {
            shared.append(group, held, &entries)
        });
    }

    fn save_vote(&self, group: GroupId, vote: Bytes, done: Completion) {
        self.shared.submit(group, true, done, |shared, held| {
            if vote.len() > encoding::VOTE_BYTES_MAX {
                return Err(invalid("vote is longer than 32 KiB"));
            }
            shared.save(group, StateKind::Vote, &vote)?;
            held.vote = Some(vote);
            Ok(())
        });
    }

    fn save_committed(&self, group: GroupId, committed: LogPosition) {
        sled_syncs::ensure();
        let mut state = self.shared.state.lock();
        if state.refusal().is_some() {
            return;
        }
        let key = encoding::state_key(group, StateKind::Committed);
        let saved = self
            .shared
            .hard_state
            .insert(key, encoding::encode_position(committed).as_slice());
        state.groups.entry(group).or_default().committed = Some(committed);
        state.unsynced_since.get_or_insert_with(Instant::now);
        drop(state);
        if let Err(error) = saved {
            self.shared.fail(&encoding::io_error(error), Vec::new());
        }
        self.shared.wake.notify_one();
    }

    fn truncate_after(&self, group: GroupId, index: Option<u64>, done: Completion) {
        self.shared.submit(group, false, done, |shared, held| {
            shared.truncate(group, held, index)
        });
    }

    fn purge(&self, group: GroupId, position: LogPosition, done: Completion) {
        self.shared.submit(group, false, done, |shared, held| {
            shared.purge(group, held, position)
        });
    }

    fn reset(&self, group: GroupId, done: Completion) {
        self.shared
            .submit(group, true, done, |shared, held| shared.reset(group, held));
    }

    fn state(&self, group: GroupId) -> GroupLogState {
        let state = self.shared.state.lock();
        let Some(held) = state.groups.get(&group) else {
            return GroupLogState::default();
        };
        GroupLogState {
            purged: held.purged,
            last: held.last(),
            vote: held.vote.clone(),
            committed: held.committed,
        }
    }

    fn read(&self, group: GroupId, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        sled_syncs::ensure();
        // Under the lock, so that nothing is purged or truncated between the look and the read.
        let state = self.shared.state.lock();
        let mut found = Vec::new();
        let Some(held) = state.groups.get(&group).filter(|_| start < end) else {
            return Ok(found);
        };
        let mut bytes = 0;
        for (&index, held) in held.entries.range(start..end) {
            bytes += held.payload_bytes as usize;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            let payload = encoding::read_payload(&self.shared.log, group, index)?;
            let position = LogPosition {
                term: held.term,
                leader: held.leader,
                index,
            };
            found.push(LogEntry { position, payload });
        }
        Ok(found)
    }

    fn synced_index(&self, group: GroupId) -> u64 {
        let state = self.shared.state.lock();
        let synced = |held: &Group| {
            held.synced
                .max(held.purged.map_or(0, |purged: LogPosition| purged.index))
        };
        state.groups.get(&group).map_or(0, synced)
    }
}
