//! Packs what waits for a group into entries and proposes them, one in flight while the next fills.
//!
//! No timer: whatever came while an entry was on its way leaves with the next one. Batches are numbered and repeated
//! until their outcome is known (R10), so a publish is never answered on a guess (R13).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;
use tokio::sync::{Notify, oneshot};

use super::shares::{Choice, ShareHold};
use super::{Backlog, Completion, Group, Host};
use crate::raft::{BATCH_BYTES_MAX, ProposeError, Proposed};
use crate::state::codec::{batch_proposer, stamp_batch};
use crate::state::{BatchHeader, BatchOutcome, Outcome, RetainedSource};

/// Bytes of a single command: with the header of a batch, of eight numbers, it has to fit one entry.
pub(super) const COMMAND_BYTES_MAX: usize = BATCH_BYTES_MAX - 128;
/// Commands in one entry.
const ENTRY_COMMANDS_MAX: usize = 4_096;
/// Pause before a proposal is repeated: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Who waits for an outcome.
#[derive(Debug)]
pub(super) enum Waiter<T> {
    Nobody,
    Ticket(T),
    Task(oneshot::Sender<Completion>),
    /// Who publishes a will: is told when it is applied here, and when the group of its topic has what is retained of it.
    Will {
        applied: oneshot::Sender<Completion>,
        carried: oneshot::Sender<Completion>,
    },
    /// The dispatch of shared references.
    Hold(Box<Choice>),
    /// The member's node that says what became of one.
    Held(ShareHold),
}

/// When a command's waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// When the command is committed.
    Committed,
    /// When this node has applied it as well.
    Applied,
    /// When every node routes by it (R1).
    Routed,
    /// When the group of its topic, which is this one, has the retained message.
    Retained(GroupId),
    /// Nobody is told: it is the first part of the publish with this number, whose message is retained.
    Begun(u64),
    /// When the group of its topic, which is this one, has the retained message of the publish with this number.
    BegunRetained(u64, GroupId),
}

impl Due {
    fn is_retained(self) -> bool {
        self.topics().is_some()
    }

    /// The group that has to have the retained message.
    fn topics(self) -> Option<GroupId> {
        match self {
            Self::Retained(topics) | Self::BegunRetained(_, topics) => Some(topics),
            _ => None,
        }
    }
}

/// Waiters of one entry, in the order of its commands.
pub(super) type Waiters<T> = Vec<(Waiter<T>, Due)>;

/// Commands that leave in one entry.
#[derive(Debug)]
struct Pack<T> {
    commands: Vec<u8>,
    waiters: Waiters<T>,
}

/// An entry whose outcome is known, and which this node has not applied yet.
#[derive(Debug)]
struct Committed<T> {
    number: u64,
    index: u64,
    /// Where the outcome is that of a repeat, the entry that had it first.
    first_index: Option<u64>,
    waiters: Vec<(u32, Waiter<T>, Due, Completion)>,
}

impl<T> Pack<T> {
    fn of(commands: Vec<u8>) -> Self {
        Self {
            commands,
            waiters: Vec::new(),
        }
    }

    fn is_full(&self, bytes_max: usize) -> bool {
        self.commands.len() >= bytes_max || self.waiters.len() >= ENTRY_COMMANDS_MAX
    }
}

/// Commands that wait for a group.
#[derive(Debug)]
pub(super) struct Proposals<T> {
    packs: Mutex<VecDeque<Pack<T>>>,
    entry_bytes_max: usize,
    ready: Notify,
    /// Commands pushed so far; changed under the lock of the packs.
    pushed: AtomicU64,
    /// Of these, the first so many have a known outcome.
    known: AtomicU64,
    /// Number of the batch that was applied last, and the index of its entry.
    applied: Mutex<(u64, u64)>,
    /// Entries that wait to be applied here, by their indexes.
    committed: Mutex<VecDeque<Committed<T>>>,
    /// Whether there are any.
    has_committed: AtomicBool,
    /// One more than the index of the entry whose apply has looked at them last.
    looked_at: AtomicU64,
    /// Publishes that left in parts.
    pub(super) publishes: AtomicU64,
    /// What waits for all groups of the node.
    backlog: Arc<Backlog>,
}

