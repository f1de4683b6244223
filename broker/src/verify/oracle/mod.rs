//! The oracle: what clients were promised, held against what they saw. It knows no socket, no clock and no task.
//!
//! ```text
//! publishers  -> send, resend, acknowledge, refuse, give_up ┐
//! subscribers -> arrive                                     ├-> Oracle -> Figures
//! the others  -> settle_will, judge_read, session_lost, ... ┘
//! ```
//!
//! Invariants: nothing is called a violation that the standard or the promise allows, whatever happened to
//! connections; memory does not grow with the number of messages, as [`Oracle::may_send`] holds publishers back while a
//! subscriber misses too many.

mod arrived;
mod figures;
mod numbers;
mod outgoing;
mod receipt;
mod retained;
mod shared;
mod stream;
#[cfg(test)]
mod tests;
mod wills;

pub(crate) use arrived::{Arrived, Reader};
pub(crate) use figures::Figures;
pub(crate) use retained::Look;
pub(crate) use wills::Fate;

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::codec::{QoS, ReasonCode};

use super::message::{Message, Source, topic_prefix};
use outgoing::Outgoing;
use receipt::Arrival;
use retained::RetainedTopic;
use shared::SharedStream;
use stream::Stream;
use wills::WillClient;

/// Violations that are described; the rest is only counted.
const DESCRIBED_MAX: usize = 50;

/// What is known of all messages of a run.
#[derive(Debug)]
pub(crate) struct Oracle {
    run: u64,
    topic_prefix: String,
    streams: Vec<Stream>,
    shared: Vec<SharedStream>,
    retained: Vec<RetainedTopic>,
    wills: Vec<WillClient>,
    /// Acknowledged messages that each subscriber of the main stream misses.
    backlogs: Vec<u64>,
    backlog_max: u64,
    longest_wait: Wait,
    refused_by_reason: BTreeMap<ReasonCode, u64>,
    stale_retained: u64,
    retained_reads: u64,
    sessions_lost: u64,
    corrupted: u64,
    protocol_errors: u64,
    described: Vec<String>,
    progress: u64,
}

/// The time from the first sending of a message to its acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    sent_at: Duration,
    length: Duration,
}

impl Oracle {
    /// An oracle that holds publishers back while a subscriber misses `backlog_max` acknowledged messages.
    pub(crate) fn new(run: u64, backlog_max: u64) -> Self {
        Self {
            run,
            topic_prefix: topic_prefix(run),
            streams: Vec::new(),
            shared: Vec::new(),
            retained: Vec::new(),
            wills: Vec::new(),
            backlogs: Vec::new(),
            backlog_max,
            longest_wait: Wait::default(),
            refused_by_reason: BTreeMap::new(),
            stale_retained: 0,
            retained_reads: 0,
            sessions_lost: 0,
            corrupted: 0,
            protocol_errors: 0,
            described: Vec::new(),
            progress: 0,
        }
    }

    /// Adds a publisher of the main stream.
    pub(crate) fn add_stream(&mut self, qos: QoS, subscribers: impl IntoIterator<Item = u32>) -> Source {
        let stream = Stream::new(qos, subscribers);
        let places = stream.subscribers().max().map_or(0, |last| last as usize + 1);
        self.backlogs.resize(self.backlogs.len().max(places), 0);
        self.streams.push(stream);
        Source::Stream(self.streams.len() as u32 - 1)
    }

    /// Adds a publisher to a shared group.
    pub(crate) fn add_shared(&mut self, group: u32, qos: QoS) -> Source {
        self.shared.push(SharedStream::new(group, qos));
        Source::Shared(self.shared.len() as u32 - 1)
    }

    /// Adds a retained topic.
    pub(crate) fn add_retained(&mut self) -> Source {
        self.retained.push(RetainedTopic::new());
        Source::Retained(self.retained.len() as u32 - 1)
    }

    /// Adds a client with wills.
    pub(crate) fn add_will_client(&mut self) -> Source {
        self.wills.push(WillClient::default());
        Source::Will(self.wills.len() as u32 - 1)
    }

    fn outgoing(&self, source: Source) -> Option<&Outgoing> {
        match source {
            Source::Stream(index) => self.streams.get(index as usize).map(|stream| &stream.outgoing),
            Source::Shared(index) => self.shared.get(index as usize).map(|stream| &stream.outgoing),
            Source::Retained(index) => self.retained.get(index as usize).map(|topic| &topic.outgoing),
            Source::Will(_) => None,
        }
    }

