//! What was dropped on the way to another node, as that node is told of it (R4).
//!
//! It closes the connections that would have got something of it. Only what nobody else makes good is named: a message
//! that subscriptions match by its topic, and the member of a shared subscription that a message was lent to for good, if
//! that may have been taken: then the lender takes it for sent. Other messages of shared subscriptions go to another
//! member, and nothing is promised at QoS 0.
//!
//! What a lender over there is told of its messages is not dropped: nobody else knows it, and it is short. It goes with the
//! names. Where that is too much too, the lender takes its messages for sent, and this node closes its members.

use std::collections::BTreeSet;

use quorate_cluster::state::SessionId;
use quorate_proto::codec::QoS;

use super::frame::{self, ForwardedMessage, NO_MESSAGE, Reader, Recipients, put_bytes, put_item};

/// Topics and sessions that are named; beyond that everything counts as lost.
const NAMES_MAX: usize = 16_384;
/// Their bytes.
const NAME_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of what lenders are told.
const NEWS_BYTES_MAX: usize = 1024 * 1024;

const EVERYTHING: u8 = 0;
const TOPIC: u8 = 1;
const SESSION: u8 = 2;
const LENDERS: u8 = 3;

/// Somebody who has lost a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loser<'a> {
    /// Anybody may have.
    Anybody,
    /// Who has a subscription that this topic name matches.
    SubscriberOf(&'a str),
    /// A session.
    Session(SessionId),
    /// Who has lent messages to members at the node that says this: what became of them.
    Lenders,
}

/// A message that was dropped on the way to the member of a shared subscription that it was lent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DroppedLoan {
    /// The worker that holds it.
    pub(crate) worker: u16,
    /// Its number there.
    pub(crate) number: u64,
    /// The other node may have taken it all the same.
    pub(crate) may_be_taken: bool,
}

/// Those who have lost messages.
#[derive(Debug, Default)]
pub(super) struct Lost {
    topics: BTreeSet<Box<str>>,
    sessions: BTreeSet<SessionId>,
    topic_bytes: usize,
    anybody: bool,
    /// What lenders are told, as items.
    news: Vec<u8>,
    /// There was too much of that.
    lenders: bool,
}

impl Lost {
    /// These items are dropped; the other node may have taken them all the same where they were in a frame that was sent.
    /// Adds the messages among them that were lent to `loans`.
    pub(super) fn note_items(&mut self, items: &[u8], may_be_taken: bool, loans: &mut Vec<DroppedLoan>) {
        let is_read = frame::visit(items, |recipients, message| match recipients {
            Recipients::Matching | Recipients::Late(_) => self.note_topic(message),
            Recipients::Borrower {
                session,
                worker,
                number,
                is_final,
                ..
            } => {
                loans.push(DroppedLoan {
                    worker: *worker,
                    number: *number,
                    may_be_taken,
                });
                if *is_final && may_be_taken {
                    self.note_session(*session);
                }
            }
            Recipients::Lender { .. } => self.keep_news(recipients),
            // The groups ask anew who holds what.
            Recipients::Holder { .. } | Recipients::Dispatch { .. } | Recipients::Dispatches { .. } => {}
            Recipients::Member { .. } => {}
        });
        if !is_read {
            self.note_anybody();
            self.lose_news();
        }
    }

    fn note_topic(&mut self, message: &ForwardedMessage<'_>) {
        let is_known = self.anybody || self.topics.contains(message.topic);
        if message.qos > QoS::AtMostOnce && !is_known {
            self.topic_bytes += message.topic.len();
            self.topics.insert(message.topic.into());
            self.limit_names();
        }
    }

    fn note_session(&mut self, session: SessionId) {
        if !self.anybody {
            self.sessions.insert(session);
            self.limit_names();
        }
    }

    fn limit_names(&mut self) {
        if self.topics.len() + self.sessions.len() > NAMES_MAX || self.topic_bytes > NAME_BYTES_MAX {
            self.note_anybody();
        }
    }

    fn note_anybody(&mut self) {
        self.anybody = true;
        (self.topics, self.sessions, self.topic_bytes) = Default::default();
    }

    fn keep_news(&mut self, news: &Recipients) {
        if self.lenders {
            return;
        }
        put_item(&mut self.news, news, &NO_MESSAGE);
        if self.news.len() > NEWS_BYTES_MAX {
            self.lose_news();
        }
    }

    fn lose_news(&mut self) {
        self.lenders = true;
        self.news = Vec::new();
    }

    /// What lenders at the other node are told, as items.
    pub(super) fn news(&self) -> &[u8] {
        &self.news
    }

