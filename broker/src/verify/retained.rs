//! Readers of retained topics: fresh clients that subscribe while the topic's writer goes on, each at another target,
//! and at every target once the writer has stopped.

use std::rc::Rc;
use std::time::{Duration, Instant};

use quorate_proto::codec::{Ack, Packet, PacketId, PacketType, Publish, QoS, ReasonCode};
use tokio::time::sleep;

use super::client::{Connection, End};
use super::message::Source;
use super::oracle::{Arrived, Look};
use super::random::Random;
use super::trial::{Phase, TICK, Trial};

/// Time between two readers of a topic.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Sends readers to one retained topic.
#[derive(Debug)]
pub(super) struct Readers {
    trial: Rc<Trial>,
    topic: u32,
    random: Random,
    count: u64,
}

impl Readers {
    pub(super) fn new(trial: &Rc<Trial>, topic: u32) -> Self {
        Self {
            trial: Rc::clone(trial),
            topic,
            random: Random::new(trial.options.seed, 1_000 + u64::from(topic)),
            count: 0,
        }
    }

    /// Reads until the load ends, and once more at each target.
    pub(super) async fn run(mut self) {
        let trial = Rc::clone(&self.trial);
        let _busy = trial.count_busy();
        while trial.phase() == Phase::Load {
            sleep(self.random.between(PAUSE_MIN, PAUSE_MAX)).await;
            // The writer of topic i begins at target i.
            let target = self.topic as usize + 1 + self.count as usize;
            self.read_at(target).await;
        }
        let source = Source::Retained(self.topic);
        while trial.phase() != Phase::Close && trial.oracle().is_open(source) {
            sleep(TICK).await;
        }
        for target in 0..trial.options.targets.len() {
            self.read_at(target).await;
        }
    }

    /// One reader. What keeps it from reading, as a target that is down, is judged by others.
    async fn read_at(&mut self, target: usize) {
        self.count += 1;
        let client_id = self.trial.client_id(&format!("r{}-", self.topic), self.count);
        let target = self.trial.target(target).to_owned();
        if let Err(end) = self.read(&client_id, &target).await {
            self.trial.note_end(&client_id, &target, &end);
        }
    }

    async fn read(&self, client_id: &str, target: &str) -> Result<(), End> {
        let trial = &self.trial;
        let connect = trial.connect(client_id);
        let (mut connection, _) = Connection::open(target, &connect, trial.options.silence).await?;
        let floor = trial.oracle().retained_floor(self.topic);
        if let Some(floor) = floor {
            let filter = Source::Retained(self.topic).topic(trial.run);
            connection.subscribe(PacketId::MIN, &[filter], QoS::AtLeastOnce)?;
            self.watch(&mut connection, floor).await?;
        }
        // Whether the broker takes the farewell is of no interest here.
        let _ = connection.leave(ReasonCode::SUCCESS, None).await;
        Ok(())
    }

    /// Reads until there is something to judge.
    async fn watch(&self, connection: &mut Connection, floor: u64) -> Result<(), End> {
        let deadline = Instant::now() + self.trial.options.drain_wait;
        let mut is_subscribed = false;
        loop {
            let now = Instant::now();
            if now >= deadline && is_subscribed {
                self.trial.oracle().read_in_vain(self.topic, floor);
            }
            if now >= deadline || self.trial.phase() == Phase::Close {
                return Ok(());
            }
            connection.turn(deadline.min(now + TICK)).await?;
            let Connection { input, output, .. } = connection;
            while let Some(packet) = input.next()? {
                let look = match packet {
                    // The topic is cleared: nobody reads any more.
                    Packet::Publish(publish)
                        if publish.payload.is_empty() && self.trial.phase() == Phase::Close =>
                    {
                        return Ok(());
                    }
                    Packet::Publish(publish) => self.judge(&publish, floor, output),
                    Packet::Suback(suback) => {
                        is_subscribed = suback.reasons.iter().all(|reason| !reason.is_error());
                        Look::Nothing
                    }
                    _ => Look::Nothing,
                };
                if look != Look::Nothing {
                    return Ok(());
                }
            }
        }
    }

    fn judge(&self, publish: &Publish<'_>, floor: u64, output: &mut Vec<u8>) -> Look {
        if let Some(packet_id) = publish.packet_id {
            let ack = Ack::new(packet_id, ReasonCode::SUCCESS);
            ack.encode(PacketType::Puback, self.trial.options.version, output);
        }
        let arrived = Arrived {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos,
            is_dup: publish.dup,
            connection: self.count,
        };
        let mut oracle = self.trial.oracle();
        oracle.judge_read(self.topic, floor, &arrived, publish.retain)
    }
}
