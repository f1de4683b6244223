//! Wills: clients that leave in known ways, and a durable subscriber that gets what they left.
//!
//! Promised: the will of a client whose connection ended without DISCONNECT comes once; that of a client that left in
//! order, or came back within the will delay, never. Where the client cannot know what the broker saw of its end, the
//! will may come, but once.

use std::collections::BTreeMap;

use quorate_proto::codec::QoS;

use super::figures::Figures;

/// Wills of one client that are remembered; older ones that are settled are forgotten, and not judged any more.
const REMEMBERED_MAX: usize = 1_024;
/// A client makes no more wills when so many could not be forgotten, being missing.
const OPEN_MAX: usize = 2 * REMEMBERED_MAX;

/// What has to become of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has to come.
    Due,
    /// It must not come.
    Never,
    /// It may come.
    Free,
}

/// One client's wills, numbered from 1.
#[derive(Debug, Default)]
pub(super) struct WillClient {
    last: u64,
    wills: BTreeMap<u64, Will>,
    forgotten: WillFigures,
}

#[derive(Debug, Default)]
struct Will {
    /// Unset while its client is at work.
    fate: Option<Fate>,
    came: u64,
    doubled: u64,
    /// The connection of the subscriber on which it came first.
    connection: u64,
}

/// What became of wills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WillFigures {
    due: u64,
    delivered: u64,
    missing: u64,
    doubled: u64,
    unwanted: u64,
}

impl WillFigures {
    const fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.delivered += other.delivered;
        self.missing += other.missing;
        self.doubled += other.doubled;
        self.unwanted += other.unwanted;
    }
}

impl Will {
    fn figures(&self) -> WillFigures {
        let (is_due, has_come) = (self.fate == Some(Fate::Due), self.came > 0);
        WillFigures {
            due: u64::from(is_due),
            delivered: u64::from(has_come),
            missing: u64::from(is_due && !has_come),
            doubled: self.doubled,
            unwanted: u64::from(self.fate == Some(Fate::Never) && has_come),
        }
    }

    /// Whether nothing more is expected of it.
    const fn is_settled(&self) -> bool {
        match self.fate {
            None => false,
            Some(Fate::Due) => self.came > 0,
            Some(Fate::Never | Fate::Free) => true,
        }
    }
}

impl WillClient {
    /// The number of the next will; `None` when too many are missing already.
    pub(super) fn begin(&mut self) -> Option<u64> {
        if self.wills.len() >= REMEMBERED_MAX {
            self.forget_one();
        }
        if self.wills.len() >= OPEN_MAX {
            return None;
        }
        self.last += 1;
        self.wills.insert(self.last, Will::default());
        Some(self.last)
    }

    fn forget_one(&mut self) {
        let mut settled = self.wills.iter().filter(|(_, will)| will.is_settled());
        if let Some(number) = settled.next().map(|(number, _)| *number)
            && let Some(will) = self.wills.remove(&number)
        {
            self.forgotten.add(&will.figures());
        }
    }

    pub(super) fn settle(&mut self, number: u64, fate: Fate) {
        if let Some(will) = self.wills.get_mut(&number) {
            will.fate = Some(fate);
        }
    }

    /// QoS of a will: both in turn, as each shows a different fault.
    pub(super) const fn qos(number: u64) -> QoS {
        if number.is_multiple_of(2) {
            QoS::ExactlyOnce
        } else {
            QoS::AtLeastOnce
        }
    }

    /// A will came to the subscriber, whose connections are numbered; returns whether it is one too many.
    ///
    /// At QoS 1 what comes again with DUP or on another connection may be the same message, sent again for want of an
    /// acknowledgement.
    pub(super) fn arrive(&mut self, number: u64, is_dup: bool, connection: u64) -> bool {
        let Some(will) = self.wills.get_mut(&number) else {
            return false;
        };
        will.came += 1;
        if will.came == 1 {
            will.connection = connection;
            return false;
        }
        let may_be_same = Self::qos(number) == QoS::AtLeastOnce && (is_dup || connection != will.connection);
        will.doubled += u64::from(!may_be_same);
        !may_be_same
    }

    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Whether a will has come that must not.
    pub(super) fn describe_unwanted(&self, name: impl std::fmt::Display) -> impl Iterator<Item = String> {
        let unwanted = self.wills.iter().filter(|(_, will)| will.figures().unwanted > 0);
        unwanted.map(move |(number, _)| {
            format!("will {number} of {name} came although its client had left in order")
        })
    }

