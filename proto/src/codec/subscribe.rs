//! SUBSCRIBE.

use super::{PacketId, QoS, UserProperties};

/// SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Subscribe<'a> {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// Subscription identifier, 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// The filters with their options, at least one, in order; already checked for form while decoding.
    pub requests: SubscriptionRequests<'a>,
}

/// The (filter, options) pairs of a SUBSCRIBE: an iterator over the checked payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubscriptionRequests<'a> {
    /// The checked payload bytes.
    pub(crate) payload: &'a [u8],
}

/// Subscription options of one filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local; always false at 3.x.
    pub no_local: bool,
    /// Retain As Published; always false at 3.x.
    pub retain_as_published: bool,
    /// Retain handling; always `Send` at 3.x.
    pub retain_handling: RetainHandling,
}

/// What to do with retained messages on SUBSCRIBE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send at every subscribe.
    #[default]
    Send = 0,
    /// Send if the subscription is new.
    SendIfNew = 1,
    /// Do not send.
    DoNotSend = 2,
}
