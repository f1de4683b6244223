//! What all roles of a run share: what is asked of them, the oracle, and how far the run has got.
//!
//! The roles are tasks of one thread, so this is cells, not locks; no borrow of the oracle is held across an await.

use std::cell::{Cell, RefCell, RefMut};
use std::time::{Duration, Instant};

use quorate_proto::codec::Connect;

use super::client::End;
use super::options::Options;
use super::oracle::Oracle;

/// How often a role looks around while nothing happens on its connection.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// Keep alive of all clients: the broker notices one that is gone, which no role relies on.
const KEEP_ALIVE_SECS: u16 = 60;

/// How far a run has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Clients connect and subscribe.
    Setup,
    /// Publishers send.
    Load,
    /// Publishers complete what is under way, subscribers get what is missing.
    Drain,
    /// Clients end their sessions and go.
    Close,
}

/// What all roles of a run share.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) options: Options,
    /// Identifies the run in client identifiers, topics and payloads.
    pub(super) run: u64,
    oracle: RefCell<Oracle>,
    phase: Cell<Phase>,
    /// The beginning of the load.
    began: Cell<Instant>,
    ready: Cell<usize>,
    busy: Cell<usize>,
    reconnects: Cell<u64>,
    trouble: RefCell<Option<String>>,
}

impl Trial {
    pub(super) fn new(options: Options, run: u64) -> Self {
        let oracle = Oracle::new(run, options.backlog_max());
        Self {
            options,
            run,
            oracle: RefCell::new(oracle),
            phase: Cell::new(Phase::Setup),
            began: Cell::new(Instant::now()),
            ready: Cell::new(0),
            busy: Cell::new(0),
            reconnects: Cell::new(0),
            trouble: RefCell::new(None),
        }
    }

    pub(super) fn oracle(&self) -> RefMut<'_, Oracle> {
        self.oracle.borrow_mut()
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Goes on to the next phase; the load begins the clock.
    pub(super) fn enter(&self, phase: Phase) {
        if phase == Phase::Load {
            self.began.set(Instant::now());
        }
        self.phase.set(phase);
    }

    /// Time since the load began.
    pub(super) fn now(&self) -> Duration {
        self.began.get().elapsed()
    }

    /// A client has its session, and its subscriptions if it is to have any.
    pub(super) fn count_ready(&self) {
        self.ready.set(self.ready.get() + 1);
    }

    /// Clients that have their session and subscriptions.
    pub(super) fn ready(&self) -> usize {
        self.ready.get()
    }

    /// Tasks that have something to finish before a run is judged.
    pub(super) fn busy(&self) -> usize {
        self.busy.get()
    }

    /// Counts a task as busy until the guard is dropped.
    pub(super) fn count_busy(&self) -> Busy<'_> {
        self.busy.set(self.busy.get() + 1);
        Busy(&self.busy)
    }

    pub(super) fn count_reconnect(&self) {
        self.reconnects.set(self.reconnects.get() + 1);
    }

    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects.get()
    }

    /// Remembers why a client is not connected, for the case that the run cannot begin.
    pub(super) fn set_trouble(&self, client: &str, target: &str, what: &impl std::fmt::Display) {
        *self.trouble.borrow_mut() = Some(format!("{client} at {target}: {what}"));
    }

    /// The last reason why a client was not connected.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Takes note of the end of a connection.
    pub(super) fn note_end(&self, client: &str, target: &str, end: &End) {
        self.set_trouble(client, target, end);
        if let End::Invalid(what) = end {
            self.oracle().protocol_error(client, what);
        }
    }

    /// Address of a target; indices go round.
    pub(super) fn target(&self, index: usize) -> &str {
        &self.options.targets[index % self.options.targets.len()]
    }

    /// A client identifier: 23 bytes at most, which every broker takes [MQTT-3.1.3-5].
    pub(super) fn client_id(&self, role: &str, number: u64) -> String {
        format!("v{:08x}{role}{number}", self.run as u32)
    }

    /// A CONNECT with a clean start.
    pub(super) fn connect<'a>(&'a self, client_id: &'a str) -> Connect<'a> {
        Connect {
            keep_alive_secs: KEEP_ALIVE_SECS,
            user_name: self.options.user.as_deref(),
            password: self.options.password.as_deref(),
            ..Connect::new(self.options.version, client_id)
        }
    }
}

/// A task that has something to finish.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a Cell<usize>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
