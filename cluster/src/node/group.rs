//! One Raft group as this node sees it: its state, its proposals, the pulls that wait, its leader's duties.
//!
//! Tasks: the proposer packs and proposes; the attendant answers pulls and dispatches shared references, and waits for
//! nothing else; each of the leader's duties has its own. Apply runs in openraft's task and only touches the state and
//! wakes the others. The state's mutex is held for one entry or one pull at a time and never across an await.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use quorate_storage::log::GroupId;
use tokio::sync::{Notify, oneshot};

use super::proposer::{Proposals, Waiter};
use super::puller::{PullRequest, WaitingPull};
use super::retained::RetainedWaits;
use super::shares::ShareDispatch;
use super::{Backlog, Completion, GroupClock, Host};
use crate::raft::RaftGroup;
use crate::state::{
    Batch, Command, Event, GroupState, NodeId, NodeIncarnation, QueueLimits, Sequence, SessionId, TargetQueue,
};

/// What every group of a node is told at its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupSettings {
    pub(super) node: NodeId,
    pub(super) incarnation: NodeIncarnation,
    pub(super) queue_limits: QueueLimits,
    pub(super) retained_messages_max: u32,
    pub(super) retained_bytes_max: u64,
}

impl GroupSettings {
    /// Whether this start of the node proposed the batch, and may look for its outcome.
    pub(super) fn is_own(&self, batch: &Batch) -> bool {
        (batch.node, batch.incarnation) == (self.node, self.incarnation) && batch.number > 0
    }
}

/// One group.
pub struct Group<H: Host> {
    id: GroupId,
    pub(super) host: Arc<H>,
    pub(super) settings: GroupSettings,
    state: Mutex<GroupState>,
    raft: OnceLock<RaftGroup>,
    clock: OnceLock<GroupClock>,
    pub(super) proposals: Proposals<H::Ticket>,
    pub(super) pulls: Mutex<Vec<WaitingPull>>,
    /// Positions below which a queue's references may have been sent by an earlier connection; a queue that is not
    /// here has none below.
    pub(super) sent: Mutex<HashMap<SessionId, Sequence, foldhash::fast::RandomState>>,
    /// Sessions whose last pull the identifier window stopped, and the oldest reference at that time. Their queues are
    /// not empty, and each leaves when that reference does.
    pub(super) stopped: Mutex<HashMap<SessionId, Sequence, foldhash::fast::RandomState>>,
    pub(super) shares: Mutex<ShareDispatch>,
    pub(super) retained_waits: Mutex<RetainedWaits<H::Ticket>>,
    pub(super) attend: Notify,
    pub(super) deadline_changed: Notify,
    pub(super) will_due: Notify,
    pub(super) outbox_filled: Notify,
    /// So many entries came that the log should be cut.
    pub(super) log_has_grown: Notify,
}

impl<H: Host> Group<H> {
    pub(super) fn new(id: GroupId, host: Arc<H>, settings: GroupSettings, backlog: Arc<Backlog>) -> Self {
        Self {
            id,
            host,
            settings,
            state: Mutex::new(GroupState::new(id)),
            raft: OnceLock::new(),
            clock: OnceLock::new(),
            proposals: Proposals::new(backlog),
            pulls: Mutex::default(),
            sent: Mutex::default(),
            stopped: Mutex::default(),
            shares: Mutex::default(),
            retained_waits: Mutex::default(),
            attend: Notify::new(),
            deadline_changed: Notify::new(),
            will_due: Notify::new(),
            outbox_filled: Notify::new(),
            log_has_grown: Notify::new(),
        }
    }

    /// The group's number.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The replicated state, to be read. Hold it briefly: apply waits for it.
    pub fn state(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock()
    }

    /// The Raft group behind; present once the node has started.
    pub fn raft(&self) -> &RaftGroup {
        self.raft
            .get()
            .expect("groups are used after the node has started them")
    }

