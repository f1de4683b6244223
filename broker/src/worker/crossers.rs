//! Sessions that have subscribed just now, and what their connections were sent since (R33).
//!
//! A message that was published while they subscribed may come to them by several ways: as one that they match, as the
//! retained one that they find, and as the retained one that the publisher's node sends to all it had not matched. No node
//! knows of all three, so the connection leaves the second one out.
//!
//! Invariant: what is left out is what was sent last of its topic, since the session subscribed to it last.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

use hashbrown::HashMap;
use quorate_cluster::state::SessionId;
use quorate_proto::message::Message;
use quorate_proto::session::Instant;
use quorate_proto::topic;

/// How long a retained message may take to come after its subscriber, in milliseconds: as long as publishers wait.
const CROSSING_MS: u64 = 10_000;
/// Bounds of what a worker remembers; the oldest is forgotten. Together 50 MiB.
const SESSIONS_MAX: usize = 4_096;
const TOPICS_MAX: usize = 32;
/// Longer topics are not remembered.
const TOPIC_BYTES_MAX: usize = 256;

type Hasher = foldhash::fast::RandomState;

/// What a message says of its topic, by its hash, which is made anew in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content(u64);

impl Content {
    pub(super) fn new(forwardable: &[u8], payload: &[u8]) -> Self {
        static HASHER: LazyLock<Hasher> = LazyLock::new(Hasher::default);
        Self(HASHER.hash_one((forwardable, payload)))
    }

    pub(super) fn of(message: &Message) -> Self {
        Self::new(message.forwardable(), message.payload())
    }
}

/// What a connection had of a topic.
#[derive(Debug)]
struct Noted {
    topic: Box<str>,
    hash: u64,
    /// What was sent last.
    sent: Option<Content>,
    /// Values that its own replays have found and that come by its queue.
    found: u32,
}

#[derive(Debug)]
struct Crosser {
    until: Instant,
    /// The topics that were noted last, the oldest first.
    topics: VecDeque<Noted>,
}

impl Crosser {
    fn find(&mut self, hash: u64, topic: &str) -> Option<&mut Noted> {
        let mut topics = self.topics.iter_mut();
        topics.find(|noted| noted.hash == hash && *noted.topic == *topic)
    }

    fn note(&mut self, hash: u64, topic: &str) -> Option<&mut Noted> {
        let is_it = |noted: &Noted| noted.hash == hash && *noted.topic == *topic;
        let at = match self.topics.iter().position(is_it) {
            Some(at) => at,
            None if topic.len() > TOPIC_BYTES_MAX => return None,
            None => {
                if self.topics.len() == TOPICS_MAX {
                    self.topics.pop_front();
                }
                self.topics.push_back(Noted {
                    topic: topic.into(),
                    hash,
                    sent: None,
                    found: 0,
                });
                self.topics.len() - 1
            }
        };
        self.topics.get_mut(at)
    }
}

/// What is to become of a retained message in a session's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// It was found by the connection itself.
    Found,
    /// It was found for it elsewhere.
    Given,
    /// It was sent already.
    Needless,
}

/// Those of a worker.
#[derive(Debug, Default)]
pub(super) struct Crossers {
    sessions: HashMap<SessionId, Crosser, Hasher>,
    ends: VecDeque<(Instant, SessionId)>,
    hasher: Hasher,
}

impl Crossers {
    /// A session subscribes: what it was sent before counts no more.
    pub(super) fn subscribes(&mut self, session: SessionId, filters: &[Arc<str>], now: Instant) {
        if self.ends.len() >= SESSIONS_MAX {
            self.end_first();
        }
        let until = now.plus_millis(CROSSING_MS);
        let crosser = self.sessions.entry(session).or_insert_with(|| Crosser {
            until,
            topics: VecDeque::new(),
        });
        crosser.until = until;
        for noted in &mut crosser.topics {
            if filters.iter().any(|filter| topic::matches(filter, &noted.topic)) {
                noted.sent = None;
            }
        }
        self.ends.push_back((until, session));
    }

