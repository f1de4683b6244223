//! What keeps large payloads of queued messages from filling memory.
//!
//! They leave memory when a checkpoint has them (`recall`), so what is there is what has come since the last one began,
//! and what it has taken and not yet written. Disks are slower than clients, therefore the bytes of all replicas of a
//! node count in one [`Backlog`]: clients are not read while it is full, a leader proposes nothing large then, and the
//! checkpoint of the group that holds most begins early. Nobody who waits is needed for a checkpoint. A replica that catches
//! up is not slowed by that: at one and a half times the bound it applies nothing before it has stored its state (`raft/machine`), while
//! its log goes on, and its answers to heartbeats and votes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::placement::{DATA_GROUPS, LIVE_GROUPS, MEMORY_GROUPS};
use super::start::Node;
use super::{Backlog, Group, Host};
use crate::state::GroupState;

/// Bytes of large payloads in memory above which clients wait.
const BYTES_MAX: usize = 32 << 20;
/// Above which nothing is applied before a checkpoint is stored: what a replica catches up with comes faster than
/// clients that wait. A checkpoint has a copy of all of it until it is written.
const LIMIT_BYTES: usize = BYTES_MAX + BYTES_MAX / 2;
/// A checkpoint for fewer bytes of one group would not help.
const WORTH_BYTES_MIN: u64 = 512 << 10;
/// What all groups have that is not worth a checkpoint lets those who wait go on.
const _: () = assert!(GROUPS * WORTH_BYTES_MIN < BYTES_MAX as u64 / 2);
const GROUPS: u64 = (DATA_GROUPS + LIVE_GROUPS + MEMORY_GROUPS) as u64;
/// How long the checkpoint of a group whose stored state is being sent is waited for before others are looked at.
const STREAMED_WAIT: Duration = Duration::from_millis(250);
/// Bytes of queued messages of a group that no checkpoint has; from there on it takes one without waiting for its time.
const GROUP_BYTES_MAX: u64 = 16 << 20;
/// Entries below this size are never held back: they may be acknowledgements, after which memory is free.
const ENTRY_BYTES_MIN: usize = 128 << 10;

/// Of all groups of a node.
#[derive(Debug)]
pub(super) struct Unstored {
    payloads: Backlog,
    /// Some group has much to store.
    filled: Notify,
    /// What tells the writer of checkpoints that there [`is_much`](Self::is_much).
    memory_waits: Arc<AtomicBool>,
}

impl Unstored {
    pub(super) fn new(memory_waits: Arc<AtomicBool>) -> Self {
        Self {
            payloads: Backlog::new(BYTES_MAX),
            filled: Notify::new(),
            memory_waits,
        }
    }

    pub(super) fn payloads(&self) -> &Backlog {
        &self.payloads
    }

    /// Whether checkpoints of groups with less than they would begin at for themselves are due.
    fn is_much(&self) -> bool {
        self.payloads.bytes() > BYTES_MAX / 2
    }

    /// Waits where a leader is not to propose an entry of this size.
    pub(super) async fn room_for(&self, entry_bytes: usize) {
        if entry_bytes >= ENTRY_BYTES_MIN && self.payloads.is_full() {
            self.payloads.room().await;
        }
    }
}

/// What one group has in memory, as it was counted last.
#[derive(Debug)]
pub(super) struct OwnUnstored {
    node: Arc<Unstored>,
    /// A group of which nothing is stored gains nothing by a checkpoint.
    is_stored: bool,
    counted: AtomicUsize,
    /// Bytes of messages, of any length, that no checkpoint has.
    unsaved: AtomicU64,
}

impl OwnUnstored {
    pub(super) fn new(node: Arc<Unstored>, is_stored: bool) -> Self {
        Self {
            node,
            is_stored,
            counted: AtomicUsize::new(0),
            unsaved: AtomicU64::new(0),
        }
    }

    pub(super) fn node(&self) -> &Unstored {
        &self.node
    }

    /// Whether this group is to apply nothing more before its state is stored.
    pub(super) fn is_over_limit(&self) -> bool {
        self.node.payloads.bytes() > LIMIT_BYTES
            && self.counted.load(Ordering::Relaxed) as u64 >= WORTH_BYTES_MIN
    }

    /// Counts what is there now; call it with the state locked.
    pub(super) fn count(&self, state: &GroupState) {
        if !self.is_stored {
            return;
        }
        let now = usize::try_from(state.large_bytes()).unwrap_or(usize::MAX);
        let before = self.counted.swap(now, Ordering::Relaxed);
        match now.checked_sub(before) {
            Some(0) => {}
            Some(more) => self.node.payloads.add(more),
            None => self.node.payloads.remove(before - now),
        }
        let is_much = self.node.is_much();
        self.node.memory_waits.store(is_much, Ordering::Relaxed);
        let unsaved = state.unsaved_bytes();
        self.unsaved.store(unsaved, Ordering::Relaxed);
        if unsaved >= GROUP_BYTES_MAX || unsaved >= WORTH_BYTES_MIN && is_much {
            self.node.filled.notify_one();
        }
    }
}

impl<H: Host> Node<H> {
    /// The task that takes checkpoints when much has come to queues.
    pub(super) async fn run_filled(node: std::sync::Weak<Self>, unstored: Arc<Unstored>) {
        loop {
            unstored.filled.notified().await;
            let Some(node) = node.upgrade() else { return };
            loop {
                let _turn = node.checkpoint_turn.lock().await;
                let Some(group) = node.fullest(unstored.is_much()) else {
                    break;
                };
                let stored = match group.is_streamed() {
                    // Another group may be full by then, and need not wait.
                    true => timeout(STREAMED_WAIT, group.checkpoint())
                        .await
                        .inspect_err(|_| group.note_stored()),
                    false => Ok(group.checkpoint().await),
                };
                if stored == Ok(false) {
                    break;
                }
            }
        }
    }

    /// The group with the most to store, where it is enough for a checkpoint; one whose stored state is being sent to
    /// another replica only where there is no other.
    fn fullest(&self, is_much: bool) -> Option<&Arc<Group<H>>> {
        // Not from the states: who looks at one while its changes are taken waits, and others behind it.
        let enough = if is_much { WORTH_BYTES_MIN } else { GROUP_BYTES_MAX };
        self.groups()
            .map(|group| (group.unstored.unsaved.load(Ordering::Relaxed), group))
            .filter(|(unsaved, _)| *unsaved >= enough)
            .max_by_key(|(unsaved, group)| (!group.is_streamed(), *unsaved))
            .map(|(_, group)| group)
    }
}
