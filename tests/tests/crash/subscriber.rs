//! A durable subscriber that acknowledges in order, sometimes late, and keeps the state of QoS 2 across connections.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use quorate_tests::Version;
use quorate_tests::random::Random;
use quorate_tests::wire::{
    AckBuilder, ConnectBuilder, Packet, Property, Publish, connect, filter, puback, pubcomp, pubrec,
    subscribe,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::ledger::SharedLedger;
use crate::link::{End, Link, Lives, Stage};

/// Acknowledgements held back at most.
const OWED_MAX: u64 = 12;
/// Acknowledgements are held back no longer than this.
const OWED_FOR: Duration = Duration::from_millis(3);
/// A subscriber that sleeps is there in one of so many lives of the broker.
const SLEEPS: u64 = 3;

/// What makes a subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) version: Version,
    pub(crate) qos: u8,
    /// Beginnings of topics; `#` follows.
    pub(crate) prefixes: Vec<String>,
    /// Receive maximum, of MQTT 5.
    pub(crate) receive_maximum: u16,
    /// Stays away for whole lives of the broker.
    pub(crate) sleeps: bool,
}

/// The subscriber.
pub(crate) struct Subscriber {
    plan: Plan,
    ledger: SharedLedger,
    random: Random,
    is_known: bool,
    /// Messages of QoS 2 that have no PUBREL yet, by packet identifier.
    received: HashMap<u16, (String, Vec<u8>)>,
}

impl Subscriber {
    /// A subscriber.
    pub(crate) fn new(plan: Plan, random: Random, ledger: &SharedLedger) -> Self {
        ledger.lock().reader(plan.name, plan.qos, &plan.prefixes);
        Self {
            plan,
            ledger: ledger.clone(),
            random,
            is_known: false,
            received: HashMap::new(),
        }
    }

    fn connect(&self) -> ConnectBuilder {
        connect(self.plan.name)
            .resume()
            .expiry(3600)
            .property(Property::ReceiveMaximum(self.plan.receive_maximum))
    }

    async fn converse(&mut self, address: SocketAddr) -> Result<(), End> {
        let mut link = Link::open(address, self.plan.version, &self.connect(), self.is_known).await?;
        if !self.is_known {
            self.subscribe(&mut link).await?;
            self.is_known = true;
            self.ledger.lock().ready += 1;
        }
        // What is owed when the connection ends is not acknowledged.
        let mut owed = VecDeque::new();
        loop {
            let packet = if owed.is_empty() {
                Some(link.next().await?)
            } else {
                timeout(OWED_FOR, link.next()).await.ok().transpose()?
            };
            let is_idle = packet.is_none();
            owed.extend(packet.map(|packet| self.handle(packet)).transpose()?);
            if is_idle || owed.len() as u64 > self.random.below(OWED_MAX) {
                for answer in owed.drain(..) {
                    link.send(&answer).await?;
                }
            }
        }
    }

    async fn subscribe(&self, link: &mut Link) -> Result<(), End> {
        let filters = self.plan.prefixes.iter();
        let filters = filters.map(|prefix| filter(&format!("{prefix}#")).qos(self.plan.qos));
        link.send(&subscribe(1, filters)).await?;
        match link.next().await? {
            Packet::Suback(suback) if suback.codes.iter().all(|code| *code == self.plan.qos) => Ok(()),
            other => Err(End::Fault(format!("the answer to SUBSCRIBE is {other:?}"))),
        }
    }

    /// Takes a packet; returns what it is answered with.
    fn handle(&mut self, packet: Packet) -> Result<AckBuilder, End> {
        match packet {
            Packet::Publish(publish) => self.receive(publish),
            Packet::Pubrel(ack) => {
                self.received.remove(&ack.id);
                Ok(pubcomp(ack.id))
            }
            other => Err(End::Fault(format!("the broker sent {other:?}"))),
        }
    }

    fn receive(&mut self, publish: Publish) -> Result<AckBuilder, End> {
        let id = publish
            .id
            .ok_or_else(|| End::Fault(format!("no packet identifier in {publish:?}")))?;
        if publish.qos == 2
            && let Some((topic, payload)) = self.received.get(&id)
        {
            if *topic != publish.topic || *payload != publish.payload {
                return Err(End::Fault(format!(
                    "packet identifier {id} names {topic} {:?} until PUBREL comes, not {publish:?}",
                    String::from_utf8_lossy(payload)
                )));
            }
            return Ok(pubrec(id));
        }
        self.ledger
            .lock()
            .deliver(self.plan.name, &publish.topic, &publish.payload, publish.qos);
        if publish.qos == 1 {
            return Ok(puback(id));
        }
        self.received.insert(id, (publish.topic, publish.payload));
        Ok(pubrec(id))
    }
}

impl Lives for Subscriber {
    fn name(&self) -> &str {
        self.plan.name
    }

    fn is_awake(&self, stage: &Stage) -> bool {
        !self.plan.sleeps || stage.all_awake || stage.life % SLEEPS == 1
    }

    async fn live(&mut self, address: SocketAddr, _: &mut watch::Receiver<Stage>) -> End {
        match self.converse(address).await {
            Ok(()) => End::Closed,
            Err(end) => end,
        }
    }
}
