//! Log, checkpoints and store together, as a node uses them: append, apply, checkpoint, purge, snapshot.
//!
//! Applying an entry is not idempotent (each value depends on the one before), so a replay over half a checkpoint
//! shows at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::faulty::{FaultyDisk, SplitMix};
use crate::log::{GroupId, Log, LogEntry, LogPosition};
use crate::state::{Change, Checkpointer, FaultyStore, GroupCheckpoint};
use crate::volume::{LogMarkFile, VolumeId};
use crate::wal::{FlusherMode, Wal, WalOptions};

const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(2)];
const ROUNDS_MAX: u32 = 6;

/// Runs the life that `data` describes: the stored state is that of its position, the log goes on from there, and
/// nothing acknowledged is lost.
pub fn fuzz_node_life(data: &[u8]) {
    let mut random = SplitMix::scripted(data);
    let disk = FaultyDisk::new(random.below(256));
    let store = Arc::new(FaultyStore::new(disk.clone(), random.below(256)));
    let cut_at = 1 + random.below(256);
    if let Err(reason) = live_node(disk, store, random, cut_at) {
        panic!("{reason}");
    }
}

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: 1,
        leader: 1,
        index,
    }
}

/// Applies an entry: its first byte names the key, which it changes or, sometimes, removes.
fn apply(content: &mut Content, payload: &[u8]) -> Vec<u8> {
    let key = vec![payload[0] % 8];
    let old = content.get(&key).map_or(0, |value| crc32c::crc32c(value));
    let new = crc32c::crc32c_append(old, payload);
    if new.is_multiple_of(5) {
        content.remove(&key);
    } else {
        let length = if new.is_multiple_of(17) {
            110_000
        } else {
            (new % 300) as usize
        };
        let mut value = new.to_le_bytes().to_vec();
        value.resize(4 + length, new as u8);
        content.insert(key.clone(), value);
    }
    key
}

/// One group's true history, as far as it was submitted.
struct Truth {
    group: GroupId,
    /// The state at each index.
    states: BTreeMap<u64, Content>,
    payloads: BTreeMap<u64, Bytes>,
    last: u64,
    acknowledged: Arc<AtomicU64>,
    /// What the next checkpoint has to write.
    dirty: BTreeSet<Vec<u8>>,
}

impl Truth {
    fn new(group: GroupId) -> Self {
        Self {
            group,
            states: BTreeMap::from([(0, Content::new())]),
            payloads: BTreeMap::new(),
            last: 0,
            acknowledged: Arc::default(),
            dirty: BTreeSet::new(),
        }
    }

    fn append(&mut self, wal: &Wal, payload: Bytes) {
        let mut content = self.states[&self.last].clone();
        self.dirty.insert(apply(&mut content, &payload));
        self.last += 1;
        self.states.insert(self.last, content);
        self.payloads.insert(self.last, payload.clone());
        let (acknowledged, index) = (Arc::clone(&self.acknowledged), self.last);
        let entry = LogEntry {
            position: position(index),
            payload,
        };
        wal.append(
            self.group,
            vec![entry],
            Box::new(move |result| {
                if result.is_ok() {
                    acknowledged.fetch_max(index, Ordering::SeqCst);
                }
            }),
        );
    }

    /// The group's part of a checkpoint of all that is synced, if that is all.
    fn checkpoint(&self, wal: &Wal) -> Option<GroupCheckpoint> {
        if wal.synced_index(self.group) < self.last || self.last == 0 {
            return None;
        }
        let content = &self.states[&self.last];
        let changes: Vec<Change> = self
            .dirty
            .iter()
            .map(|key| (key.clone(), content.get(key).cloned()))
            .collect();
        let meta = Bytes::from(format!("at {}", self.last));
        Some(GroupCheckpoint {
            group: self.group,
            position: position(self.last),
            meta,
            changes,
        })
    }

