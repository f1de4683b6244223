//! What a log entry can say: a batch of commands and the terms they are made of.
//!
//! Everything apply depends on stands in the entry (R28): limits, group time (R32), the proposer's identity and batch
//! number (R10). Nothing is read from a clock or a node's configuration.

use std::sync::Arc;

use quorate_proto::codec::{PacketId, QoS, SubscriptionOptions};
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::ReplayStep;

/// Client identifier.
pub type ClientId = Arc<str>;

/// A session's incarnation (R17), never reused: home group (8 bits), index of the creating entry (40 bits), position
/// of the creating command in its batch (16 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    const INDEX_BITS: u32 = 40;
    const POSITION_BITS: u32 = 16;

    /// The incarnation that the command at `position` of the entry at `index` creates. 40 bits of index last 34 years
    /// at a thousand entries a second.
    pub fn new(group: GroupId, index: u64, position: u16) -> Self {
        debug_assert!(
            group.0 < 256,
            "a group whose sessions are replicated has a number of 8 bits"
        );
        let index = index & ((1 << Self::INDEX_BITS) - 1);
        let group = u64::from(group.0) << (Self::INDEX_BITS + Self::POSITION_BITS);
        Self(group | index << Self::POSITION_BITS | u64::from(position))
    }

    /// The session's home group.
    pub fn home(self) -> GroupId {
        GroupId((self.0 >> (Self::INDEX_BITS + Self::POSITION_BITS)) as u16)
    }
}

/// Counts the connections of a session; every CONNECT raises it (R9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// Node identifier, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Counts the starts of a node (R25, R46).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIncarnation(pub u64);

/// Group time in milliseconds (R32): starts at 0 when the group is created and never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupTime(pub u64);

/// Position in a (session, group) or (share group, group) queue, from 0; assigned at apply, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// Who holds a session's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Its start.
    pub incarnation: NodeIncarnation,
    /// The connection.
    pub epoch: Epoch,
}

/// A shared subscription: share name and topic filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareKey {
    /// Share name.
    pub name: Arc<str>,
    /// Topic filter.
    pub filter: Arc<str>,
}

/// Numbers what the leaders of a group give of shared queues to members: by the leader's term, then in the order of the
/// giving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GiveId(pub u64);

impl GiveId {
    const COUNT_BITS: u32 = 40;

    /// Below all that a leader of this term gives.
    pub fn first(term: u64) -> Self {
        Self(term << Self::COUNT_BITS)
    }

    fn is_of_term(self, term: u64) -> bool {
        self.0 >> Self::COUNT_BITS == term
    }

    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The member that has a QoS 2 reference of a shared queue for good, though the queue keeps it (R37).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShareHolder {
    /// Its session, which ends with its connection.
    pub session: SessionId,
    /// The node of the connection.
    pub node: NodeId,
    /// Its start.
    pub incarnation: NodeIncarnation,
    /// Which giving of the reference it is.
    pub give: GiveId,
}

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// View of the nodes the proposer acted in (R1).
    pub view: u64,
    /// Proposing node.
    pub node: NodeId,
    /// Its start.
    pub incarnation: NodeIncarnation,
    /// Number of this batch among those of (node, incarnation) for this group, from 1; a repeat of the last number
    /// gets the first outcome, a lower number is refused (R10). 0 for batches of the group's leader itself (ticks),
    /// which may be repeated freely.
    pub number: u64,
    /// Group time, written by the leader that proposes the entry ([`stamp_batch`](super::stamp_batch)). Apply takes the
    /// maximum of this and the last stamp, then lets timers that are due act, then the commands.
    pub stamp: GroupTime,
    /// Limits for the queues the batch's publishes go to.
    pub queue_limits: QueueLimits,
    /// The commands, in order.
    pub commands: Vec<Command>,
}

/// Limits of one (session, group) queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages.
    pub messages_max: u32,
    /// Bytes, as [`Message::size`] counts them.
    pub bytes_max: u64,
}

