//! UNSUBSCRIBE.

use super::{PacketId, UserProperties};

/// UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unsubscribe<'a> {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// The filters, at least one, in order; already checked for form while decoding.
    pub filters: TopicFilters<'a>,
}

/// The filters of an UNSUBSCRIBE: an iterator over the checked payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopicFilters<'a> {
    /// The checked payload bytes.
    pub(crate) payload: &'a [u8],
}