    /// Compares what a restart finds with the truth, which then ends where it does.
    fn recover(&mut self, wal: &Wal, checkpointer: &Checkpointer) -> Result<(), String> {
        let group = self.group;
        let (base, mut content) = match checkpointer.load(group) {
            None => (0, Content::new()),
            Some((position, _)) => {
                let mut content = Content::new();
                let visit = |key: &[u8], value: &[u8]| drop(content.insert(key.to_vec(), value.to_vec()));
                checkpointer
                    .entries(group, visit)
                    .map_err(|error| error.to_string())?;
                (position.index, content)
            }
        };
        if self.states.get(&base) != Some(&content) {
            return Err(format!("{group:?}: the stored state is not that of {base}"));
        }
        let state = wal.state(group);
        let purged = state.purged.map_or(0, |purged| purged.index);
        if purged > base {
            return Err(format!("{group:?}: purged to {purged}, stored is {base}"));
        }
        let last = state.last.map_or(0, |last| last.index).max(base);
        for entry in wal
            .read(group, base + 1, last + 1, usize::MAX)
            .map_err(|error| error.to_string())?
        {
            if self.payloads.get(&entry.position.index) != Some(&entry.payload) {
                return Err(format!("{group:?}: entry {} is another", entry.position.index));
            }
            self.dirty.insert(apply(&mut content, &entry.payload));
        }
        if self.states.get(&last) != Some(&content) {
            return Err(format!("{group:?}: replay does not lead to the state of {last}"));
        }
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        if last < acknowledged {
            return Err(format!(
                "{group:?}: {acknowledged} was acknowledged, {last} is left"
            ));
        }
        if state.last.map_or(0, |last| last.index) < base {
            wal.purge(group, position(base), Box::new(|_| {}));
        }
        self.states.retain(|index, _| *index <= last);
        self.payloads.retain(|index, _| *index <= last);
        self.last = last;
        self.acknowledged = Arc::new(AtomicU64::new(last));
        // Keys changed since the stored state; keys from before it cannot do harm.
        self.dirty.extend(content.keys().cloned());
        self.dirty.extend((0..8).map(|key| vec![key]));
        Ok(())
    }
}

struct Node {
    disk: FaultyDisk,
    store: Arc<FaultyStore>,
    truths: [Truth; 2],
    random: SplitMix,
    checkpoints: u64,
}

impl Node {
    fn open(&self) -> Result<(Wal, Checkpointer), String> {
        let disk = || Arc::new(self.disk.clone());
        let options = WalOptions {
            segment_bytes: 4000,
            tail_bytes_max: 1000,
            segments_kept: 2,
            flusher: FlusherMode::Manual,
            mark: Some(LogMarkFile::new(disk(), Path::new("/data"))),
            ..WalOptions::default()
        };
        let wal = Wal::open(disk(), Path::new("/data/wal"), VolumeId([1; 16]), options);
        let wal = wal.map_err(|error| error.to_string())?;
        let checkpointer = Checkpointer::open(disk(), Path::new("/data/state"), self.store.clone());
        Ok((wal, checkpointer.map_err(|error| error.to_string())?))
    }

    /// Opens until the power stays on that long, and compares what is found with the truth.
    fn recover(&mut self) -> Result<(Wal, Checkpointer), String> {
        for attempt in 0..6 {
            let cut = attempt < 5 && self.random.one_in(2);
            let at = 1 + self.random.below(30);
            self.disk.crash_at(cut.then_some(at));
            match self.open() {
                Ok((wal, checkpointer)) => {
                    self.disk.crash_at(None);
                    for truth in &mut self.truths {
                        truth.recover(&wal, &checkpointer)?;
                    }
                    return Ok((wal, checkpointer));
                }
                Err(_) if self.disk.is_down() => self.crash(),
                Err(error) => return Err(error),
            }
        }
        Err("the last attempt is without a power cut".to_owned())
    }

