//! Both halves of a session and the oracle against a model of an honest broker, over connections that lose whatever is
//! under way whenever the test likes: nobody is accused, and everything arrives in the end.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use quorate_proto::codec::{
    Ack, Frame, OutboundPublish, PACKET_SIZE_MAX, Packet, PacketId, PacketType, ProtocolVersion, Publish,
    QoS, ReasonCode,
};

use super::super::message::{Message, Source};
use super::super::oracle::{Arrived, Oracle, Reader};
use super::super::session::{Answer, Inbound, Outbound, Taken, Transmission};

const VERSION: ProtocolVersion = ProtocolVersion::V5;
const RUN: u64 = 9;
/// Messages the broker has under way to the subscriber at most.
const BROKER_WINDOW: usize = 3;

/// What goes on next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The publisher sends what it may.
    Publish,
    /// The broker takes the next packet of the publisher.
    TakePublished,
    /// The publisher takes the next answer.
    TakeAnswer,
    /// The broker sends what it may, and the subscriber takes the next packet.
    Deliver,
    /// The broker takes the next answer of the subscriber.
    TakeReceipt,
    CutPublisher,
    CutSubscriber,
}

/// A message on its way from the broker to the subscriber.
struct Delivery {
    packet_id: PacketId,
    number: u64,
    is_received: bool,
}

struct World {
    qos: QoS,
    source: Source,
    oracle: Oracle,
    publisher: Outbound,
    subscriber: Inbound,
    connection: u64,
    /// Identifiers of QoS 2 that the broker has and the publisher has not released.
    unreleased: HashSet<PacketId>,
    queue: VecDeque<u64>,
    deliveries: Vec<Delivery>,
    last_id: u16,
    to_broker: VecDeque<Transmission>,
    to_publisher: VecDeque<(PacketType, PacketId)>,
    to_subscriber: VecDeque<Vec<u8>>,
    from_subscriber: VecDeque<u8>,
}

impl World {
    fn new(qos: QoS) -> Self {
        let mut oracle = Oracle::new(RUN, 5);
        let source = oracle.add_stream(qos, [0]);
        let mut publisher = Outbound::new(qos, 4);
        publisher.handle_connected(false, 4);
        Self {
            qos,
            source,
            oracle,
            publisher,
            subscriber: Inbound::new(VERSION),
            connection: 1,
            unreleased: HashSet::new(),
            queue: VecDeque::new(),
            deliveries: Vec::new(),
            last_id: 0,
            to_broker: VecDeque::new(),
            to_publisher: VecDeque::new(),
            to_subscriber: VecDeque::new(),
            from_subscriber: VecDeque::new(),
        }
    }

    fn step(&mut self, step: Step, may_begin: bool) {
        match step {
            Step::Publish => self.publish(may_begin),
            Step::TakePublished => self.take_published(),
            Step::TakeAnswer => self.take_answer(),
            Step::Deliver => self.deliver(),
            Step::TakeReceipt => self.take_receipt(),
            Step::CutPublisher => {
                self.to_broker.clear();
                self.to_publisher.clear();
                self.publisher.handle_connected(true, 4);
            }
            Step::CutSubscriber => {
                self.to_subscriber.clear();
                self.from_subscriber.clear();
                self.subscriber.handle_connected(true);
                self.connection += 1;
                let again: Vec<_> = self.deliveries.iter().map(|one| self.encode(one, true)).collect();
                self.to_subscriber.extend(again);
            }
        }
    }

    fn publish(&mut self, may_begin: bool) {
        let Self {
            publisher,
            oracle,
            source,
            ..
        } = self;
        while let Some(transmission) = publisher.poll_transmission(Duration::ZERO, || {
            (may_begin && oracle.may_send(*source)).then(|| oracle.send(*source))
        }) {
            if let Transmission::Publish {
                number, again: true, ..
            } = transmission
            {
                oracle.resend(*source, number);
            }
            self.to_broker.push_back(transmission);
        }
    }

    fn take_published(&mut self) {
        let answer = match self.to_broker.pop_front() {
            Some(Transmission::Pubrel(packet_id)) => {
                self.unreleased.remove(&packet_id);
                (PacketType::Pubcomp, packet_id)
            }
            Some(Transmission::Publish {
                packet_id, number, ..
            }) => {
                // QoS 1 knows no repetition: each is a message.
                if self.qos == QoS::AtLeastOnce || self.unreleased.insert(packet_id) {
                    self.queue.push_back(number);
                }
                let packet_type = match self.qos {
                    QoS::ExactlyOnce => PacketType::Pubrec,
                    _ => PacketType::Puback,
                };
                (packet_type, packet_id)
            }
            None => return,
        };
        self.to_publisher.push_back(answer);
    }

