//! UNSUBACK.

use super::{PacketId, ReasonCode, UserProperties};

/// UNSUBACK. At 3.x the reasons are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unsuback<'a> {
    /// Packet identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// One reason code per filter, in order.
    pub reasons: &'a [ReasonCode],
}
