//! The replays of a connection, and the live topics that overtake them (R34).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;
use quorate_cluster::state::{Epoch, GroupTime, PendingReplay, ReplayId, SessionId};
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use quorate_proto::topic;
use tokio::task::AbortHandle;

use super::place::{Crosser, Place};
use crate::worker::crossers::Content;

/// Live topics remembered while a replay goes on; more end the skipping, not the replay.
const LIVE_TOPICS_MAX: usize = 4_096;

/// A read in the control runtime, which ends with the connection: it may wait for a leader that does not come.
#[derive(Debug)]
pub(super) struct ReadingTask(pub(super) AbortHandle);

impl Drop for ReadingTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One subscription whose retained messages are being sent.
#[derive(Debug)]
pub(super) struct Replay {
    /// Of the SUBSCRIBE; 0 for one of an earlier connection.
    pub(super) number: u32,
    /// Tells it from the other replays of the connection.
    serial: u32,
    pub(super) qos: QoS,
    pub(super) subscription_id: Option<u32>,
    pub(super) place: Place,
    /// When it was subscribed to, by this connection.
    pub(super) subscribed_at: Option<Instant>,
    /// What the session's state has of it, where values at QoS 1 and 2 are appended to the session's queue.
    pub(super) kept: Option<Kept>,
    /// Pieces since the state was told where it is.
    pub(super) unnoted: u8,
    /// None of the groups that are left can be read: it waits aside for one of them (R36).
    held: Option<ReadingTask>,
}

/// A replay that the session's state has.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) id: ReplayId,
    /// Number of the next step.
    pub(super) step: u64,
    /// An earlier connection began it, and was sent what there is at QoS 0, or was not.
    pub(super) is_resumed: bool,
}

/// A SUBSCRIBE that was not answered yet.
#[derive(Debug)]
struct Expected {
    number: u32,
    at: Instant,
    /// Those that may have retained messages.
    filters: Vec<Arc<str>>,
}

/// The replays of a connection, one after the other. They are numbered in the order of their SUBSCRIBEs.
#[derive(Debug, Default)]
pub(in crate::worker) struct Replays {
    pub(super) waiting: VecDeque<Replay>,
    /// Number of the SUBSCRIBE that came last.
    last: u32,
    /// Serial number of the replay that came last.
    serial: u32,
    /// How many came by another way, and how many had when the piece that is being read was begun.
    given: u64,
    given_before: u64,
    /// SUBSCRIBEs that were not answered yet.
    expected: Vec<Expected>,
    /// Topics that had a live message while replays went on, with the number that was the last then.
    live_topics: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    /// Topics of retained messages that came to it by another way, with the same number, and their contents (R33).
    given_topics: HashMap<Box<str>, (u32, Content), foldhash::fast::RandomState>,
    /// Values of a piece on their way into the session's home group.
    pub(super) appending: usize,
    /// Moves of cursors alone on their way there: nobody waits for them.
    pub(super) moving: usize,
    /// A piece was appended that the client was not sent entirely; the number of its replay.
    pub(super) appended: Option<u32>,
    /// Appended values that were not sent.
    pub(super) unsent: usize,
    /// The session was continued, and its home group's queue may have values that were appended to it before this.
    pub(super) earlier: Option<GroupTime>,
    /// What earlier connections have left of their replays is being asked for.
    pub(super) is_resuming: bool,
    /// Subscriptions have changed since: what is answered may be of before.
    is_outdated: bool,
    /// The next turn goes on reading.
    pub(super) scheduled: bool,
    /// A piece is being read behind a barrier, for the replay with this serial number, the first of the waiting.
    pub(super) reading: Option<u32>,
    pub(super) reading_task: Option<ReadingTask>,
    /// A page of what earlier connections have left is being read.
    pub(super) resuming_task: Option<ReadingTask>,
}

