//! What all packets share: versions, quality of service, packet identifiers, errors, and the sum of all packets.

use std::num::NonZeroU16;

use super::frame::{Frame, PacketType};
use super::ping::{PINGREQ, PINGRESP};
use super::primitive::Reader;
use super::{
    Ack, Auth, Connack, Connect, Disconnect, Publish, ReasonCode, Suback, Subscribe, Unsuback, Unsubscribe,
    publish,
};

/// Protocol version of a connection, as in the CONNECT packet's protocol level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ProtocolVersion {
    /// MQTT 3.1 (protocol name `MQIsdp`).
    V3_1 = 3,
    /// MQTT 3.1.1.
    V3_1_1 = 4,
    /// MQTT 5.0.
    V5 = 5,
}

/// Quality of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// The quality of service a number stands for; `None` for 3, which must not be used [MQTT-3.3.1-4], and above.
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier, 1 to 65,535.
pub type PacketId = NonZeroU16;

/// Any packet of either direction, borrowed from the bytes it was decoded from.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet<'a> {
    /// CONNECT.
    Connect(Connect<'a>),
    /// CONNACK.
    Connack(Connack<'a>),
    /// PUBLISH.
    Publish(Publish<'a>),
    /// PUBACK.
    Puback(Ack<'a>),
    /// PUBREC.
    Pubrec(Ack<'a>),
    /// PUBREL.
    Pubrel(Ack<'a>),
    /// PUBCOMP.
    Pubcomp(Ack<'a>),
    /// SUBSCRIBE.
    Subscribe(Subscribe<'a>),
    /// SUBACK.
    Suback(Suback<'a>),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe<'a>),
    /// UNSUBACK.
    Unsuback(Unsuback<'a>),
    /// PINGREQ.
    Pingreq,
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(Disconnect<'a>),
    /// AUTH.
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Decodes one packet. CONNECT says itself which version it has, so `version` does not matter for it.
    ///
    /// # Errors
    ///
    /// What the specification calls malformed (0x81) or a protocol error (0x82), as far as it shows in the packet
    /// alone and for either direction; see also [`DecodeError::reason`].
    #[inline]
    pub fn decode(frame: Frame<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        match frame.packet_type {
            PacketType::Publish => {
                let head = publish::Head::decode(frame, version)?;
                match head.payload {
                    Some(payload) => Ok(Self::Publish(Publish::plain(head, payload))),
                    None => Publish::with_properties(&head).map(Self::Publish),
                }
            }
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                frame.check_flags(version)?;
                let ack = Ack::decode(frame, version)?;
                Ok(match frame.packet_type {
                    PacketType::Puback => Self::Puback(ack),
                    PacketType::Pubrec => Self::Pubrec(ack),
                    PacketType::Pubrel => Self::Pubrel(ack),
                    _ => Self::Pubcomp(ack),
                })
            }
            _ => Self::decode_control(frame, version),
        }
    }

    /// Decodes what no message flow consists of.
    #[inline(never)]
    fn decode_control(frame: Frame<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        frame.check_flags(version)?;
        let body = frame.body;
        Ok(match frame.packet_type {
            PacketType::Connect => Self::Connect(Connect::decode(body)?),
            PacketType::Connack => Self::Connack(Connack::decode(body, version)?),
            PacketType::Publish => Self::Publish(Publish::decode(frame, version)?),
            PacketType::Puback => Self::Puback(Ack::decode(frame, version)?),
            PacketType::Pubrec => Self::Pubrec(Ack::decode(frame, version)?),
            PacketType::Pubrel => Self::Pubrel(Ack::decode(frame, version)?),
            PacketType::Pubcomp => Self::Pubcomp(Ack::decode(frame, version)?),
            PacketType::Subscribe => Self::Subscribe(Subscribe::decode(body, version)?),
            PacketType::Suback => Self::Suback(Suback::decode(body, version)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::decode(body, version)?),
            PacketType::Unsuback => Self::Unsuback(Unsuback::decode(body, version)?),
            PacketType::Pingreq => Reader::new(body).finish().map(|()| Self::Pingreq)?,
            PacketType::Pingresp => Reader::new(body).finish().map(|()| Self::Pingresp)?,
            PacketType::Disconnect => Self::Disconnect(Disconnect::decode(body, version)?),
            PacketType::Auth => Self::Auth(Auth::decode(body, version)?),
        })
    }

    /// Appends the packet. What `version` does not know is left out.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        match self {
            Self::Connect(connect) => connect.encode(version, out),
            Self::Connack(connack) => connack.encode(version, out),
            Self::Publish(publish) => publish.encode(version, out),
            Self::Puback(ack) => ack.encode(PacketType::Puback, version, out),
            Self::Pubrec(ack) => ack.encode(PacketType::Pubrec, version, out),
            Self::Pubrel(ack) => ack.encode(PacketType::Pubrel, version, out),
            Self::Pubcomp(ack) => ack.encode(PacketType::Pubcomp, version, out),
            Self::Subscribe(subscribe) => subscribe.encode(version, out),
            Self::Suback(suback) => suback.encode(version, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
            Self::Unsuback(unsuback) => unsuback.encode(version, out),
            Self::Pingreq => out.extend_from_slice(&PINGREQ),
            Self::Pingresp => out.extend_from_slice(&PINGRESP),
            Self::Disconnect(disconnect) => disconnect.encode(version, out),
            Self::Auth(auth) => auth.encode(version, out),
        }
    }

    /// Exact bytes that [`Packet::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        match self {
            Self::Connect(connect) => connect.encoded_len(version),
            Self::Connack(connack) => connack.encoded_len(version),
            Self::Publish(publish) => publish.encoded_len(version),
            Self::Puback(ack) | Self::Pubrec(ack) | Self::Pubrel(ack) | Self::Pubcomp(ack) => {
                ack.encoded_len(version)
            }
            Self::Subscribe(subscribe) => subscribe.encoded_len(version),
            Self::Suback(suback) => suback.encoded_len(version),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encoded_len(version),
            Self::Unsuback(unsuback) => unsuback.encoded_len(version),
            Self::Pingreq => PINGREQ.len(),
            Self::Pingresp => PINGRESP.len(),
            Self::Disconnect(disconnect) => disconnect.encoded_len(version),
            Self::Auth(auth) => auth.encoded_len(version),
        }
    }

    /// Type of the packet.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::Connack(_) => PacketType::Connack,
            Self::Publish(_) => PacketType::Publish,
            Self::Puback(_) => PacketType::Puback,
            Self::Pubrec(_) => PacketType::Pubrec,
            Self::Pubrel(_) => PacketType::Pubrel,
            Self::Pubcomp(_) => PacketType::Pubcomp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::Unsuback(_) => PacketType::Unsuback,
            Self::Pingreq => PacketType::Pingreq,
            Self::Pingresp => PacketType::Pingresp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

/// Why bytes are not a packet. `reason` is what an MQTT 5 peer is told; `what` is for the log and names the clause
/// where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({reason})")]
pub struct DecodeError {
    /// 0x81 malformed packet, 0x82 protocol error, 0x84 unsupported version, 0x95 packet too large, ...
    pub reason: ReasonCode,
    /// A short sentence for the log.
    pub what: &'static str,
}

impl DecodeError {
    pub(super) const QOS_3: Self = Self::malformed("PUBLISH has QoS 3 [MQTT-3.3.1-4]");
    pub(super) const DUP_AT_QOS_0: Self = Self::malformed("PUBLISH has DUP at QoS 0 [MQTT-3.3.1-2]");
    pub(super) const REASON_NOT_ALLOWED: Self =
        Self::protocol_error("reason code is not one this packet may carry [MQTT5 2.4]");

    /// An error with any reason.
    pub const fn new(reason: ReasonCode, what: &'static str) -> Self {
        Self { reason, what }
    }

    /// 0x81: the bytes cannot be parsed [MQTT5 1.2].
    pub(super) const fn malformed(what: &'static str) -> Self {
        Self::new(ReasonCode::MALFORMED_PACKET, what)
    }

    /// 0x82: the bytes can be parsed, but say what the protocol does not allow [MQTT5 1.2].
    pub(super) const fn protocol_error(what: &'static str) -> Self {
        Self::new(ReasonCode::PROTOCOL_ERROR, what)
    }
}
