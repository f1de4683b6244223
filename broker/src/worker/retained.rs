//! Retained messages for new subscriptions: read from the topics' groups in pieces, as fast as the client takes them.
//!
//! A value whose topic had a live message since the subscription is skipped (R34). For a durable session values at
//! QoS 1 and 2 are appended to its home group (R24), one piece at a time; all others are delivered here.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use quorate_cluster::node::{Location, Node, Placement, Publish};
use quorate_cluster::state::{GroupTime, MessageParts, Origin, RetainedView, SessionId, Target, TargetQueue};
use quorate_proto::codec::{QoS, RetainHandling, SubscriptionOptions};
use quorate_proto::message::Message;
use quorate_proto::session::{DeliverResult, Delivery};
use quorate_proto::topic;

use super::connection::Conn;
use super::counting::drop_reason;
use super::queue::translate;
use super::ticket::WaitsFor;
use super::{Ticket, Worker};
use crate::metrics::DropReason;
use crate::node::Shared;
use crate::peers::Joint;
use crate::router::split_share;

/// Values read at once.
const PIECE: usize = 64;
/// Output beyond which the next piece waits until it has been written.
const OUTPUT_MAX: usize = 64 * 1024;
/// Pages of the index read in one turn; each looks at about a thousand topics at most.
const PAGES_PER_TURN: usize = 32;
/// Live topics remembered while a replay goes on; more end the skipping, not the replay.
const LIVE_TOPICS_MAX: usize = 4_096;

/// Groups that hold retained messages, by their slots.
const SLOTS: u8 = 16;

/// Without a wildcard there is one topic, in one group.
fn is_exact(filter: &str) -> bool {
    !filter.contains(['+', '#'])
}

/// Whether a subscription gets retained messages [MQTT-3.3.1-9 to -11]; a shared one never does [MQTT5 4.8.2].
pub(super) fn wants_retained(filter: &str, options: &SubscriptionOptions, new: bool) -> bool {
    split_share(filter).is_none()
        && match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => new,
            RetainHandling::DoNotSend => false,
        }
}

/// One new subscription whose retained messages are being sent.
#[derive(Debug)]
struct Replay {
    number: u32,
    options: SubscriptionOptions,
    subscription_id: Option<u32>,
    place: Place,
}

/// Where a replay goes on reading.
#[derive(Clone, Debug)]
struct Place {
    filter: Arc<str>,
    /// Slot of the group being read; [`SLOTS`] at the end.
    slot: u8,
    /// Topic after which to go on in that group.
    after: Option<String>,
}

impl Place {
    /// Before everything that a filter matches.
    fn before(filter: Arc<str>) -> Self {
        let slot = match is_exact(&filter) {
            true => Placement::packet_id_slot(Placement::data_of_topic(&filter)),
            false => 0,
        };
        let after = None;
        Self { filter, slot, after }
    }

    fn is_end(&self) -> bool {
        self.slot >= SLOTS
    }

    /// A page was read that says where the next one of its group begins.
    fn advance(&mut self, resume_after: Option<String>) {
        self.after = resume_after;
        if is_exact(&self.filter) {
            self.slot = SLOTS;
        } else if self.after.is_none() {
            self.slot += 1;
        }
    }

    /// Reads on, in whatever group and at whatever node, until something is found or there is no more: as the groups were
    /// when they were begun with, or later (R36).
    async fn read(mut self, node: &Node<Shared>) -> (Self, Vec<Value>) {
        while !self.is_end() {
            let group = node.group_of_slot(self.slot);
            let is_first = self.after.is_none();
            let page = group
                .read_retained(&self.filter, self.after.as_deref(), PIECE, is_first)
                .await;
            let values = values(page.matches, group.now());
            self.advance(page.resume_after);
            if !values.is_empty() {
                return (self, values);
            }
        }
        (self, Vec::new())
    }
}