    fn outgoing_mut(&mut self, source: Source) -> &mut Outgoing {
        let outgoing = match source {
            Source::Stream(index) => self
                .streams
                .get_mut(index as usize)
                .map(|stream| &mut stream.outgoing),
            Source::Shared(index) => self
                .shared
                .get_mut(index as usize)
                .map(|stream| &mut stream.outgoing),
            Source::Retained(index) => self
                .retained
                .get_mut(index as usize)
                .map(|topic| &mut topic.outgoing),
            Source::Will(_) => None,
        };
        outgoing.expect("publishers have the source they were added with")
    }

    /// QoS of a publisher's messages.
    pub(crate) fn qos(&self, source: Source) -> QoS {
        self.outgoing(source).map_or(QoS::AtMostOnce, Outgoing::qos)
    }

    /// Whether a message of this publisher waits for its answer.
    pub(crate) fn is_open(&self, source: Source) -> bool {
        self.outgoing(source).is_some_and(|outgoing| outgoing.open() > 0)
    }

    /// Whether a publisher may begin another message.
    pub(crate) fn may_send(&self, source: Source) -> bool {
        let has_room = self.outgoing(source).is_some_and(Outgoing::has_room);
        has_room
            && match source {
                Source::Stream(index) => self.streams[index as usize]
                    .subscribers()
                    .all(|subscriber| self.backlogs[subscriber as usize] < self.backlog_max),
                Source::Shared(index) => self.shared[index as usize].missing() < self.backlog_max,
                Source::Retained(_) | Source::Will(_) => true,
            }
    }

    /// A publisher begins a message; returns its number.
    pub(crate) fn send(&mut self, source: Source) -> u64 {
        self.outgoing_mut(source).send()
    }

    /// A publisher sends a message again, in the same session or a new one.
    pub(crate) fn resend(&mut self, source: Source, number: u64) {
        self.outgoing_mut(source).resend(number);
    }

    /// A publisher got PUBACK or PUBREC with a reason code below 0x80.
    pub(crate) fn acknowledge(&mut self, source: Source, number: u64, sent_at: Duration, now: Duration) {
        self.progress += 1;
        match source {
            Source::Stream(index) => {
                let stream = &mut self.streams[index as usize];
                for subscriber in stream.acknowledge(number) {
                    self.backlogs[subscriber as usize] += 1;
                }
                self.wait(sent_at, now);
            }
            Source::Shared(index) => self.shared[index as usize].acknowledge(number),
            Source::Retained(index) => self.retained[index as usize].acknowledge(number),
            Source::Will(_) => {}
        }
    }

    /// A message of the main stream waited, or still waits, for its acknowledgement.
    pub(crate) fn wait(&mut self, sent_at: Duration, now: Duration) {
        let length = now.saturating_sub(sent_at);
        if length > self.longest_wait.length {
            self.longest_wait = Wait { sent_at, length };
        }
    }

    /// A publisher got PUBACK or PUBREC with a reason code of 0x80 or above: the message may have reached some
    /// subscribers or none.
    pub(crate) fn refuse(&mut self, source: Source, reason: ReasonCode) {
        self.progress += 1;
        self.outgoing_mut(source).refuse();
        *self.refused_by_reason.entry(reason).or_default() += 1;
    }

    /// A publisher's session is gone and with it what became of this message; it is not sent again.
    pub(crate) fn give_up(&mut self, source: Source, number: u64) {
        self.outgoing_mut(source).give_up(number);
    }

    /// A durable subscriber's application gets a message.
    pub(crate) fn arrive(&mut self, reader: Reader, arrived: &Arrived<'_>) {
        let Some(message) = self.identify(reader, arrived) else {
            self.corrupted += 1;
            let found = Message::decode(arrived.payload);
            self.describe(|| {
                format!(
                    "{reader:?} got on {:?} what nobody sent there: {found:?}",
                    arrived.topic
                )
            });
            return;
        };
        self.check_qos(message, arrived.qos);
        let Message { source, number, .. } = message;
        match (reader, source) {
            (Reader::Stream(subscriber), Source::Stream(index)) => {
                self.arrive_in_stream(subscriber, index, number)
            }
            (_, Source::Shared(index)) => self.arrive_shared(index, number),
            (_, Source::Will(index)) => {
                self.progress += 1;
                let is_doubled =
                    self.wills[index as usize].arrive(number, arrived.is_dup, arrived.connection);
                if is_doubled {
                    self.describe(|| format!("will {number} of {source} came again"));
                }
            }
            _ => {}
        }
    }

