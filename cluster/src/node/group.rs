//! One Raft group as this node sees it: its state, its proposals, the pulls that wait, its leader's duties.
//!
//! Tasks: the proposer packs and proposes; the attendant answers pulls and dispatches shared references, and waits for
//! nothing else; each of the leader's duties has its own. Apply runs in openraft's task and only touches the state and
//! wakes the others. The state's mutex is held for one entry or one pull at a time and never across an await.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, MutexGuard, RwLock};
use quorate_storage::log::GroupId;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::barrier::Barrier;
use super::checkpoints::StoredPart;
use super::confirm::RouteConfirmations;
use super::feed::{Attached, Feeds, Following};
use super::peers::Peers;
use super::proposer::{Due, Proposals, Waiter};
use super::puller::{PullRequest, WaitingPull};
use super::recall::Recalls;
use super::remote::READS_MAX;
use super::retained_waits::RetainedWaits;
use super::shares::{Holding, ShareDispatch};
use super::unstored::{OwnUnstored, Unstored};
use super::{Backlog, Completion, GroupClock, GroupKind, Host, Placement};
use crate::raft::{CheckpointStore, ProposeError, RaftGroup};
use crate::state::{
    Batch, Command, Event, GroupState, NodeId, NodeIncarnation, QueueLimits, Sequence, SessionId,
    SessionView, TargetQueue,
};

/// Where what a node knows of a group comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is known yet.
    Nothing,
    /// This node's replica.
    Replica,
    /// Another node's replica, which tells this one.
    Feed,
}

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
    pub(super) unstored: Arc<Unstored>,
    pub(super) attached: Arc<Attached>,
    pub(super) store: Arc<dyn CheckpointStore>,
}

/// One group.
pub struct Group<H: Host> {
    id: GroupId,
    pub(super) host: Arc<H>,
    pub(super) settings: GroupSettings,
    state: Mutex<GroupState>,
    replica: RwLock<Option<RaftGroup>>,
    standing: watch::Sender<Standing>,
    /// Held while an entry, or what a feed tells, is carried out and the broker is told of it.
    pub(super) applying: Mutex<()>,
    /// To nodes without a replica.
    pub(super) feeds: Feeds,
    /// From a replica, where this node has none.
    pub(super) following: Following,
    pub(super) attached: Arc<Attached>,
    clock: Arc<GroupClock>,
    pub(super) peers: Peers,
    pub(super) routes: Arc<RouteConfirmations<H>>,
    pub(super) proposals: Proposals<H::Ticket>,
    pub(super) barrier: Barrier,
    /// Where the state is stored, large messages above all.
    pub(super) store: Arc<dyn CheckpointStore>,
    pub(super) stored_part: Mutex<StoredPart>,
    pub(super) recalls: Recalls,
    /// Large payloads that no checkpoint has.
    pub(super) unstored: OwnUnstored,
    pub(super) pulls: Mutex<Vec<WaitingPull>>,
    /// Turns of those who read from another node's replica.
    pub(super) reads_elsewhere: Semaphore,
    /// Positions below which a queue's references may have been sent by an earlier connection; a queue that is not
    /// here has none below.
    pub(super) sent: Mutex<HashMap<SessionId, Sequence, foldhash::fast::RandomState>>,
    /// Sessions whose last pull the identifier window stopped, and the oldest reference at that time. Their queues are
    /// not empty, and each leaves when that reference does.
    pub(super) stopped: Mutex<HashMap<SessionId, Sequence, foldhash::fast::RandomState>>,
    pub(super) shares: Mutex<ShareDispatch>,
    /// What members here were given of shared queues.
    pub(super) holding: Mutex<Holding>,
    pub(super) retained_waits: Mutex<RetainedWaits<Waiter<H::Ticket>>>,
    /// How far this node has taken its own queue.
    pub(super) node_taken: Mutex<Sequence>,
    /// A task takes it from another node's replica.
    pub(super) takes_node_messages: AtomicBool,
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
            replica: RwLock::new(None),
            standing: watch::Sender::new(Standing::Nothing),
            applying: Mutex::default(),
            feeds: Feeds::new(settings.incarnation),
            following: Following::default(),
            attached: common.attached.clone(),
            clock: common.clock.clone(),
            peers: common.peers.clone(),
            routes: common.routes.clone(),
            proposals: Proposals::new(common.backlog.clone(), settings.entry_bytes_max),
            barrier: Barrier::default(),
            store: common.store.clone(),
            stored_part: Mutex::default(),
            recalls: Recalls::default(),
            unstored: OwnUnstored::new(common.unstored.clone(), Placement::kind(id) != GroupKind::Live),
            pulls: Mutex::default(),
            reads_elsewhere: Semaphore::new(READS_MAX),
            sent: Mutex::default(),
            stopped: Mutex::default(),
            shares: Mutex::default(),
            holding: Mutex::default(),
            retained_waits: Mutex::default(),
            node_taken: Mutex::default(),
            takes_node_messages: AtomicBool::new(false),
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

