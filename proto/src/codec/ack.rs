//! PUBACK, PUBREC, PUBREL and PUBCOMP, which share one shape.

use super::{PacketId, ReasonCode, UserProperties};

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ack<'a> {
    /// Packet identifier of the exchange.
    pub packet_id: PacketId,
    /// Reason code; success where the packet has none.
    pub reason: ReasonCode,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}
