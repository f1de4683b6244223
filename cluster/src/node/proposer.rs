//! Packs what waits for a group into entries and proposes them, one in flight while the next fills.
//!
//! No timer: whatever came while an entry was on its way leaves with the next one. Batches are numbered and repeated
//! until their outcome is known (R10), so a publish is never answered on a guess (R13).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::shares::Assignment;
use super::{Backlog, Completion, Group, Host};
use crate::raft::{BATCH_BYTES_MAX, ProposeError};
use crate::state::{BatchHeader, BatchOutcome, Outcome, RetainedSource};

/// Bytes of commands in one entry, unless a single command is larger.
const ENTRY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a single command: with the header of a batch, of eight numbers, it has to fit one entry.
pub(super) const COMMAND_BYTES_MAX: usize = BATCH_BYTES_MAX - 128;
/// Entries after which a log in memory is cut.
const ENTRIES_UNTIL_CUT: u64 = 256;
/// Commands in one entry.
const ENTRY_COMMANDS_MAX: usize = 4_096;

/// Who waits for an outcome.
#[derive(Debug)]
pub(super) enum Waiter<T> {
    Nobody,
    Ticket(T),
    Task(oneshot::Sender<Completion>),
    /// The dispatch of shared references.
    Assign(Assignment),
}

/// Commands that leave in one entry.
#[derive(Debug)]
struct Pack<T> {
    commands: Vec<u8>,
    waiters: Vec<(Waiter<T>, bool)>,
}

impl<T> Pack<T> {
    fn of(commands: Vec<u8>) -> Self {
        Self {
            commands,
            waiters: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.commands.len() >= ENTRY_BYTES_MAX || self.waiters.len() >= ENTRY_COMMANDS_MAX
    }
}

/// Commands that wait for a group.
#[derive(Debug)]
pub(super) struct Proposals<T> {
    packs: Mutex<VecDeque<Pack<T>>>,
    ready: Notify,
    /// Commands pushed so far; changed under the lock of the packs.
    pushed: AtomicU64,
    /// Of these, the first so many have a known outcome.
    known: AtomicU64,
    /// Number of the batch that was applied last, and the index of its entry.
    applied: Mutex<(u64, u64)>,
    /// What waits for all groups of the node.
    backlog: Arc<Backlog>,
}

impl<T> Proposals<T> {
    pub(super) fn new(backlog: Arc<Backlog>) -> Self {
        Self {
            packs: Mutex::new(VecDeque::new()),
            ready: Notify::new(),
            pushed: AtomicU64::new(0),
            known: AtomicU64::new(0),
            applied: Mutex::default(),
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

    /// Appends a command; `retained` delays the completion until the topic's group has the value. The waiter of a
    /// command that no entry can hold comes back.
    pub(super) fn push(
        &self,
        encode: impl FnOnce(&mut Vec<u8>),
        waiter: Waiter<T>,
        retained: bool,
    ) -> Result<(), Waiter<T>> {
        let mut packs = self.packs.lock();
        let was_empty = packs.is_empty();
        let mut pack = packs
            .pop_back_if(|pack| !pack.is_full())
            .unwrap_or_else(|| Pack::of(Vec::new()));
        let before = pack.commands.len();
        encode(&mut pack.commands);
        let size = pack.commands.len() - before;
        if size > COMMAND_BYTES_MAX {
            pack.commands.truncate(before);
            if !pack.waiters.is_empty() {
                pack.commands.shrink_to(ENTRY_BYTES_MAX);
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
        pack.waiters.push((waiter, retained));
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
        if applied.0 != number {
            *applied = (number, index);
        }
    }

    fn applied_at(&self, number: u64) -> Option<u64> {
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
            if number % ENTRIES_UNTIL_CUT == 0 {
                self.log_has_grown.notify_one();
            }
            let entry = self.entry(number, pack.waiters.len(), &pack.commands);
            let outcome = self.propose_until_known(entry).await;
            self.proposals.backlog.remove(pack.commands.len());
            let Some(outcome) = outcome else { return };
            let count = pack.waiters.len() as u64;
            self.proposals.known.fetch_add(count, Ordering::Release);
            if !self.pulls.lock().is_empty() {
                self.attend.notify_one();
            }
            self.complete(number, pack.waiters, outcome);
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

    /// Repeats an entry until its outcome is known; `None` when the node is going down.
    pub(super) async fn propose_until_known(&self, entry: Bytes) -> Option<BatchOutcome> {
        let mut pause = Duration::from_millis(5);
        loop {
            match self.raft().propose(&entry).await {
                Ok(outcome) => return Some(outcome),
                Err(ProposeError::Fatal(what)) => {
                    self.host.fatal(what);
                    return None;
                }
                Err(error @ ProposeError::TooLarge(_)) => {
                    // The bounds of packs are to prevent it; a repeat would stop the group for good.
                    tracing::error!(group = self.id().0, %error, "commands are refused");
                    return Some(BatchOutcome::Refused);
                }
                Err(error) => {
                    tracing::debug!(group = self.id().0, %error, "proposal is repeated");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
            }
        }
    }

    fn complete(&self, number: u64, waiters: Vec<(Waiter<H::Ticket>, bool)>, outcome: BatchOutcome) {
        let mut outcomes = match outcome {
            BatchOutcome::Applied(outcomes) => outcomes.into_iter(),
            BatchOutcome::Refused => Vec::new().into_iter(),
        };
        let index = self.proposals.applied_at(number);
        let mut completions = Vec::with_capacity(waiters.len());
        for (position, (waiter, retained)) in (0..).zip(waiters) {
            let completion = outcomes.next().map_or(Completion::Refused, Completion::Applied);
            let stored = matches!(
                completion,
                Completion::Applied(Outcome::Published { duplicate: false, .. })
            );
            match waiter {
                Waiter::Ticket(ticket) if retained && stored => match index {
                    Some(index) => {
                        let source = RetainedSource {
                            group: self.id(),
                            index,
                            position,
                        };
                        self.wait_for_retained(source, ticket, completion);
                    }
                    // Not applied here: whether its topic's group has it cannot be known (R13).
                    None => completions.push((ticket, Completion::Refused)),
                },
                waiter => completions.extend(self.tell(waiter, completion)),
            }
        }
        if let Some(index) = index {
            self.retained_asked(index);
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
            Waiter::Assign(assignment) => self.assigned(assignment, &completion),
        }
        None
    }
}