    /// Group time now.
    pub fn now(&self) -> crate::state::GroupTime {
        self.clock().stamp()
    }

    pub(super) fn clock(&self) -> &GroupClock {
        self.clock.get().expect("the clock runs before the group is used")
    }

    pub(super) fn started(&self, raft: RaftGroup) {
        assert!(self.raft.set(raft).is_ok(), "a group starts once");
    }

    pub(super) fn clock_started(&self, clock: GroupClock) {
        assert!(self.clock.set(clock).is_ok(), "a group's clock starts once");
    }

    /// Proposes a command; `ticket` is completed when its outcome is known.
    pub fn propose(&self, command: &Command, ticket: Option<H::Ticket>) {
        self.propose_encoded(|buffer| command.encode(buffer), ticket);
    }

    /// Proposes the command that `encode` appends to the buffer.
    pub fn propose_encoded(&self, encode: impl FnOnce(&mut Vec<u8>), ticket: Option<H::Ticket>) {
        self.push(encode, ticket.map_or(Waiter::Nobody, Waiter::Ticket), false);
    }

    /// Proposes a publish whose message is retained: the ticket is completed when the topic's group has it as well.
    pub fn propose_retained(&self, encode: impl FnOnce(&mut Vec<u8>), ticket: Option<H::Ticket>) {
        self.push(encode, ticket.map_or(Waiter::Nobody, Waiter::Ticket), true);
    }

    /// Proposes a command; the receiver gets its outcome.
    pub(super) fn submit(&self, command: &Command) -> oneshot::Receiver<Completion> {
        let (sender, receiver) = oneshot::channel();
        self.push(|buffer| command.encode(buffer), Waiter::Task(sender), false);
        receiver
    }

    pub(super) fn push(&self, encode: impl FnOnce(&mut Vec<u8>), waiter: Waiter<H::Ticket>, retained: bool) {
        if let Err(waiter) = self.proposals.push(encode, waiter, retained) {
            tracing::warn!(group = self.id.0, "a command that no entry can hold is refused");
            if let Some(completion) = self.tell(waiter, Completion::TooLarge) {
                self.host.complete(vec![completion]);
            }
        }
    }

    /// Proposes a command and waits for its outcome.
    pub async fn propose_and_wait(&self, command: &Command) -> Completion {
        // The proposer only drops a waiter when the node is going down.
        self.submit(command).await.unwrap_or(Completion::Refused)
    }

    /// Asks for references of a session's queue; the answer goes to [`Host::handle_references`].
    pub fn pull(&self, request: PullRequest) {
        let after = match request.from {
            // A connection's first: an earlier connection of the session may have settled what the state still has.
            Sequence(0) => self.proposals.pushed(),
            _ => 0,
        };
        self.pulls.lock().push(WaitingPull { request, after });
        self.attend.notify_one();
    }

    /// The attendant's task.
    pub(super) async fn run_attendant(self: Arc<Self>) {
        loop {
            self.attend.notified().await;
            self.answer_pulls();
            self.dispatch_shares();
        }
    }

    /// Called by apply after each entry, with what it did.
    pub(super) fn handle_events(&self, events: &[Event]) {
        let mut attend = false;
        for event in events {
            match event {
                Event::WillDue { .. } => self.will_due.notify_one(),
                Event::RetainedQueued => self.outbox_filled.notify_one(),
                Event::DeadlineChanged => self.deadline_changed.notify_one(),
                Event::Queued {
                    queue: TargetQueue::Share(share),
                    ..
                } => {
                    self.shares.lock().mark(share);
                    attend = true;
                }
                Event::Removed {
                    queue: TargetQueue::Session(session),
                    ..
                } => {
                    self.window_may_have_moved(*session);
                    attend |= self.member_has_room(*session);
                }
                Event::SessionEnded { session, .. } => {
                    self.sent.lock().remove(session);
                }
                _ => {}
            }
        }
        self.host.handle_events(self.id, events);
        if attend {
            self.attend.notify_one();
        }
    }
}
