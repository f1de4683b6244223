//! The main stream: one publisher, one topic, one QoS, and the durable subscribers of that topic.
//!
//! Promised, per subscriber: every acknowledged message arrives; at QoS 2 no message arrives twice; first arrivals are
//! in the order of sending.

use quorate_proto::codec::QoS;

use super::figures::Figures;
use super::outgoing::Outgoing;
use super::receipt::{Arrival, Receipt};

/// Numbers of lost messages that are named.
const NUMBERS_SHOWN: usize = 5;

/// One publisher and its subscribers.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) outgoing: Outgoing,
    readings: Vec<Reading>,
}

/// What one subscriber got of the stream.
#[derive(Debug)]
struct Reading {
    subscriber: u32,
    receipt: Receipt,
    /// The highest number that arrived.
    highest: u64,
    /// First arrivals behind a higher number.
    misplaced: u64,
    /// The same, of messages that may have been sent again.
    misplaced_resent: u64,
}

/// What an arrival means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) arrival: Arrival,
    /// The highest number that had arrived before, where this one should have come earlier.
    pub(super) behind: Option<u64>,
}

impl Stream {
    pub(super) fn new(qos: QoS, subscribers: impl IntoIterator<Item = u32>) -> Self {
        let readings = subscribers.into_iter().map(|subscriber| Reading {
            subscriber,
            receipt: Receipt::default(),
            highest: 0,
            misplaced: 0,
            misplaced_resent: 0,
        });
        Self {
            outgoing: Outgoing::new(qos),
            readings: readings.collect(),
        }
    }

    /// The subscribers of the stream.
    pub(super) fn subscribers(&self) -> impl Iterator<Item = u32> {
        self.readings.iter().map(|reading| reading.subscriber)
    }

    pub(super) fn is_read_by(&self, subscriber: u32) -> bool {
        self.subscribers().any(|reader| reader == subscriber)
    }

    /// The publisher got an acknowledgement; returns the subscribers that have not got the message.
    pub(super) fn acknowledge(&mut self, number: u64) -> impl Iterator<Item = u32> {
        self.outgoing.acknowledge(number);
        let readings = self.readings.iter_mut();
        readings.filter_map(move |reading| reading.receipt.acknowledge(number).then_some(reading.subscriber))
    }

    /// A message arrived; `None` when this subscriber does not take part.
    pub(super) fn deliver(&mut self, subscriber: u32, number: u64) -> Option<Delivery> {
        let mut readings = self.readings.iter_mut();
        let reading = readings.find(|reading| reading.subscriber == subscriber)?;
        let arrival = reading.receipt.receive(number, &self.outgoing);
        if arrival == Arrival::Again || number > reading.highest {
            reading.highest = reading.highest.max(number);
            return Some(Delivery {
                arrival,
                behind: None,
            });
        }
        // What was under way when a session was lost belongs to no order any more.
        let is_judged = !self.outgoing.is_unknown(number);
        if is_judged && self.outgoing.may_be_resent(number) {
            reading.misplaced_resent += 1;
        } else if is_judged {
            reading.misplaced += 1;
        }
        Some(Delivery {
            arrival,
            behind: is_judged.then_some(reading.highest),
        })
    }

    /// First arrivals.
    fn delivered(&self) -> u64 {
        self.sum(|reading| reading.receipt.received().len())
    }

    /// Acknowledged messages that have not arrived, over all subscribers.
    pub(super) fn missing(&self) -> u64 {
        self.sum(|reading| reading.receipt.missing())
    }

    /// Arrivals after the first.
    fn again(&self) -> u64 {
        self.sum(|reading| reading.receipt.again())
    }

    /// First arrivals out of order.
    ///
    /// A message that is sent again is a new publish (R14). Where the first was refused, as by a full queue, and the
    /// refusal was lost with the connection, the second rightly comes after its successors. The publisher cannot know,
    /// so what it sent again is not judged once anything was refused to it.
    fn order_violations(&self) -> u64 {
        let resent = self.sum(|reading| reading.misplaced_resent);
        self.sum(|reading| reading.misplaced) + if self.outgoing.refused() == 0 { resent } else { 0 }
    }

    /// First arrivals out of order that are not judged.
    fn order_unjudged(&self) -> u64 {
        let resent = self.sum(|reading| reading.misplaced_resent);
        if self.outgoing.refused() == 0 { 0 } else { resent }
    }

