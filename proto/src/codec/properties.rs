//! MQTT 5 properties: which may stand where, which may repeat, and how they are read and written.

/// User properties, in order, borrowed in encoded form: a run of (0x26, key, value), nothing else between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserProperties<'a> {
    /// The property block they stand in (other properties in it are skipped when iterating).
    pub(crate) block: &'a [u8],
}

/// The subscription identifiers of a PUBLISH, borrowed in encoded form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionIds<'a> {
    /// The property block they stand in.
    pub(crate) block: &'a [u8],
}
