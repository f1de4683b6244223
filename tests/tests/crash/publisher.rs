//! A publisher with a durable session that sends again what it has no acknowledgement for, as the standards say: with
//! the same packet identifier and DUP, or PUBREL where PUBREC has come, in the order of the first time
//! [MQTT-4.4.0-1], [MQTT-4.6.0-1].

use std::collections::VecDeque;
use std::net::SocketAddr;

use quorate_tests::Version;
use quorate_tests::wire::{Ack, ConnectBuilder, Packet, connect, publish, pubrel};
use tokio::sync::watch;

use crate::ledger::{SharedLedger, payload};
use crate::link::{End, Link, Lives, Stage};

/// Messages without acknowledgement at a time.
const WINDOW: usize = 10;
/// Packet identifiers go from 1 to this one, so that each is used again soon.
const PACKET_IDS: u16 = 25;

/// A topic of one publisher.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
}

/// A message whose exchange is not complete.
#[derive(Clone, Copy, Debug)]
struct Outgoing {
    id: u16,
    topic: usize,
    number: u64,
    /// PUBREC has come: PUBREL is due.
    is_received: bool,
    /// PUBREL was sent on an earlier connection.
    was_released: bool,
}

/// The publisher.
pub(crate) struct Publisher {
    name: String,
    version: Version,
    topics: Vec<Topic>,
    ledger: SharedLedger,
    is_known: bool,
    in_flight: VecDeque<Outgoing>,
    next_id: u16,
    next_topic: usize,
    fences: u64,
}

impl Publisher {
    /// A publisher to topics that nobody else publishes to.
    pub(crate) fn new(name: String, version: Version, ledger: &SharedLedger) -> Self {
        let topics: Vec<Topic> = [("load", false), ("kept", true)]
            .into_iter()
            .flat_map(|(root, retain)| [(root, retain, 1), (root, retain, 2)])
            .map(|(root, retain, qos)| Topic {
                name: format!("{root}/{name}/qos{qos}"),
                qos,
                retain,
            })
            .collect();
        topics
            .iter()
            .for_each(|topic| ledger.lock().topic(&topic.name, topic.qos));
        Self {
            name,
            version,
            topics,
            ledger: ledger.clone(),
            is_known: false,
            in_flight: VecDeque::new(),
            next_id: 0,
            next_topic: 0,
            fences: 0,
        }
    }

    fn connect(&self) -> ConnectBuilder {
        connect(&self.name).resume().expiry(3600)
    }

    async fn converse(&mut self, address: SocketAddr, stage: &mut watch::Receiver<Stage>) -> Result<(), End> {
        let mut link = Link::open(address, self.version, &self.connect(), self.is_known).await?;
        if !self.is_known {
            self.is_known = true;
            self.ledger.lock().ready += 1;
        }
        self.send_again(&mut link).await?;
        loop {
            let now = *stage.borrow_and_update();
            self.fill_window(&mut link, &now).await?;
            tokio::select! {
                packet = link.next() => self.handle(packet?, &mut link).await?,
                changed = stage.changed() => changed.map_err(|_| End::Closed)?,
            }
        }
    }

    async fn send_again(&mut self, link: &mut Link) -> Result<(), End> {
        for index in 0..self.in_flight.len() {
            let outgoing = &mut self.in_flight[index];
            if outgoing.is_received {
                outgoing.was_released = true;
                link.send(&pubrel(outgoing.id)).await?;
            } else {
                let outgoing = *outgoing;
                self.send(&outgoing, true, link).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, outgoing: &Outgoing, is_again: bool, link: &mut Link) -> Result<(), End> {
        let topic = &self.topics[outgoing.topic];
        let mut packet = publish(&topic.name, payload(&topic.name, outgoing.number))
            .qos(topic.qos)
            .id(outgoing.id);
        if topic.retain {
            packet = packet.retain();
        }
        if is_again {
            packet = packet.dup();
        }
        link.send(&packet).await
    }

    async fn fill_window(&mut self, link: &mut Link, stage: &Stage) -> Result<(), End> {
        while stage.publishing && self.in_flight.len() < WINDOW {
            self.next_topic = (self.next_topic + 1) % self.topics.len();
            self.send_new(self.next_topic, link).await?;
        }
        // One fence is as many messages as there are topics, fewer than a window.
        while self.fences < stage.fences && self.in_flight.is_empty() {
            self.fences += 1;
            for topic in 0..self.topics.len() {
                self.send_new(topic, link).await?;
            }
            self.ledger.lock().fences += 1;
        }
        Ok(())
    }

    async fn send_new(&mut self, topic: usize, link: &mut Link) -> Result<(), End> {
        let number = self.ledger.lock().send(&self.topics[topic].name);
        let outgoing = Outgoing {
            id: self.free_id(),
            topic,
            number,
            is_received: false,
            was_released: false,
        };
        self.in_flight.push_back(outgoing);
        self.send(&outgoing, false, link).await
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id % PACKET_IDS + 1;
            if self.in_flight.iter().all(|outgoing| outgoing.id != self.next_id) {
                return self.next_id;
            }
        }
    }

    async fn handle(&mut self, packet: Packet, link: &mut Link) -> Result<(), End> {
        match packet {
            Packet::Puback(ack) => self.complete(&ack, |outgoing, qos| {
                qos == 1 && ack.code == 0 && !outgoing.is_received
            }),
            Packet::Pubcomp(ack) => self.complete(&ack, |outgoing, _| {
                // After a crash the broker may have completed the exchange before.
                outgoing.is_received && (ack.code == 0 || outgoing.was_released && ack.code == 0x92)
            }),
            Packet::Pubrec(ack) => {
                self.receive(&ack)?;
                link.send(&pubrel(ack.id)).await
            }
            other => Err(End::Fault(format!("the broker sent {other:?}"))),
        }
    }

    fn receive(&mut self, ack: &Ack) -> Result<(), End> {
        let topics = &self.topics;
        let outgoing = self.in_flight.iter_mut().find(|outgoing| {
            outgoing.id == ack.id && topics[outgoing.topic].qos == 2 && !outgoing.is_received && ack.code == 0
        });
        let Some(outgoing) = outgoing else {
            return Err(self.unexpected(ack, "PUBREC"));
        };
        outgoing.is_received = true;
        self.ledger
            .lock()
            .acknowledge(&self.topics[outgoing.topic].name, outgoing.number);
        Ok(())
    }

    fn complete(&mut self, ack: &Ack, is_due: impl Fn(&Outgoing, u8) -> bool) -> Result<(), End> {
        let due = self
            .in_flight
            .iter()
            .position(|outgoing| outgoing.id == ack.id && is_due(outgoing, self.topics[outgoing.topic].qos));
        let Some(outgoing) = due.and_then(|index| self.in_flight.remove(index)) else {
            return Err(self.unexpected(ack, "PUBACK or PUBCOMP"));
        };
        let topic = &self.topics[outgoing.topic];
        if topic.qos == 1 {
            self.ledger.lock().acknowledge(&topic.name, outgoing.number);
        }
        Ok(())
    }

    fn unexpected(&self, ack: &Ack, kind: &str) -> End {
        End::Fault(format!(
            "unexpected {kind} {ack:?}; in flight are {:?}",
            self.in_flight
        ))
    }
}

impl Lives for Publisher {
    fn name(&self) -> &str {
        &self.name
    }

    async fn live(&mut self, address: SocketAddr, stage: &mut watch::Receiver<Stage>) -> End {
        match self.converse(address, stage).await {
            Ok(()) => End::Closed,
            Err(end) => end,
        }
    }
}
