//! A group under test: one node proposes, invariants are checked after every entry.

mod damage;
mod delivery;
mod model;
mod nodes;
mod parts;
mod persistence;
mod proposers;
mod replays;
mod retained;
mod sessions;
mod wills;

use std::num::NonZeroU16;
use std::sync::Arc;

use quorate_proto::codec::{PacketId, QoS, SubscriptionOptions};
use quorate_proto::message::Message;
use quorate_storage::log::{GroupId, LogPosition};

use super::*;

const GROUP: GroupId = GroupId(3);
const NODE: NodeId = NodeId(1);
const OTHER_NODE: NodeId = NodeId(5);
const START: NodeIncarnation = NodeIncarnation(10);
const LIMITS: SessionLimits = SessionLimits {
    sessions_max: 100,
    subscriptions_max: 5,
};
const QUEUE_LIMITS: QueueLimits = QueueLimits {
    messages_max: 100,
    bytes_max: 1 << 20,
};

/// An entry of the term in which the numbers of givings begin at 0.
fn at(index: u64) -> LogPosition {
    LogPosition {
        index,
        ..LogPosition::default()
    }
}

struct Harness {
    state: GroupState,
    index: u64,
    number: u64,
    /// Stamp of the next batch, in milliseconds.
    now: u64,
    node: NodeId,
    incarnation: NodeIncarnation,
    queue_limits: QueueLimits,
    /// Events of the last entry.
    events: Vec<Event>,
}

impl Harness {
    fn new() -> Self {
        Self {
            state: GroupState::new(GROUP),
            index: 0,
            number: 0,
            now: 1000,
            node: NODE,
            incarnation: START,
            queue_limits: QUEUE_LIMITS,
            events: Vec::new(),
        }
    }

    fn batch(&mut self, commands: Vec<Command>) -> Batch {
        self.number += 1;
        Batch {
            view: 1,
            node: self.node,
            incarnation: self.incarnation,
            number: self.number,
            stamp: GroupTime(self.now),
            queue_limits: self.queue_limits,
            commands,
        }
    }

    fn apply(&mut self, batch: &Batch) -> BatchOutcome {
        self.index += 1;
        self.events.clear();
        let outcome = self.state.apply(at(self.index), batch, &mut self.events);
        self.state.check_invariants().unwrap();
        outcome
    }

    fn run(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        let batch = self.batch(commands);
        match self.apply(&batch) {
            BatchOutcome::Applied(outcomes) => outcomes,
            BatchOutcome::Refused => panic!("the batch was refused"),
        }
    }

    fn one(&mut self, command: Command) -> Outcome {
        self.run(vec![command]).remove(0)
    }

    /// The leader lets time pass.
    fn tick(&mut self, now: u64) {
        self.now = now;
        self.run(vec![]);
    }

    fn open_with(
        &mut self,
        client: &str,
        clean_start: bool,
        expiry_secs: u32,
        will: Option<WillMessage>,
    ) -> Opened {
        match self.one(open(client, clean_start, expiry_secs, will)) {
            Outcome::Opened {
                session,
                epoch,
                present,
                previous,
                ..
            } => Opened {
                session,
                epoch,
                present,
                previous,
            },
            other => panic!("not opened: {other:?}"),
        }
    }

    fn open(&mut self, client: &str) -> Opened {
        self.open_with(client, false, 60, None)
    }

    fn publish(&mut self, payload: &str, targets: Vec<Target>) -> Outcome {
        self.one(publish(Origin::Server, message(payload), targets))
    }

    /// Drops queues as they are now.
    fn drop_queues(&self, queues: &[TargetQueue]) -> Command {
        let next = |queue| self.state.next_sequence(queue).unwrap_or_default();
        Command::DropQueues {
            queues: queues.iter().map(|queue| (queue.clone(), next(queue))).collect(),
        }
    }

    /// Payloads in a queue.
    fn payloads(&self, queue: &TargetQueue) -> Vec<String> {
        self.pull(queue)
            .iter()
            .map(|pulled| text(&pulled.message))
            .collect()
    }

    fn pull(&self, queue: &TargetQueue) -> Vec<PulledReference> {
        let mut pulled = Vec::new();
        self.state
            .pull(queue, Sequence(0), usize::MAX, u64::MAX, &mut pulled);
        pulled
    }

    fn due(&self) -> Vec<(SessionId, Epoch, String)> {
        self.state
            .due_wills()
            .map(|due| (due.session, due.epoch, text(&due.message)))
            .collect()
    }

    /// All records but those of the proposers, which every numbered batch changes.
    fn content(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let is_content = |key: &[u8]| key[0] != records::Kind::Proposer as u8;
        self.state
            .records()
            .into_iter()
            .filter(|(key, _)| is_content(key))
            .collect()
    }

