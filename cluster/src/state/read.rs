//! What the node reads of a group's state. Nothing here changes it.
//!
//! Whoever answers a client from these reads has made sure that the state is current (R18); deadlines are compared
//! with group time, which stands still between entries.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_proto::codec::{PacketId, QoS};
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::messages::{MessageKey, Slot, Stored, StoredMessage};
use super::queue::Queue;
use super::retained::RetainedMessage;
use super::sessions::Session;
use super::{
    ClientId, Epoch, GroupState, GroupTime, NodeId, NodeIncarnation, Owner, RetainedSource, Sequence,
    SessionId, ShareHolder, ShareKey, Subscription, TargetQueue, WillMessage,
};

/// A session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionView {
    /// Its incarnation.
    pub session: SessionId,
    /// Client identifier.
    pub client_id: ClientId,
    /// Epoch of the current or last connection.
    pub epoch: Epoch,
    /// Who holds the connection, if there is one.
    pub owner: Option<Owner>,
    /// Session expiry interval in seconds; `u32::MAX` never expires.
    pub expiry_secs: u32,
    /// When the session ends if nobody connects.
    pub expires_at: Option<GroupTime>,
    /// Number of subscriptions.
    pub subscriptions: u32,
    /// Received QoS 2 packet identifiers that were not released.
    pub inbound: u32,
}

/// A reference as its receiver's node gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct PulledReference {
    /// Position in the queue.
    pub sequence: Sequence,
    /// The message; its bytes are shared.
    pub message: Message,
    /// Where it has to be read before it is handed on: the payload is not in memory.
    pub stored: Option<StoredMessage>,
    /// The session that published it, for the No Local option; none where the broker did.
    pub publisher: Option<SessionId>,
    /// QoS to deliver with.
    pub qos: QoS,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Whether it is the retained message of a new subscription.
    pub replayed: bool,
    /// Whether a shared subscription had it first.
    pub shared: bool,
    /// Subscription identifiers to send.
    pub subscription_ids: Vec<u32>,
    /// The receiver's PUBREC was committed: only PUBREL is to be sent.
    pub received: bool,
    /// When the message expires.
    pub expires_at: Option<GroupTime>,
    /// When the message was stored; what is left of its expiry interval counts from here.
    pub received_at: GroupTime,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueView {
    /// Which one.
    pub queue: TargetQueue,
    /// References.
    pub len: u32,
    /// Their bytes.
    pub bytes: u64,
    /// First reference that is not settled.
    pub oldest: Option<Sequence>,
    /// Sequence the next reference will get.
    pub next: Sequence,
}

/// A will to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct DueWill {
    /// Its session, which may have ended.
    pub session: SessionId,
    /// The connection it belonged to.
    pub epoch: Epoch,
    /// The message.
    pub message: Message,
}

/// A retained write on its way to its topic's group.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxWrite {
    /// Its place in this group's log.
    pub source: RetainedSource,
    /// The message.
    pub message: Message,
    /// Where it has to be read before it is handed on: the payload is not in memory.
    pub stored: Option<StoredMessage>,
    /// When it was stored.
    pub received_at: GroupTime,
    /// When it expires.
    pub expires_at: Option<GroupTime>,
}

/// How many references of a queue [`GroupState::crossing`] looks at: whoever subscribes and is behind by more gets a message
/// twice.
const CROSSING_REFERENCES_MAX: usize = 1_024;

/// A retained message.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainedView {
    /// The message, its topic included.
    pub message: Message,
    /// When it was stored.
    pub received_at: GroupTime,
    /// When it expires.
    pub expires_at: Option<GroupTime>,
    /// Where the publish stands that set it, if that is known.
    pub source: Option<RetainedSource>,
}

/// A part of the retained messages that match a filter.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainedPage {
    /// The messages, level by level in the order of their topics.
    pub matches: Vec<RetainedView>,
    /// Where the next page begins: pass it as `after`. None: there is no more.
    pub resume_after: Option<String>,
}

