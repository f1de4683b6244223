//! What the node asks of the broker around it.

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::codec::{QoS, SubscriptionOptions};
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::{BrokerReply, Giving};
use crate::raft::PeerStart;
use crate::state::{
    Event, GiveId, NodeId, Outcome, PulledReference, Sequence, SessionId, ShareKey, Target, TargetQueue,
};

/// Address of a connection on this node: worker, place in its table, and the place's generation, so that a late
/// message never reaches the place's next tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// Index of the worker.
    pub worker: u16,
    /// Place in the worker's table.
    pub slot: u32,
    /// Generation of the place.
    pub generation: u32,
}

/// How a proposal ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// Committed and applied.
    Applied(Outcome),
    /// Not carried out, and never will be: the group refused the batch.
    Refused,
    /// Not carried out, and never will be: no entry can hold the command.
    TooLarge,
}

/// References of a session's queue, answer to a pull.
#[derive(Debug)]
pub struct References {
    /// The connection that asked.
    pub location: Location,
    /// The group whose queue it is.
    pub group: GroupId,
    /// The references, in order.
    pub references: Vec<PulledReference>,
    /// Where to go on; the queue may hold more from here if `more`.
    pub next: Sequence,
    /// References below this position may have been sent by an earlier connection.
    pub sent_before: Sequence,
    /// Whether the queue holds more.
    pub more: bool,
    /// It does, and no identifiers are free for it (R22): the connection is told when some are.
    pub window_stopped: bool,
    /// Group time when this start of the node began: what `sent_before` knows begins here.
    pub started: crate::state::GroupTime,
    /// Group time at the pull.
    pub now: crate::state::GroupTime,
}

/// A reference of a shared queue that was given to a member.
#[derive(Clone, Debug)]
pub struct SharedReference {
    /// Where the member's connection is.
    pub at: MemberAt,
    /// The member.
    pub session: SessionId,
    /// The group that holds it.
    pub group: GroupId,
    /// The shared subscription.
    pub share: ShareKey,
    /// The reference.
    pub reference: PulledReference,
    /// The member's subscription.
    pub options: SubscriptionOptions,
    /// The member's subscription identifier.
    pub subscription_id: Option<u32>,
    /// Which giving of the reference this is.
    pub give: GiveId,
    /// How it is given.
    pub giving: Giving,
    /// Group time when it was given.
    pub now: crate::state::GroupTime,
}

/// Where a member of a shared subscription is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberAt {
    /// At this node.
    Here(Location),
    /// At another one.
    There(NodeId),
}

/// A connected member of a shared subscription.
#[derive(Clone, Copy, Debug)]
pub struct ShareMember {
    /// Its session.
    pub session: SessionId,
    /// Where its connection is.
    pub at: MemberAt,
    /// Its options.
    pub options: SubscriptionOptions,
    /// Its subscription identifier.
    pub subscription_id: Option<u32>,
}

/// The broker around the node. Methods are called from the node's runtime and must not block.
pub trait Host: Send + Sync + Sized + 'static {
    /// Names who waits for a proposal.
    type Ticket: Send + 'static;

    /// Proposals ended.
    fn complete(&self, completions: Vec<(Self::Ticket, Completion)>);

    /// A publish is committed, and its retained message has still to reach its topic's group: the ticket of what is done at
    /// once, in the order of the commits, and the one that completes then.
    ///
    /// # Errors
    /// Nothing is done at once: the ticket as it was.
    fn split(&self, ticket: Self::Ticket) -> Result<(Self::Ticket, Self::Ticket), Self::Ticket> {
        Err(ticket)
    }

    /// Apply did this, in this order; called before the proposals of the same entry complete.
    fn handle_events(&self, group: GroupId, events: &[Event]);

    /// The state of a group was replaced as a whole: of the sessions at home there only those are left that are `known`.
    /// Events that say everything again follow.
    fn handle_reload(&self, group: GroupId, known: &dyn Fn(SessionId) -> bool);

    /// Answers to pulls.
    fn handle_references(&self, references: References);

    /// References of a session's queue that its last pull had to leave can be pulled now.
    fn handle_pending(&self, group: GroupId, session: SessionId);

    /// Shared references for members.
    fn handle_shared(&self, references: Vec<SharedReference>);

    /// The durable queues that a session's will goes to.
    fn will_targets(&self, session: SessionId, message: &Message) -> Vec<Target>;

    /// A session's will is published: delivers it to live subscribers.
    fn deliver_will(&self, session: SessionId, message: &Arc<Message>);

    /// The connected members of a shared subscription.
    fn share_members(&self, share: &ShareKey) -> Vec<ShareMember>;

    /// Whether anybody still owns this queue: a session that exists, a share that has a durable or a connected member.
    fn queue_is_known(&self, queue: &TargetQueue) -> bool;

    /// Messages that a group holds for the live subscribers of this node (R11), in order.
    fn handle_node_messages(&self, messages: Vec<PulledReference>);

    /// A request of another node's broker, in the order they were sent. Must not block.
    fn handle_peer(&self, from: PeerStart, request: Bytes, reply: BrokerReply);

    /// A start of another node is over, and may have answered publishers of messages that were on the way to live
    /// subscribers here (R4).
    fn deliveries_missed(&self);

    /// The cluster has taken this start of the node out of its view: nobody may be answered any more, and the node has
    /// to start anew.
    fn removed(&self);

    /// Connections of clients to this node.
    fn clients(&self) -> u64;

    /// This node has left the cluster for good, and has nothing to do any more.
    fn left(&self);

    /// The node cannot go on: its log or state store failed.
    fn fatal(&self, what: String);
}

/// QoS a shared reference is delivered with to a member.
pub(crate) fn shared_qos(published: QoS, options: &SubscriptionOptions) -> QoS {
    published.min(options.qos)
}
