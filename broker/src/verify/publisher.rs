//! A publisher: numbered messages to a topic of its own, as many under way as it may, in a session that it keeps.
//!
//! The same for the main stream, for shared groups and for the writers of retained topics.

use std::rc::Rc;
use std::time::{Duration, Instant};

use quorate_proto::codec::{Ack, OutboundPublish, Packet, PacketId, PacketType, QoS, ReasonCode};

use super::client::{Connection, End};
use super::durable::{Durable, Resumed};
use super::message::{Message, Source};
use super::session::{Answer, Outbound, Transmission};
use super::trial::{Phase, TICK, Trial};

/// After a refusal nothing new is sent for this long: the broker is given time, and there are few gaps to remember.
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);
/// How often a publisher that may not begin a message looks whether it may.
const HELD_BACK_TICK: Duration = Duration::from_millis(2);
/// How far behind its rate a publisher may fall and still make up for it.
const MAKE_UP_MAX: Duration = Duration::from_millis(100);

/// How a publisher works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Messages under way at most.
    pub(super) window: usize,
    /// Time between messages; `None` for as fast as acknowledgements come.
    pub(super) interval: Option<Duration>,
    pub(super) payload_bytes: usize,
    pub(super) retain: bool,
}

/// A publisher.
#[derive(Debug)]
pub(super) struct Publisher {
    trial: Rc<Trial>,
    durable: Durable,
    source: Source,
    qos: QoS,
    topic: String,
    outbound: Outbound,
    manner: Manner,
    payload: Vec<u8>,
    /// No new message before.
    not_before: Instant,
    is_ready: bool,
}

impl Publisher {
    pub(super) fn new(trial: &Rc<Trial>, durable: Durable, source: Source, manner: Manner) -> Self {
        let qos = trial.oracle().qos(source);
        Self {
            trial: Rc::clone(trial),
            durable,
            source,
            qos,
            topic: source.topic(trial.run),
            outbound: Outbound::new(qos, manner.window),
            manner,
            payload: Vec::new(),
            not_before: Instant::now(),
            is_ready: false,
        }
    }

    /// Publishes until the run closes.
    pub(super) async fn run(mut self) {
        let mut last = None;
        while let Some(resumed) = self.durable.connect().await {
            let mut connection = self.take_up(resumed);
            match self.converse(&mut connection).await {
                Ok(()) => {
                    last = Some(connection);
                    break;
                }
                Err(end) => self.durable.note_end(&end),
            }
        }
        self.note_waits();
        if let Some(connection) = last {
            self.end(connection).await;
        }
    }

    /// What has no answer when the run closes has waited until now, and counts for the longest wait.
    fn note_waits(&self) {
        if let Source::Stream(_) = self.source {
            let now = self.trial.now();
            let mut oracle = self.trial.oracle();
            let waiting = self.outbound.waiting_since();
            waiting.for_each(|since| oracle.wait(since, now));
        }
    }

    fn take_up(&mut self, resumed: Resumed) -> Connection {
        let mut oracle = self.trial.oracle();
        let given_up = self
            .outbound
            .handle_connected(resumed.is_session_present, resumed.receive_maximum);
        for number in given_up {
            oracle.give_up(self.source, number);
        }
        if !std::mem::replace(&mut self.is_ready, true) {
            self.trial.count_ready();
        }
        resumed.connection
    }

    /// One connection, until it ends or the run closes.
    async fn converse(&mut self, connection: &mut Connection) -> Result<(), End> {
        while self.trial.phase() != Phase::Close {
            let Connection { input, output, .. } = connection;
            while let Some(packet) = input.next()? {
                self.handle(&packet, output);
            }
            let wake_at = self.transmit(connection);
            connection.turn(wake_at).await?;
        }
        Ok(())
    }

    /// Appends what may be sent; returns when to look again if nothing comes.
    fn transmit(&mut self, connection: &mut Connection) -> Instant {
        let now = Instant::now();
        let mut wake_at = now + TICK;
        while connection.has_room() {
            let Self {
                trial,
                source,
                not_before,
                manner,
                ..
            } = self;
            let next_number = || {
                if trial.phase() != Phase::Load {
                    return None;
                }
                if *not_before > now {
                    wake_at = wake_at.min(*not_before);
                    return None;
                }
                let mut oracle = trial.oracle();
                if !oracle.may_send(*source) {
                    wake_at = now + HELD_BACK_TICK;
                    return None;
                }
                if let Some(interval) = manner.interval {
                    let earliest = now.checked_sub(MAKE_UP_MAX).unwrap_or(now);
                    *not_before = (*not_before).max(earliest) + interval;
                }
                Some(oracle.send(*source))
            };
            match self.outbound.poll_transmission(trial.now(), next_number) {
                Some(transmission) => self.append(transmission, &mut connection.output),
                None => break,
            }
        }
        wake_at
    }

    fn append(&mut self, transmission: Transmission, output: &mut Vec<u8>) {
        let version = self.trial.options.version;
        let (packet_id, number, is_dup) = match transmission {
            Transmission::Pubrel(packet_id) => {
                Ack::new(packet_id, ReasonCode::SUCCESS).encode(PacketType::Pubrel, version, output);
                return;
            }
            Transmission::Publish {
                packet_id,
                number,
                is_dup,
                again,
            } => {
                if again {
                    self.trial.oracle().resend(self.source, number);
                }
                (packet_id, number, is_dup)
            }
        };
        let message = Message {
            run: self.trial.run,
            source: self.source,
            number,
        };
        message.encode(self.manner.payload_bytes, &mut self.payload);
        let publish = OutboundPublish {
            payload: &self.payload,
            dup: is_dup,
            ..self.publish(self.qos, Some(packet_id))
        };
        publish.encode(version, output);
    }

    fn publish(&self, qos: QoS, packet_id: Option<PacketId>) -> OutboundPublish<'_> {
        OutboundPublish {
            topic: &self.topic,
            payload: &[],
            forwardable: &[],
            qos,
            dup: false,
            retain: self.manner.retain,
            packet_id,
            message_expiry_secs: None,
            topic_alias: None,
            subscription_ids: &[],
        }
    }

    fn handle(&mut self, packet: &Packet<'_>, output: &mut Vec<u8>) {
        let (packet_type, answer) = match packet {
            Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubcomp(ack) => {
                let packet_type = packet.packet_type();
                let answer = self.outbound.handle_ack(packet_type, ack);
                let is_received = packet_type == PacketType::Pubrec && !ack.reason.is_error();
                if is_received && answer != Answer::Unexpected {
                    self.append(Transmission::Pubrel(ack.packet_id), output);
                }
                (packet_type, answer)
            }
            other => (other.packet_type(), Answer::Unexpected),
        };
        let now = self.trial.now();
        let mut oracle = self.trial.oracle();
        match answer {
            Answer::Acknowledged { number, sent_at } => oracle.acknowledge(self.source, number, sent_at, now),
            Answer::Refused(reason) => {
                oracle.refuse(self.source, reason);
                self.not_before = Instant::now() + REFUSAL_PAUSE;
            }
            Answer::Nothing => {}
            Answer::Unexpected => {
                let what = format!("unexpected {packet_type:?}");
                oracle.protocol_error(self.durable.client_id(), &what);
            }
        }
    }

    async fn end(&self, mut connection: Connection) {
        if self.manner.retain {
            let clear = self.publish(QoS::AtMostOnce, None);
            clear.encode(self.trial.options.version, &mut connection.output);
        }
        self.durable.end(connection).await;
    }
}
