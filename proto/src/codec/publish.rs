//! PUBLISH, both ways.
//!
//! Inbound the packet borrows from the read buffer; outbound [`OutboundPublish`] is written straight into the
//! connection's output buffer from a message's parts. The properties that a subscriber gets unaltered travel as one
//! encoded block (`forwardable`), so forwarding them costs one copy [MQTT-3.3.2-17, -18, -20].

use std::borrow::Cow;

use super::{PacketId, QoS, SubscriptionIds};

/// A decoded PUBLISH.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish<'a> {
    /// The DUP flag.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Topic name; empty only together with a topic alias.
    pub topic: &'a str,
    /// Packet identifier, at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Topic alias.
    pub topic_alias: Option<u16>,
    /// Message expiry interval in seconds.
    pub message_expiry_secs: Option<u32>,
    /// Payload format indicator is 1 (UTF-8).
    pub payload_is_utf8: bool,
    /// Subscription identifiers; only a server sends them.
    pub subscription_ids: SubscriptionIds<'a>,
    /// Response topic, also part of `forwardable`.
    pub response_topic: Option<&'a str>,
    /// Every property a subscriber gets unaltered (payload format, content type, response topic, correlation data,
    /// user properties), as an MQTT 5 property block without its length. Borrowed unless something had to be cut out.
    pub forwardable: Cow<'a, [u8]>,
    /// Payload.
    pub payload: &'a [u8],
}

/// A PUBLISH to be written to a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutboundPublish<'a> {
    /// Topic name; empty when an established alias stands for it.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
    /// Encoded MQTT 5 properties (see [`Publish::forwardable`]); left out for 3.x.
    pub forwardable: &'a [u8],
    /// Quality of service.
    pub qos: QoS,
    /// The DUP flag.
    pub dup: bool,
    /// The RETAIN flag.
    pub retain: bool,
    /// Packet identifier; must be present exactly at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Remaining lifetime in seconds.
    pub message_expiry_secs: Option<u32>,
    /// Topic alias to set or use.
    pub topic_alias: Option<u16>,
    /// Subscription identifiers, each 1 to 268,435,455.
    pub subscription_ids: &'a [u32],
}
