//! What was dropped on the way to another node, as that node is told of it (R4).
//!
//! It closes the connections that would have got something of it. Only what nobody else makes good is named: a message
//! that subscriptions match by its topic, and at QoS 2 the member of a shared subscription that it was lent to, as the
//! lender takes it for sent. Other messages of shared subscriptions go to another member, and nothing is promised at
//! QoS 0.

use std::collections::BTreeSet;

use quorate_cluster::state::SessionId;
use quorate_proto::codec::QoS;

use super::frame::{self, ForwardedMessage, Reader, Recipients, put_bytes};

/// Topics and sessions that are named; beyond that everything counts as lost.
const NAMES_MAX: usize = 16_384;
/// Their bytes.
const NAME_BYTES_MAX: usize = 1024 * 1024;

const EVERYTHING: u8 = 0;
const TOPIC: u8 = 1;
const SESSION: u8 = 2;

/// Somebody who has lost a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loser<'a> {
    /// Anybody may have.
    Anybody,
    /// Who has a subscription that this topic name matches.
    SubscriberOf(&'a str),
    /// A session.
    Session(SessionId),
}

/// Those who have lost messages.
#[derive(Debug, Default)]
pub(super) struct Lost {
    topics: BTreeSet<Box<str>>,
    sessions: BTreeSet<SessionId>,
    topic_bytes: usize,
    anybody: bool,
}

impl Lost {
    /// These items of a frame or batch are dropped.
    pub(super) fn note_items(&mut self, items: &[u8]) {
        if !frame::visit(items, |recipients, message| self.note(recipients, message)) {
            self.note_anybody();
        }
    }

    fn note(&mut self, recipients: &Recipients, message: &ForwardedMessage<'_>) {
        if self.anybody || message.qos == QoS::AtMostOnce {
            return;
        }
        match recipients {
            Recipients::Matching | Recipients::Late(_) => {
                if !self.topics.contains(message.topic) {
                    self.topic_bytes += message.topic.len();
                    self.topics.insert(message.topic.into());
                }
            }
            Recipients::Borrower { session, .. } if message.qos == QoS::ExactlyOnce => {
                self.sessions.insert(*session);
            }
            Recipients::Borrower { .. }
            | Recipients::Member { .. }
            | Recipients::Lender { .. }
            | Recipients::Holder { .. }
            | Recipients::Dispatch { .. }
            | Recipients::Dispatches { .. } => {}
        }
        if self.topics.len() + self.sessions.len() > NAMES_MAX || self.topic_bytes > NAME_BYTES_MAX {
            self.note_anybody();
        }
    }

    fn note_anybody(&mut self) {
        *self = Self {
            anybody: true,
            ..Self::default()
        };
    }

    /// As a frame names them.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.anybody {
            out.push(EVERYTHING);
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

/// Visits those that a frame names; what cannot be read may be anybody.
pub(super) fn visit_losers(named: &[u8], mut visit: impl FnMut(Loser<'_>)) {
    let mut reader = Reader::new(named);
    while !reader.is_empty() {
        match loser(&mut reader) {
            Some(loser) => visit(loser),
            None => return visit(Loser::Anybody),
        }
    }
}

fn loser<'a>(reader: &mut Reader<'a>) -> Option<Loser<'a>> {
    Some(match reader.u8()? {
        EVERYTHING => Loser::Anybody,
        TOPIC => Loser::SubscriberOf(reader.text()?),
        SESSION => Loser::Session(SessionId(reader.u64()?)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use quorate_cluster::state::{NodeIncarnation, ShareKey};

    use super::super::frame::{NO_MESSAGE, put_item};
    use super::*;

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

    fn borrower(session: u64) -> Recipients {
        Recipients::Borrower {
            session: SessionId(session),
            share: share(),
            incarnation: NodeIncarnation(1),
            worker: 0,
            number: 1,
        }
    }

    fn lost(items: &[(Recipients, ForwardedMessage<'_>)]) -> Lost {
        let mut bytes = Vec::new();
        for (recipients, message) in items {
            put_item(&mut bytes, recipients, message);
        }
        let mut lost = Lost::default();
        lost.note_items(&bytes);
        lost
    }

    fn named(lost: &Lost) -> Vec<String> {
        let mut named = Vec::new();
        visit_losers(&lost.encode(), |loser| named.push(format!("{loser:?}")));
        named
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
        let mut more = Vec::new();
        put_item(
            &mut more,
            &Recipients::Matching,
            &message("more", QoS::AtLeastOnce),
        );
        lost.note_items(&more);
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
            (borrower(2), message("lent", QoS::AtLeastOnce)),
        ]);
        assert!(named(&lost).is_empty());
    }

    #[test]
    fn r4_a_member_that_was_lent_a_message_at_qos_2_is_named() {
        let lost = lost(&[(borrower(9), message("lent", QoS::ExactlyOnce))]);
        assert_eq!(named(&lost), ["Session(SessionId(9))"]);
    }

    #[test]
    fn r4_names_are_bounded_by_number_and_bytes() {
        let mut lost = Lost::default();
        for number in 0..NAMES_MAX {
            lost.note(
                &Recipients::Matching,
                &message(&number.to_string(), QoS::AtLeastOnce),
            );
        }
        assert_eq!(named(&lost).len(), NAMES_MAX);
        lost.note(&borrower(1), &message("one more", QoS::ExactlyOnce));
        assert_eq!(named(&lost), ["Anybody"]);
        lost.note(&Recipients::Matching, &message("a", QoS::AtLeastOnce));
        assert_eq!(named(&lost), ["Anybody"], "nothing is kept any more");

        let mut lost = Lost::default();
        let long = |number: usize| format!("{number:02}{}", "x".repeat(NAME_BYTES_MAX / 16 - 2));
        for number in 0..16 {
            lost.note(&Recipients::Matching, &message(&long(number), QoS::AtLeastOnce));
        }
        assert_eq!(named(&lost).len(), 16);
        lost.note(&Recipients::Matching, &message("x", QoS::AtLeastOnce));
        assert_eq!(named(&lost), ["Anybody"]);
    }

    #[test]
    fn r4_what_cannot_be_read_may_be_anybodys() {
        let mut unreadable = Lost::default();
        unreadable.note_items(&[99]);
        assert_eq!(named(&unreadable), ["Anybody"]);
        let whole = lost(&[(Recipients::Matching, message("topic", QoS::AtLeastOnce))]).encode();
        for end in 1..whole.len() {
            let mut named = Vec::new();
            visit_losers(&whole[..end], |loser| named.push(format!("{loser:?}")));
            assert_eq!(named, ["Anybody"], "cut at {end}");
        }
    }
}
