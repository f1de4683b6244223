//! Writes the groups' checkpoints: one thread per node, one write for all groups that wait.
//!
//! A group's state machine hands over its changes exactly as of one log position, in apply order, and openraft purges
//! the log behind that position when this service says the store holds it. Snapshots that are installed go through
//! the same queue, so that an older checkpoint never lands on top of a newer snapshot.
//!
//! Invariants:
//! - requests of one group are carried out in the order they were submitted;
//! - a checkpoint is written only when the group's log is synced up to its position (R43) and nobody streams the
//!   group's stored state, or has done so for too long (R45);
//! - after a failed write every later request fails: the changes that were taken are in no dirty set any more, so the
//!   node has to stop and start from the last checkpoint.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_storage::background;
use quorate_storage::log::{GroupId, Log, LogPosition};
use tokio::sync::oneshot;

use super::lease::GroupLeases;
use super::snapshot::SnapshotData;

/// Changed keys of a group's state with their new values; `None` is a removed key.
pub type StateChanges = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The changes of one group's state since its last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCheckpoint {
    /// The group.
    pub group: GroupId,
    /// Last log entry whose effects are included.
    pub position: LogPosition,
    /// Description to store with the state; opaque to the store.
    pub meta: Bytes,
    /// The changes.
    pub changes: StateChanges,
}

/// Visits one key and its value; an error ends the visit.
pub type EntryVisitor<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> io::Result<()>;

/// Entries to store, in any order.
pub type EntryIterator<'a> = &'a mut dyn Iterator<Item = io::Result<(Vec<u8>, Vec<u8>)>>;

/// Where checkpoints are kept. All calls block.
pub trait CheckpointStore: Send + Sync + 'static {
    /// Adds the changes to the stored states, each atomically with its position; durable when it returns.
    ///
    /// # Errors
    /// I/O failed; what is stored is one of the states before and after, per group.
    fn checkpoint(&self, groups: Vec<GroupCheckpoint>) -> io::Result<()>;

    /// Position and description of the stored state of `group`, if there is one.
    ///
    /// # Errors
    /// I/O failed, or what is stored is corrupt.
    fn load(&self, group: GroupId) -> io::Result<Option<(LogPosition, Bytes)>>;

    /// The stored value of a key.
    ///
    /// # Errors
    /// I/O failed, or what is stored is corrupt.
    fn value(&self, group: GroupId, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Visits every key of the stored state of `group`.
    ///
    /// # Errors
    /// I/O failed, what is stored is corrupt, or the visitor's error.
    fn entries(&self, group: GroupId, visit: EntryVisitor<'_>) -> io::Result<()>;

    /// Replaces the stored state of `group` as a whole; durable when it returns.
    ///
    /// # Errors
    /// I/O failed, or the iterator's error; then the old state is still there.
    fn replace(
        &self,
        group: GroupId,
        position: LogPosition,
        meta: Bytes,
        entries: EntryIterator<'_>,
    ) -> io::Result<()>;

    /// Removes the stored state of `group`, where there is one; durable when it returns.
    ///
    /// # Errors
    /// I/O failed.
    fn remove(&self, group: GroupId) -> io::Result<()>;
}

/// How checkpoints and the streaming of snapshots share the store.
#[derive(Clone, Debug)]
pub struct CheckpointSettings {
    /// Longest time a snapshot that is being streamed holds up its group's checkpoint.
    pub snapshot_pause_max: Duration,
    /// The same where memory waits for the checkpoint; twice as long after each stream that lost.
    pub snapshot_pause_urgent: Duration,
    /// And no longer than this: clients wait with the memory, and give up.
    pub snapshot_pause_urgent_max: Duration,
    /// Most bytes of entries that a group applies while a snapshot that is being streamed holds up its checkpoint.
    pub snapshot_pause_bytes_max: u64,
    /// Directory for snapshots that are being received; emptied at start.
    pub spool_directory: PathBuf,
}

impl CheckpointSettings {
    /// The defaults, receiving snapshots in `spool_directory`.
    pub fn new(spool_directory: PathBuf) -> Self {
        Self {
            snapshot_pause_max: Duration::from_secs(120),
            snapshot_pause_urgent: Duration::from_secs(2),
            snapshot_pause_urgent_max: Duration::from_secs(5),
            snapshot_pause_bytes_max: 256 << 20,
            spool_directory,
        }
    }
}

/// Bytes in a checkpoint, or behind it in its group, from which on memory that waits for checkpoints waits for this one.
const MUCH_BYTES: u64 = 1 << 20;

/// How often a request that has to wait for the log's sync or for a snapshot stream is looked at again.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// The node's checkpoint writer.
pub struct CheckpointService {
    store: Arc<dyn CheckpointStore>,
    settings: CheckpointSettings,
    memory_waits: Arc<AtomicBool>,
    leases: Mutex<HashMap<GroupId, Arc<GroupLeases>>>,
    requests: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Request {
    leases: Arc<GroupLeases>,
    work: Work,
    /// Bytes of changes.
    bytes: u64,
    /// What its group had applied when it came, in bytes.
    applied: u64,
    done: oneshot::Sender<io::Result<()>>,
}

enum Work {
    Checkpoint(GroupCheckpoint),
    Replace {
        group: GroupId,
        position: LogPosition,
        meta: Bytes,
        data: Box<SnapshotData>,
    },
}

impl Request {
    /// Whether memory that is short may be short because of it.
    fn is_much(&self) -> bool {
        let behind = self.leases.applied_bytes().saturating_sub(self.applied);
        self.bytes + behind >= MUCH_BYTES
    }
}

impl Work {
    fn group(&self) -> GroupId {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.group,
            Self::Replace { group, .. } => *group,
        }
    }

    /// Bytes of changes that are in memory.
    fn bytes(&self) -> u64 {
        let of = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            (key.len() + value.as_ref().map_or(0, Vec::len)) as u64
        };
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.changes.iter().map(of).sum(),
            Self::Replace { .. } => 0,
        }
    }
}

