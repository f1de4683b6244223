//! Clients with wills, which leave in each of the ways that decide what becomes of the will.
//!
//! Their sessions do not end with the connection: what the promise says of wills that outlive a full stop of the
//! broker, it says of such sessions.

use std::rc::Rc;
use std::time::{Duration, Instant};

use quorate_proto::codec::{Connect, ProtocolVersion, ReasonCode, Will};
use tokio::time::sleep;

use super::client::{Connection, End, Welcome};
use super::message::{Message, PAYLOAD_BYTES_MIN, Source};
use super::oracle::{Fate, Oracle};
use super::random::Random;
use super::trial::{Phase, TICK, Trial};

/// Time between two wills of a client.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How long a client stays at most.
const STAY_MAX: Duration = Duration::from_millis(200);
/// Session expiry interval.
const SESSION_EXPIRY_SECS: u32 = 60;
/// Will delay interval of a client that does not come back.
const DELAY_SECS: u32 = 1;
/// Will delay interval of a client that comes back.
const LONG_DELAY_SECS: u32 = 30;
/// When that client gives up coming back: well before the will is due.
const RETURN_MAX: Duration = Duration::from_secs(15);
/// Time between its attempts.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(50);
/// A node that lives so long after it closed a connection upon DISCONNECT has deleted the will.
const PROOF_OF_LIFE: Duration = Duration::from_secs(1);
/// Least keep alive, of clients that are gone long before.
const KEEP_ALIVE_SECS_MIN: u64 = 5;

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// The socket is closed; the will has no delay.
    Cut,
    /// The socket is closed; the will has a delay.
    CutDelayed,
    /// The socket is closed, and the client comes back within the will delay.
    Return,
    /// DISCONNECT with reason 0x04, which asks for the will.
    LeaveWithWill,
    /// DISCONNECT, which deletes the will.
    Leave,
}

/// In turn, so that a short run has them all; of odd length, so that each comes with both QoS.
const EXITS: [Exit; 7] = [
    Exit::Cut,
    Exit::Leave,
    Exit::Cut,
    Exit::CutDelayed,
    Exit::Return,
    Exit::Cut,
    Exit::LeaveWithWill,
];
/// MQTT 3.1.1 knows no delay and no reasons.
const EXITS_3: [Exit; 3] = [Exit::Cut, Exit::Leave, Exit::Cut];

/// A client with one will after the other.
#[derive(Debug)]
pub(super) struct WillMaker {
    trial: Rc<Trial>,
    index: u32,
    random: Random,
}

impl WillMaker {
    pub(super) fn new(trial: &Rc<Trial>, index: u32) -> Self {
        Self {
            trial: Rc::clone(trial),
            index,
            random: Random::new(trial.options.seed, 2_000 + u64::from(index)),
        }
    }

    /// Makes wills until the load ends.
    pub(super) async fn run(mut self) {
        let trial = Rc::clone(&self.trial);
        let _busy = trial.count_busy();
        while trial.phase() == Phase::Load {
            let number = trial.oracle().begin_will(self.index);
            if let Some(number) = number {
                let fate = self.live(number).await;
                trial.oracle().settle_will(self.index, number, fate);
            }
            sleep(self.random.between(PAUSE_MIN, PAUSE_MAX)).await;
        }
        if trial.options.version < ProtocolVersion::V5 {
            self.clean_up().await;
        }
    }

    fn exit(&self, number: u64) -> Exit {
        let place = (number + 2 * u64::from(self.index)) as usize;
        match self.trial.options.version {
            ProtocolVersion::V5 => EXITS[place % EXITS.len()],
            _ => EXITS_3[place % EXITS_3.len()],
        }
    }

    fn client_id(&self, number: u64) -> String {
        // At 3.1.1 sessions that are kept do not expire soon, so there is one; each client at 5 has its own.
        let number = match self.trial.options.version {
            ProtocolVersion::V5 => number,
            _ => 0,
        };
        self.trial.client_id(&format!("w{}-", self.index), number)
    }

    fn target(&self, number: u64) -> usize {
        self.index as usize + number as usize
    }

    /// One client, from CONNECT to its end; returns what has to become of the will.
    async fn live(&mut self, number: u64) -> Fate {
        let exit = self.exit(number);
        let canary = match exit {
            Exit::Leave => self.canary(number).await,
            _ => None,
        };
        let delay_secs = match exit {
            Exit::CutDelayed => DELAY_SECS,
            Exit::Return => LONG_DELAY_SECS,
            _ => 0,
        };
        let opened = self.open(number, self.target(number), Some(delay_secs)).await;
        let Ok((mut connection, _)) = opened else {
            return Fate::Free;
        };
        let until = Instant::now() + self.random.between(Duration::ZERO, STAY_MAX);
        if stay(&mut connection, until).await.is_err() {
            return Fate::Due;
        }
        match exit {
            Exit::Cut | Exit::CutDelayed => Fate::Due,
            Exit::Return => {
                drop(connection);
                self.come_back(number).await
            }
            Exit::LeaveWithWill => {
                // Should DISCONNECT be lost, the end of the connection asks for the will just as well.
                let _ = connection.leave(ReasonCode::DISCONNECT_WITH_WILL, None).await;
                Fate::Due
            }
            Exit::Leave => self.leave(connection, canary).await,
        }
    }