/// The replays of a connection, one after the other. They are numbered in the order of their SUBSCRIBEs.
#[derive(Debug, Default)]
pub(super) struct Replays {
    waiting: VecDeque<Replay>,
    /// Number of the SUBSCRIBE that came last.
    last: u32,
    /// SUBSCRIBEs that were not answered yet: their numbers, and the filters that may have retained messages.
    expected: Vec<(u32, Vec<Arc<str>>)>,
    /// Topics that had a live message while replays went on, with the number that was the last then.
    live_topics: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    /// Values of a piece on their way into the session's home group.
    appending: usize,
    /// A piece was appended that the client was not sent entirely; the number of its replay.
    appended: Option<u32>,
    /// Appended values that were not sent.
    unsent: usize,
    /// The session was continued, and its home group's queue may have values that were appended to it before this.
    earlier: Option<GroupTime>,
    /// The next turn goes on reading.
    scheduled: bool,
    /// A piece is being read behind a barrier, for the first of the waiting.
    reading: bool,
}

impl Replays {
    /// Whether nothing is to be read.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing is to be sent, and nothing of it is under way.
    pub(super) fn is_idle(&self) -> bool {
        let nothing_comes = self.waiting.is_empty() && self.expected.is_empty() && self.appending == 0;
        nothing_comes && self.appended.is_none() && self.earlier.is_none()
    }

    /// The session is continued: until its home group's queue has been sent, as far as it was there before this, live
    /// messages are noted (R34).
    pub(super) fn resume(&mut self, at: GroupTime) {
        self.earlier = Some(at);
    }

    /// A message that the home group got at this time comes next.
    pub(super) fn reached(&mut self, received_at: GroupTime) {
        self.earlier.take_if(|earlier| received_at > *earlier);
    }

    /// A SUBSCRIBE was taken whose subscriptions may have retained messages: from now on live messages are noted.
    pub(super) fn expect(&mut self, filters: Vec<Arc<str>>) -> u32 {
        self.last += 1;
        self.expected.push((self.last, filters));
        self.last
    }

    /// The SUBSCRIBE is answered.
    pub(super) fn answered(&mut self, number: u32) {
        self.expected.retain(|(expected, _)| *expected != number);
    }

    /// Whether a replay is still going to read the topic.
    pub(super) fn will_find(&self, topic: &str) -> bool {
        let slot = Placement::packet_id_slot(Placement::data_of_topic(topic));
        let begins = |Replay { place, .. }: &Replay| {
            place.slot < slot || (place.slot == slot && place.after.is_none())
        };
        let mut expected = self.expected.iter().flat_map(|(_, filters)| filters);
        // What is being read may have been looked for already: better twice than not at all.
        let mut waiting = self.waiting.iter().skip(usize::from(self.reading));
        let mut waiting = waiting.by_ref().filter(|replay| begins(replay));
        expected.any(|filter| topic::matches(filter, topic))
            || waiting.any(|replay| topic::matches(&replay.place.filter, topic))
    }

    /// A live message of this topic was handed to the connection.
    pub(super) fn note_live(&mut self, topic: &str) {
        if self.is_idle() {
            return;
        }
        if let Some(number) = self.live_topics.get_mut(topic) {
            *number = self.last;
        } else if self.live_topics.len() < LIVE_TOPICS_MAX {
            self.live_topics.insert(topic.into(), self.last);
        }
    }

    /// Whether a live message of this topic was sent since a replay's SUBSCRIBE (R34).
    pub(super) fn had_live(&self, topic: &str, replay: u32) -> bool {
        self.live_topics
            .get(topic)
            .is_some_and(|number| *number >= replay)
    }

    /// Whether a value that was appended to a queue has been overtaken.
    pub(super) fn is_overtaken(&self, topic: &str) -> bool {
        let replay = self.appended.filter(|_| self.earlier.is_none());
        self.had_live(topic, replay.unwrap_or(0))
    }

    /// A value was appended to the home group, or not.
    pub(super) fn value_appended(&mut self, is_stored: bool) {
        self.appending = self.appending.saturating_sub(1);
        self.unsent += usize::from(is_stored);
    }