    fn arrive_in_stream(&mut self, subscriber: u32, index: u32, number: u64) {
        let stream = &mut self.streams[index as usize];
        let Some(delivery) = stream.deliver(subscriber, number) else {
            return;
        };
        let is_exactly_once = stream.outgoing.qos() == QoS::ExactlyOnce;
        match delivery.arrival {
            Arrival::Early => self.progress += 1,
            Arrival::Missed => {
                self.progress += 1;
                self.backlogs[subscriber as usize] -= 1;
            }
            Arrival::Again if is_exactly_once => self.describe(|| {
                format!("message {number} of stream/{index} arrived again at subscriber {subscriber}, QoS 2")
            }),
            Arrival::Again => {}
        }
        if let Some(highest) = delivery.behind {
            self.describe(|| {
                format!(
                    "message {number} of stream/{index} arrived at subscriber {subscriber} after message {highest}"
                )
            });
        }
    }

    fn arrive_shared(&mut self, index: u32, number: u64) {
        let stream = &mut self.shared[index as usize];
        match stream.deliver(number) {
            Arrival::Early | Arrival::Missed => self.progress += 1,
            Arrival::Again if stream.outgoing.qos() == QoS::ExactlyOnce => {
                self.describe(|| format!("message {number} of shared/{index} arrived again, QoS 2"));
            }
            Arrival::Again => {}
        }
    }

    /// The message, if it was sent, is whole, and belongs where it came.
    fn identify(&self, reader: Reader, arrived: &Arrived<'_>) -> Option<Message> {
        let message = Message::decode(arrived.payload)?;
        let rest = arrived.topic.strip_prefix(self.topic_prefix.as_str())?;
        if message.run != self.run || message.number == 0 || !message.source.has_topic(rest) {
            return None;
        }
        let last_sent = match (reader, message.source) {
            (Reader::Stream(subscriber), Source::Stream(index)) => {
                let stream = self.streams.get(index as usize)?;
                stream
                    .is_read_by(subscriber)
                    .then_some(&stream.outgoing)?
                    .last_sent()
            }
            (Reader::Shared { group }, Source::Shared(index)) => {
                let stream = self.shared.get(index as usize)?;
                (stream.group() == group).then_some(&stream.outgoing)?.last_sent()
            }
            (Reader::Wills, Source::Will(index)) => self.wills.get(index as usize)?.last(),
            _ => return None,
        };
        (message.number <= last_sent).then_some(message)
    }

    /// Subscriptions of QoS 2 get each message at the QoS it was published with [MQTT-3.8.4-8].
    fn check_qos(&mut self, message: Message, qos: QoS) {
        let published = match message.source {
            Source::Will(_) => Self::will_qos(message.number),
            source => self.qos(source),
        };
        if qos != published {
            let Message { source, number, .. } = message;
            let what = format!("message {number} was published as {published:?} and came as {qos:?}");
            self.protocol_error(source, &what);
        }
    }

    /// What a reader of a retained topic that subscribes now has to get at least; `None` while nothing is promised.
    pub(crate) fn retained_floor(&self, topic: u32) -> Option<u64> {
        let floor = self.retained.get(topic as usize)?.floor();
        (floor > 0).then_some(floor)
    }

    /// Judges what a reader of a retained topic got. It reads on while it gets [`Look::Nothing`], and is counted
    /// otherwise.
    pub(crate) fn judge_read(&mut self, topic: u32, floor: u64, arrived: &Arrived<'_>, retain: bool) -> Look {
        let message = Message::decode(arrived.payload).filter(|message| {
            let rest = arrived.topic.strip_prefix(self.topic_prefix.as_str());
            let outgoing = self.outgoing(message.source);
            message.run == self.run
                && message.source == Source::Retained(topic)
                && rest.is_some_and(|rest| message.source.has_topic(rest))
                && outgoing.is_some_and(|outgoing| message.number <= outgoing.last_sent())
        });
        let Some(message) = message else {
            self.corrupted += 1;
            self.describe(|| format!("a reader of retained/{topic} got what nobody sent"));
            return Look::Nothing;
        };
        let look = RetainedTopic::look(floor, message.number, retain);
        if look != Look::Nothing {
            self.progress += 1;
            self.retained_reads += 1;
        }
        if look == Look::Stale {
            self.stale_retained += 1;
            let number = message.number;
            self.describe(|| {
                format!("a reader got value {number} of retained/{topic} after {floor} was acknowledged")
            });
        }
        look
    }

