//! A durable subscriber: it has its subscriptions before the load begins, keeps its session, acknowledges what comes,
//! and hands to the oracle what an application would get.

use std::rc::Rc;
use std::time::Instant;

use quorate_proto::codec::{Packet, PacketId, Publish, QoS, ReasonCode, Suback};

use super::client::{Connection, End};
use super::durable::{Durable, Resumption};
use super::oracle::{Arrived, Reader};
use super::session::{Inbound, Taken};
use super::trial::{Phase, TICK, Trial};

/// A durable subscriber.
#[derive(Debug)]
pub(super) struct Subscriber {
    trial: Rc<Trial>,
    durable: Durable,
    reader: Reader,
    filters: Vec<String>,
    inbound: Inbound,
    /// The broker has confirmed the subscriptions of this session.
    is_subscribed: bool,
    is_ready: bool,
}

impl Subscriber {
    pub(super) fn new(trial: &Rc<Trial>, durable: Durable, reader: Reader, filters: Vec<String>) -> Self {
        Self {
            trial: Rc::clone(trial),
            durable,
            reader,
            filters,
            inbound: Inbound::new(trial.options.version),
            is_subscribed: false,
            is_ready: false,
        }
    }

    /// Receives until the run closes.
    pub(super) async fn run(mut self) {
        while let Some(resumed) = self.durable.connect().await {
            self.inbound.handle_connected(resumed.is_session_present);
            if resumed.resumption == Resumption::Lost {
                self.is_subscribed = false;
            }
            let mut connection = resumed.connection;
            match self.converse(&mut connection).await {
                Ok(()) => {
                    self.durable.end(connection).await;
                    break;
                }
                Err(end) => self.durable.note_end(&end),
            }
        }
    }

    /// One connection, until it ends or the run closes.
    async fn converse(&mut self, connection: &mut Connection) -> Result<(), End> {
        if !self.is_subscribed {
            connection.subscribe(PacketId::MIN, &self.filters, QoS::ExactlyOnce)?;
        }
        while self.trial.phase() != Phase::Close {
            let Connection { input, output, .. } = connection;
            while let Some(packet) = input.next()? {
                match packet {
                    Packet::Publish(publish) => self.take(&publish, output),
                    Packet::Pubrel(ack) => self.inbound.handle_pubrel(ack.packet_id, output),
                    Packet::Suback(suback) if !self.is_subscribed => self.take_suback(&suback)?,
                    other => {
                        let what = format!("unexpected {:?}", other.packet_type());
                        self.trial
                            .oracle()
                            .protocol_error(self.durable.client_id(), &what);
                    }
                }
            }
            connection.turn(Instant::now() + TICK).await?;
        }
        Ok(())
    }

    fn take_suback(&mut self, suback: &Suback<'_>) -> Result<(), End> {
        let mut reasons = suback.reasons.iter();
        if let Some(reason) = reasons.find(|reason| **reason != ReasonCode::GRANTED_QOS_2) {
            return Err(End::Unfit(format!(
                "it answers a subscription of QoS 2 with {reason}"
            )));
        }
        self.is_subscribed = true;
        if !std::mem::replace(&mut self.is_ready, true) {
            self.trial.count_ready();
        }
        Ok(())
    }

    fn take(&mut self, publish: &Publish<'_>, output: &mut Vec<u8>) {
        let taken = self.inbound.handle_publish(publish, output);
        let mut oracle = self.trial.oracle();
        match taken {
            Taken::New => oracle.arrive(
                self.reader,
                &Arrived {
                    topic: publish.topic,
                    payload: publish.payload,
                    qos: publish.qos,
                    is_dup: publish.dup,
                    connection: self.durable.connections(),
                },
            ),
            Taken::Again => {}
            Taken::Swallowed => {
                let what = "another message under a packet identifier that has no PUBREL yet";
                oracle.protocol_error(self.durable.client_id(), what);
            }
        }
    }
}