    /// A value that was appended is done with.
    pub(super) fn value_sent(&mut self) {
        self.unsent = self.unsent.saturating_sub(1);
    }
}

/// A value read for a replay.
struct Value {
    message: Message,
    expires_at: Option<GroupTime>,
    now: GroupTime,
}

impl Value {
    /// The time it has left.
    fn expiry_secs(&self) -> Option<u32> {
        let left = |at: GroupTime| at.0.saturating_sub(self.now.0).div_ceil(1000);
        self.expires_at
            .map(|at| u32::try_from(left(at)).unwrap_or(u32::MAX))
    }
}

/// What was read, as far as it has not expired since the group's last tick.
fn values(read: Vec<RetainedView>, now: GroupTime) -> Vec<Value> {
    let alive = read
        .into_iter()
        .filter(|value| value.expires_at.is_none_or(|at| at > now));
    alive
        .map(|value| Value {
            message: value.message,
            expires_at: value.expires_at,
            now,
        })
        .collect()
}

impl Worker {
    /// Sends the last values of the broker's own topics.
    pub(super) fn send_sys_topics(&self, conn: &Rc<Conn>, filter: &str, subscription_id: Option<u32>) {
        for message in self.shared.sys_topics.matching(filter) {
            let mut delivery = Delivery::of(&message, QoS::AtMostOnce);
            delivery.retain = true;
            delivery.subscription_ids = subscription_id.as_slice();
            self.deliver(conn, &delivery);
        }
    }

    /// Starts sending the retained messages of a new subscription of SUBSCRIBE `number`.
    pub(super) fn begin_replay(
        &self,
        conn: &Conn,
        number: u32,
        (filter, options): (Arc<str>, SubscriptionOptions),
        subscription_id: Option<u32>,
    ) {
        let replay = Replay {
            number,
            options,
            subscription_id,
            place: Place::before(filter),
        };
        conn.state.borrow_mut().rare().replays.waiting.push_back(replay);
    }

    /// Goes on with retained messages as far as the client takes them.
    pub(super) fn replay(self: &Rc<Self>, conn: &Rc<Conn>) {
        let mut pages = PAGES_PER_TURN;
        loop {
            let ((number, options, subscription_id), values) = {
                let mut state = conn.state.borrow_mut();
                let (queued, _) = state.protocol.queued();
                let room = state.out.len() < OUTPUT_MAX && queued < PIECE;
                let Some((session, _)) = state.session() else {
                    return;
                };
                let home = Placement::packet_id_slot(Placement::home_of(session));
                let drained = state.queue.as_ref().is_none_or(|queue| queue.is_drained(home));
                let Some(rare) = &mut state.rare else { return };
                let replays = &mut rare.replays;
                if replays.earlier.is_some() && !drained {
                    return;
                }
                replays.earlier = None;
                // A piece for a durable session waits until the one before has been sent (R24), or has expired.
                let is_sent = replays.appended.is_none() || replays.unsent == 0 || drained;
                if replays.appending > 0 || replays.reading || !room || !is_sent {
                    return;
                }
                replays.appended = None;
                replays.unsent = 0;
                let Some(replay) = replays.waiting.front_mut() else {
                    if replays.is_idle() {
                        replays.live_topics = HashMap::default();
                        replays.waiting = VecDeque::new();
                        state.trim_rare();
                    }
                    return;
                };
                if !self.shared.node().is_alone() {
                    let place = replay.place.clone();
                    replays.reading = true;
                    return self.read_behind_barrier(conn, place);
                }
                if pages == 0 {
                    self.replay_next_turn(conn, replays);
                    return;
                }
                let terms = (replay.number, replay.options, replay.subscription_id);
                let values = self.read_piece(&mut replay.place, &mut pages);
                if replay.place.is_end() {
                    replays.waiting.pop_front();
                }
                (terms, values)
            };
            for value in values {
                self.send_retained(conn, number, &value, &options, subscription_id);
            }
        }
    }