impl<T> Proposals<T> {
    pub(super) fn new(backlog: Arc<Backlog>, entry_bytes_max: usize) -> Self {
        Self {
            entry_bytes_max,
            packs: Mutex::new(VecDeque::new()),
            ready: Notify::new(),
            pushed: AtomicU64::new(0),
            known: AtomicU64::new(0),
            applied: Mutex::default(),
            committed: Mutex::new(VecDeque::new()),
            has_committed: AtomicBool::new(false),
            looked_at: AtomicU64::new(0),
            publishes: AtomicU64::new(0),
            backlog,
        }
    }

    /// Commands pushed so far.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed.load(Ordering::Acquire)
    }

    /// How many of the commands pushed, from the first on, have a known outcome and are applied.
    pub(super) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    /// Appends a command. The waiter of one that no entry can hold comes back.
    pub(super) fn push(
        &self,
        encode: impl FnOnce(&mut Vec<u8>),
        waiter: Waiter<T>,
        due: Due,
    ) -> Result<(), Waiter<T>> {
        let mut packs = self.packs.lock();
        let was_empty = packs.is_empty();
        let mut pack = packs
            .pop_back_if(|pack| !pack.is_full(self.entry_bytes_max))
            .unwrap_or_else(|| Pack::of(Vec::new()));
        let before = pack.commands.len();
        encode(&mut pack.commands);
        let size = pack.commands.len() - before;
        if size > COMMAND_BYTES_MAX {
            pack.commands.truncate(before);
            if !pack.waiters.is_empty() {
                pack.commands.shrink_to(self.entry_bytes_max);
                packs.push_back(pack);
            }
            return Err(waiter);
        }
        if pack.commands.len() > COMMAND_BYTES_MAX {
            // It fits, and not behind what is there.
            let command = pack.commands.split_off(before);
            packs.push_back(pack);
            pack = Pack::of(command);
        }
        pack.waiters.push((waiter, due));
        packs.push_back(pack);
        self.pushed.fetch_add(1, Ordering::Release);
        self.backlog.add(size);
        drop(packs);
        if was_empty {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// The batch with this number was applied at `index`; a repeat of it has no effect and does not count.
    pub(super) fn note_applied(&self, number: u64, index: u64) {
        let mut applied = self.applied.lock();
        // A replica that catches up is behind what another one has told.
        if applied.0 < number {
            *applied = (number, index);
        }
    }

    pub(super) fn applied_at(&self, number: u64) -> Option<u64> {
        let applied = *self.applied.lock();
        (applied.0 == number).then_some(applied.1)
    }

    async fn next(&self) -> Pack<T> {
        loop {
            if let Some(pack) = self.packs.lock().pop_front() {
                return pack;
            }
            self.ready.notified().await;
        }
    }
}

impl<H: Host> Group<H> {
    /// The proposer's task.
    pub(super) async fn run_proposer(self: Arc<Self>) {
        let mut number = 0;
        loop {
            let pack = self.proposals.next().await;
            number += 1;
            let entry = self.entry(number, pack.waiters.len(), &pack.commands);
            let proposed = self.propose_until_known(entry).await;
            self.proposals.backlog.remove(pack.commands.len());
            let Some(proposed) = proposed else { return };
            let count = pack.waiters.len() as u64;
            self.proposals.known.fetch_add(count, Ordering::Release);
            if !self.pulls.lock().is_empty() {
                self.attend.notify_one();
            }
            self.committed(number, pack.waiters, proposed);
        }
    }

    fn entry(&self, number: u64, count: usize, commands: &[u8]) -> Bytes {
        let header = BatchHeader {
            view: 0,
            node: self.settings.node,
            incarnation: self.settings.incarnation,
            number,
            stamp: self.now(),
            queue_limits: self.settings.queue_limits,
        };
        let mut entry = Vec::with_capacity(commands.len() + 64);
        header.encode_with(&mut entry, commands, count);
        entry.into()
    }

    /// Proposes an empty entry whose stamp lets due timers act.
    pub(super) async fn tick(&self) -> bool {
        let entry = self.entry(0, 0, &[]);
        self.propose_until_known(entry).await.is_some()
    }

    /// Repeats an entry, at whichever node leads, until its outcome is known; `None` when the node is going down.
    pub(super) async fn propose_until_known(&self, entry: Bytes) -> Option<Proposed> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.propose_once(&entry).await {
                Ok(proposed) => return Some(proposed),
                Err(ProposeError::Fatal(what)) => {
                    self.host.fatal(what);
                    return None;
                }
                Err(error @ ProposeError::TooLarge(_)) => {
                    // The bounds of packs are to prevent it; a repeat would stop the group for good.
                    tracing::error!(group = self.id().0, %error, "commands are refused");
                    return Some(Proposed {
                        outcome: BatchOutcome::Refused,
                        index: 0,
                        first_index: None,
                    });
                }
                Err(error) => {
                    tracing::debug!(group = self.id().0, %error, "proposal is repeated");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Proposes an entry at the group's leader. Gives up on a leader when there is another.
    async fn propose_once(&self, entry: &Bytes) -> Result<Proposed, ProposeError> {
        let leader = self.leader().await?;
        if leader == self.settings.node {
            return self.propose_here(entry).await;
        }
        tokio::select! {
            answer = self.peers.propose(leader, self.id(), entry.clone()) => answer,
            _ = self.leader_other_than(leader) => Err(ProposeError::Unknown),
        }
    }

    /// Proposes an entry of this or another node, which works only where this node leads.
    pub(super) async fn propose_here(&self, entry: &[u8]) -> Result<Proposed, ProposeError> {
        let replica = self.replica().ok_or(ProposeError::NotLeader { leader: None })?;
        // A batch that another version has made is refused before anybody applies it.
        batch_proposer(entry).map_err(|error| {
            tracing::warn!(group = self.id().0, %error, "a batch that was handed over cannot be read");
            ProposeError::TooLarge(entry.len())
        })?;
        self.unstored.node().room_for(entry.len()).await;
        let stamp = self.now();
        replica
            .propose_patched(entry, |entry| {
                stamp_batch(entry, stamp).expect("its header was read");
            })
            .await
    }

    /// An entry's outcome is known. Who need not wait until this node has applied it is told.
    pub(super) fn committed(&self, number: u64, waiters: Waiters<H::Ticket>, proposed: Proposed) {
        let Proposed {
            outcome,
            index,
            first_index,
        } = proposed;
        let mut outcomes = match outcome {
            BatchOutcome::Applied(outcomes) => outcomes.into_iter(),
            BatchOutcome::Refused => Vec::new().into_iter(),
        };
        let is_applied = self.has_applied(index);
        let mut told = Vec::new();
        let mut waiting = Vec::new();
        for (position, (waiter, due)) in (0..).zip(waiters) {
            let completion = outcomes.next().map_or(Completion::Refused, Completion::Applied);
            match due {
                Due::Committed => told.extend(self.tell(waiter, completion)),
                due => {
                    let waiter = match waiter {
                        Waiter::Ticket(ticket) if due.is_retained() && is_stored(&completion) => {
                            // What the publisher sends next may be told before its topic's group has this one (R12).
                            let rest = self.host.split(ticket).map(|(now, rest)| {
                                told.push((now, completion.clone()));
                                rest
                            });
                            Waiter::Ticket(rest.unwrap_or_else(|whole| whole))
                        }
                        waiter => waiter,
                    };
                    waiting.push((position, waiter, due, completion));
                }
            }
        }
        if !told.is_empty() {
            self.host.complete(told);
        }
        let committed = Committed {
            number,
            index,
            first_index,
            waiters: waiting,
        };
        if is_applied {
            self.complete(committed);
        } else {
            self.proposals.committed.lock().push_back(committed);
            self.proposals.has_committed.store(true, Ordering::SeqCst);
            // Either its apply sees what waits, or this sees that it was applied.
            if self.has_applied(index) {
                self.complete_applied(index);
            }
        }
    }

    fn has_applied(&self, index: u64) -> bool {
        let looked_at = self.proposals.looked_at.load(Ordering::SeqCst);
        looked_at > index || self.known_index().is_some_and(|known| known >= index)
    }

    /// This node has applied the entry at `index`, though openraft does not know it yet.
    pub(super) fn applied(&self, index: u64) {
        self.proposals.looked_at.store(index + 1, Ordering::SeqCst);
        self.complete_applied(index);
    }

    /// Completes what a state that came as a snapshot holds.
    pub(super) fn complete_loaded(&self) {
        if let Some(index) = self.known_index() {
            self.complete_applied(index);
        }
    }

    /// This node has applied everything up to `index`: who waited for that is told.
    fn complete_applied(&self, index: u64) {
        if !self.proposals.has_committed.load(Ordering::SeqCst) {
            return;
        }
        loop {
            let next = {
                let mut committed = self.proposals.committed.lock();
                let next = committed.pop_front_if(|entry| entry.index <= index);
                self.proposals
                    .has_committed
                    .store(!committed.is_empty(), Ordering::SeqCst);
                next
            };
            match next {
                Some(entry) => self.complete(entry),
                None => return,
            }
        }
    }

    /// Tells the waiters of an entry that is applied here, unless they wait for more.
    fn complete(&self, committed: Committed<H::Ticket>) {
        // The leader may have come to its state by a snapshot, and this node may have applied the first one.
        let noted = || self.proposals.applied_at(committed.number);
        let index = committed.first_index.or_else(noted);
        let mut completions = Vec::with_capacity(committed.waiters.len());
        for (position, waiter, due, completion) in committed.waiters {
            let waiter = match waiter {
                Waiter::Will { applied, carried } => {
                    // The task may have gone.
                    let _ = applied.send(completion.clone());
                    Waiter::Task(carried)
                }
                waiter => waiter,
            };
            match waiter {
                // Where it stands is known, whichever node had it before.
                waiter @ (Waiter::Ticket(_) | Waiter::Task(_))
                    if let (Some(topics), Some(source)) =
                        (due.topics(), self.repeated_write(&completion)) =>
                {
                    if let Due::BegunRetained(number, _) = due {
                        self.retained_waits.lock().end(number);
                    }
                    self.wait_for_retained(topics, source, waiter, completion);
                }
                waiter @ (Waiter::Ticket(_) | Waiter::Task(_))
                    if let (Due::Retained(topics), true) = (due, is_stored(&completion)) =>
                {
                    match index {
                        Some(index) => {
                            let source = RetainedSource {
                                group: self.id(),
                                index,
                                position,
                            };
                            self.wait_for_retained(topics, source, waiter, completion);
                        }
                        // Where it stands is not known, so neither is whether its topic's group has it (R13).
                        None => completions.extend(self.tell(waiter, Completion::Refused)),
                    }
                }
                Waiter::Nobody if let Due::Begun(number) = due => self.retained_begun(number, &completion),
                waiter @ (Waiter::Ticket(_) | Waiter::Task(_))
                    if let Due::BegunRetained(number, topics) = due =>
                {
                    self.wait_for_begun((number, topics), waiter, completion);
                }
                Waiter::Ticket(ticket) if due == Due::Routed && !self.routes.is_confirmed_here() => {
                    self.routes
                        .confirm(self.id(), committed.index, ticket, completion);
                }
                waiter => completions.extend(self.tell(waiter, completion)),
            }
        }
        if !completions.is_empty() {
            self.host.complete(completions);
        }
    }

    /// Tells who waits within the node; a ticket is the broker's to tell.
    pub(super) fn tell(
        &self,
        waiter: Waiter<H::Ticket>,
        completion: Completion,
    ) -> Option<(H::Ticket, Completion)> {
        match waiter {
            Waiter::Nobody => {}
            Waiter::Ticket(ticket) => return Some((ticket, completion)),
            // The task may have gone with its connection.
            Waiter::Task(sender) => drop(sender.send(completion)),
            Waiter::Will { applied, carried } => {
                let _ = applied.send(completion.clone());
                let _ = carried.send(completion);
            }
            Waiter::Hold(choice) => self.chosen(*choice, &completion),
            Waiter::Held(hold) => self.hold_ended(&hold, &completion),
        }
        None
    }
}

/// Whether a publish was not known before.
fn is_stored(completion: &Completion) -> bool {
    matches!(
        completion,
        Completion::Applied(Outcome::Published { duplicate: false, .. })
    )
}