/// Limits on sessions of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions in this group.
    pub sessions_max: u32,
    /// Subscriptions of one session.
    pub subscriptions_max: u32,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A client connected to `node` of the batch: resume or create its session, raise its epoch.
    OpenSession {
        /// Client identifier.
        client_id: ClientId,
        /// Clean Start: an existing session ends in this entry.
        clean_start: bool,
        /// Session expiry interval in seconds as granted; `u32::MAX` never expires.
        expiry_secs: u32,
        /// The will of this connection (R31: stored before CONNACK).
        will: Option<Box<WillMessage>>,
        /// Limits of the proposing node's configuration.
        limits: SessionLimits,
    },
    /// The connection of (session, epoch) ended.
    CloseConnection {
        /// Session.
        session: SessionId,
        /// Connection.
        epoch: Epoch,
        /// Whether the will is to be published (after its delay) or forgotten.
        publish_will: bool,
        /// New session expiry interval given in DISCONNECT, in seconds.
        expiry_secs: Option<u32>,
    },
    /// The connection of (session, epoch) ended because its node is drained: the will waits for the client to come back.
    DrainConnection {
        /// Session.
        session: SessionId,
        /// Connection.
        epoch: Epoch,
        /// How long the will waits at least, in seconds; a session of expiry 0 with a will stays as long.
        will_delay_secs: u32,
    },
    /// Deletes a session whoever owns it: takeover from the other kind of group, administration.
    EndSession {
        /// Session.
        session: SessionId,
        /// Whether a will that has not been published yet is published now.
        publish_will: bool,
    },
    /// Adds or replaces subscriptions.
    Subscribe {
        /// Session.
        session: SessionId,
        /// Connection.
        epoch: Epoch,
        /// The subscriptions in the order of the SUBSCRIBE.
        subscriptions: Vec<Subscription>,
        /// Limits of the proposing node's configuration.
        limits: SessionLimits,
        /// Which SUBSCRIBE of the connection it is, where the subscriptions that ask for retained messages get those at
        /// QoS 1 and 2 from the session's queue (R24).
        replay: Option<u32>,
    },
    /// Removes subscriptions.
    Unsubscribe {
        /// Session.
        session: SessionId,
        /// Connection.
        epoch: Epoch,
        /// Filters as the client wrote them, `$share/...` included.
        filters: Vec<Arc<str>>,
    },
    /// Stores a message for its targets.
    Publish(PublishCommand),
    /// The first part of a publish whose targets come in several commands; how they go together stands in `parts.rs`.
    /// Answered with [`Outcome::Begun`](super::Outcome::Begun) unless it is refused or known.
    PublishFirst {
        /// Tells it from other publishes that the proposing start of a node has under way in this group.
        number: u64,
        /// Message and first targets, which are below all that follow.
        publish: PublishCommand,
    },
    /// Another part of it.
    PublishMore(PublishPart),
    /// Appends a retained message for a new subscription, and moves the cursor of its replay (R24).
    Replay(ReplayStep),
    /// PUBREL of the publisher: forgets an inbound QoS 2 packet identifier (R8).
    Release {
        /// Session.
        session: SessionId,
        /// Connection.
        epoch: Epoch,
        /// Packet identifier.
        packet_id: PacketId,
    },
    /// The receivers are done with these references (R21: accepted from any epoch, idempotent).
    Settle {
        /// The queue.
        queue: TargetQueue,
        /// Positions in it.
        sequences: Vec<Sequence>,
    },
    /// A subscriber sent PUBREC for these QoS 2 references; committed before PUBREL is sent.
    Received {
        /// Session.
        session: SessionId,
        /// Positions in its queue of this group.
        sequences: Vec<Sequence>,
    },
    /// Gives a QoS 2 reference of a shared queue to one member for good (R37): moves it to the end of that session's
    /// queue.
    Assign {
        /// The shared queue.
        share: ShareKey,
        /// Position in it.
        sequence: Sequence,
        /// The member.
        session: SessionId,
        /// QoS it is delivered with.
        qos: QoS,
        /// The member's subscription identifiers.
        subscription_ids: Vec<u32>,
        /// RETAIN flag to send.
        retain: bool,
        /// Which giving of the reference it is; refused in an entry of another leader's term, which may have lent the
        /// reference since.
        give: GiveId,
    },
    /// Says that a QoS 2 reference of a shared queue goes to a member whose session ends with its connection (R37). It
    /// stays in the queue, and with this member until it is settled, or handed back with [`Self::Unhold`]. Refused
    /// where another member has it, it is gone, or in an entry of another leader's term.
    Hold {
        /// The shared queue.
        share: ShareKey,
        /// Position in it.
        sequence: Sequence,
        /// Who has it.
        holder: ShareHolder,
    },
    /// The member of a [`Self::Hold`] was not sent the reference, and never will be: another may have it.
    Unhold {
        /// The shared queue.
        share: ShareKey,
        /// Position in it.
        sequence: Sequence,
        /// Of the holder; another one is left alone.
        give: GiveId,
    },
    /// Drops the queues of sessions, shares or nodes that exist no more.
    DropQueues {
        /// The queues, each with the next sequence it had when its owner was not known: one that got something since
        /// stays, as a share may have come back.
        queues: Vec<(TargetQueue, Sequence)>,
    },
    /// Sets or, with an empty payload, clears the retained message of a topic (in the topic's group).
    SetRetained {
        /// Where the write comes from; writes not above the last one of their source group are ignored (R35).
        source: RetainedSource,
        /// The message.
        message: Message,
        /// Limits: messages and bytes in this group; a write beyond them is refused.
        messages_max: u32,
        /// Bytes.
        bytes_max: u64,
    },
    /// The retained writes of this group's outbox up to here were taken by their topics' groups. Logs of versions before
    /// [`Self::RetainedCarried`] hold it.
    RetainedTaken {
        /// Last one taken.
        up_to: RetainedSource,
        /// Those among them that their topics' groups refused: their publishers may be on any node.
        refused: Vec<RetainedSource>,
    },
    /// The group of some topics has these retained writes of this group's outbox.
    RetainedCarried {
        /// Home of their topics: all earlier writes to topics of that group were taken before.
        topics: GroupId,
        /// The writes.
        writes: Vec<RetainedSource>,
        /// Those among them that were refused: their publishers may be on any node.
        refused: Vec<RetainedSource>,
    },
    /// The will of (session, epoch) that this group held as due was published by its leader.
    WillPublished {
        /// Session.
        session: SessionId,
        /// Connection.
        epoch: Epoch,
    },
    /// Nobody will publish these wills of live groups again: their groups have forgotten them, or have lost all they
    /// held.
    ForgetLiveWills {
        /// Sessions and their connections.
        wills: Vec<(SessionId, Epoch)>,
    },
    /// A start of a node is over: its connections end (R3, R25), and its queue goes (R11).
    NodeLost {
        /// The node.
        node: NodeId,
        /// Connections of this start and all before it.
        incarnation: NodeIncarnation,
    },
}

