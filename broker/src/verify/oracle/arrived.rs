//! What a client tells the oracle of a message it got.

use quorate_proto::codec::QoS;

/// Who got a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A subscriber of the main stream, by index.
    Stream(u32),
    /// A member of a shared group.
    Shared {
        /// Index of the group.
        group: u32,
    },
    /// The subscriber of all wills.
    Wills,
}

/// A message that a durable subscriber's application got, repetitions that QoS 2 takes out excluded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) is_dup: bool,
    /// Counts the connections of the subscriber.
    pub(crate) connection: u64,
}
