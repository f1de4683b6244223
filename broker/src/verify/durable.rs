//! A client that keeps its session: it comes back after every loss of the connection, at once and then every 50 ms, to
//! the next target in turn, and knows whether the broker still has what it promised to keep.

use std::rc::Rc;
use std::time::{Duration, Instant};

use quorate_proto::codec::{Connect, ProtocolVersion, QoS, ReasonCode};
use tokio::time::sleep_until;

use super::client::{Connection, End, Welcome};
use super::trial::{Phase, Trial};

/// Time between attempts to connect.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(50);
/// What the session expiry interval is longer than the load.
const SESSION_EXPIRY_EXTRA_SECS: u64 = 3_600;

/// A client that keeps its session.
#[derive(Debug)]
pub(super) struct Durable {
    trial: Rc<Trial>,
    client_id: String,
    target: usize,
    last_attempt: Option<Instant>,
    /// A CONNECT may have reached the broker.
    has_asked: bool,
    /// The session, once the broker has said that there is one.
    held: Option<Held>,
    connections: u64,
}

/// A session that the broker has to keep.
#[derive(Clone, Copy, Debug)]
struct Held {
    keeps_for: Duration,
    connected_until: Instant,
}

/// What became of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resumption {
    /// There is a session for the first time.
    New,
    /// It is there.
    Whole,
    /// The broker had it, and has it no more.
    Lost,
}

/// A connection of a durable client.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) connection: Connection,
    pub(super) is_session_present: bool,
    pub(super) receive_maximum: u16,
    pub(super) resumption: Resumption,
}

impl Durable {
    /// A client that begins at the given target.
    pub(super) fn new(trial: &Rc<Trial>, client_id: String, target: usize) -> Self {
        Self {
            trial: Rc::clone(trial),
            client_id,
            target,
            last_attempt: None,
            has_asked: false,
            held: None,
            connections: 0,
        }
    }

    pub(super) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Counts the connections.
    pub(super) const fn connections(&self) -> u64 {
        self.connections
    }

    /// Connects, however long it takes; `None` when the run closes meanwhile.
    pub(super) async fn connect(&mut self) -> Option<Resumed> {
        loop {
            let not_before = self.last_attempt.map(|attempt| attempt + ATTEMPT_INTERVAL);
            sleep_until(not_before.unwrap_or_else(Instant::now).into()).await;
            if self.trial.phase() == Phase::Close {
                return None;
            }
            self.last_attempt = Some(Instant::now());
            match self.attempt().await {
                Ok(resumed) => return Some(resumed),
                Err(end) => self.note_end(&end),
            }
        }
    }

    async fn attempt(&mut self) -> Result<Resumed, End> {
        let trial = Rc::clone(&self.trial);
        let asked_secs = trial.options.duration.as_secs() + SESSION_EXPIRY_EXTRA_SECS;
        let asked_secs = u32::try_from(asked_secs).unwrap_or(u32::MAX);
        let connect = Connect {
            clean_start: false,
            session_expiry_secs: Some(asked_secs),
            ..trial.connect(&self.client_id)
        };
        let target = trial.target(self.target);
        let opened = Connection::open(target, &connect, trial.options.silence).await;
        let had_asked = std::mem::replace(&mut self.has_asked, true);
        let (connection, welcome) = opened?;
        if welcome.maximum_qos != QoS::ExactlyOnce {
            return Err(End::Unfit(format!(
                "its maximum QoS is {:?}",
                welcome.maximum_qos
            )));
        }
        let resumption = self.resumption(&welcome, had_asked);
        let secs = u64::from(welcome.session_expiry_secs.unwrap_or(asked_secs));
        self.held = Some(Held {
            keeps_for: match trial.options.version {
                ProtocolVersion::V5 => Duration::from_secs(secs),
                _ => Duration::MAX,
            },
            connected_until: Instant::now(),
        });
        if self.connections > 0 {
            trial.count_reconnect();
        }
        self.connections += 1;
        Ok(Resumed {
            connection,
            is_session_present: welcome.is_session_present,
            receive_maximum: welcome.receive_maximum,
            resumption,
        })
    }

    fn resumption(&self, welcome: &Welcome, had_asked: bool) -> Resumption {
        match (self.held, welcome.is_session_present) {
            (Some(_), true) => Resumption::Whole,
            (Some(held), false) => {
                if held.connected_until.elapsed() < held.keeps_for {
                    self.trial.oracle().session_lost(&self.client_id);
                }
                Resumption::Lost
            }
            // An earlier CONNECT may have made it, and its CONNACK was lost.
            (None, true) if had_asked => Resumption::New,
            (None, true) => {
                let what = "session present for a client that never connected";
                self.trial.oracle().protocol_error(&self.client_id, what);
                Resumption::New
            }
            (None, false) => Resumption::New,
        }
    }

    /// The connection ended: the next one is to another target.
    pub(super) fn note_end(&mut self, end: &End) {
        let target = self.trial.target(self.target);
        self.trial.note_end(&self.client_id, target, end);
        if let Some(held) = &mut self.held {
            held.connected_until = Instant::now();
        }
        self.target += 1;
    }

    /// Ends session and connection, as far as the broker is there to listen: a run leaves nothing behind.
    pub(super) async fn end(&self, mut connection: Connection) {
        if connection.leave(ReasonCode::SUCCESS, Some(0)).await.is_err()
            || self.trial.options.version == ProtocolVersion::V5
        {
            return;
        }
        // At 3.1.1 only a clean session ends the one that is kept.
        let connect = self.trial.connect(&self.client_id);
        let target = self.trial.target(self.target);
        let opened = Connection::open(target, &connect, self.trial.options.silence).await;
        if let Ok((mut connection, _)) = opened {
            let _ = connection.leave(ReasonCode::SUCCESS, None).await;
        }
    }
}