impl Command {
    /// Whether it may have its effect in an entry of this term. What a leader chooses for a member holds as long as it
    /// leads: a batch that it repeats to its successor must not move what that one has given to another since (R37).
    pub(super) fn is_of_term(&self, term: u64) -> bool {
        match self {
            Self::Assign { give, .. } => give.is_of_term(term),
            Self::Hold { holder, .. } => holder.give.is_of_term(term),
            _ => true,
        }
    }
}

/// A message for its targets.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishCommand {
    /// Where it comes from.
    pub origin: Origin,
    /// The message.
    pub message: Message,
    /// Queues that get a reference.
    pub targets: Vec<Target>,
    /// Put it into the retained outbox as well.
    pub set_retained: bool,
    /// Somebody gets it live, so it is not turned away where all queues are full.
    pub taken_live: bool,
}

/// More targets of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishPart {
    /// As in the first part ([`Command::PublishFirst`]).
    pub number: u64,
    /// As in the first part.
    pub origin: Origin,
    /// Largest target of the parts before; none where these had no targets.
    pub after: Option<TargetQueue>,
    /// Targets above it, in any order.
    pub targets: Vec<Target>,
    /// No more come: the answer is that to the whole publish.
    pub last: bool,
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A session whose home is this group. Refused when (session, epoch) is not the current connection (R9).
    Session {
        /// Session.
        session: SessionId,
        /// Connection.
        epoch: Epoch,
        /// Inbound packet identifier, at QoS 2: recorded together with the message, a repeat is answered as such.
        packet_id: Option<PacketId>,
    },
    /// A session of expiry 0, whose record is in a live group; nothing is checked here.
    Live {
        /// Session; none where the publisher has none.
        session: Option<SessionId>,
    },
    /// The will that this group holds as due for (session, epoch); refused when it does not hold it (R31).
    Will {
        /// Session.
        session: SessionId,
        /// Connection.
        epoch: Epoch,
    },
    /// The will that a live group holds as due for (session, epoch); refused when this group has published it (R31).
    LiveWill {
        /// Session.
        session: SessionId,
        /// Connection.
        epoch: Epoch,
    },
    /// The broker itself ($SYS, administration, retained messages for a new subscription).
    Server,
}

impl Origin {
    /// The session that the message is from; none for the broker's own.
    pub fn publisher(&self) -> Option<SessionId> {
        match self {
            Self::Session { session, .. } | Self::Will { session, .. } | Self::LiveWill { session, .. } => {
                Some(*session)
            }
            Self::Live { session } => *session,
            Self::Server => None,
        }
    }
}

/// One target of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its queue.
    pub queue: TargetQueue,
    /// QoS to deliver with; for a share the QoS of the message.
    pub qos: QoS,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Whether it is the retained message of a new subscription: it is skipped where a live message of its topic was
    /// sent since (R34).
    pub replayed: bool,
    /// Subscription identifiers to send.
    pub subscription_ids: Vec<u32>,
}

/// A queue of references in this group. The targets of a publish in parts are cut in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetQueue {
    /// Of a durable session.
    Session(SessionId),
    /// Of a shared subscription with a durable member.
    Share(ShareKey),
    /// Of the connections of a start of a node, whose sessions are not durable (R11): the node takes what stands here,
    /// finds the receivers by matching, and settles it. Limits do not apply, and it goes with that start.
    Node(NodeId, NodeIncarnation),
}

/// A write to a retained topic comes from this place of a publisher's home group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RetainedSource {
    /// Group.
    pub group: GroupId,
    /// Index of the entry.
    pub index: u64,
    /// Position of the command in its batch.
    pub position: u32,
}

/// A subscription as its session's home group stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Filter as the client wrote it, `$share/...` included.
    pub filter: Arc<str>,
    /// Options.
    pub options: SubscriptionOptions,
    /// Subscription identifier.
    pub subscription_id: Option<u32>,
}

/// A stored will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillMessage {
    /// The message, its RETAIN flag included.
    pub message: Message,
    /// Will delay interval in seconds.
    pub delay_secs: u32,
}
