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

use super::barrier::Barrier;
use super::checkpoints::StoredPart;
use super::confirm::RouteConfirmations;
use super::peers::Peers;
use super::proposer::{Due, Proposals, Waiter};
use super::puller::{PullRequest, WaitingPull};
use super::recall::Recalls;
use super::retained::RetainedWaits;
use super::shares::ShareDispatch;
use super::{Backlog, Completion, GroupClock, Host};
use crate::raft::{CheckpointStore, ProposeError, RaftGroup};
use crate::state::{
    Batch, Command, Event, GroupState, NodeId, NodeIncarnation, QueueLimits, Sequence, SessionId, TargetQueue,
};

/// What every group of a node is told at its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupSettings {
    pub(super) node: NodeId,
    pub(super) incarnation: NodeIncarnation,
    pub(super) queue_limits: QueueLimits,
    /// Bytes of commands in one entry, unless a single one is larger; target lists are cut to that (R7).
    pub(super) entry_bytes_max: usize,
    pub(super) retained_messages_max: u32,
    pub(super) retained_bytes_max: u64,
}

impl GroupSettings {
    /// Whether this start of the node proposed the batch, and may look for its outcome.
    pub(super) fn is_own(&self, batch: &Batch) -> bool {
        (batch.node, batch.incarnation) == (self.node, self.incarnation) && batch.number > 0
    }
}

/// What all groups of a node share.
pub(super) struct Common<H: Host> {
    pub(super) clock: Arc<GroupClock>,
    pub(super) peers: Peers,
    pub(super) routes: Arc<RouteConfirmations<H>>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) store: Arc<dyn CheckpointStore>,
}

/// One group.
pub struct Group<H: Host> {
    id: GroupId,
    pub(super) host: Arc<H>,
    pub(super) settings: GroupSettings,
    state: Mutex<GroupState>,
    raft: OnceLock<RaftGroup>,
    clock: Arc<GroupClock>,
    pub(super) peers: Peers,
    pub(super) routes: Arc<RouteConfirmations<H>>,
    pub(super) proposals: Proposals<H::Ticket>,
    pub(super) barrier: Barrier,
    /// Where the state is stored, large messages above all.
    pub(super) store: Arc<dyn CheckpointStore>,
    pub(super) stored_part: Mutex<StoredPart>,
    pub(super) recalls: Recalls,
    /// Wakes the checkpoint of a group that has much to store.
    pub(super) filled: Notify,
    pub(super) pulls: Mutex<Vec<WaitingPull>>,
    /// Positions below which a queue's references may have been sent by an earlier connection; a queue that is not
    /// here has none below.
    pub(super) sent: Mutex<HashMap<SessionId, Sequence, foldhash::fast::RandomState>>,
    /// Sessions whose last pull the identifier window stopped, and the oldest reference at that time. Their queues are
    /// not empty, and each leaves when that reference does.
    pub(super) stopped: Mutex<HashMap<SessionId, Sequence, foldhash::fast::RandomState>>,
    pub(super) shares: Mutex<ShareDispatch>,
    pub(super) retained_waits: Mutex<RetainedWaits<H::Ticket>>,
    /// How far this node has taken its own queue.
    pub(super) node_taken: Mutex<Sequence>,
    pub(super) attend: Notify,
    pub(super) deadline_changed: Notify,
    pub(super) will_due: Notify,
    pub(super) outbox_filled: Notify,
    /// Starts of nodes whose end this node has proposed.
    pub(super) ended: Mutex<HashMap<NodeId, NodeIncarnation, foldhash::fast::RandomState>>,
}

