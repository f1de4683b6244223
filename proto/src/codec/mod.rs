//! The MQTT 3.1, 3.1.1 and 5.0 codec.
//!
//! One packet model, shaped like MQTT 5; decoding raises the older versions to it, encoding lowers it again, and the
//! version is known nowhere else. Decoded packets borrow from the read buffer and nothing is allocated per packet;
//! encoding appends to a `Vec<u8>`. One file per packet, encode and decode side by side.
//!
//! ```text
//! bytes -> Frame::parse -> Packet::decode -> Packet -> Packet::encode -> bytes
//!          (frame)         (packet, one file per packet)   (sink: counts, then writes)
//! ```
//!
//! Both directions decode here, so what depends on the direction is for the caller: a server refuses CONNACK, and
//! refuses subscription identifiers in a PUBLISH [MQTT-3.3.4-6].

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod packet;
mod ping;
mod primitive;
mod properties;
mod property;
mod publish;
mod reason;
mod sink;
mod suback;
mod subscribe;
mod unsuback;
mod unsubscribe;
mod will;

#[cfg(test)]
mod tests;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::Connack;
pub use connect::Connect;
pub use disconnect::Disconnect;
pub use frame::{Frame, PACKET_SIZE_MAX, PacketType};
pub use packet::{DecodeError, Packet, PacketId, ProtocolVersion, QoS};
pub use ping::{PINGREQ, PINGRESP, encode_pingreq, encode_pingresp};
pub use properties::{SubscriptionIds, UserProperties};
pub use publish::{OutboundPublish, Publish};
pub use reason::{ReasonCode, ReasonCodes};
pub use suback::Suback;
pub use subscribe::{RetainHandling, Subscribe, SubscriptionOptions, SubscriptionRequests};
pub use unsuback::Unsuback;
pub use unsubscribe::{TopicFilters, Unsubscribe};
pub use will::Will;
