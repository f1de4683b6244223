//! SUBACK.

use super::{PacketId, ReasonCode, UserProperties};

/// SUBACK. At 3.x a failure is 0x80; at 3.1 a failure cannot be told and encodes as the granted QoS 0 to 2 or 0x80.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suback<'a> {
    /// Packet identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// One reason code per filter, in order, as MQTT 5 bytes.
    pub reasons: &'a [ReasonCode],
}