impl<H: Host> Group<H> {
    pub(super) fn new(id: GroupId, host: Arc<H>, settings: GroupSettings, common: &Common<H>) -> Self {
        Self {
            id,
            host,
            settings,
            state: Mutex::new(GroupState::new(id)),
            raft: OnceLock::new(),
            clock: common.clock.clone(),
            peers: common.peers.clone(),
            routes: common.routes.clone(),
            proposals: Proposals::new(common.backlog.clone(), settings.entry_bytes_max),
            barrier: Barrier::default(),
            store: common.store.clone(),
            stored_part: Mutex::default(),
            recalls: Recalls::default(),
            filled: Notify::new(),
            pulls: Mutex::default(),
            sent: Mutex::default(),
            stopped: Mutex::default(),
            shares: Mutex::default(),
            retained_waits: Mutex::default(),
            node_taken: Mutex::default(),
            attend: Notify::new(),
            deadline_changed: Notify::new(),
            will_due: Notify::new(),
            outbox_filled: Notify::new(),
            ended: Mutex::default(),
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

    /// This node's replica of the group, where it has one that has started.
    pub fn replica(&self) -> Option<&RaftGroup> {
        self.raft.get()
    }

    /// Whether this node leads the group, as far as it knows.
    pub fn leads(&self) -> bool {
        self.replica().is_some_and(RaftGroup::is_leader)
    }

    /// Waits until a leader is known.
    pub(super) async fn leader(&self) -> Result<NodeId, ProposeError> {
        let replica = self.replica().ok_or(ProposeError::NotLeader { leader: None })?;
        let leader = replica.wait_for_leader().await;
        leader.map_err(|stopped| ProposeError::Fatal(stopped.0))
    }

    /// Waits until another node leads than `node`, or none.
    pub(super) async fn leader_other_than(&self, node: NodeId) {
        let Some(replica) = self.replica() else {
            return std::future::pending().await;
        };
        let mut changes = replica.changes();
        while replica.leader() == Some(node) {
            if !changes.changed().await {
                return;
            }
        }
    }

    /// Group time now.
    pub fn now(&self) -> crate::state::GroupTime {
        self.clock.stamp()
    }

    pub(super) fn clock(&self) -> &GroupClock {
        &self.clock
    }

    pub(super) fn started(&self, raft: RaftGroup) {
        assert!(self.raft.set(raft).is_ok(), "a group starts once");
    }

    /// Proposes a command; `ticket` is completed when it is applied here.
    pub fn propose(&self, command: &Command, ticket: Option<H::Ticket>) {
        let waiter = ticket.map_or(Waiter::Nobody, Waiter::Ticket);
        self.push(|buffer| command.encode(buffer), waiter, Due::Applied);
    }

    /// Proposes a change of subscriptions: the ticket is completed when every node that serves routes by it (R1).
    pub fn propose_routes(&self, command: &Command, ticket: Option<H::Ticket>) {
        let waiter = ticket.map_or(Waiter::Nobody, Waiter::Ticket);
        self.push(|buffer| command.encode(buffer), waiter, Due::Routed);
    }

    /// Proposes a command; the receiver gets its outcome.
    pub(super) fn submit(&self, command: &Command) -> oneshot::Receiver<Completion> {
        let (sender, receiver) = oneshot::channel();
        self.push(
            |buffer| command.encode(buffer),
            Waiter::Task(sender),
            Due::Applied,
        );
        receiver
    }

    pub(super) fn push(&self, encode: impl FnOnce(&mut Vec<u8>), waiter: Waiter<H::Ticket>, due: Due) {
        if let Err(waiter) = self.proposals.push(encode, waiter, due) {
            self.refuse_as_too_large(waiter);
        }
    }

    pub(super) fn refuse_as_too_large(&self, waiter: Waiter<H::Ticket>) {
        tracing::warn!(group = self.id.0, "a command that no entry can hold is refused");
        if let Some(completion) = self.tell(waiter, Completion::TooLarge) {
            self.host.complete(vec![completion]);
        }
    }

    /// Proposes a command and waits for its outcome.
    pub async fn propose_and_wait(&self, command: &Command) -> Completion {
        // The proposer only drops a waiter when the node is going down.
        self.submit(command).await.unwrap_or(Completion::Refused)
    }

    /// Asks for references of a session's queue; the answer goes to [`Host::handle_references`].
    pub fn pull(&self, request: PullRequest) {
        // An earlier connection of the session may have settled what the state still has, here or on another node.
        let is_first = request.from == Sequence(0);
        let after = if is_first { self.proposals.pushed() } else { 0 };
        self.pulls.lock().push(WaitingPull {
            request,
            after,
            is_first,
        });
        self.attend.notify_one();
    }

    /// The attendant's task.
    pub(super) async fn run_attendant(self: Arc<Self>) {
        loop {
            self.attend.notified().await;
            self.answer_pulls();
            self.take_node_messages();
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
                Event::RetainedTaken { up_to, refused } => self.retained_taken(*up_to, refused),
                Event::DeadlineChanged => self.deadline_changed.notify_one(),
                Event::Queued {
                    queue: TargetQueue::Share(share),
                    ..
                } => {
                    self.shares.lock().mark(share);
                    attend = true;
                }
                Event::Queued {
                    queue: TargetQueue::Node(node, incarnation),
                    ..
                } => attend |= (*node, *incarnation) == (self.settings.node, self.settings.incarnation),
                Event::Removed {
                    queue: TargetQueue::Session(session),
                    ..
                } => {
                    self.window_may_have_moved(*session);
                    attend |= self.member_has_room(*session);
                }
                Event::Removed {
                    queue: TargetQueue::Share(share),
                    ..
                } => self.shared_removed(share),
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
