//! Which messages of one publisher arrived at one place: a subscriber, or any member of a shared group.

use super::numbers::Numbers;
use super::outgoing::Outgoing;

/// The arrivals of one publisher's messages at one place.
#[derive(Debug, Default)]
pub(crate) struct Receipt {
    received: Numbers,
    /// Messages that were acknowledged and have not arrived.
    missing: u64,
    /// Arrivals of what had arrived already.
    again: u64,
}

impl Receipt {
    /// The publisher got the acknowledgement of this message; true when it has yet to arrive.
    pub(super) fn acknowledge(&mut self, number: u64) -> bool {
        let is_missing = !self.received.contains(number);
        self.missing += u64::from(is_missing);
        is_missing
    }

    /// A message arrived.
    pub(super) fn receive(&mut self, number: u64, outgoing: &Outgoing) -> Arrival {
        if !self.received.insert(number) {
            self.again += 1;
            return Arrival::Again;
        }
        if !outgoing.acknowledged().contains(number) {
            return Arrival::Early;
        }
        self.missing = self.missing.saturating_sub(1);
        Arrival::Missed
    }

    pub(super) const fn received(&self) -> &Numbers {
        &self.received
    }

    pub(super) const fn missing(&self) -> u64 {
        self.missing
    }

    pub(super) const fn again(&self) -> u64 {
        self.again
    }
}

/// What an arrival is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The first, before the publisher had the acknowledgement.
    Early,
    /// The first, of a message that was acknowledged.
    Missed,
    /// Not the first.
    Again,
}