/// The answer to a request, to be awaited.
pub(super) struct Written(oneshot::Receiver<io::Result<()>>);

impl Written {
    /// Waits until the store holds what was handed over.
    pub(super) async fn wait(self) -> io::Result<()> {
        self.0.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> io::Error {
    io::Error::other("the checkpoint service has stopped")
}

impl CheckpointService {
    /// Starts the service over the node's state store and log.
    ///
    /// # Errors
    /// The spool directory cannot be created and emptied, or no thread can be started.
    pub fn start(
        store: Arc<dyn CheckpointStore>,
        log: Arc<dyn Log>,
        settings: CheckpointSettings,
    ) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(&settings.spool_directory)?;
        for leftover in std::fs::read_dir(&settings.spool_directory)? {
            std::fs::remove_file(leftover?.path())?;
        }
        let (sender, receiver) = channel();
        let memory_waits = Arc::<AtomicBool>::default();
        let writer = Writer {
            store: Arc::clone(&store),
            log,
            settings: settings.clone(),
            memory_waits: Arc::clone(&memory_waits),
            pending: VecDeque::new(),
            failed: None,
        };
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || {
                background::give_way();
                writer.run(&receiver);
            })?;
        Ok(Arc::new(Self {
            store,
            settings,
            memory_waits,
            leases: Mutex::default(),
            requests: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Writes what was submitted and need not wait, then ends the thread. Other requests fail.
    pub fn shutdown(&self) {
        drop(self.requests.lock().take());
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpoint thread panicked");
        }
    }

    /// Removes the stored state of a group that does not run; blocks.
    ///
    /// # Errors
    /// I/O failed.
    pub fn forget(&self, group: GroupId) -> io::Result<()> {
        self.store.remove(group)
    }

    /// Set it while memory is short until checkpoints are written: they wait less for snapshots that are streamed.
    pub(crate) fn memory_waits(&self) -> &Arc<AtomicBool> {
        &self.memory_waits
    }

    /// Where the checkpoints are.
    pub(crate) fn store(&self) -> &Arc<dyn CheckpointStore> {
        &self.store
    }

    pub(super) fn spool_directory(&self) -> &std::path::Path {
        &self.settings.spool_directory
    }

    /// Who streams the stored state of `group`.
    pub(super) fn leases(&self, group: GroupId) -> Arc<GroupLeases> {
        Arc::clone(self.leases.lock().entry(group).or_default())
    }

    /// Hands over a checkpoint.
    pub(super) fn checkpoint(&self, checkpoint: GroupCheckpoint) -> Written {
        self.submit(Work::Checkpoint(checkpoint))
    }

    /// Hands over a snapshot that replaces the stored state of `group`.
    pub(super) fn replace(
        &self,
        group: GroupId,
        position: LogPosition,
        meta: Bytes,
        data: SnapshotData,
    ) -> Written {
        let data = Box::new(data);
        self.submit(Work::Replace {
            group,
            position,
            meta,
            data,
        })
    }

    fn submit(&self, work: Work) -> Written {
        let (done, answer) = oneshot::channel();
        let leases = self.leases(work.group());
        let request = Request {
            bytes: work.bytes(),
            applied: leases.applied_bytes(),
            leases,
            work,
            done,
        };
        if let Some(requests) = &*self.requests.lock() {
            // Where the thread is gone the request is dropped with its answer, which says that the service stopped.
            drop(requests.send(request));
        }
        Written(answer)
    }
}

impl Drop for CheckpointService {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The state of the thread.
struct Writer {
    store: Arc<dyn CheckpointStore>,
    log: Arc<dyn Log>,
    settings: CheckpointSettings,
    memory_waits: Arc<AtomicBool>,
    pending: VecDeque<Request>,
    failed: Option<String>,
}

impl Writer {
    fn run(mut self, requests: &Receiver<Request>) {
        let mut open = true;
        while open {
            open = self.receive(requests);
            let mut batch = Vec::new();
            let mut waiting = BTreeSet::new();
            let mut later = VecDeque::new();
            while let Some(request) = self.pending.pop_front() {
                let group = request.work.group();
                if waiting.contains(&group) || !self.is_ready(&request) {
                    waiting.insert(group);
                    later.push_back(request);
                } else if matches!(request.work, Work::Checkpoint(_)) {
                    // The next request of the same group has to see this one done.
                    waiting.insert(group);
                    batch.push(request);
                } else {
                    self.replace(request);
                }
            }
            self.pending = later;
            self.write(batch);
        }
    }

    /// Takes what was submitted, waiting for it where there is nothing else to do. Returns whether more can come.
    fn receive(&mut self, requests: &Receiver<Request>) -> bool {
        let first = match self.pending.is_empty() {
            true => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => requests.recv_timeout(RETRY_INTERVAL),
        };
        match first {
            Ok(request) => self.pending.push_back(request),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        loop {
            match requests.try_recv() {
                Ok(request) => self.pending.push_back(request),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn is_ready(&self, request: &Request) -> bool {
        if self.failed.is_some() {
            return true;
        }
        match &request.work {
            Work::Checkpoint(checkpoint) => {
                let is_urgent = request.is_much() && self.memory_waits.load(Ordering::Relaxed);
                self.is_synced(checkpoint) && request.leases.try_begin_write(&self.settings, is_urgent)
            }
            Work::Replace { .. } => {
                // Whoever streams the old state streams what nobody needs any more.
                request.leases.begin_write_now();
                true
            }
        }
    }

    /// R43. A log that starts behind the position needs no entry up to it.
    fn is_synced(&self, checkpoint: &GroupCheckpoint) -> bool {
        let index = checkpoint.position.index;
        self.log.synced_index(checkpoint.group) >= index
            || self
                .log
                .state(checkpoint.group)
                .purged
                .is_some_and(|purged| purged.index >= index)
    }

    fn write(&mut self, batch: Vec<Request>) {
        let mut checkpoints = Vec::with_capacity(batch.len());
        let mut waiters = Vec::with_capacity(batch.len());
        for request in batch {
            if let Work::Checkpoint(checkpoint) = request.work {
                checkpoints.push(checkpoint);
                waiters.push((request.leases, request.done));
            }
        }
        if checkpoints.is_empty() {
            return;
        }
        let result = match &self.failed {
            Some(failure) => Err(io::Error::other(failure.clone())),
            None => self.store.checkpoint(checkpoints),
        };
        self.note_failure(&result);
        for (leases, done) in waiters {
            leases.end_write();
            drop(done.send(repeat(&result)));
        }
    }

    fn replace(&mut self, request: Request) {
        let Work::Replace {
            group,
            position,
            meta,
            data,
        } = request.work
        else {
            return;
        };
        let result = match &self.failed {
            Some(failure) => Err(io::Error::other(failure.clone())),
            None => data.read(|entries| self.store.replace(group, position, meta, entries)),
        };
        self.note_failure(&result);
        request.leases.end_write();
        drop(request.done.send(result));
    }

    fn note_failure(&mut self, result: &io::Result<()>) {
        if let (Err(error), None) = (result, &self.failed) {
            tracing::error!(%error, "a checkpoint failed; the node has to stop");
            self.failed = Some(format!("an earlier checkpoint failed: {error}"));
        }
    }
}

fn repeat(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}