impl Replays {
    /// Whether nothing is to be read.
    pub(in crate::worker) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing is to be sent, and nothing of it is under way. Only then may this be forgotten: the numbers begin
    /// again behind it, and nobody is to come back with an old one.
    pub(in crate::worker) fn is_idle(&self) -> bool {
        let nothing_comes = self.waiting.is_empty() && self.expected.is_empty() && !self.is_resuming;
        let nothing_returns = self.appending == 0 && self.moving == 0 && self.reading.is_none();
        nothing_comes && nothing_returns && self.appended.is_none() && self.earlier.is_none()
    }

    /// The session is continued: until its home group's queue has been sent, as far as it was there before this, live
    /// messages are noted (R34).
    pub(in crate::worker) fn resume(&mut self, at: GroupTime) {
        self.earlier = Some(at);
    }

    /// A message that the home group got at this time comes next.
    pub(in crate::worker) fn reached(&mut self, received_at: GroupTime) {
        self.earlier.take_if(|earlier| received_at > *earlier);
    }

    /// A SUBSCRIBE was taken whose subscriptions may have retained messages: from now on live messages are noted.
    pub(in crate::worker) fn expect(&mut self, filters: Vec<Arc<str>>) -> u32 {
        self.last += 1;
        self.expected.push(Expected {
            number: self.last,
            at: Instant::now(),
            filters,
        });
        self.last
    }

    /// The SUBSCRIBE is answered.
    pub(in crate::worker) fn answered(&mut self, number: u32) {
        self.expected.retain(|expected| expected.number != number);
    }

    /// Subscriptions were removed, so nothing more is read for them [MQTT-3.10.4-2].
    pub(in crate::worker) fn unsubscribed(&mut self, filters: &[Arc<str>]) {
        self.is_outdated = self.is_resuming;
        self.waiting
            .retain(|replay| !filters.contains(&replay.place.filter));
    }

    /// A subscription was renewed that asks for no retained messages: those that are still to come are on its terms
    /// [MQTT-3.8.4-8]. What the state of a durable session has not, stays at QoS 0.
    pub(in crate::worker) fn renewed(
        &mut self,
        filter: &str,
        (qos, subscription_id): (QoS, Option<u32>),
        is_durable: bool,
    ) {
        self.is_outdated = self.is_resuming;
        let mut waiting = self.waiting.iter_mut();
        if let Some(replay) = waiting.find(|replay| &*replay.place.filter == filter) {
            replay.subscription_id = subscription_id;
            if replay.kept.is_some() || !is_durable {
                replay.qos = qos;
            }
        }
    }

    /// A new subscription of SUBSCRIBE `number`, or one that is renewed: it begins again.
    pub(super) fn begin(
        &mut self,
        number: u32,
        filter: Arc<str>,
        terms: (QoS, Option<u32>),
        id: Option<ReplayId>,
    ) {
        let kept = id.map(|id| Kept {
            id,
            step: 0,
            is_resumed: false,
        });
        self.is_outdated = self.is_resuming;
        self.waiting
            .retain(|replay| replay.place.filter != filter || replay.number > number);
        let mut expected = self.expected.iter();
        let at = expected
            .find(|expected| expected.number == number)
            .map(|expected| expected.at);
        self.push((number, at), Place::before(filter), terms, kept);
    }

    /// A page of what earlier connections have left is there; false where it is to be asked for again.
    pub(super) fn resumed(&mut self, page: Vec<PendingReplay>, epoch: Epoch) -> bool {
        if std::mem::take(&mut self.is_outdated) {
            return false;
        }
        self.is_resuming = !page.is_empty();
        page.into_iter().for_each(|pending| self.go_on(pending, epoch));
        true
    }