    fn has_event(&self, event: &Event) -> bool {
        self.events.contains(event)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Opened {
    session: SessionId,
    epoch: Epoch,
    present: bool,
    previous: Option<Owner>,
}

impl Opened {
    fn close(&self) -> Command {
        self.close_with(true, None)
    }

    fn close_with(&self, publish_will: bool, expiry_secs: Option<u32>) -> Command {
        Command::CloseConnection {
            session: self.session,
            epoch: self.epoch,
            publish_will,
            expiry_secs,
        }
    }

    fn subscribe(&self, filters: &[&str]) -> Command {
        let subscriptions = filters
            .iter()
            .map(|filter| subscription(filter, QoS::AtLeastOnce))
            .collect();
        Command::Subscribe {
            session: self.session,
            epoch: self.epoch,
            subscriptions,
            limits: LIMITS,
            replay: None,
        }
    }

    fn origin(&self, packet_id: Option<u16>) -> Origin {
        let packet_id = packet_id.map(id);
        Origin::Session {
            session: self.session,
            epoch: self.epoch,
            packet_id,
        }
    }

    fn queue(&self) -> TargetQueue {
        TargetQueue::Session(self.session)
    }

    fn target(&self) -> Target {
        to(self.queue())
    }
}

fn open(client: &str, clean_start: bool, expiry_secs: u32, will: Option<WillMessage>) -> Command {
    Command::OpenSession {
        client_id: client.into(),
        clean_start,
        expiry_secs,
        will: will.map(Box::new),
        limits: LIMITS,
    }
}

fn id(packet_id: u16) -> PacketId {
    NonZeroU16::new(packet_id).unwrap()
}

fn message(payload: &str) -> Message {
    Message::new("topic", &[], payload.as_bytes(), QoS::AtLeastOnce, false, None)
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload().to_vec()).unwrap()
}

fn to(queue: TargetQueue) -> Target {
    Target {
        queue,
        qos: QoS::AtLeastOnce,
        retain: false,
        replayed: false,
        subscription_ids: vec![],
    }
}

fn share(name: &str) -> ShareKey {
    ShareKey {
        name: name.into(),
        filter: "topic".into(),
    }
}

fn share_queue(name: &str) -> TargetQueue {
    TargetQueue::Share(share(name))
}

/// The queue of another node than the one that proposes.
fn node_queue() -> TargetQueue {
    TargetQueue::Node(OTHER_NODE, START)
}

/// A session whose record is in a live group.
fn live_session(index: u64) -> SessionId {
    SessionId::new(GroupId(17), index, 0)
}

/// The will of its seventh connection.
fn live_will(index: u64) -> Origin {
    Origin::LiveWill {
        session: live_session(index),
        epoch: Epoch(7),
    }
}

fn lost(node: NodeId, incarnation: NodeIncarnation) -> Command {
    Command::NodeLost { node, incarnation }
}

fn assign(share: ShareKey, sequence: u64, member: SessionId) -> Command {
    assign_as(GiveId(1), share, sequence, member)
}

fn assign_as(give: GiveId, share: ShareKey, sequence: u64, member: SessionId) -> Command {
    Command::Assign {
        share,
        sequence: Sequence(sequence),
        session: member,
        qos: QoS::ExactlyOnce,
        subscription_ids: vec![9],
        retain: true,
        give,
    }
}

fn holder(session: SessionId, give: u64) -> ShareHolder {
    ShareHolder {
        session,
        node: NODE,
        incarnation: START,
        give: GiveId(give),
    }
}

fn hold(sequence: u64, holder: ShareHolder) -> Command {
    Command::Hold {
        share: share("g"),
        sequence: Sequence(sequence),
        holder,
    }
}

fn unhold(sequence: u64, give: u64) -> Command {
    Command::Unhold {
        share: share("g"),
        sequence: Sequence(sequence),
        give: GiveId(give),
    }
}

fn publish(origin: Origin, message: Message, targets: Vec<Target>) -> Command {
    Command::Publish(PublishCommand {
        origin,
        message,
        targets,
        set_retained: false,
        taken_live: false,
    })
}

/// The first part of a publish.
fn first(origin: Origin, targets: Vec<Target>) -> Command {
    let Command::Publish(publish) = publish(origin, message("m"), targets) else {
        unreachable!("just made")
    };
    Command::PublishFirst { number: 1, publish }
}

/// A later part, behind the one that ended with `after`.
fn more(origin: Origin, after: &TargetQueue, targets: Vec<Target>, last: bool) -> Command {
    Command::PublishMore(PublishPart {
        number: 1,
        origin,
        after: Some(after.clone()),
        targets,
        last,
    })
}

fn subscription(filter: &str, qos: QoS) -> Subscription {
    Subscription {
        filter: Arc::from(filter),
        options: SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        },
        subscription_id: None,
    }
}

fn will(payload: &str, delay_secs: u32) -> WillMessage {
    WillMessage {
        message: message(payload),
        delay_secs,
    }
}

fn settle(queue: TargetQueue, sequences: &[u64]) -> Command {
    Command::Settle {
        queue,
        sequences: sequences.iter().map(|sequence| Sequence(*sequence)).collect(),
    }
}

const fn published(stored: u32, refused: u32) -> Outcome {
    Outcome::Published {
        duplicate: false,
        stored,
        refused,
    }
}

const DUPLICATE: Outcome = Outcome::Published {
    duplicate: true,
    stored: 0,
    refused: 0,
};
const FENCED: Outcome = Outcome::Refused(RefusedReason::Fenced);
const LIMIT_REACHED: Outcome = Outcome::Refused(RefusedReason::LimitReached);