    /// Connects, with a will of this delay, or without one to take the session up.
    async fn open(
        &self,
        number: u64,
        target: usize,
        delay_secs: Option<u32>,
    ) -> Result<(Connection, Welcome), End> {
        let trial = &self.trial;
        let source = Source::Will(self.index);
        let (client_id, topic, mut payload) = (self.client_id(number), source.topic(trial.run), Vec::new());
        let message = Message {
            run: trial.run,
            source,
            number,
        };
        message.encode(PAYLOAD_BYTES_MIN, &mut payload);
        let will = delay_secs.map(|delay_secs| Will {
            delay_secs,
            ..Will::new(&topic, &payload, Oracle::will_qos(number), false)
        });
        // Nobody is there long enough for it, unless the broker stands still.
        let keep_alive_secs = (2 * trial.options.silence.as_secs()).max(KEEP_ALIVE_SECS_MIN);
        let connect = Connect {
            clean_start: will.is_some() && trial.options.version == ProtocolVersion::V5,
            keep_alive_secs: u16::try_from(keep_alive_secs).unwrap_or(u16::MAX),
            session_expiry_secs: Some(SESSION_EXPIRY_SECS),
            will,
            ..trial.connect(&client_id)
        };
        let target = trial.target(target);
        let opened = Connection::open(target, &connect, trial.options.silence).await;
        if let Err(end) = &opened {
            trial.note_end(&client_id, target, end);
        }
        opened
    }

    /// Another connection to the same target. A node that still serves it when a while has passed did not end, so
    /// what made it close the other connection was DISCONNECT.
    async fn canary(&self, number: u64) -> Option<Connection> {
        let trial = &self.trial;
        let client_id = trial.client_id(&format!("y{}-", self.index), number);
        let connect = trial.connect(&client_id);
        let target = trial.target(self.target(number));
        let opened = Connection::open(target, &connect, trial.options.silence).await;
        opened.ok().map(|(connection, _)| connection)
    }

    /// Leaves in order. Nothing acknowledges a DISCONNECT, so what it did is known only where the node is seen to
    /// live on.
    async fn leave(&self, mut connection: Connection, canary: Option<Connection>) -> Fate {
        let session_expiry_secs = match self.trial.options.version {
            ProtocolVersion::V5 => Some(0),
            _ => None,
        };
        let left = connection.leave(ReasonCode::SUCCESS, session_expiry_secs).await;
        let (Ok(()), Some(mut canary)) = (left, canary) else {
            return Fate::Free;
        };
        let lives = match stay(&mut canary, Instant::now() + PROOF_OF_LIFE).await {
            Ok(()) => canary.probe().await,
            Err(end) => Err(end),
        };
        if lives.is_err() {
            return Fate::Free;
        }
        let _ = canary.leave(ReasonCode::SUCCESS, None).await;
        Fate::Never
    }

    /// Takes the session up again within the will delay.
    async fn come_back(&self, number: u64) -> Fate {
        let since = Instant::now();
        let mut target = self.target(number);
        while since.elapsed() < RETURN_MAX {
            target += 1;
            if let Ok((mut connection, welcome)) = self.open(number, target, None).await {
                let is_in_time = since.elapsed() < RETURN_MAX;
                let _ = connection.leave(ReasonCode::SUCCESS, Some(0)).await;
                if is_in_time && !welcome.is_session_present {
                    self.trial.oracle().session_lost(&self.client_id(number));
                }
                return if is_in_time && welcome.is_session_present {
                    Fate::Never
                } else {
                    Fate::Free
                };
            }
            sleep(ATTEMPT_INTERVAL).await;
        }
        Fate::Free
    }

    /// Ends the session of MQTT 3.1.1, which would be kept.
    async fn clean_up(&self) {
        let trial = &self.trial;
        let client_id = self.client_id(0);
        let connect = trial.connect(&client_id);
        let target = trial.target(self.index as usize);
        if let Ok((mut connection, _)) = Connection::open(target, &connect, trial.options.silence).await {
            let _ = connection.leave(ReasonCode::SUCCESS, None).await;
        }
    }
}

/// Keeps a connection open, and drops what comes.
async fn stay(connection: &mut Connection, until: Instant) -> Result<(), End> {
    while Instant::now() < until {
        connection.turn(until.min(Instant::now() + TICK)).await?;
        while connection.input.next()?.is_some() {}
    }
    Ok(())
}
