//! Messages on their way to the client, as the host hands them in, and what became of them.

use super::Instant;
use crate::codec::QoS;
use crate::message::Message;

/// A delivery that is not replicated: to a live subscriber, or at QoS 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delivery<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Properties forwarded unaltered (see [`crate::codec::Publish::forwardable`]).
    pub forwardable: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
    /// Effective QoS: the lower of the message's and the subscription's.
    pub qos: QoS,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Subscription identifiers of the matching subscriptions.
    pub subscription_ids: &'a [u32],
    /// End of the message's lifetime.
    pub expires_at: Option<Instant>,
}

impl<'a> Delivery<'a> {
    /// The delivery of a shared message.
    pub fn of(message: &'a Message, qos: QoS) -> Self {
        Self {
            topic: message.topic(),
            forwardable: message.forwardable(),
            payload: message.payload(),
            qos,
            retain: message.retain,
            subscription_ids: &[],
            expires_at: None,
        }
    }
}

/// The host's name for a delivery it keeps track of; comes back in [`super::Action::Settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryToken(pub u64);

/// A delivery at QoS 1 or 2 that the host keeps track of: a replicated reference of a durable session, or a message
/// of a shared subscription.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackedDelivery<'a> {
    /// The host's name for it.
    pub token: DeliveryToken,
    /// Where its packet identifier comes from.
    pub packet_id: PacketIdSource,
    /// The message.
    pub message: &'a Message,
    /// Effective QoS, 1 or 2.
    pub qos: QoS,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Subscription identifiers of the matching subscriptions.
    pub subscription_ids: &'a [u32],
    /// End of the message's lifetime; concerns [`DeliveryPhase::Fresh`] alone: what was sent once goes on.
    pub expires_at: Option<Instant>,
    /// How far it got on earlier connections.
    pub phase: DeliveryPhase,
}

impl<'a> TrackedDelivery<'a> {
    /// The same without the tracking.
    pub(super) fn delivery(&self) -> Delivery<'a> {
        Delivery {
            retain: self.retain,
            subscription_ids: self.subscription_ids,
            expires_at: self.expires_at,
            ..Delivery::of(self.message, self.qos)
        }
    }
}

/// Where the packet identifier of a tracked delivery comes from (R24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketIdSource {
    /// Derived from the replicated sequence, so that every owner of the session sends the same one.
    Derived {
        /// Replication group, 0 to 15.
        group: u8,
        /// The reference's number in the (session, group) sequence.
        sequence: u64,
    },
    /// Any free one of those for deliveries without replication.
    Local,
}

/// How far a tracked delivery got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryPhase {
    /// Never sent.
    Fresh,
    /// Sent on an earlier connection and not acknowledged: sent with DUP [MQTT-3.3.1-1].
    Resent,
    /// The client's PUBREC is committed: only PUBREL is sent.
    Received,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a dropped delivery must be counted, a tracked one settled"]
pub enum DeliverResult {
    /// Written to the output.
    Sent,
    /// Waits for the window; only for [`super::Connection::deliver`].
    Queued,
    /// Not sent and never will be. A tracked delivery is the host's to settle.
    Dropped(DropReason),
    /// Not now: the window is full or the identifier is still in use (R22). Only for
    /// [`super::Connection::deliver_tracked`]; the host offers it again after a settlement.
    Busy,
}

/// Why a delivery was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue behind the window is full.
    QueueFull,
    /// The packet exceeds the client's maximum packet size [MQTT-3.1.2-24].
    PacketTooLarge,
    /// QoS 0 and the output buffer is full.
    OutputFull,
    /// Its lifetime has ended [MQTT-3.3.2-5].
    Expired,
    /// The connection is not (yet, or any longer) connected.
    NotConnected,
}

/// Deliveries that were accepted into the queue and dropped from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDrops {
    /// Their lifetime ended while they waited.
    pub expired: u64,
    /// They exceed the client's maximum packet size.
    pub packet_too_large: u64,
}

impl QueueDrops {
    pub(super) fn count(&mut self, reason: DropReason) {
        match reason {
            DropReason::PacketTooLarge => self.packet_too_large += 1,
            _ => self.expired += 1,
        }
    }
}