    /// A reader of a retained topic stayed connected and got no value.
    pub(crate) fn read_in_vain(&mut self, topic: u32, floor: u64) {
        self.retained_reads += 1;
        self.stale_retained += 1;
        self.describe(|| {
            format!("a reader got no value of retained/{topic} although {floor} was acknowledged")
        });
    }

    /// A client is about to send a CONNECT with a will; returns its number, or `None` when it is to stop.
    pub(crate) fn begin_will(&mut self, client: u32) -> Option<u64> {
        self.wills.get_mut(client as usize)?.begin()
    }

    /// QoS of a will.
    pub(crate) const fn will_qos(number: u64) -> QoS {
        WillClient::qos(number)
    }

    /// Says what has to become of a will, now that its client has gone.
    pub(crate) fn settle_will(&mut self, client: u32, number: u64, fate: Fate) {
        if let Some(wills) = self.wills.get_mut(client as usize) {
            wills.settle(number, fate);
        }
    }

    /// A client came back in time, and the broker had nothing of its session.
    pub(crate) fn session_lost(&mut self, client_id: &str) {
        self.sessions_lost += 1;
        self.describe(|| format!("the session of {client_id} was lost"));
    }

    /// The broker sent what the standard does not allow.
    pub(crate) fn protocol_error(&mut self, client: impl std::fmt::Display, what: &str) {
        self.protocol_errors += 1;
        self.describe(|| format!("protocol error at {client}: {what}"));
    }

    fn describe(&mut self, violation: impl FnOnce() -> String) {
        if self.described.len() < DESCRIBED_MAX {
            self.described.push(violation());
        }
    }

    /// Grows with every acknowledgement, refusal and first arrival.
    pub(crate) const fn progress(&self) -> u64 {
        self.progress
    }

    /// Everything that is still expected: answers to publishers, messages, wills.
    pub(crate) fn outstanding(&self) -> u64 {
        let streams = self
            .streams
            .iter()
            .map(|stream| stream.outgoing.open() + stream.missing());
        let shared = self
            .shared
            .iter()
            .map(|stream| stream.outgoing.open() + stream.missing());
        let retained = self.retained.iter().map(|topic| topic.outgoing.open());
        let wills = self.wills.iter().map(WillClient::open);
        streams.chain(shared).chain(retained).chain(wills).sum()
    }

    /// The count of everything so far.
    pub(crate) fn figures(&self) -> Figures {
        let mut figures = Figures {
            longest_wait_ms: self.longest_wait.length.as_millis() as u64,
            longest_wait_at_ms: self.longest_wait.sent_at.as_millis() as u64,
            stale_retained: self.stale_retained,
            retained_reads: self.retained_reads,
            sessions_lost: self.sessions_lost,
            corrupted: self.corrupted,
            protocol_errors: self.protocol_errors,
            refused: self.refused_by_reason.values().sum(),
            ..Figures::default()
        };
        let by_reason = self.refused_by_reason.iter();
        figures.refused_by_reason = by_reason
            .map(|(reason, count)| (reason.to_string(), *count))
            .collect();
        self.streams.iter().for_each(|stream| stream.add_to(&mut figures));
        self.shared.iter().for_each(|stream| stream.add_to(&mut figures));
        self.retained.iter().for_each(|topic| topic.add_to(&mut figures));
        self.wills.iter().for_each(|client| client.add_to(&mut figures));
        figures
    }

    /// The first violations in words, with what is missing at this moment.
    pub(crate) fn describe_violations(&self) -> Vec<String> {
        let streams = self.streams.iter().enumerate();
        let streams =
            streams.flat_map(|(index, stream)| stream.describe_missing(Source::Stream(index as u32)));
        let shared = self.shared.iter().enumerate();
        let shared =
            shared.filter_map(|(index, stream)| stream.describe_missing(Source::Shared(index as u32)));
        let wills = self.wills.iter().enumerate().flat_map(|(index, client)| {
            let source = Source::Will(index as u32);
            client
                .describe_missing(source)
                .chain(client.describe_unwanted(source))
        });
        let missing = streams.chain(shared).chain(wills).take(DESCRIBED_MAX);
        self.described.iter().cloned().chain(missing).collect()
    }
}
