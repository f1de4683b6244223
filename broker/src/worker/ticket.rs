//! Who waits for a proposal: a connection, and for what.

use quorate_cluster::node::Location;
use quorate_cluster::state::{Epoch, GroupTime, SessionId};
use quorate_proto::codec::{PacketId, ReasonCode, SubscriptionOptions};
use quorate_proto::message::Message;
use quorate_proto::session::{DeliveryToken, OpenRequest, PublishToken};
use smallvec::SmallVec;
use std::sync::{Arc, OnceLock};

use super::AckWait;
use super::late::LateKey;
use super::open::OpenedSession;
use super::shared::Shared;
use crate::peers::Joint;

/// Names the connection that waits for a proposal.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) location: Location,
    pub(crate) waits_for: WaitsFor,
}

/// A PUBACK or PUBREC that is still to be sent.
#[derive(Debug)]
pub(crate) struct WaitsForAck {
    pub(crate) token: PublishToken,
    pub(crate) wait: AckWait,
}

/// What a publisher is told of a publish that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Refused where every queue turned it away.
    AsStored,
    /// Accepted: it is retained.
    AsRetained,
    /// Accepted: it was stored by an earlier step.
    Accepted,
}

impl Ticket {
    /// The delivery to live subscribers, and what is left then: of a publish that gets there after its commit (R11).
    pub(crate) fn split(self) -> Result<(Self, Self), Self> {
        let WaitsFor::ExactlyOnce(mut waits) = self.waits_for else {
            return Err(self);
        };
        if waits.live_delivery.is_some() {
            return Err(Self {
                location: self.location,
                waits_for: WaitsFor::ExactlyOnce(waits),
            });
        }
        let live_delivery = Arc::new(LiveDelivery::new());
        waits.live_delivery = Some(live_delivery.clone());
        let now = WaitsFor::DeliverLive(waits.publish.clone(), live_delivery);
        let ticket = |waits_for| Self {
            location: self.location,
            waits_for,
        };
        Ok((ticket(now), ticket(WaitsFor::ExactlyOnce(waits))))
    }
}

impl Answer {
    pub(super) fn of(retain: bool) -> Self {
        match retain {
            true => Self::AsRetained,
            false => Self::AsStored,
        }
    }
}

/// Who took a message live; set once.
pub(crate) type LiveDelivery = OnceLock<TakenLive>;

/// Who took a message live.
#[derive(Clone, Debug, Default)]
pub(crate) struct TakenLive {
    pub(crate) any: bool,
    /// Other nodes have to accept it before it is acknowledged.
    pub(crate) forwarded: Option<Arc<Joint>>,
}

/// A publish that live subscribers get once it is committed.
#[derive(Clone, Debug)]
pub(crate) struct LivePublish {
    pub(crate) publisher: SessionId,
    /// Who came meanwhile gets it too.
    pub(crate) late: Option<LateKey>,
    pub(crate) message: Arc<Message>,
}

/// A QoS 2 publish of a durable session on its way.
#[derive(Debug)]
pub(crate) struct ExactlyOnce {
    pub(crate) ack: WaitsForAck,
    /// Somebody was to get it live when it was proposed.
    pub(crate) live: bool,
    pub(crate) epoch: Epoch,
    pub(crate) publish: LivePublish,
    /// How live subscribers got it, where that was before its retained message was stored.
    pub(crate) live_delivery: Option<Arc<LiveDelivery>>,
}

/// What it waits for.
#[derive(Debug)]
pub(crate) enum WaitsFor {
    /// The acknowledgement of a publish, if it gets one.
    Publish {
        ack: Option<WaitsForAck>,
        /// Somebody had it already.
        matched: bool,
        /// Who came meanwhile gets it too.
        late: Option<LateKey>,
        answer: Answer,
        /// Other nodes have to accept it as well.
        forwarded: Option<Arc<Joint>>,
    },
    /// The acknowledgement of a QoS 2 publish of a durable session, delivered to live subscribers after the commit
    /// (R11).
    ExactlyOnce(ExactlyOnce),
    /// The delivery to live subscribers of a publish that is committed and waits for more.
    DeliverLive(LivePublish, Arc<LiveDelivery>),
    /// PUBCOMP to a publisher.
    Release(PacketId),
    /// A QoS 2 publish that is refused after its identifier was recorded: its client is told when that is forgotten.
    Forgotten(Box<Ticket>),
    /// PUBREL to a subscriber.
    Received {
        packet_id: PacketId,
        token: Option<DeliveryToken>,
    },
    /// The end of the client's session of the other kind; its own is opened next.
    OtherSessionEnded(Box<OpenRequest>),
    /// The end of the client's session of the other kind; its own is open already.
    OtherEndedAfter(Box<OpenedSession>),
    /// CONNACK. `closed_at`: when the session's last connection ended, in its home group's time.
    Opened {
        request: Box<OpenRequest>,
        closed_at: Option<GroupTime>,
    },
    /// SUBACK.
    Subscribed(Box<Subscribing>),
    /// UNSUBACK.
    Unsubscribed(Box<Unsubscribing>),
    /// A retained message in the queue of a durable session; its publisher may wait for that.
    RetainedAppended(Option<Arc<Joint>>),
    /// A step of the replay with this serial number among those of the connection, with a value or to move its cursor
    /// alone.
    Replayed { serial: u32, is_value: bool },
    /// A shared message that is offered to a durable member, in its own queue.
    Moved(Box<Shared>),
    /// Retained messages in queues of sessions without connection; their publisher waits for that.
    LateStored(Arc<Joint>),
}

/// A SUBSCRIBE on its way.
#[derive(Debug)]
pub(crate) struct Subscribing {
    pub(crate) session: SessionId,
    pub(crate) packet_id: PacketId,
    pub(crate) subscription_id: Option<u32>,
    /// One per filter: final where it is an error, else to be granted.
    pub(crate) reasons: SmallVec<[ReasonCode; 2]>,
    /// The proposed filters with the place of each in `reasons`.
    pub(crate) filters: SmallVec<[(usize, Arc<str>, SubscriptionOptions); 2]>,
    /// Number of its retained messages among those of the connection, if it may get any.
    pub(crate) replay: Option<u32>,
}

/// An UNSUBSCRIBE on its way.
#[derive(Debug)]
pub(crate) struct Unsubscribing {
    pub(crate) packet_id: PacketId,
    pub(crate) reasons: SmallVec<[ReasonCode; 2]>,
    /// Places in `reasons` of the proposed filters.
    pub(crate) places: SmallVec<[usize; 2]>,
    /// These filters.
    pub(crate) filters: Vec<Arc<str>>,
}