    /// Says which wills did not come.
    pub(super) fn describe_missing(&self, name: impl std::fmt::Display) -> impl Iterator<Item = String> {
        let missing = self.wills.iter().filter(|(_, will)| will.figures().missing > 0);
        missing.map(move |(number, _)| format!("will {number} of {name} did not come"))
    }

    /// Wills that are still to come, or whose client is at work.
    pub(super) fn open(&self) -> u64 {
        self.wills.values().filter(|will| !will.is_settled()).count() as u64
    }

    pub(super) fn add_to(&self, figures: &mut Figures) {
        let wills = self.figures();
        figures.wills_due += wills.due;
        figures.wills_delivered += wills.delivered;
        figures.wills_missing += wills.missing;
        figures.wills_doubled += wills.doubled;
        figures.wills_unwanted += wills.unwanted;
    }

    fn figures(&self) -> WillFigures {
        let mut figures = self.forgotten;
        self.wills.values().for_each(|will| figures.add(&will.figures()));
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(fates: &[Fate]) -> WillClient {
        let mut client = WillClient::default();
        for fate in fates {
            let number = client.begin().unwrap();
            client.settle(number, *fate);
        }
        client
    }

    #[test]
    fn a_due_will_comes_once() {
        let mut client = settled(&[Fate::Due, Fate::Due, Fate::Due]);
        assert!(!client.arrive(1, false, 1));
        assert!(!client.arrive(2, false, 1));
        assert!(client.arrive(2, false, 1));
        let figures = client.figures();
        assert_eq!((figures.due, figures.delivered), (3, 2));
        assert_eq!((figures.missing, figures.doubled, figures.unwanted), (1, 1, 0));
        assert_eq!(client.open(), 1);
        assert_eq!(
            client.describe_missing("x").collect::<Vec<_>>(),
            ["will 3 of x did not come"]
        );
    }

    #[test]
    fn a_will_that_was_withdrawn_never_comes() {
        let mut client = settled(&[Fate::Never, Fate::Never, Fate::Free]);
        client.arrive(2, false, 1);
        client.arrive(3, false, 1);
        assert_eq!((client.figures().unwanted, client.figures().doubled), (1, 0));
        assert_eq!(client.describe_unwanted("x").count(), 1);
        assert_eq!(client.open(), 0);
    }

    #[test]
    fn a_will_may_come_before_its_client_has_settled_it() {
        let mut client = WillClient::default();
        let number = client.begin().unwrap();
        client.arrive(number, false, 1);
        assert_eq!((client.open(), client.figures().missing), (1, 0));
        client.settle(number, Fate::Due);
        assert_eq!((client.open(), client.figures().missing), (0, 0));
    }

    #[test]
    fn at_qos_1_the_same_message_may_come_again() {
        let mut client = settled(&[Fate::Due, Fate::Due]);
        assert_eq!(WillClient::qos(1), QoS::AtLeastOnce);
        client.arrive(1, false, 1);
        assert!(!client.arrive(1, true, 1), "sent again on the same connection");
        assert!(!client.arrive(1, false, 2), "sent again on another one");
        assert!(client.arrive(1, false, 1));
        assert_eq!(WillClient::qos(2), QoS::ExactlyOnce);
        client.arrive(2, false, 1);
        assert!(client.arrive(2, true, 2), "nothing excuses a second one at QoS 2");
        assert_eq!(client.figures().doubled, 2);
    }

    #[test]
    fn memory_is_bounded_and_counts_stay() {
        let mut client = WillClient::default();
        for _ in 0..2 * REMEMBERED_MAX {
            let number = client.begin().unwrap();
            client.settle(number, Fate::Due);
            client.arrive(number, false, 1);
        }
        assert_eq!(client.wills.len(), REMEMBERED_MAX);
        assert_eq!(client.figures().delivered, 2 * REMEMBERED_MAX as u64);
        assert!(!client.arrive(1, false, 1), "what is forgotten is not judged");
        while let Some(number) = client.begin() {
            client.settle(number, Fate::Due);
        }
        assert_eq!(client.wills.len(), OPEN_MAX, "what is missing is not forgotten");
    }
}