    fn take_answer(&mut self) {
        let Some((packet_type, packet_id)) = self.to_publisher.pop_front() else {
            return;
        };
        let ack = Ack::new(packet_id, ReasonCode::SUCCESS);
        let answer = self.publisher.handle_ack(packet_type, &ack);
        assert_ne!(answer, Answer::Unexpected, "{packet_type:?} {packet_id}");
        if packet_type == PacketType::Pubrec {
            self.to_broker.push_back(Transmission::Pubrel(packet_id));
        }
        if let Answer::Acknowledged { number, sent_at } = answer {
            self.oracle
                .acknowledge(self.source, number, sent_at, Duration::ZERO);
        }
    }

    fn encode(&self, delivery: &Delivery, is_dup: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        if delivery.is_received {
            let pubrel = Ack::new(delivery.packet_id, ReasonCode::SUCCESS);
            pubrel.encode(PacketType::Pubrel, VERSION, &mut bytes);
            return bytes;
        }
        let message = Message {
            run: RUN,
            source: self.source,
            number: delivery.number,
        };
        let mut payload = Vec::new();
        message.encode(0, &mut payload);
        let publish = OutboundPublish {
            topic: &self.source.topic(RUN),
            payload: &payload,
            forwardable: &[],
            qos: self.qos,
            dup: is_dup,
            retain: false,
            packet_id: Some(delivery.packet_id),
            message_expiry_secs: None,
            topic_alias: None,
            subscription_ids: &[],
        };
        publish.encode(VERSION, &mut bytes);
        bytes
    }

    fn deliver(&mut self) {
        while self.deliveries.len() < BROKER_WINDOW
            && let Some(number) = self.queue.pop_front()
        {
            self.last_id += 1;
            let delivery = Delivery {
                packet_id: PacketId::new(self.last_id).unwrap(),
                number,
                is_received: false,
            };
            self.to_subscriber.push_back(self.encode(&delivery, false));
            self.deliveries.push(delivery);
        }
        let Some(bytes) = self.to_subscriber.pop_front() else {
            return;
        };
        let mut answers = Vec::new();
        let frame = Frame::parse(&bytes, PACKET_SIZE_MAX).unwrap().unwrap();
        match Packet::decode(frame, VERSION).unwrap() {
            Packet::Publish(publish) => self.arrive(&publish, &mut answers),
            Packet::Pubrel(ack) => self.subscriber.handle_pubrel(ack.packet_id, &mut answers),
            packet => panic!("{packet:?}"),
        }
        self.from_subscriber.extend(answers);
    }

    fn arrive(&mut self, publish: &Publish<'_>, answers: &mut Vec<u8>) {
        let taken = self.subscriber.handle_publish(publish, answers);
        assert_ne!(taken, Taken::Swallowed);
        if taken == Taken::New {
            let arrived = Arrived {
                topic: publish.topic,
                payload: publish.payload,
                qos: publish.qos,
                is_dup: publish.dup,
                connection: self.connection,
            };
            self.oracle.arrive(Reader::Stream(0), &arrived);
        }
    }

    fn take_receipt(&mut self) {
        let bytes = self.from_subscriber.make_contiguous();
        let Some(frame) = Frame::parse(bytes, PACKET_SIZE_MAX).unwrap() else {
            return;
        };
        let size = frame.size;
        let packet = Packet::decode(frame, VERSION).unwrap();
        let packet_type = packet.packet_type();
        let (Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubcomp(ack)) = packet else {
            panic!("{packet:?}");
        };
        let packet_id = ack.packet_id;
        self.from_subscriber.drain(..size);
        let mut deliveries = self.deliveries.iter_mut();
        let Some(delivery) = deliveries.find(|delivery| delivery.packet_id == packet_id) else {
            return;
        };
        if packet_type == PacketType::Pubrec {
            delivery.is_received = true;
            let pubrel = Delivery { ..*delivery };
            self.to_subscriber.push_back(self.encode(&pubrel, false));
        } else {
            self.deliveries.retain(|delivery| delivery.packet_id != packet_id);
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        6 => Just(Step::TakePublished),
        6 => Just(Step::TakeAnswer),
        6 => Just(Step::Deliver),
        6 => Just(Step::TakeReceipt),
        1 => Just(Step::CutPublisher),
        1 => Just(Step::CutSubscriber),
    ]
}

proptest! {
    #[test]
    fn an_honest_broker_is_not_accused(
        steps in prop::collection::vec(step(), 0..400),
        qos in prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)],
    ) {
        let mut world = World::new(qos);
        for step in steps {
            world.step(step, true);
            let figures = world.oracle.figures();
            prop_assert_eq!((figures.duplicates_qos2, figures.order_violations), (0, 0));
        }
        let all = [Step::Publish, Step::TakePublished, Step::TakeAnswer, Step::Deliver, Step::TakeReceipt];
        for _ in 0..400 {
            all.into_iter().for_each(|step| world.step(step, false));
        }
        let figures = world.oracle.figures();
        prop_assert_eq!(figures.violations().collect::<Vec<_>>(), []);
        prop_assert_eq!(world.oracle.outstanding(), 0);
        prop_assert_eq!((figures.acknowledged, figures.delivered), (figures.sent, figures.sent));
    }
}