    /// Whether lenders at the other node will never know what became of messages.
    pub(super) fn has_lost_news(&self) -> bool {
        self.lenders
    }

    /// As a frame names them.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.anybody {
            out.push(EVERYTHING);
        }
        if self.lenders {
            out.push(LENDERS);
        }
        for topic in &self.topics {
            out.push(TOPIC);
            put_bytes(&mut out, topic.as_bytes());
        }
        for session in &self.sessions {
            out.push(SESSION);
            out.extend_from_slice(&session.0.to_be_bytes());
        }
        out
    }
}

/// Visits those that a frame names; what cannot be read may be anybody, lenders too.
pub(super) fn visit_losers(named: &[u8], mut visit: impl FnMut(Loser<'_>)) {
    let mut reader = Reader::new(named);
    while !reader.is_empty() {
        match loser(&mut reader) {
            Some(loser) => visit(loser),
            None => {
                visit(Loser::Anybody);
                return visit(Loser::Lenders);
            }
        }
    }
}

fn loser<'a>(reader: &mut Reader<'a>) -> Option<Loser<'a>> {
    Some(match reader.u8()? {
        EVERYTHING => Loser::Anybody,
        TOPIC => Loser::SubscriberOf(reader.text()?),
        SESSION => Loser::Session(SessionId(reader.u64()?)),
        LENDERS => Loser::Lenders,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use quorate_cluster::state::{NodeId, NodeIncarnation, ShareKey};

    use super::*;
    use crate::worker::{Lender, LenderNews, Returned};

    fn message(topic: &str, qos: QoS) -> ForwardedMessage<'_> {
        ForwardedMessage {
            topic,
            qos,
            ..NO_MESSAGE
        }
    }

    fn share() -> ShareKey {
        ShareKey {
            name: "g".into(),
            filter: "#".into(),
        }
    }

    fn borrower(session: u64, is_final: bool) -> Recipients {
        Recipients::Borrower {
            session: SessionId(session),
            share: share(),
            incarnation: NodeIncarnation(1),
            worker: 3,
            number: 100 + session,
            is_final,
        }
    }

    fn returned(number: u64) -> Recipients {
        Recipients::Lender {
            lender: Lender {
                node: NodeId(2),
                incarnation: NodeIncarnation(1),
                worker: 0,
            },
            news: LenderNews::Returned(number, SessionId(7), Returned::Full),
        }
    }

    fn bytes_of(items: &[(Recipients, ForwardedMessage<'_>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (recipients, message) in items {
            put_item(&mut bytes, recipients, message);
        }
        bytes
    }

    /// These were in a frame that was sent.
    fn note(lost: &mut Lost, items: &[(Recipients, ForwardedMessage<'_>)]) {
        lost.note_items(&bytes_of(items), true, &mut Vec::new());
    }

    fn lost(items: &[(Recipients, ForwardedMessage<'_>)]) -> Lost {
        let mut lost = Lost::default();
        note(&mut lost, items);
        lost
    }

    fn named(lost: &Lost) -> Vec<String> {
        let mut named = Vec::new();
        visit_losers(&lost.encode(), |loser| named.push(format!("{loser:?}")));
        named
    }

    fn news(lost: &Lost) -> Vec<u64> {
        let mut numbers = Vec::new();
        let is_read = frame::visit(lost.news(), |recipients, _| match recipients {
            Recipients::Lender {
                news: LenderNews::Returned(number, ..),
                ..
            } => numbers.push(*number),
            other => panic!("{other:?}"),
        });
        assert!(is_read);
        numbers
    }

    #[test]
    fn r4_the_topics_of_what_is_lost_are_named_once() {
        let mut lost = lost(&[
            (Recipients::Matching, message("a/b", QoS::AtLeastOnce)),
            (Recipients::Matching, message("a/b", QoS::ExactlyOnce)),
            (
                Recipients::Late(vec![SessionId(7)]),
                message("late", QoS::AtLeastOnce),
            ),
        ]);
        assert_eq!(
            named(&lost),
            [r#"SubscriberOf("a/b")"#, r#"SubscriberOf("late")"#]
        );
        // They stay until the node has taken a frame that names them.
        let more = bytes_of(&[(Recipients::Matching, message("more", QoS::AtLeastOnce))]);
        lost.note_items(&more, false, &mut Vec::new());
        assert_eq!(named(&lost).len(), 3);
    }

    #[test]
    fn r4_what_nothing_is_promised_of_or_others_make_good_is_not_named() {
        let member = Recipients::Member {
            session: SessionId(1),
            share: share(),
        };
        let lost = lost(&[
            (Recipients::Matching, message("quiet", QoS::AtMostOnce)),
            (member, message("shared", QoS::AtLeastOnce)),
            (borrower(2, false), message("lent", QoS::AtLeastOnce)),
            // To a member that was granted QoS 1.
            (borrower(3, false), message("lent", QoS::ExactlyOnce)),
            (returned(1), NO_MESSAGE),
        ]);
        assert!(named(&lost).is_empty());
    }

    #[test]
    fn r4_a_member_that_was_lent_a_message_for_good_is_named_where_it_may_have_been_taken() {
        let lent = [
            (borrower(9, true), message("lent", QoS::ExactlyOnce)),
            (borrower(8, false), message("lent", QoS::AtLeastOnce)),
        ];
        for (may_be_taken, names) in [(true, &["Session(SessionId(9))"][..]), (false, &[])] {
            let (mut lost, mut loans) = (Lost::default(), Vec::new());
            lost.note_items(&bytes_of(&lent), may_be_taken, &mut loans);
            assert_eq!(named(&lost), names);
            let loan = |number| DroppedLoan {
                worker: 3,
                number,
                may_be_taken,
            };
            assert_eq!(loans, [loan(109), loan(108)], "their lenders are told");
        }
    }

    /// What a member's node says of a message that it was lent at QoS 2 is known to nobody else: without it the message would
    /// be lost, or lie with its lender for ever.
    #[test]
    fn r40_what_lenders_are_told_is_kept_until_there_is_too_much_of_it() {
        let mut lost = lost(&[
            (returned(1), NO_MESSAGE),
            (Recipients::Matching, message("a", QoS::AtLeastOnce)),
            (returned(2), NO_MESSAGE),
        ]);
        assert_eq!(news(&lost), [1, 2], "in order");
        // Names without end leave it where it is.
        lost.note_anybody();
        assert_eq!(
            (news(&lost), named(&lost)),
            (vec![1, 2], vec!["Anybody".to_owned()])
        );

        let one = bytes_of(&[(returned(3), NO_MESSAGE)]);
        while lost.news().len() + one.len() <= NEWS_BYTES_MAX {
            lost.note_items(&one, true, &mut Vec::new());
        }
        assert!(!lost.has_lost_news());
        lost.note_items(&one, true, &mut Vec::new());
        assert!(lost.has_lost_news() && lost.news().is_empty());
        assert_eq!(named(&lost), ["Anybody", "Lenders"]);
        lost.note_items(&one, true, &mut Vec::new());
        assert!(lost.news().is_empty(), "nothing is kept any more");
    }

    #[test]
    fn r4_names_are_bounded_by_number_and_bytes() {
        let mut lost = Lost::default();
        for number in 0..NAMES_MAX {
            let topic = number.to_string();
            note(
                &mut lost,
                &[(Recipients::Matching, message(&topic, QoS::AtLeastOnce))],
            );
        }
        assert_eq!(named(&lost).len(), NAMES_MAX);
        note(
            &mut lost,
            &[(borrower(1, true), message("one more", QoS::ExactlyOnce))],
        );
        assert_eq!(named(&lost), ["Anybody"]);
        note(
            &mut lost,
            &[(Recipients::Matching, message("a", QoS::AtLeastOnce))],
        );
        assert_eq!(named(&lost), ["Anybody"], "nothing is kept any more");

        let mut lost = Lost::default();
        let long = |number: usize| format!("{number:02}{}", "x".repeat(NAME_BYTES_MAX / 16 - 2));
        for number in 0..16 {
            let topic = long(number);
            note(
                &mut lost,
                &[(Recipients::Matching, message(&topic, QoS::AtLeastOnce))],
            );
        }
        assert_eq!(named(&lost).len(), 16);
        note(
            &mut lost,
            &[(Recipients::Matching, message("x", QoS::AtLeastOnce))],
        );
        assert_eq!(named(&lost), ["Anybody"]);
    }

    #[test]
    fn r4_what_cannot_be_read_may_be_anybodys() {
        let mut unreadable = Lost::default();
        unreadable.note_items(&[99], true, &mut Vec::new());
        assert_eq!(named(&unreadable), ["Anybody", "Lenders"]);
        let whole = lost(&[(Recipients::Matching, message("topic", QoS::AtLeastOnce))]).encode();
        for end in 1..whole.len() {
            let mut named = Vec::new();
            visit_losers(&whole[..end], |loser| named.push(format!("{loser:?}")));
            assert_eq!(named, ["Anybody", "Lenders"], "cut at {end}");
        }
    }
}
