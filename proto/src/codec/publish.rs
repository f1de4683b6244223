//! PUBLISH, both ways.
//!
//! Inbound the packet borrows from the read buffer; outbound [`OutboundPublish`] is written straight into the
//! connection's output buffer from a message's parts. The properties that a subscriber gets unaltered travel as one
//! encoded block (`forwardable`), so forwarding them costs one copy [MQTT-3.3.2-17, -18, -20].

use std::borrow::Cow;

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::sink::{PutBody, PutProperties, Sink, clip, variable_bytes, variable_len, wire_length};
use super::{DecodeError, Frame, PacketId, PacketType, ProtocolVersion, QoS, ReasonCode, SubscriptionIds};

const TOPIC_WILDCARD: DecodeError = DecodeError::new(
    ReasonCode::TOPIC_NAME_INVALID,
    "topic name contains a wildcard character [MQTT-3.3.2-2]",
);
const TOPIC_EMPTY: DecodeError = DecodeError::malformed("topic name is empty [MQTT-4.7.3-1]");
const TOPIC_MISSING: DecodeError =
    DecodeError::protocol_error("topic name is empty and there is no topic alias [MQTT5 3.3.2.1]");
const TOPIC_ALIAS_ZERO: DecodeError =
    DecodeError::new(ReasonCode::TOPIC_ALIAS_INVALID, "topic alias is 0 [MQTT-3.3.2-8]");
const SUBSCRIPTION_ID_ZERO: DecodeError =
    DecodeError::protocol_error("subscription identifier is 0 [MQTT5 3.3.2.3.8]");
/// Also of the response topic in a will.
pub(super) const RESPONSE_TOPIC_WILDCARD: DecodeError =
    DecodeError::protocol_error("response topic contains a wildcard character [MQTT-3.3.2-14]");

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

impl<'a> Publish<'a> {
    /// Decodes a frame whose type is PUBLISH; the shortest way for the most frequent packet.
    ///
    /// # Errors
    ///
    /// As [`Packet::decode`](super::Packet::decode); among them 0x90 for a topic name with wildcard characters and
    /// 0x94 for a topic alias of 0.
    #[inline]
    pub fn decode(frame: Frame<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let head = Head::decode(frame, version)?;
        match head.payload {
            Some(payload) => Ok(Self::plain(head, payload)),
            None => Self::with_properties(&head),
        }
    }

    /// The packet that a head without properties and its payload make.
    #[inline(always)]
    pub(super) const fn plain(head: Head<'a>, payload: &'a [u8]) -> Self {
        Self {
            dup: head.dup,
            qos: head.qos,
            retain: head.retain,
            topic: head.topic,
            packet_id: head.packet_id,
            topic_alias: None,
            message_expiry_secs: None,
            payload_is_utf8: false,
            subscription_ids: SubscriptionIds::from_checked(&[]),
            response_topic: None,
            forwardable: Cow::Borrowed(&[]),
            payload,
        }
    }

    /// The packet that a head and what follows it make.
    #[inline(never)]
    pub(super) fn with_properties(head: &Head<'a>) -> Result<Self, DecodeError> {
        let mut reader = head.rest;
        let mut publish = Self::plain(*head, &[]);
        publish.decode_properties(&mut reader)?;
        if publish.topic.is_empty() && publish.topic_alias.is_none() {
            return Err(TOPIC_MISSING);
        }
        publish.payload = reader.rest();
        Ok(publish)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader)?.repeatable(PropertyId::SubscriptionIdentifier);
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::PayloadFormatIndicator => self.payload_is_utf8 = properties.flag()?,
                PropertyId::MessageExpiryInterval => self.message_expiry_secs = Some(properties.u32()?),
                PropertyId::TopicAlias => {
                    self.topic_alias = Some(properties.u16_above_zero(TOPIC_ALIAS_ZERO)?);
                }
                PropertyId::ResponseTopic => {
                    self.response_topic = Some(properties.topic_name(RESPONSE_TOPIC_WILDCARD)?);
                }
                PropertyId::CorrelationData => drop(properties.binary()?),
                PropertyId::SubscriptionIdentifier => {
                    properties.variable_above_zero(SUBSCRIPTION_ID_ZERO)?;
                    self.subscription_ids = SubscriptionIds::from_checked(properties.block());
                }
                PropertyId::ContentType => drop(properties.string()?),
                _ => return properties.not_allowed(),
            }
        }
        self.forwardable = properties.into_forwardable();
        Ok(())
    }

    /// Appends the packet. What `forwardable` says of payload format and response topic is what counts: the fields of
    /// that name only repeat it.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        self.put_packet(first_byte(self.dup, self.qos, self.retain), version, out);
    }

    /// Exact bytes that [`Publish::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.packet_len(version)
    }
}

impl PutProperties for Publish<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        sink.property_u32(PropertyId::MessageExpiryInterval, self.message_expiry_secs);
        sink.property_u16(PropertyId::TopicAlias, self.topic_alias);
        self.subscription_ids.put(sink);
        sink.put(&self.forwardable);
    }
}

impl PutBody for Publish<'_> {
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        debug_assert_eq!(
            self.packet_id.is_some(),
            self.qos != QoS::AtMostOnce,
            "[MQTT-2.2.1-2, -3]"
        );
        sink.put_string(self.topic);
        if let Some(packet_id) = self.packet_id {
            sink.put_u16(packet_id.get());
        }
        if version == ProtocolVersion::V5 {
            self.put_property_block(sink);
        }
        sink.put(self.payload);
    }
}

