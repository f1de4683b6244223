//! What all threads of the process share.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use quorate_cluster::node::{Location, Node, Placement, ServingLease};
use quorate_cluster::state::{Event, NodeId, NodeIncarnation, SessionId, SessionLimits, TargetQueue};
use quorate_proto::codec::{QoS, ReasonCode};
use quorate_proto::message::Message;
use quorate_proto::session::Instant;
use quorate_storage::log::GroupId;

use crate::auth::{Authenticator, Authorizer};
use crate::config::DurabilityClass;
use crate::gate::Gate;
use crate::peers::{DroppedLoan, ForwardedMessage, PeerBatch, Peers, Recipients, put_item};
use crate::router::{Plan, PlannedShare, QueueGauge, Router, SessionRoute};
use crate::sys_topics::SysTopics;
use crate::worker::{HeldBytes, Mail, Mailbox};

mod host;

/// Settings that hold for the whole process.
#[derive(Clone, Debug)]
pub(crate) struct SharedSettings {
    /// Limits on sessions, stamped into the entries that create them (R28).
    pub(crate) session_limits: SessionLimits,
    /// Sessions of the node.
    pub(crate) sessions_max: u64,
    /// Retained messages of the node.
    pub(crate) retained_messages_max: u64,
    /// Their bytes.
    pub(crate) retained_bytes_max: u64,
    /// Messages that may wait for a durable session.
    pub(crate) queue_messages_max: u32,
    /// Their bytes.
    pub(crate) queue_bytes_max: u64,
    /// How long a will waits for the client of a drained node to come back.
    pub(crate) drain_will_delay_secs: u32,
    /// Topic filters and the durability of what is published to their topics; the first that matches holds.
    pub(crate) durability: Vec<(String, DurabilityClass)>,
    /// How long a publisher waits for its acknowledgement.
    pub(crate) publish_wait_max: std::time::Duration,
    /// What a client is told of a subscription it may not make.
    pub(crate) refused_subscription: ReasonCode,
    /// This node.
    pub(crate) node: NodeId,
    /// Its start.
    pub(crate) incarnation: NodeIncarnation,
}

/// Why a connection is closed whose session has another.
const TAKEN_OVER: &str = "the session was taken over";

/// A worker ticks ten times a second; one that has not for so long does not come back by itself.
const STUCK_AFTER_MS: u64 = 30_000;

/// What workers, groups and listeners share.
pub(crate) struct Shared {
    pub(crate) settings: SharedSettings,
    pub(crate) router: Router,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) authenticator: Box<dyn Authenticator>,
    pub(crate) authorizer: Option<Box<dyn Authorizer>>,
    /// Runtime for what must not run on a worker.
    pub(crate) control: tokio::runtime::Handle,
    node: OnceLock<Arc<Node<Shared>>>,
    pub(crate) gate: Gate,
    /// The way of live deliveries to and from other nodes.
    pub(crate) peers: Peers,
    this: OnceLock<Weak<Self>>,
    /// Messages that workers hold for members of shared subscriptions.
    pub(crate) held_bytes: HeldBytes,
    pub(crate) sys_topics: SysTopics,
    started: std::time::Instant,
    ready: AtomicBool,
    draining: AtomicBool,
    /// Connections that have a session.
    clients: AtomicU64,
    assigned: AtomicU64,
    /// SipHash with a random key.
    secret: RandomState,
    wills_published: AtomicU64,
    failure: tokio::sync::watch::Sender<Option<Failure>>,
    lease: OnceLock<ServingLease>,
}