    /// Reading takes long: others get their turn.
    fn replay_next_turn(self: &Rc<Self>, conn: &Rc<Conn>, replays: &mut Replays) {
        if replays.scheduled {
            return;
        }
        replays.scheduled = true;
        let (worker, location) = (self.clone(), conn.location);
        tokio::task::spawn_local(async move {
            tokio::task::yield_now().await;
            if let Some(conn) = worker.open_connection(location) {
                if let Some(rare) = &mut conn.state.borrow_mut().rare {
                    rare.replays.scheduled = false;
                }
                worker.replay(&conn);
            }
        });
    }

    /// Reads the next piece at a node that is alone, at most `pages` of the index.
    fn read_piece(&self, place: &mut Place, pages: &mut usize) -> Vec<Value> {
        while !place.is_end() && *pages > 0 {
            *pages -= 1;
            let group = self.shared.node().group_of_slot(place.slot);
            let page = group
                .state()
                .retained_page(&place.filter, place.after.as_deref(), PIECE);
            let values = values(page.matches, group.now());
            place.advance(page.resume_after);
            if !values.is_empty() {
                return values;
            }
        }
        Vec::new()
    }

    /// Reads the next piece where other nodes may know more, or have it.
    fn read_behind_barrier(self: &Rc<Self>, conn: &Conn, place: Place) {
        let (worker, location) = (self.clone(), conn.location);
        tokio::task::spawn_local(async move {
            let node = worker.shared.node().clone();
            let reading = async move { place.read(&node).await };
            // Where the runtime is gone the node stops.
            let Ok((place, values)) = worker.shared.control.spawn(reading).await else {
                return;
            };
            let Some(conn) = worker.open_connection(location) else {
                return;
            };
            let (number, options, subscription_id) = {
                let mut state = conn.state.borrow_mut();
                let replays = &mut state.rare().replays;
                replays.reading = false;
                let Some(replay) = replays.waiting.front_mut() else {
                    return;
                };
                let terms = (replay.number, replay.options, replay.subscription_id);
                replay.place = place;
                if replay.place.is_end() {
                    replays.waiting.pop_front();
                }
                terms
            };
            for value in values {
                worker.send_retained(&conn, number, &value, &options, subscription_id);
            }
            worker.replay(&conn);
            worker.after_completion(&conn);
        });
    }

    fn send_retained(
        &self,
        conn: &Rc<Conn>,
        number: u32,
        value: &Value,
        options: &SubscriptionOptions,
        subscription_id: Option<u32>,
    ) {
        let message = &value.message;
        let qos = message.qos.min(options.qos);
        let Some((session, _)) = conn.session() else {
            return;
        };
        if conn
            .state
            .borrow_mut()
            .rare()
            .replays
            .had_live(message.topic(), number)
        {
            return;
        }
        if qos > QoS::AtMostOnce && Placement::is_durable(session) {
            self.counters.retained_sent.increment();
            conn.state.borrow_mut().rare().replays.appended = Some(number);
            let expiry_secs = value
                .expires_at
                .map(|at| u32::try_from(at.0.saturating_sub(value.now.0).div_ceil(1000)).unwrap_or(u32::MAX));
            let ids = subscription_id.into_iter().collect();
            self.append_retained(conn, session, message, expiry_secs, (qos, ids), None);
            return;
        }
        let now = self.now();
        let ids: &[u32] = subscription_id.as_slice();
        let delivery = Delivery {
            qos,
            retain: true,
            subscription_ids: ids,
            expires_at: value.expires_at.map(|at| translate(at, value.now, now)),
            ..Delivery::of(message, qos)
        };
        let result = {
            let state = &mut *conn.state.borrow_mut();
            self.lend_buffer(&mut state.out);
            state
                .protocol
                .deliver(&delivery, &mut || message.clone(), now, &mut state.out)
        };
        match result {
            DeliverResult::Sent => {
                self.counters.retained_sent.increment();
                self.counters.messages_delivered.of(qos).increment();
                self.mark_dirty(conn);
            }
            DeliverResult::Dropped(reason) => {
                self.counters.messages_dropped.of(drop_reason(reason)).increment()
            }
            DeliverResult::Queued => self.counters.retained_sent.increment(),
            DeliverResult::Busy => {}
        }
    }

