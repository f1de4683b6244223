//! The MQTT 3.1, 3.1.1 and 5.0 codec.
//!
//! One packet model, shaped like MQTT 5; decoding raises the older versions to it, encoding lowers it again, and the
//! version is known nowhere else. Decoded packets borrow from the read buffer and nothing is allocated per packet;
//! encoding appends to a `Vec<u8>`. One file per packet, encode and decode side by side.

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod frame;
mod packet;
mod ping;
mod primitive;
mod properties;
mod publish;
mod reason;
mod suback;
mod subscribe;
mod unsuback;
mod unsubscribe;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::Connack;
pub use connect::{Connect, Will};
pub use disconnect::Disconnect;
pub use frame::{Frame, PacketType};
pub use packet::{DecodeError, PacketId, Packet, ProtocolVersion, QoS};
pub use properties::{SubscriptionIds, UserProperties};
pub use publish::{OutboundPublish, Publish};
pub use reason::ReasonCode;
pub use suback::Suback;
pub use subscribe::{RetainHandling, Subscribe, SubscriptionOptions, SubscriptionRequests};
pub use unsuback::Unsuback;
pub use unsubscribe::{TopicFilters, Unsubscribe};