    /// This node has no state of the group any more.
    pub(super) fn forget_state(&self) {
        let mut state = self.state();
        *state = GroupState::new(self.id);
        self.unstored.count(&state);
    }

    /// This node's replica of the group, where it has one that has started.
    pub fn replica(&self) -> Option<RaftGroup> {
        self.replica.read().clone()
    }

    /// Whether this node leads the group, as far as it knows.
    pub fn leads(&self) -> bool {
        self.standing() == Standing::Replica && self.replica.read().as_ref().is_some_and(RaftGroup::is_leader)
    }

    /// Who leads the group, as far as this node knows.
    pub fn known_leader(&self) -> Option<NodeId> {
        match self.standing() {
            Standing::Replica => self.replica.read().as_ref().and_then(RaftGroup::leader),
            Standing::Feed | Standing::Nothing => self.following.leader(),
        }
    }

    /// A session at home here, as far as this node knows: its counts only where it has a replica.
    pub fn session(&self, client_id: &str) -> Option<SessionView> {
        match self.standing() {
            Standing::Replica => self.state().session(client_id),
            Standing::Feed | Standing::Nothing => self.following.session(client_id),
        }
    }

    /// Whether this node has a replica to read from; else [`Self::state`] says nothing.
    pub fn is_here(&self) -> bool {
        self.standing() == Standing::Replica
    }

    /// References in a queue, as far as this node is told of it.
    pub(super) fn queue_len(&self, queue: &TargetQueue) -> u32 {
        match self.standing() {
            Standing::Replica => self.state().queue_len(queue),
            Standing::Feed | Standing::Nothing => self.following.queue_len(queue),
        }
    }

    /// Retained messages of the group, and their bytes.
    pub fn retained_counts(&self) -> (u64, u64) {
        if !self.is_here() {
            return self.following.retained();
        }
        let counts = self.state().counts();
        (counts.retained, counts.retained_bytes)
    }

    /// A session is told again as a whole, where another node's replica tells of it.
    pub fn refresh(&self, session: SessionId) {
        self.following.refresh(session);
    }

    pub(super) fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// What this node knows comes from somewhere else from now on.
    pub(super) fn stand_on(&self, standing: Standing) {
        self.standing.send_replace(standing);
    }

    /// Tells of each change of it.
    pub(super) fn watch_standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    pub(super) async fn stands_on(&self, standing: Standing) {
        // The sender lives as long as the group.
        let _ = self.standing.subscribe().wait_for(|now| *now == standing).await;
    }

    async fn stands_not_on(&self, standing: Standing) {
        let _ = self.standing.subscribe().wait_for(|now| *now != standing).await;
    }