    /// Appends a value to the queue in the session's home group, from where the client gets it.
    pub(super) fn append_retained(
        &self,
        conn: &Conn,
        session: SessionId,
        message: &Message,
        expiry_secs: Option<u32>,
        terms: (QoS, Vec<u32>),
        late: Option<Arc<Joint>>,
    ) {
        {
            let mut state = conn.state.borrow_mut();
            let replays = &mut state.rare().replays;
            replays.appending += 1;
            // Until it has been sent live messages are noted.
            replays.appended.get_or_insert(replays.last);
        }
        let ticket = Ticket {
            location: conn.location,
            waits_for: WaitsFor::RetainedAppended(late),
        };
        self.propose_retained(session, message, expiry_secs, terms, ticket);
    }

    /// Proposes a value for the queue in the session's home group.
    pub(super) fn propose_retained(
        &self,
        session: SessionId,
        message: &Message,
        expiry_secs: Option<u32>,
        (qos, subscription_ids): (QoS, Vec<u32>),
        ticket: Ticket,
    ) {
        let target = Target {
            queue: TargetQueue::Session(session),
            qos,
            retain: true,
            replayed: true,
            subscription_ids,
        };
        let publish = Publish {
            origin: &Origin::Server,
            message: MessageParts {
                expiry_secs,
                ..message.into()
            },
            targets: &[target],
            set_retained: false,
            taken_live: false,
        };
        let home = self.shared.node().home(session);
        home.propose_publish(&publish, Some(ticket));
    }

    /// The connection of a durable session is gone: what it was still to be sent at QoS 1 and 2 waits in the session's
    /// queue, as far as that has room.
    pub(super) fn keep_replays(
        self: &Rc<Self>,
        location: Location,
        session: SessionId,
        mut replays: Replays,
    ) {
        if replays.waiting.is_empty() {
            return;
        }
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            for mut replay in std::mem::take(&mut replays.waiting) {
                while !replay.place.is_end() {
                    let node = worker.shared.node().clone();
                    node.backlog().room().await;
                    // A session that has ended wants nothing any more.
                    let Some(has_room) = worker.has_room(session) else {
                        return;
                    };
                    if !has_room {
                        worker
                            .counters
                            .messages_dropped
                            .of(DropReason::QueueFull)
                            .increment();
                        return;
                    }
                    let values = if node.is_alone() {
                        worker.read_piece(&mut replay.place, &mut 1)
                    } else {
                        let place = replay.place.clone();
                        let reading = async move { place.read(&node).await };
                        let Ok((place, values)) = worker.shared.control.spawn(reading).await else {
                            return;
                        };
                        replay.place = place;
                        values
                    };
                    for value in values {
                        let qos = value.message.qos.min(replay.options.qos);
                        if qos > QoS::AtMostOnce && !replays.had_live(value.message.topic(), replay.number) {
                            let terms = (qos, replay.subscription_id.into_iter().collect());
                            let ticket = Ticket {
                                location,
                                waits_for: WaitsFor::RetainedAppended(None),
                            };
                            worker.propose_retained(
                                session,
                                &value.message,
                                value.expiry_secs(),
                                terms,
                                ticket,
                            );
                        }
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
    }

    /// Whether a durable session takes more messages; `None` when it is not known.
    fn has_room(&self, session: SessionId) -> Option<bool> {
        self.shared.router.read(|table| {
            let queue = table.session(session)?.queue.as_ref()?;
            Some(!self.shared.queue_is_full(queue))
        })
    }
}
