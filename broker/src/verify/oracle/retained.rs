//! Retained messages: one writer, one topic, values that grow, and readers that subscribe afresh.
//!
//! Promised: whoever subscribes after the acknowledgement of a value gets that value or a newer one, at any node.

use quorate_proto::codec::QoS;

use super::figures::Figures;
use super::outgoing::Outgoing;

/// One retained topic.
#[derive(Debug)]
pub(super) struct RetainedTopic {
    pub(super) outgoing: Outgoing,
    /// The newest value that was acknowledged.
    acknowledged: u64,
}

/// What a value means to the reader that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is new enough.
    Fresh,
    /// It is an older one that the broker took for the retained one.
    Stale,
    /// It says nothing: an older one that was not sent as retained, such as a late duplicate (R14).
    Nothing,
}

impl RetainedTopic {
    pub(super) fn new() -> Self {
        Self {
            outgoing: Outgoing::new(QoS::AtLeastOnce),
            acknowledged: 0,
        }
    }

    pub(super) fn acknowledge(&mut self, number: u64) {
        self.outgoing.acknowledge(number);
        self.acknowledged = self.acknowledged.max(number);
    }

    /// What a reader that subscribes now has to get at least; 0 while nothing was acknowledged.
    pub(super) const fn floor(&self) -> u64 {
        self.acknowledged
    }

    pub(super) const fn add_to(&self, figures: &mut Figures) {
        figures.retained_acknowledged += self.outgoing.acknowledged().len();
    }

    /// Judges a value that came, by what the reader has to get at least and by the RETAIN flag, which tells the retained
    /// value from one that was published while the reader was there.
    pub(super) const fn look(floor: u64, number: u64, is_retained: bool) -> Look {
        match (number >= floor, is_retained) {
            (true, _) => Look::Fresh,
            (false, true) => Look::Stale,
            (false, false) => Look::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_newest_acknowledged() {
        let mut topic = RetainedTopic::new();
        for number in 1..=3 {
            topic.outgoing.send();
            assert_eq!(topic.floor(), number - 1, "sending alone promises nothing");
            topic.acknowledge(number);
        }
        assert_eq!(topic.floor(), 3);
    }

    #[test]
    fn a_retained_value_is_not_older_than_the_floor() {
        assert_eq!(RetainedTopic::look(3, 3, true), Look::Fresh);
        assert_eq!(RetainedTopic::look(3, 4, false), Look::Fresh);
        assert_eq!(RetainedTopic::look(3, 2, true), Look::Stale);
        assert_eq!(RetainedTopic::look(3, 2, false), Look::Nothing);
    }
}