    /// Whether nobody has subscribed just now.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(until, _)| *until <= now) {
            self.end_first();
        }
    }

    fn end_first(&mut self) {
        let Some((until, session)) = self.ends.pop_front() else {
            return;
        };
        // It may have subscribed again since.
        let known = self.sessions.get(&session);
        if known.is_some_and(|crosser| crosser.until <= until) {
            self.sessions.remove(&session);
        }
    }

    /// A connection was sent a message.
    pub(super) fn note_sent(&mut self, session: SessionId, topic: &str, content: impl FnOnce() -> Content) {
        if let Some(noted) = self.note(session, topic) {
            noted.sent = Some(content());
        }
    }

    /// A connection was sent a message that may be lost on its way: a copy of what came before is not needless.
    pub(super) fn note_sent_once(&mut self, session: SessionId, topic: &str) {
        if let Some(noted) = self.find(session, topic) {
            noted.sent = None;
        }
    }

    /// A session has another connection: what came to it meanwhile is not known here.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// A connection found a value that comes by its queue.
    pub(super) fn note_found(&mut self, session: SessionId, message: &Message) {
        if let Some(noted) = self.note(session, message.topic()) {
            noted.sent = Some(Content::of(message));
            noted.found = noted.found.saturating_add(1);
        }
    }

    /// A value that was found for a connection is on its way to its queue. Nobody may rely on that before it is there: who
    /// published an equal one waits for its own.
    pub(super) fn note_coming(&mut self, session: SessionId, topic: &str) {
        if let Some(noted) = self.note(session, topic) {
            noted.found = noted.found.saturating_add(1);
        }
    }

    /// A retained message of its queue was sent.
    pub(super) fn queued_sent(&mut self, session: SessionId, message: &Message) {
        if let Some(noted) = self.note(session, message.topic()) {
            noted.sent = Some(Content::of(message));
            noted.found = noted.found.saturating_sub(1);
        }
    }

    /// A retained message of its queue will not be sent.
    pub(super) fn queued_dropped(&mut self, session: SessionId, topic: &str) {
        if let Some(noted) = self.find(session, topic) {
            noted.sent = None;
            noted.found = noted.found.saturating_sub(1);
        }
    }

    /// Whether this is what a session was sent last of the topic, or has found.
    pub(super) fn had(&mut self, session: SessionId, message: &Message) -> bool {
        let noted = self.find(session, message.topic());
        noted.is_some_and(|noted| noted.sent == Some(Content::of(message)))
    }

    /// What is to become of a retained message that comes out of a session's queue for the first time.
    pub(super) fn judge_queued(&mut self, session: SessionId, message: &Message) -> Queued {
        match self.find(session, message.topic()) {
            // Of two that are equal it does not matter which one is sent.
            Some(noted) if noted.found > 0 => Queued::Found,
            Some(noted) if noted.sent == Some(Content::of(message)) => Queued::Needless,
            _ => Queued::Given,
        }
    }

    fn note(&mut self, session: SessionId, topic: &str) -> Option<&mut Noted> {
        let crosser = self.sessions.get_mut(&session)?;
        crosser.note(self.hasher.hash_one(topic), topic)
    }

    fn find(&mut self, session: SessionId, topic: &str) -> Option<&mut Noted> {
        let crosser = self.sessions.get_mut(&session)?;
        crosser.find(self.hasher.hash_one(topic), topic)
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::codec::QoS;

    use super::*;

    const SESSION: SessionId = SessionId(7);

    fn message(topic: &str, payload: &str) -> Message {
        Message::new(topic, &[], payload.as_bytes(), QoS::AtLeastOnce, true, None)
    }

    fn send(crossers: &mut Crossers, topic: &str, payload: &str) {
        crossers.note_sent(SESSION, topic, || Content::new(&[], payload.as_bytes()));
    }

    fn had(crossers: &mut Crossers, topic: &str, payload: &str) -> bool {
        crossers.had(SESSION, &message(topic, payload))
    }

    #[test]
    fn r33_what_was_sent_last_of_a_topic_is_known_for_a_while() {
        let mut crossers = Crossers::default();
        send(&mut crossers, "a", "1");
        assert!(!had(&mut crossers, "a", "1"), "it has not subscribed");
        crossers.subscribes(SESSION, &["a".into()], Instant(1_000));
        send(&mut crossers, "a", "1");
        assert!(had(&mut crossers, "a", "1"));
        assert!(!had(&mut crossers, "b", "1") && !crossers.had(SessionId(8), &message("a", "1")));
        send(&mut crossers, "a", "2");
        assert!(!had(&mut crossers, "a", "1"), "another one came behind it");
        // Subscribing again lengthens the time, and asks for what there is of these topics once more.
        send(&mut crossers, "b", "2");
        crossers.subscribes(SESSION, &["b".into()], Instant(9_000));
        assert!(!had(&mut crossers, "b", "2"));
        crossers.expire(Instant(11_000));
        assert!(had(&mut crossers, "a", "2"));
        crossers.expire(Instant(19_000));
        assert!(!had(&mut crossers, "a", "2"));
        assert!(crossers.sessions.is_empty() && crossers.ends.is_empty());
    }

    /// Whichever of two copies comes out of the queues first, and whichever was found first.
    #[test]
    fn r33_of_copies_in_queues_one_is_sent() {
        let mut crossers = Crossers::default();
        let take = |crossers: &mut Crossers, payload: &str| {
            let message = message("a", payload);
            let judged = crossers.judge_queued(SESSION, &message);
            if judged != Queued::Needless {
                crossers.queued_sent(SESSION, &message);
            }
            judged
        };
        assert_eq!(take(&mut crossers, "1"), Queued::Given, "nothing is known");
        crossers.subscribes(SESSION, &["a".into()], Instant(1_000));
        crossers.note_found(SESSION, &message("a", "1"));
        assert!(had(&mut crossers, "a", "1"));
        assert_eq!(take(&mut crossers, "1"), Queued::Found);
        assert_eq!(take(&mut crossers, "1"), Queued::Needless);
        assert_eq!(take(&mut crossers, "2"), Queued::Given, "another value");
        // Two subscriptions find it, and each gets it.
        crossers.note_found(SESSION, &message("a", "1"));
        crossers.subscribes(SESSION, &["#".into()], Instant(1_000));
        crossers.note_found(SESSION, &message("a", "1"));
        assert_eq!(
            [(); 3].map(|()| take(&mut crossers, "1")),
            [Queued::Found, Queued::Found, Queued::Needless]
        );
    }

    /// What was not sent for certain makes no copy needless.
    #[test]
    fn r33_what_may_not_have_come_counts_for_nothing() {
        let mut crossers = Crossers::default();
        crossers.subscribes(SESSION, &["a".into()], Instant(1_000));
        crossers.note_found(SESSION, &message("a", "1"));
        crossers.queued_dropped(SESSION, "a");
        assert!(!had(&mut crossers, "a", "1"));
        assert_eq!(crossers.judge_queued(SESSION, &message("a", "1")), Queued::Given);
        send(&mut crossers, "a", "1");
        crossers.note_sent_once(SESSION, "a");
        assert!(!had(&mut crossers, "a", "1"));
        send(&mut crossers, "a", "1");
        crossers.forget(SESSION);
        assert!(!had(&mut crossers, "a", "1"));
        crossers.subscribes(SESSION, &["a".into()], Instant(1_000));
        crossers.note_coming(SESSION, "a");
        assert!(!had(&mut crossers, "a", "1"), "it is in no queue yet");
        assert_eq!(crossers.judge_queued(SESSION, &message("a", "1")), Queued::Found);
        crossers.queued_sent(SESSION, &message("a", "1"));
        assert!(had(&mut crossers, "a", "1"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut crossers = Crossers::default();
        for number in 0..SESSIONS_MAX as u64 + 10 {
            crossers.subscribes(SessionId(number), &[], Instant(number));
        }
        let sessions = (crossers.sessions.len(), crossers.ends.len());
        assert_eq!(sessions, (SESSIONS_MAX, SESSIONS_MAX));
        let last = SessionId(SESSIONS_MAX as u64);
        for number in 0..TOPICS_MAX + 10 {
            crossers.note_sent(last, &number.to_string(), || Content::new(&[], b"x"));
        }
        assert_eq!(crossers.sessions[&last].topics.len(), TOPICS_MAX);
        let newest = message(&(TOPICS_MAX + 9).to_string(), "x");
        assert!(crossers.had(last, &newest) && !crossers.had(last, &message("0", "x")));
        let long = "x".repeat(TOPIC_BYTES_MAX + 1);
        crossers.note_sent(last, &long, || Content::new(&[], b"x"));
        assert!(!crossers.had(last, &message(&long, "x")));
    }
}