/// What the group holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions.
    pub sessions: u64,
    /// Sessions with a connection.
    pub sessions_connected: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// References in all queues.
    pub queued_references: u64,
    /// Their bytes: a message counts once per reference.
    pub queued_bytes: u64,
    /// Messages in queues and outbox.
    pub messages: u64,
    /// Their bytes: a message counts once.
    pub message_bytes: u64,
    /// Retained messages.
    pub retained: u64,
    /// Their bytes.
    pub retained_bytes: u64,
    /// Retained writes on their way to their topics' groups.
    pub outbox: u64,
    /// Wills to be published.
    pub due_wills: u64,
    /// Wills of live groups that were published here and not forgotten since.
    pub live_wills: u64,
    /// Publishes of which parts are missing.
    pub under_way: u64,
    /// Subscriptions for which retained messages are still to come.
    pub replays: u64,
}

impl GroupState {
    /// Bytes of messages that no checkpoint has.
    pub fn unsaved_bytes(&self) -> u64 {
        self.messages.unsaved_bytes()
    }

    /// Bytes of messages with a large payload that is in memory, because no checkpoint that has it is stored yet.
    pub fn large_bytes(&self) -> u64 {
        self.messages.large_bytes()
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Group time as of the last entry.
    pub fn group_time(&self) -> GroupTime {
        self.time
    }

    /// The session of a client identifier.
    pub fn session(&self, client_id: &str) -> Option<SessionView> {
        self.session_by_id(self.sessions.id_of(client_id)?)
    }

    /// A session.
    pub fn session_by_id(&self, session: SessionId) -> Option<SessionView> {
        Some(self.view(session, self.sessions.get(session)?))
    }

    /// Sessions in the order of their client identifiers, from behind `after`.
    pub fn sessions(&self, after: Option<&str>) -> impl Iterator<Item = SessionView> {
        self.sessions
            .after(after)
            .map(|(id, session)| self.view(id, session))
    }

    /// Whether the session exists: the question that other groups ask about the queues they hold for it (R17).
    pub fn session_exists(&self, session: SessionId) -> bool {
        self.sessions.contains(session)
    }

    fn view(&self, id: SessionId, session: &Session) -> SessionView {
        SessionView {
            session: id,
            client_id: session.client_id.clone(),
            epoch: session.epoch,
            owner: session.owner(),
            expiry_secs: session.expiry_secs,
            expires_at: session.expires_at,
            subscriptions: self.subscriptions.count(id),
            inbound: self.inbound.of(id).len() as u32,
        }
    }

    /// A session's subscriptions in the order of their filters.
    pub fn subscriptions(&self, session: SessionId) -> impl Iterator<Item = Subscription> {
        self.subscriptions.of(session)
    }

    /// A session's subscription with this filter.
    pub fn subscription(&self, session: SessionId, filter: &Arc<str>) -> Option<Subscription> {
        self.subscriptions.get(session, filter)
    }

    /// A session's received QoS 2 packet identifiers that were not released, ascending.
    pub fn inbound(&self, session: SessionId) -> &[PacketId] {
        self.inbound.of(session)
    }

    /// The will of a session that is not due yet.
    pub fn stored_will(&self, session: SessionId) -> Option<&WillMessage> {
        self.wills.stored(session).map(|will| &will.will)
    }

    /// Appends a queue's references from `from` on to `out`, in order, until `count_max` references or `bytes_max`
    /// bytes; one that is larger comes alone. How many bytes they are.
    pub fn pull(
        &self,
        queue: &TargetQueue,
        from: Sequence,
        count_max: usize,
        bytes_max: u64,
        out: &mut Vec<PulledReference>,
    ) -> u64 {
        let Some(queue) = self.queues.get(queue) else {
            return 0;
        };
        let mut bytes = 0;
        for (pulled, reference) in queue.iter_from(from.0).take(count_max).enumerate() {
            let stored = self.messages.get(reference.slot);
            let size = self.messages.size(reference.slot);
            if bytes + size > bytes_max && pulled > 0 {
                return bytes;
            }
            bytes += size;
            out.push(PulledReference {
                sequence: Sequence(reference.sequence),
                message: stored.message.clone(),
                stored: self.messages.stored(reference.slot),
                publisher: stored.publisher(),
                qos: reference.delivery.qos(),
                retain: reference.delivery.retain(),
                replayed: reference.delivery.is_replayed(),
                shared: reference.delivery.is_shared(),
                subscription_ids: reference.delivery.ids().to_vec(),
                received: reference.delivery.received(),
                expires_at: stored.expires_at,
                received_at: stored.received_at,
            });
        }
        bytes
    }

    /// The references of shares that members have for good, though they are not settled (R37).
    pub fn held_references(&self) -> impl Iterator<Item = (ShareKey, Sequence, ShareHolder)> {
        let shares = self.queues.iter().filter_map(|(key, queue)| match key {
            TargetQueue::Share(share) => Some((share, queue)),
            _ => None,
        });
        shares.flat_map(|(share, queue)| {
            let held = queue.holders();
            held.map(move |(sequence, holder)| (share.clone(), Sequence(sequence), holder))
        })
    }

    /// Whether nothing that this start of a node proposes is taken any more.
    pub fn has_lost(&self, node: NodeId, incarnation: NodeIncarnation) -> bool {
        self.proposers.is_lost(node, incarnation)
    }

    /// Who has a reference of a share for good.
    pub fn holder(&self, share: &ShareKey, sequence: Sequence) -> Option<ShareHolder> {
        let queue = self.queues.get(&TargetQueue::Share(share.clone()))?;
        queue.holder(sequence.0).copied()
    }

    /// Whether a queue has a reference that is not settled.
    pub fn holds(&self, queue: &TargetQueue, sequence: Sequence) -> bool {
        let reference = self
            .queues
            .get(queue)
            .and_then(|queue| queue.iter_from(sequence.0).next());
        reference.is_some_and(|reference| reference.sequence == sequence.0)
    }

    /// The reference of a queue to the message that stands at `source`, unless the client has had it or it was a share's (R33).
    /// Found as long as it is among the last [`CROSSING_REFERENCES_MAX`].
    pub fn crossing(&self, queue: &TargetQueue, source: RetainedSource) -> Option<Sequence> {
        let key = message_key(source);
        let newest = self.queues.get(queue)?.iter_from(0).rev();
        let mut newest = newest.take(CROSSING_REFERENCES_MAX);
        let found = newest.find(|reference| self.messages.key(reference.slot) == key)?;
        let is_told = found.delivery.received() || found.delivery.is_shared();
        (!is_told).then_some(Sequence(found.sequence))
    }

    /// References whose message has expired, at most `count_max`: for the leader to settle those that no owner can have
    /// sent (R22, R23), which `unsent` tells from their sequence and when they came. Looks at the whole queue.
    pub fn expired(
        &self,
        queue: &TargetQueue,
        unsent: impl Fn(Sequence, GroupTime) -> bool,
        count_max: usize,
    ) -> Vec<Sequence> {
        let Some(queue) = self.queues.get(queue) else {
            return Vec::new();
        };
        let mut expired = Vec::new();
        for reference in queue.iter_from(0) {
            let stored = self.messages.get(reference.slot);
            let sequence = Sequence(reference.sequence);
            if !self.is_alive(stored) && unsent(sequence, stored.received_at) {
                expired.push(sequence);
                if expired.len() == count_max {
                    break;
                }
            }
        }
        expired
    }

    /// First reference of a queue that is not settled.
    pub fn oldest_unsettled(&self, queue: &TargetQueue) -> Option<Sequence> {
        oldest(self.queues.get(queue)?)
    }

    /// References in a queue.
    pub fn queue_len(&self, queue: &TargetQueue) -> u32 {
        self.queues.get(queue).map_or(0, Queue::len)
    }

    /// Bytes of the references in a queue.
    pub fn queue_bytes(&self, queue: &TargetQueue) -> u64 {
        self.queues.get(queue).map_or(0, Queue::bytes)
    }

    /// Sequence the next reference of a queue will get; none for a queue that never had one.
    pub fn next_sequence(&self, queue: &TargetQueue) -> Option<Sequence> {
        self.queues.get(queue).map(|queue| Sequence(queue.next()))
    }

    /// All queues, empty ones too, in no particular order.
    pub fn queues(&self) -> impl Iterator<Item = QueueView> {
        self.queues.iter().map(|(key, queue)| QueueView {
            queue: key,
            len: queue.len(),
            bytes: queue.bytes(),
            oldest: oldest(queue),
            next: Sequence(queue.next()),
        })
    }

    /// Wills to be published, in the order of their sessions.
    pub fn due_will_messages(&self) -> impl Iterator<Item = (SessionId, Epoch, &Message)> {
        self.wills.due()
    }

    /// As [`Self::due_will_messages`].
    pub fn due_wills(&self) -> impl Iterator<Item = DueWill> {
        self.wills.due().map(|(session, epoch, message)| DueWill {
            session,
            epoch,
            message: message.clone(),
        })
    }

    /// Wills of live groups that were published here, if only in part, and not forgotten since, behind `after`, in order,
    /// at most `count_max`: for the leader to ask their groups whether they have forgotten them.
    pub fn live_wills(&self, after: Option<(SessionId, Epoch)>, count_max: usize) -> Vec<(SessionId, Epoch)> {
        let published = self.live_wills.after(after).take(count_max);
        let under_way = self.parts.live_wills(after).take(count_max);
        let all: BTreeSet<_> = published.chain(under_way).collect();
        all.into_iter().take(count_max).collect()
    }

    /// Retained writes behind `after`, in order, at most `count_max`.
    pub fn outbox(&self, after: Option<RetainedSource>, count_max: usize) -> Vec<OutboxWrite> {
        let after = after.map(message_key);
        let writes = self.outbox.after(after).take(count_max);
        writes.map(|(key, slot)| self.write(key, slot)).collect()
    }

    /// A write of the outbox, if it is still there.
    pub fn outbox_write(&self, source: RetainedSource) -> Option<OutboxWrite> {
        let key = message_key(source);
        Some(self.write(key, self.outbox.get(key)?))
    }

    /// Where the outbox's writes behind `after` stand and what topics they are to, in order.
    pub fn outbox_topics(
        &self,
        after: Option<RetainedSource>,
    ) -> impl Iterator<Item = (RetainedSource, &str)> {
        let writes = self.outbox.after(after.map(message_key));
        writes.map(|(key, slot)| (self.source(key), self.messages.get(slot).message.topic()))
    }

    /// Whether the retained messages of clients are turned away for now.
    pub fn outbox_is_full(&self) -> bool {
        self.outbox.is_full()
    }

    fn write(&self, key: MessageKey, slot: Slot) -> OutboxWrite {
        let stored = self.messages.get(slot);
        OutboxWrite {
            source: self.source(key),
            message: stored.message.clone(),
            stored: self.messages.stored(slot),
            received_at: stored.received_at,
            expires_at: stored.expires_at,
        }
    }

    fn source(&self, key: MessageKey) -> RetainedSource {
        RetainedSource {
            group: self.group,
            index: key.index,
            position: key.position,
        }
    }

    /// Index of the last batch that was applied since the state was loaded; 0 for none.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The retained message of a topic, unless it has expired.
    pub fn retained(&self, topic: &str) -> Option<RetainedView> {
        let retained = self.retained.get(topic)?;
        self.is_alive(&retained.stored).then(|| retained_view(retained))
    }

    /// A page of the retained messages that a filter matches and that have not expired, from behind `after` on, at
    /// most `count_max`, and 1 MiB unless the first one is larger. The work per page is bounded, too, so a page may hold
    /// fewer and not be the last.
    pub fn retained_page(&self, filter: &str, after: Option<&str>, count_max: usize) -> RetainedPage {
        let page = self.retained.matching(filter, after, count_max);
        let alive = page
            .matches
            .into_iter()
            .filter(|(_, retained)| self.is_alive(&retained.stored));
        let mut page = RetainedPage {
            matches: alive.map(|(_, retained)| retained_view(retained)).collect(),
            resume_after: page.resume_after,
        };
        page.limit_bytes();
        page
    }

    /// The first `count_max` retained messages behind `after` that a filter matches and that have not expired, in
    /// level order; fewer only where there are no more. Goes through as many pages as it takes.
    pub fn retained_matching(
        &self,
        filter: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Vec<RetainedView> {
        let mut found = Vec::new();
        let mut after = after.map(str::to_owned);
        while found.len() < count_max {
            let page = self.retained_page(filter, after.as_deref(), count_max - found.len());
            found.extend(page.matches);
            match page.resume_after {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        found
    }

    /// Last retained write that this group took from another.
    pub fn retained_mark(&self, source: GroupId) -> Option<RetainedSource> {
        self.retained.mark(source)
    }

    /// Whether this start of a node is over as far as the group knows: it was declared lost, or the node has proposed
    /// something with a newer one. Nothing is accepted of it, or kept for it.
    pub fn is_lost(&self, node: NodeId, incarnation: NodeIncarnation) -> bool {
        self.proposers.is_lost(node, incarnation)
    }

    /// The newest start of each node that the group has heard of, and whether it was declared lost, in the order of the
    /// nodes.
    pub fn proposer_starts(&self) -> impl Iterator<Item = (NodeId, NodeIncarnation, bool)> {
        self.proposers.starts()
    }

    /// The starts of nodes that hold connections of sessions, have a queue, or have a publish under way, in order: what a
    /// loss would have an effect on. The work is by their number.
    pub fn connected_starts(&self) -> impl Iterator<Item = (NodeId, NodeIncarnation)> + use<> {
        let starts: BTreeSet<_> = self
            .sessions
            .connected_starts()
            .chain(self.queues.node_starts())
            .chain(self.parts.starts())
            .collect();
        starts.into_iter()
    }

    /// Numbers for metrics.
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len() as u64,
            sessions_connected: self.sessions.connected() as u64,
            subscriptions: self.subscriptions.len() as u64,
            queued_references: self.queues.references(),
            queued_bytes: self.queues.bytes(),
            messages: self.messages.len() as u64,
            message_bytes: self.messages.bytes(),
            retained: self.retained.len() as u64,
            retained_bytes: self.retained.bytes(),
            outbox: self.outbox.len() as u64,
            due_wills: self.wills.due().count() as u64,
            live_wills: self.live_wills.len() as u64,
            under_way: self.parts.len() as u64,
            replays: self.replays.len() as u64,
        }
    }

    fn is_alive(&self, stored: &Stored) -> bool {
        stored.expires_at.is_none_or(|at| at > self.time)
    }
}

fn oldest(queue: &Queue) -> Option<Sequence> {
    queue
        .iter_from(0)
        .next()
        .map(|reference| Sequence(reference.sequence))
}

fn retained_view(retained: &RetainedMessage) -> RetainedView {
    let RetainedMessage { stored, source } = retained;
    RetainedView {
        message: stored.message.clone(),
        received_at: stored.received_at,
        expires_at: stored.expires_at,
        source: *source,
    }
}

fn message_key(source: RetainedSource) -> MessageKey {
    MessageKey {
        index: source.index,
        position: source.position,
    }
}