    pub(super) fn add_to(&self, figures: &mut Figures) {
        let outgoing = &self.outgoing;
        figures.sent += outgoing.last_sent();
        figures.acknowledged += outgoing.acknowledged().len();
        figures.unknown += outgoing.unknown();
        figures.unacknowledged += outgoing.open();
        figures.delivered += self.delivered();
        figures.lost += self.missing();
        figures.order_violations += self.order_violations();
        figures.order_unjudged += self.order_unjudged();
        match outgoing.qos() {
            QoS::ExactlyOnce => figures.duplicates_qos2 += self.again(),
            _ => figures.duplicates_qos1 += self.again(),
        }
    }

    /// Says what is missing, one sentence for each subscriber that misses something.
    pub(super) fn describe_missing(&self, name: impl std::fmt::Display) -> impl Iterator<Item = String> {
        let incomplete = self
            .readings
            .iter()
            .filter(|reading| reading.receipt.missing() > 0);
        incomplete.map(move |reading| {
            let receipt = &reading.receipt;
            let acknowledged = self.outgoing.acknowledged();
            let first = acknowledged.first_without(receipt.received(), NUMBERS_SHOWN);
            format!(
                "{} acknowledged messages of {name} did not arrive at subscriber {}, the first are {first:?}",
                receipt.missing(),
                reading.subscriber
            )
        })
    }

    fn sum(&self, value: impl Fn(&Reading) -> u64) -> u64 {
        self.readings.iter().map(value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(qos: QoS) -> Stream {
        Stream::new(qos, [0, 1])
    }

    fn send(stream: &mut Stream, count: u64) {
        for _ in 0..count {
            stream.outgoing.send();
        }
    }

    #[test]
    fn what_is_acknowledged_is_missing_until_it_arrives() {
        let mut stream = stream(QoS::AtLeastOnce);
        send(&mut stream, 2);
        assert_eq!(stream.deliver(0, 1).unwrap().arrival, Arrival::Early);
        assert_eq!(stream.acknowledge(1).collect::<Vec<_>>(), [1]);
        assert_eq!(stream.acknowledge(2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(stream.missing(), 3);
        assert_eq!(stream.describe_missing("x").count(), 2);
        assert_eq!(stream.deliver(1, 1).unwrap().arrival, Arrival::Missed);
        assert_eq!(stream.deliver(0, 2).unwrap().arrival, Arrival::Missed);
        assert_eq!(stream.deliver(1, 2).unwrap().arrival, Arrival::Missed);
        assert_eq!((stream.missing(), stream.delivered(), stream.again()), (0, 4, 0));
        assert_eq!(stream.deliver(7, 1), None);
    }

    #[test]
    fn what_is_neither_acknowledged_nor_refused_may_come_or_not() {
        let mut stream = stream(QoS::ExactlyOnce);
        send(&mut stream, 3);
        stream.outgoing.refuse();
        stream.outgoing.give_up(2);
        assert_eq!((stream.missing(), stream.outgoing.open()), (0, 1));
        stream.deliver(0, 2);
        assert_eq!((stream.missing(), stream.again()), (0, 0));
        stream.deliver(0, 2);
        assert_eq!(stream.again(), 1);
    }

    #[test]
    fn order_is_of_first_arrivals() {
        let mut stream = stream(QoS::AtLeastOnce);
        send(&mut stream, 5);
        for number in [1, 2, 1, 4] {
            assert_eq!(stream.deliver(0, number).unwrap().behind, None);
        }
        assert_eq!(stream.deliver(0, 3).unwrap().behind, Some(4));
        assert_eq!(stream.deliver(0, 3).unwrap().behind, None);
        assert_eq!(stream.deliver(0, 5).unwrap().behind, None);
        assert_eq!(stream.order_violations(), 1);
        assert_eq!(
            stream.deliver(1, 5).unwrap().behind,
            None,
            "gaps are not disorder"
        );
    }

    #[test]
    fn what_was_sent_again_is_not_judged_where_something_was_refused() {
        let mut stream = stream(QoS::AtLeastOnce);
        send(&mut stream, 4);
        stream.outgoing.resend(2);
        for number in [2, 1, 4, 3] {
            stream.deliver(0, number);
        }
        assert_eq!((stream.order_violations(), stream.order_unjudged()), (2, 0));
        stream.outgoing.refuse();
        assert_eq!((stream.order_violations(), stream.order_unjudged()), (1, 1));
    }

    #[test]
    fn what_a_lost_session_left_behind_has_no_place_in_the_order() {
        let mut stream = stream(QoS::ExactlyOnce);
        send(&mut stream, 2);
        stream.outgoing.give_up(1);
        stream.deliver(0, 2);
        assert_eq!(stream.deliver(0, 1).unwrap().behind, None);
        assert_eq!(stream.order_violations(), 0);
    }
}
