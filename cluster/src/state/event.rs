//! What a node has to know of what apply did: its routes, its queues, its timers.
//!
//! Events say what the state says already; a node that starts rebuilds the same knowledge from the state.

use quorate_storage::log::GroupId;

use super::{
    ClientId, Epoch, GiveId, Owner, RetainedSource, Sequence, SessionId, ShareKey, Subscription, TargetQueue,
};

/// How far the retained writes of this group have come.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainedTaken {
    /// Those to topics of this group; none for all.
    pub topics: Option<GroupId>,
    /// The last one.
    pub up_to: RetainedSource,
    /// Those that were refused.
    pub refused: Vec<RetainedSource>,
    /// Of writes up to this one it is not known which were refused. Said where a whole state is told again, never by apply.
    pub forgotten: Option<RetainedSource>,
}

impl RetainedTaken {
    /// Adds what was told of the same topics later.
    pub(crate) fn merge(&mut self, later: Self) {
        self.up_to = self.up_to.max(later.up_to);
        self.refused.extend(later.refused);
        self.forgotten = self.forgotten.max(later.forgotten);
    }
}

/// Something that apply did.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A session was created, or its connection changed hands or ended (`owner` none).
    SessionOwner {
        /// Client identifier.
        client_id: ClientId,
        /// Session.
        session: SessionId,
        /// Who holds its connection.
        owner: Option<Owner>,
        /// Who held it before, where that connection has to be closed (0x8E).
        fenced: Option<Owner>,
    },
    /// A session ended; all its subscriptions are gone.
    SessionEnded {
        /// Client identifier.
        client_id: ClientId,
        /// Session.
        session: SessionId,
        /// The connection to be closed, if there was one.
        fenced: Option<Owner>,
    },
    /// A subscription was added or replaced.
    Subscribed {
        /// Session.
        session: SessionId,
        /// The subscription.
        subscription: Subscription,
    },
    /// These are all subscriptions of a session: what else was known of it is no more. Said where a whole state is told
    /// again, never by apply.
    Subscriptions {
        /// Session.
        session: SessionId,
        /// All of them.
        subscriptions: Vec<Subscription>,
    },
    /// A subscription was removed.
    Unsubscribed {
        /// Session.
        session: SessionId,
        /// Filter as the client wrote it.
        filter: std::sync::Arc<str>,
    },
    /// References were added to a queue.
    Queued {
        /// The queue.
        queue: TargetQueue,
        /// First new position.
        first: Sequence,
        /// How many.
        count: u32,
        /// Bytes.
        bytes: u64,
    },
    /// References left a queue.
    Removed {
        /// The queue.
        queue: TargetQueue,
        /// How many.
        count: u32,
        /// Bytes.
        bytes: u64,
    },
    /// A reference of a shared queue that was to be with one member was not sent to it (R37).
    Unheld {
        /// The shared queue.
        share: ShareKey,
        /// Position in it.
        sequence: Sequence,
        /// Which giving that was.
        give: GiveId,
    },
    /// A start of a node is over: nothing that it proposes is taken any more.
    NodeLost,
    /// A will is due: the leader matches and publishes it.
    WillDue {
        /// Session.
        session: SessionId,
        /// Connection it belongs to.
        epoch: Epoch,
    },
    /// The retained outbox got a write: the leader passes it to the topic's group.
    RetainedQueued,
    /// Retained writes are with their topics' groups, or refused by them: their publishers can be told.
    RetainedTaken(RetainedTaken),
    /// The deadline the leader has to tick at may have come nearer.
    DeadlineChanged,
}