/// Why the node cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Something broke.
    Fatal(String),
    /// The cluster went on without this start of the node.
    Removed,
    /// The node has left the cluster for good.
    Left,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The shared part of a process with `workers` workers.
    pub(crate) fn new(
        settings: SharedSettings,
        workers: usize,
        authenticator: Box<dyn Authenticator>,
        authorizer: Option<Box<dyn Authorizer>>,
        control: tokio::runtime::Handle,
    ) -> Self {
        Self {
            settings,
            router: Router::default(),
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            authenticator,
            authorizer,
            control,
            node: OnceLock::new(),
            gate: Gate::default(),
            peers: Peers::default(),
            this: OnceLock::new(),
            held_bytes: HeldBytes::default(),
            sys_topics: SysTopics::default(),
            started: std::time::Instant::now(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            clients: AtomicU64::new(0),
            assigned: AtomicU64::new(0),
            secret: RandomState::new(),
            wills_published: AtomicU64::new(0),
            failure: tokio::sync::watch::Sender::new(None),
            lease: OnceLock::new(),
        }
    }

    /// The node's groups; present before any listener accepts.
    pub(crate) fn node(&self) -> &Arc<Node<Self>> {
        self.node
            .get()
            .expect("workers get connections after the node has started")
    }

    /// The node is there, and is about to start its groups.
    pub(crate) fn node_made(self: &Arc<Self>, node: Arc<Node<Self>>) {
        let (this, incarnation) = (self.settings.node, self.settings.incarnation);
        self.router
            .write(|table| (table.set_this(this, incarnation), false));
        let _ = self.this.set(Arc::downgrade(self));
        let lease = self.lease.set(node.serving_lease());
        assert!(lease.is_ok() && self.node.set(node).is_ok(), "a node starts once");
    }

    /// The groups have started.
    pub(crate) fn node_started(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether anybody may be answered: this node's routes count for the others (R1). Costs a look at the clock.
    pub(crate) fn may_answer(&self) -> bool {
        self.lease.get().is_some_and(ServingLease::is_held)
    }

    /// Whether clients may be told anything now: the lease is held, and the node does not seem to be cut off.
    pub(crate) fn may_speak(&self) -> bool {
        self.lease.get().is_some_and(ServingLease::is_fresh)
    }

    /// Whether clients are accepted.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// No more clients are accepted: the process stops.
    pub(crate) fn set_stopping(&self) {
        self.ready.store(false, Ordering::Release);
    }

    /// Whether clients are told to use another node.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Release);
    }

    /// Connections that have a session. Those that have none yet, or were refused, count for nothing.
    pub(crate) fn clients(&self) -> u64 {
        self.clients.load(Ordering::Acquire)
    }

    /// A connection has a session.
    pub(crate) fn client_came(&self) {
        self.clients.fetch_add(1, Ordering::AcqRel);
    }

    /// A connection has left its session.
    pub(crate) fn client_left(&self) {
        self.clients.fetch_sub(1, Ordering::AcqRel);
    }

    /// The node's groups, as soon as they are there.
    pub(crate) fn try_node(&self) -> Option<&Arc<Node<Self>>> {
        self.node.get()
    }

    /// Changes when the node cannot go on.
    pub(crate) fn watch_fatal(&self) -> tokio::sync::watch::Receiver<Option<Failure>> {
        self.failure.subscribe()
    }

    /// Milliseconds since the process started.
    pub(crate) fn now(&self) -> Instant {
        Instant(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// A client identifier that nobody has [MQTT-3.1.3-6] and nobody can guess, to take it before: node, its start, a
    /// counter, 64 bits that depend on a secret of the process.
    pub(crate) fn assign_client_id(&self) -> String {
        let number = self.assigned.fetch_add(1, Ordering::Relaxed);
        let secret = self.secret.hash_one(number);
        format!(
            "auto-{:x}-{:x}-{number:x}-{secret:016x}",
            self.settings.node.0, self.settings.incarnation.0
        )
    }

    /// What to say of a worker that has not run for [`STUCK_AFTER_MS`], if there is one.
    pub(crate) fn stuck_worker(&self) -> Option<String> {
        let now = self.now();
        let mut workers = self.mailboxes.iter().enumerate();
        workers.find_map(|(index, mailbox)| {
            let idle = now.millis_since(mailbox.last_run()?);
            (idle > STUCK_AFTER_MS).then(|| format!("worker {index} has not run for {} s", idle / 1000))
        })
    }

    /// Bytes of commands that wait to be committed.
    pub(crate) fn commit_backlog_bytes(&self) -> usize {
        self.node.get().map_or(0, |node| node.backlog().bytes())
    }

    /// Bytes of large payloads that wait for a checkpoint.
    pub(crate) fn unstored_payload_bytes(&self) -> usize {
        self.node.get().map_or(0, |node| node.unstored().bytes())
    }

    /// Bytes of deliveries that wait for their worker.
    pub(crate) fn delivery_backlog_bytes(&self) -> usize {
        let waiting: usize = self.mailboxes.iter().map(Mailbox::deliveries_bytes).sum();
        waiting + self.held_bytes.bytes()
    }

    /// The start of a node that is in the view.
    pub(crate) fn serving_start(&self, node: NodeId) -> Option<NodeIncarnation> {
        let directory = self.node().directory().read();
        let serving = directory.view().serving.get(&node);
        serving.map(|serving| serving.incarnation)
    }

    /// Whether a start of a node is in the view.
    pub(crate) fn serves(&self, node: NodeId, incarnation: NodeIncarnation) -> bool {
        let is_this = (node, incarnation) == (self.settings.node, self.settings.incarnation);
        is_this || self.serving_start(node) == Some(incarnation)
    }

    /// A start of a node is out of the view, or what it said of messages that were lent to its members is lost.
    pub(crate) fn peer_lost(&self, node: NodeId, incarnation: NodeIncarnation) {
        for mailbox in &self.mailboxes {
            mailbox.send(Mail::PeerLost(node, incarnation));
        }
        self.doubt_holder(node);
    }

    /// Messages were dropped on their way to the members that they were lent to.
    pub(crate) fn loans_dropped(&self, mut loans: Vec<DroppedLoan>) {
        loans.sort_unstable_by_key(|loan| (loan.worker, loan.number));
        for of_worker in loans.chunk_by(|one, next| one.worker == next.worker) {
            let mailbox = &self.mailboxes[usize::from(of_worker[0].worker)];
            mailbox.send(Mail::LoansDropped(of_worker.to_vec()));
        }
    }

    /// What a node has said of shared messages, or was told of them, may be lost: the groups ask it.
    pub(crate) fn doubt_holder(&self, node: NodeId) {
        for group in Placement::queue_groups() {
            self.node().group(group).doubt_holder(node);
        }
    }

    /// Wills published since the start.
    pub(crate) fn wills_published(&self) -> u64 {
        self.wills_published.load(Ordering::Relaxed)
    }

    /// Whether no more sessions are created on this node.
    pub(crate) fn sessions_are_full(&self) -> bool {
        self.router
            .read(|table| table.sessions() as u64 >= self.settings.sessions_max)
    }

    /// Whether a retained message for a topic that has none would be one too many.
    pub(crate) fn retained_is_full(&self, topic: &str) -> bool {
        let home = self.node().group(Placement::data_of_topic(topic));
        // Of a group that is elsewhere it is not known here; the group has a limit of its own.
        if !home.is_here() || home.state().retained(topic).is_some() {
            return false;
        }
        let (messages, bytes) = self.retained_counts();
        messages >= self.settings.retained_messages_max || bytes >= self.settings.retained_bytes_max
    }

    /// Retained messages and their bytes.
    pub(crate) fn retained_counts(&self) -> (u64, u64) {
        let counts = Placement::data_groups().map(|group| self.node().group(group).retained_counts());
        counts.fold((0, 0), |sum, (messages, bytes)| (sum.0 + messages, sum.1 + bytes))
    }

    /// Whether a durable session takes no more messages.
    pub(crate) fn queue_is_full(&self, queue: &QueueGauge) -> bool {
        queue.messages() >= self.settings.queue_messages_max || queue.bytes() >= self.settings.queue_bytes_max
    }

    /// A connection is done opening: the next one that waits goes on.
    pub(crate) fn gate_next(&self, client_id: &Arc<str>) {
        if let Some((location, request)) = self.gate.leave(client_id) {
            self.mail(location, Mail::Proceed { location, request });
        }
    }

    /// A session's connection is there: shared subscriptions have a member more.
    pub(crate) fn shares_ready(&self, session: SessionId) {
        let Some(node) = self.node.get() else { return };
        let shares = self.router.read(|table| table.shares_of(session));
        for share in shares {
            for group in Placement::queue_groups() {
                node.group(group).share_ready(&share);
            }
        }
    }

    /// A session's connection is gone: what it held of shared subscriptions goes to others.
    pub(crate) fn share_member_lost(&self, session: SessionId) {
        let Some(node) = self.node.get() else { return };
        for group in Placement::queue_groups() {
            node.group(group).share_member_lost(session);
        }
    }

    /// Delivers a message that no connection publishes, a will or one of the node itself, to everybody who is connected
    /// and gets it without replication.
    pub(crate) fn deliver_own(&self, message: &Arc<Message>, publisher: Option<SessionId>) {
        let plan = self.router.plan(message.topic());
        for target in &plan.targets {
            let Some(terms) = target.terms_for(publisher) else {
                continue;
            };
            let durable = target.queue.is_some() && message.qos.min(terms.qos) > QoS::AtMostOnce;
            // Other nodes' subscribers get it from where it is published for all, or are not meant.
            if let (Some(location), false) = (target.location, durable) {
                let terms = terms.clone();
                self.mail(
                    location,
                    Mail::Own {
                        location,
                        message: message.clone(),
                        terms,
                    },
                );
            }
        }
        self.deliver_to_live_shares(&plan, message);
    }

    /// One member of each shared subscription without durable member gets it.
    fn deliver_to_live_shares(&self, plan: &Plan, message: &Arc<Message>) {
        let of_queues = |share: &&PlannedShare| share.durable && message.qos > QoS::AtMostOnce;
        for share in plan.shares.iter().filter(|share| !of_queues(share)) {
            if message.qos > QoS::AtMostOnce {
                // Any worker can hold it.
                self.mailboxes[0].send(Mail::OwnShared(share.key.clone(), message.clone()));
                continue;
            }
            let turn = share.turn.fetch_add(1, Ordering::Relaxed) as usize;
            let Some(member) = share.members.get(turn % share.members.len().max(1)) else {
                continue;
            };
            if let Some(location) = member.location {
                let terms = member.terms.clone();
                self.mail(
                    location,
                    Mail::Own {
                        location,
                        message: message.clone(),
                        terms,
                    },
                );
            } else if let (Some(node), Some(shared)) =
                (member.remote, self.this.get().and_then(Weak::upgrade))
            {
                let recipients = Recipients::Member {
                    session: member.session,
                    share: share.key.clone(),
                };
                let forwarded = ForwardedMessage {
                    topic: message.topic(),
                    forwardable: message.forwardable(),
                    payload: message.payload(),
                    qos: message.qos,
                    retain: message.retain,
                    expiry_secs: message.expiry_secs,
                    publisher: None,
                };
                let mut batch = PeerBatch::default();
                put_item(&mut batch.items, &recipients, &forwarded);
                self.peers.send(&shared, node, batch);
            }
        }
    }

    pub(crate) fn mail(&self, location: Location, mail: Mail) {
        self.mailboxes[usize::from(location.worker)].send(mail);
    }

    /// Whether plans change. Sessions that have another connection, or none any more, are added to `moved`, with whether
    /// they have one.
    fn route_event(
        &self,
        table: &mut crate::router::RouteTable,
        event: &Event,
        moved: &mut Vec<(SessionId, bool)>,
    ) -> bool {
        match event {
            Event::SessionOwner {
                client_id,
                session,
                owner,
                ..
            } => {
                let change = table.set_owner(*session, *owner);
                if change.is_another {
                    moved.push((*session, owner.is_some()));
                }
                if let Some(location) = change.left {
                    if owner.is_some_and(|owner| owner.node != self.node().this_node()) {
                        self.gate.taken_away(client_id, self.now());
                    }
                    self.kick(location, ReasonCode::SESSION_TAKEN_OVER, TAKEN_OVER);
                }
                change.changes_plans
            }
            Event::SessionEnded { session, .. } => {
                let (left, changed) = table.remove_session(*session);
                if let Some(location) = left {
                    self.kick(location, ReasonCode::SESSION_TAKEN_OVER, TAKEN_OVER);
                }
                changed
            }
            Event::Subscribed {
                session,
                subscription,
            } => {
                table.subscribe(*session, subscription);
                true
            }
            Event::Subscriptions {
                session,
                subscriptions,
            } => {
                table.set_subscriptions(*session, subscriptions);
                true
            }
            Event::Unsubscribed { session, filter } => {
                table.unsubscribe(*session, filter);
                true
            }
            _ => false,
        }
    }

    /// Closes a connection of this node.
    pub(crate) fn kick(&self, location: Location, reason: ReasonCode, what: &'static str) {
        self.mail(
            location,
            Mail::Kick {
                location,
                reason,
                what,
            },
        );
    }

    /// A session has another connection, or none any more: what the earlier one held of shared subscriptions goes to
    /// others. Where it is told again who has a session, its connection keeps what it holds.
    fn member_moved(&self, session: SessionId, is_connected: bool) {
        if self.router.read(|table| table.has_shares(session)) {
            self.share_member_lost(session);
            if is_connected {
                self.shares_ready(session);
            }
        }
    }

    /// The groups that this node leads give shared messages to members anywhere.
    fn share_event(&self, event: &Event) {
        match event {
            Event::SessionEnded { session, .. } => self.share_member_lost(*session),
            Event::Subscribed {
                session,
                subscription,
            } if subscription.filter.starts_with("$share/") => {
                self.shares_ready(*session);
            }
            Event::Subscriptions { session, .. } if self.router.read(|table| table.has_shares(*session)) => {
                self.shares_ready(*session);
            }
            _ => {}
        }
    }

    fn queue_event(&self, group: GroupId, event: &Event) {
        match event {
            Event::Queued {
                queue: TargetQueue::Session(session),
                count,
                bytes,
                ..
            } => self.router.read(|table| {
                if let Some(route) = table.queued(*session, *count, *bytes) {
                    self.tell_pending(group, route);
                }
            }),
            Event::Removed {
                queue: TargetQueue::Session(session),
                count,
                bytes,
            } => self.router.read(|table| table.unqueued(*session, *count, *bytes)),
            _ => {}
        }
    }

    fn tell_pending(&self, group: GroupId, route: &SessionRoute) {
        let slot = Placement::packet_id_slot(group);
        if let (Some(location), Some(queue)) = (route.location, &route.queue)
            && queue.tell(slot)
        {
            self.mail(location, Mail::Pending { location, slot });
        }
    }
}