    /// What an earlier connection has left. What this one has begun anew since is not that.
    fn go_on(&mut self, pending: PendingReplay, epoch: Epoch) {
        let PendingReplay {
            filter,
            id,
            qos,
            subscription_id,
            step,
            cursor,
        } = pending;
        if id.epoch != epoch {
            let kept = Kept {
                id,
                step,
                is_resumed: true,
            };
            self.push(
                (0, None),
                Place::at(filter, cursor),
                (qos, subscription_id),
                Some(kept),
            );
        }
    }

    fn push(
        &mut self,
        (number, subscribed_at): (u32, Option<Instant>),
        place: Place,
        (qos, subscription_id): (QoS, Option<u32>),
        kept: Option<Kept>,
    ) {
        self.serial = self.serial.wrapping_add(1);
        self.waiting.push_back(Replay {
            number,
            serial: self.serial,
            qos,
            subscription_id,
            place,
            subscribed_at,
            kept,
            unnoted: 0,
            held: None,
        });
    }

    /// The replay whose turn it is.
    fn first(&self) -> Option<&Replay> {
        self.waiting.iter().find(|replay| replay.held.is_none())
    }

    /// Whether all that is to be read waits aside.
    pub(super) fn is_held(&self) -> bool {
        self.first().is_none()
    }

    /// Whether what the first replay finds is appended.
    pub(super) fn proposes(&self) -> bool {
        self.first().is_some_and(|first| first.kept.is_some())
    }

    /// The first replay is going to be read by a task.
    pub(super) fn read_first(&mut self, session: SessionId) -> Option<(Place, Option<Crosser>)> {
        let first = self.first()?;
        let (serial, place) = (first.serial, first.place.clone());
        let crosser = first.crosser(session);
        self.reading = Some(serial);
        self.given_before = self.given;
        Some((place, crosser))
    }

    /// The task is done; takes its replay out, unless it has ended meanwhile.
    pub(super) fn was_read(&mut self) -> Option<Replay> {
        self.reading_task = None;
        let serial = self.reading.take()?;
        self.take(|replay| replay.serial == serial)
    }

    /// Takes the first replay out.
    pub(super) fn take_first(&mut self) -> Option<Replay> {
        self.take(|replay| replay.held.is_none())
    }

    fn take(&mut self, is_it: impl Fn(&Replay) -> bool) -> Option<Replay> {
        let at = self.waiting.iter().position(is_it)?;
        self.waiting.remove(at)
    }

    /// A replay of which nothing can be read waits aside until it is [released](Self::release).
    pub(super) fn hold(&mut self, mut replay: Replay, task: ReadingTask) {
        replay.held = Some(task);
        self.waiting.push_back(replay);
    }

    /// A group can be read that a replay waits for, unless that has ended.
    pub(super) fn release(&mut self, serial: u32) {
        let mut waiting = self.waiting.iter_mut();
        if let Some(replay) = waiting.find(|replay| replay.serial == serial) {
            replay.held = None;
        }
    }

    /// A step of a replay had not its turn: the session's state has the replay no more.
    pub(super) fn end(&mut self, serial: u32) {
        self.waiting.retain(|replay| replay.serial != serial);
    }

    /// Whether a replay is still going to read the topic.
    pub(in crate::worker) fn will_find(&self, topic: &str) -> bool {
        let mut expected = self.expected.iter().flat_map(|expected| &expected.filters);
        // What is being read may have been looked for already: better twice than not at all.
        let mut waiting = (self.waiting.iter())
            .filter(|replay| self.reading != Some(replay.serial) && replay.place.is_before(topic));
        expected.any(|filter| topic::matches(filter, topic))
            || waiting.any(|replay| topic::matches(&replay.place.filter, topic))
    }

    /// A live message of this topic was handed to the connection.
    pub(in crate::worker) fn note_live(&mut self, topic: &str) {
        if self.is_idle() {
            return;
        }
        if let Some(number) = self.live_topics.get_mut(topic) {
            *number = self.last;
        } else if self.live_topics.len() < LIVE_TOPICS_MAX {
            self.live_topics.insert(topic.into(), self.last);
        }
    }