    /// Up to this index this node knows what the group did.
    pub(super) fn known_index(&self) -> Option<u64> {
        match self.standing() {
            Standing::Replica => self.replica.read().as_ref().and_then(RaftGroup::applied_index),
            Standing::Feed => self.following.applied(),
            Standing::Nothing => None,
        }
    }

    /// Waits until this node knows what the group did up to `index`, and routes by it.
    pub(super) async fn reached(&self, index: u64) {
        loop {
            let standing = self.standing();
            let reached = async {
                match (standing, self.replica()) {
                    (Standing::Replica, Some(replica)) => replica.reached(index).await,
                    (Standing::Feed, _) => self.following.reached(index).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = reached => return,
                () = self.stands_not_on(standing) => {}
            }
        }
    }

    /// Waits until a leader is known.
    pub(super) async fn leader(&self) -> Result<NodeId, ProposeError> {
        loop {
            let standing = self.standing();
            let leader = async {
                match (standing, self.replica()) {
                    (Standing::Replica, Some(replica)) => replica.wait_for_leader().await,
                    _ => {
                        // The sender lives as long as the group.
                        Ok(self.following.wait_for_leader().await)
                    }
                }
            };
            let leader = tokio::select! {
                leader = leader => leader,
                () = self.stands_not_on(standing) => continue,
            };
            match leader {
                // A replica that was given up has stopped.
                Err(_) if self.standing() != standing => {}
                leader => return leader.map_err(|stopped| ProposeError::Fatal(stopped.0)),
            }
        }
    }

    /// Waits until another node leads than `node`, or none, or what is known comes from somewhere else.
    pub(super) async fn leader_other_than(&self, node: NodeId) {
        let standing = self.standing();
        let other = async {
            match (standing, self.replica()) {
                (Standing::Replica, Some(replica)) => {
                    let mut changes = replica.changes();
                    while replica.leader() == Some(node) {
                        if !changes.changed().await {
                            return;
                        }
                    }
                }
                _ => drop(
                    self.following
                        .watch_leader()
                        .wait_for(|leader| *leader != Some(node))
                        .await,
                ),
            }
        };
        tokio::select! {
            () = other => {}
            () = self.stands_not_on(standing) => {}
        }
    }

    /// Group time now.
    pub fn now(&self) -> crate::state::GroupTime {
        self.clock.stamp()
    }

    pub(super) fn clock(&self) -> &GroupClock {
        &self.clock
    }

    /// This node has a replica, or none any more.
    pub(super) fn set_replica(&self, replica: Option<RaftGroup>) {
        *self.replica.write() = replica;
    }

    /// What the queues of this node's replica hold is not told any more.
    pub(super) fn queue_removals(&self) -> Vec<Event> {
        let state = self.state();
        let filled = state.queues().filter(|view| view.len > 0);
        filled
            .map(|view| Event::Removed {
                queue: view.queue,
                count: view.len,
                bytes: view.bytes,
            })
            .collect()
    }

    /// What is known of the group's sessions was replaced: of the others there are none any more (R6).
    pub(super) fn forget_sessions_beside(&self, known: &dyn Fn(SessionId) -> bool) {
        self.host.handle_reload(self.id, known);
        self.attached
            .forget(|session| session.home() == self.id && !known(session));
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
                Event::RetainedTaken(told) => self.retained_taken(told),
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
                }
                Event::Removed {
                    queue: TargetQueue::Share(share),
                    ..
                } => self.shared_removed(share),
                Event::NodeLost => self.share_starts_lost(),
                Event::Unheld {
                    share,
                    sequence,
                    give,
                } => self.shared_unheld(share, *sequence, *give),
                Event::SessionOwner { session, owner, .. } if Placement::is_durable(*session) => {
                    let this = (self.settings.node, self.settings.incarnation);
                    let is_here = owner.is_some_and(|owner| (owner.node, owner.incarnation) == this);
                    self.attached.set(*session, is_here);
                }
                Event::SessionEnded { session, .. } => {
                    self.sent.lock().remove(session);
                    self.attached.set(*session, false);
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