/// What a PUBLISH has before its properties.
///
/// Decoding stops here on the way, and is always inlined, so that a packet without properties is built once and in
/// its place: moving a packet right after its fields were written one by one stalls the processor for longer than
/// reading the topic takes.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    dup: bool,
    qos: QoS,
    retain: bool,
    topic: &'a str,
    packet_id: Option<PacketId>,
    /// What follows: properties at MQTT 5, and the payload.
    rest: Reader<'a>,
    /// The payload, where there are no properties.
    pub(super) payload: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    #[inline(always)]
    pub(super) fn decode(frame: Frame<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        debug_assert_eq!(frame.packet_type, PacketType::Publish);
        let qos = QoS::from_bits(frame.flags >> 1 & 0b11).ok_or(DecodeError::QOS_3)?;
        let dup = frame.flags & 0b1000 != 0;
        if dup && qos == QoS::AtMostOnce {
            return Err(DecodeError::DUP_AT_QOS_0);
        }
        let retain = frame.flags & 1 != 0;
        let mut rest = Reader::new(frame.body);
        let topic = rest.topic_name(TOPIC_WILDCARD)?;
        let packet_id = if qos == QoS::AtMostOnce {
            None
        } else {
            Some(rest.packet_id()?)
        };
        let payload = match (version, rest.rest()) {
            (ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1, payload) => Some(payload),
            (ProtocolVersion::V5, [0, payload @ ..]) => Some(payload),
            (ProtocolVersion::V5, _) => None,
        };
        if topic.is_empty() && payload.is_some() {
            return Err(if version == ProtocolVersion::V5 {
                TOPIC_MISSING
            } else {
                TOPIC_EMPTY
            });
        }
        Ok(Self {
            dup,
            qos,
            retain,
            topic,
            packet_id,
            rest,
            payload,
        })
    }
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

impl OutboundPublish<'_> {
    /// Exact bytes that [`OutboundPublish::encode`] appends; compare it with the client's maximum packet size
    /// [MQTT-3.1.2-24], or [`PACKET_SIZE_MAX`](super::PACKET_SIZE_MAX) where the client sets none.
    #[inline]
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        let remaining = self.remaining_len(version, self.properties_len());
        1 + variable_len(wire_length(remaining)) + remaining
    }

    /// Appends the packet. Sizes are known before the first byte is written, and each part is copied once.
    #[inline]
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        debug_assert_eq!(
            self.packet_id.is_some(),
            self.qos != QoS::AtMostOnce,
            "[MQTT-2.2.1-2, -3]"
        );
        let properties_len = self.properties_len();
        let remaining = self.remaining_len(version, properties_len);
        out.reserve(1 + 4 + remaining);

        let first = first_byte(self.dup, self.qos, self.retain);
        let topic = clip(self.topic).as_bytes();
        let [high, low] = (topic.len() as u16).to_be_bytes();
        // Arrays of a fixed size are single stores, where a slice of them would be a call.
        match variable_bytes(wire_length(remaining)) {
            ([a, ..], 1) => out.extend_from_slice(&[first, a, high, low]),
            ([a, b, ..], 2) => out.extend_from_slice(&[first, a, b, high, low]),
            ([a, b, c, _], 3) => out.extend_from_slice(&[first, a, b, c, high, low]),
            ([a, b, c, d], _) => out.extend_from_slice(&[first, a, b, c, d, high, low]),
        }
        out.extend_from_slice(topic);
        if let Some(packet_id) = self.packet_id {
            out.extend_from_slice(&packet_id.get().to_be_bytes());
        }
        if version == ProtocolVersion::V5 {
            self.put_properties(properties_len, out);
        }
        out.extend_from_slice(self.payload);
    }

    #[inline]
    fn put_properties(&self, properties_len: usize, out: &mut Vec<u8>) {
        out.put_variable(wire_length(properties_len));
        if properties_len == 0 {
            return;
        }
        out.property_u32(PropertyId::MessageExpiryInterval, self.message_expiry_secs);
        out.property_u16(PropertyId::TopicAlias, self.topic_alias);
        for id in self.subscription_ids {
            out.property_variable(PropertyId::SubscriptionIdentifier, Some(*id));
        }
        out.extend_from_slice(self.forwardable);
    }

    /// Bytes of the MQTT 5 properties, without the length in front of them.
    #[inline]
    fn properties_len(&self) -> usize {
        let expiry = if self.message_expiry_secs.is_some() {
            1 + 4
        } else {
            0
        };
        let alias = if self.topic_alias.is_some() { 1 + 2 } else { 0 };
        let ids: usize = self.subscription_ids.iter().map(|id| 1 + variable_len(*id)).sum();
        expiry + alias + ids + self.forwardable.len()
    }

    #[inline]
    fn remaining_len(&self, version: ProtocolVersion, properties_len: usize) -> usize {
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        let properties = match version {
            ProtocolVersion::V5 => variable_len(wire_length(properties_len)) + properties_len,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => 0,
        };
        2 + clip(self.topic).len() + packet_id + properties + self.payload.len()
    }
}

/// Type and flags; DUP never goes with QoS 0 [MQTT-3.3.1-2].
#[inline]
const fn first_byte(dup: bool, qos: QoS, retain: bool) -> u8 {
    let dup = dup && !matches!(qos, QoS::AtMostOnce);
    (PacketType::Publish as u8) << 4 | (dup as u8) << 3 | (qos as u8) << 1 | retain as u8
}