    /// Nothing is to be sent any more: no live message is to be remembered.
    pub(super) fn forget_live(&mut self) {
        self.live_topics = HashMap::default();
        self.given_topics = HashMap::default();
        self.waiting = VecDeque::new();
    }

    /// Whether the connection was given another value of a topic while this one was read, which may be the newer one.
    pub(super) fn may_be_older(&self, message: &Message) -> bool {
        let given = self.given_topics.get(message.topic());
        self.given != self.given_before && given.is_some_and(|(_, content)| *content != Content::of(message))
    }

    /// Whether a live message of this topic was sent since a replay's SUBSCRIBE (R34).
    pub(in crate::worker) fn had_live(&self, topic: &str, replay: u32) -> bool {
        let last = self.live_topics.get(topic);
        last.is_some_and(|number| *number >= replay)
    }

    /// As [`Self::had_live`], or this retained message came by another way.
    pub(in crate::worker) fn had(&self, message: &Message, replay: u32) -> bool {
        let given = self.given_topics.get(message.topic());
        self.had_live(message.topic(), replay)
            || given.is_some_and(|(number, content)| *number >= replay && *content == Content::of(message))
    }

    /// Whether a value that was appended to a queue has been overtaken.
    pub(in crate::worker) fn is_overtaken(&self, topic: &str) -> bool {
        let replay = self.appended.filter(|_| self.earlier.is_none());
        self.had_live(topic, replay.unwrap_or(0))
    }

    /// A command leaves for the home group whose value comes back in the session's queue; `number` is its replay's.
    pub(super) fn append(&mut self, number: u32) {
        self.appending += 1;
        self.appended = Some(number);
    }

    /// A value that somebody else found is appended. Until it has been sent live messages are noted.
    pub(super) fn append_found(&mut self, message: &Message) {
        self.note_given(message);
        self.appending += 1;
        self.appended.get_or_insert(self.last);
    }

    /// A retained message comes to the connection that it has not found itself.
    pub(in crate::worker) fn note_given(&mut self, message: &Message) {
        self.given += 1;
        let given = (self.last, Content::of(message));
        if let Some(known) = self.given_topics.get_mut(message.topic()) {
            *known = given;
        } else if self.given_topics.len() < LIVE_TOPICS_MAX {
            self.given_topics.insert(message.topic().into(), given);
        }
    }

    /// A command leaves for the home group that moves a cursor alone.
    pub(super) fn move_alone(&mut self) {
        self.moving += 1;
    }

    /// It has arrived, or was refused.
    pub(super) fn moved_alone(&mut self) {
        self.moving = self.moving.saturating_sub(1);
    }

    /// Whether a value that the home group's queue held was appended there for this connection: where it may have been
    /// sent before, only the time of its arrival says so. What earlier connections left has been sent by then.
    pub(in crate::worker) fn is_own(&self, is_first: bool, is_home: bool) -> bool {
        is_first || (is_home && self.earlier.is_none())
    }

    /// A value was appended to the home group, or not.
    pub(in crate::worker) fn value_appended(&mut self, is_stored: bool) {
        self.appending = self.appending.saturating_sub(1);
        self.unsent += usize::from(is_stored);
    }

    /// A value that was appended is done with.
    pub(in crate::worker) fn value_sent(&mut self) {
        self.unsent = self.unsent.saturating_sub(1);
    }
}

impl Replay {
    /// The session, where its queues may have what this finds (R33).
    pub(super) fn crosser(&self, session: SessionId) -> Option<Crosser> {
        let subscribed_at = self.subscribed_at.filter(|_| self.kept.is_some())?;
        Some(Crosser {
            session,
            subscribed_at,
        })
    }

    /// Names it where it may have ended meanwhile.
    pub(super) fn serial(&self) -> u32 {
        self.serial
    }
}

#[cfg(test)]
mod tests;
