//! Shared subscriptions: one publisher, one group of durable members.
//!
//! Promised: every acknowledged message arrives at a member; a message of QoS 2 at one member only, and there once. At
//! QoS 1 a message may come again after its member was lost. Order is not promised, as members work side by side.

use quorate_proto::codec::QoS;

use super::figures::Figures;
use super::outgoing::Outgoing;
use super::receipt::{Arrival, Receipt};

/// Numbers of lost messages that are named.
const NUMBERS_SHOWN: usize = 5;

/// One publisher to a shared group.
#[derive(Debug)]
pub(super) struct SharedStream {
    pub(super) outgoing: Outgoing,
    group: u32,
    receipt: Receipt,
}

impl SharedStream {
    pub(super) fn new(group: u32, qos: QoS) -> Self {
        Self {
            outgoing: Outgoing::new(qos),
            group,
            receipt: Receipt::default(),
        }
    }

    pub(super) const fn group(&self) -> u32 {
        self.group
    }

    pub(super) fn acknowledge(&mut self, number: u64) {
        self.outgoing.acknowledge(number);
        self.receipt.acknowledge(number);
    }

    /// A message arrived at a member.
    pub(super) fn deliver(&mut self, number: u64) -> Arrival {
        self.receipt.receive(number, &self.outgoing)
    }

    /// Messages that arrived at a member.
    const fn delivered(&self) -> u64 {
        self.receipt.received().len()
    }

    /// Acknowledged messages that arrived at no member.
    pub(super) const fn missing(&self) -> u64 {
        self.receipt.missing()
    }

    /// Arrivals after the first, at whichever member.
    const fn again(&self) -> u64 {
        self.receipt.again()
    }

    pub(super) fn add_to(&self, figures: &mut Figures) {
        figures.shared_acknowledged += self.outgoing.acknowledged().len();
        figures.unknown += self.outgoing.unknown();
        figures.shared_delivered += self.delivered();
        figures.shared_lost += self.missing();
        match self.outgoing.qos() {
            QoS::ExactlyOnce => figures.shared_duplicates_qos2 += self.again(),
            _ => figures.shared_duplicates_qos1 += self.again(),
        }
    }

    /// Says what is missing.
    pub(super) fn describe_missing(&self, name: impl std::fmt::Display) -> Option<String> {
        let acknowledged = self.outgoing.acknowledged();
        let first = acknowledged.first_without(self.receipt.received(), NUMBERS_SHOWN);
        (self.missing() > 0).then(|| {
            format!(
                "{} acknowledged messages of {name} arrived at no member of group {}, the first are {first:?}",
                self.missing(),
                self.group
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_member_will_do_but_only_one() {
        let mut stream = SharedStream::new(0, QoS::ExactlyOnce);
        for number in 1..=2 {
            stream.outgoing.send();
            stream.acknowledge(number);
        }
        assert_eq!(stream.deliver(2), Arrival::Missed);
        assert_eq!((stream.missing(), stream.delivered(), stream.again()), (1, 1, 0));
        assert!(stream.describe_missing("x").unwrap().contains("[1]"));
        assert_eq!(stream.deliver(2), Arrival::Again);
        assert_eq!(stream.deliver(1), Arrival::Missed);
        assert_eq!((stream.missing(), stream.delivered(), stream.again()), (0, 2, 1));
        assert_eq!(stream.describe_missing("x"), None);
    }
}