    fn crash(&self) {
        self.disk.crash();
        self.store.crash();
    }

    /// One run, until the power goes or it has done enough.
    fn run(&mut self, wal: &Wal, checkpointer: &Checkpointer) {
        for _ in 0..60 {
            let which = self.random.below(2) as usize;
            for _ in 0..self.random.below(4) {
                let length = 1 + self.random.below(400) as usize;
                let mut content = SplitMix::new(self.random.below(256));
                let payload: Vec<u8> = (0..length).map(|_| content.next_u64() as u8).collect();
                self.truths[which].append(wal, Bytes::from(payload));
            }
            if wal.flush_once().is_err() || self.random.is_spent() {
                return;
            }
            wal.check_invariants();
            let done = match self.random.below(10) {
                0..=2 => self.checkpoint(wal, checkpointer),
                3 if self.random.one_in(4) => self.install(which, wal, checkpointer),
                4 => checkpointer.collect_garbage(3).is_ok(),
                _ => true,
            };
            if !done {
                return;
            }
        }
    }

    fn checkpoint(&mut self, wal: &Wal, checkpointer: &Checkpointer) -> bool {
        let parts: Vec<GroupCheckpoint> = self
            .truths
            .iter()
            .filter_map(|truth| truth.checkpoint(wal))
            .collect();
        let groups: Vec<GroupId> = parts.iter().map(|part| part.group).collect();
        if checkpointer.checkpoint(parts).is_err() {
            return false;
        }
        for truth in self
            .truths
            .iter_mut()
            .filter(|truth| groups.contains(&truth.group))
        {
            truth.dirty.clear();
            wal.purge(truth.group, position(truth.last), Box::new(|_| {}));
        }
        self.checkpoints += 1;
        wal.flush_once().is_ok()
    }

    /// A snapshot from a leader that is far ahead.
    fn install(&mut self, which: usize, wal: &Wal, checkpointer: &Checkpointer) -> bool {
        let ahead = 1 + self.random.below(20);
        let truth = &mut self.truths[which];
        let content: Content = (0..5_u8)
            .map(|key| (vec![key], vec![self.random.below(256) as u8; 60_000]))
            .collect();
        let index = truth.last + ahead;
        truth.states.insert(index, content.clone());
        let entries: Vec<_> = content.into_iter().map(Ok).collect();
        if checkpointer
            .replace(truth.group, position(index), Bytes::new(), entries)
            .is_err()
        {
            return false;
        }
        truth.last = index;
        truth.dirty.clear();
        truth.acknowledged.fetch_max(index, Ordering::SeqCst);
        wal.purge(truth.group, position(index), Box::new(|_| {}));
        wal.flush_once().is_ok()
    }
}

/// One node's life on an empty disk and an empty store, the power of which goes off for the first time at its
/// `cut_at`-th operation; the reason where it went wrong, else how many checkpoints it took.
pub(crate) fn live_node(
    disk: FaultyDisk,
    store: Arc<FaultyStore>,
    random: SplitMix,
    cut_at: u64,
) -> Result<u64, String> {
    let truths = GROUPS.map(Truth::new);
    let mut node = Node {
        disk,
        store,
        truths,
        random,
        checkpoints: 0,
    };
    for round in 0..ROUNDS_MAX {
        let (wal, checkpointer) = node
            .recover()
            .map_err(|error| format!("round {round}: {error}"))?;
        let at = if round == 1 {
            cut_at
        } else {
            1 + node.random.below(300)
        };
        node.disk.crash_at(Some(at));
        node.run(&wal, &checkpointer);
        if node.random.one_in(3) {
            // A killed process, where it was: what it wrote is there, and may still go with the next power cut.
            node.disk.kill();
        } else {
            node.crash();
        }
        if node.random.is_spent() {
            break;
        }
    }
    node.recover().map_err(|error| format!("in the end: {error}"))?;
    Ok(node.checkpoints)
}
