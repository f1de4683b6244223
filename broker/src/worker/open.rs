//! From an accepted CONNECT to CONNACK: pass the gate, open the session in its home group.
//!
//! A client identifier is opened by one connection of this node at a time; the others wait at the gate in order. A
//! session of the other kind (durable or not) is ended first, so that a client identifier never has two.

use std::rc::Rc;

use quorate_cluster::node::{Completion, Location, Placement};
use quorate_cluster::state::{Command, Epoch, GroupTime, Outcome, SessionId, SessionView, WillMessage};
use quorate_proto::codec::{PacketId, ReasonCode};
use quorate_proto::session::{Close, OpenRequest, Opened};

use super::connection::Conn;
use super::queue::DurableQueue;
use super::subscribe::fenced;
use super::ticket::WaitsFor;
use super::{Mail, Worker};
use crate::auth::Action as AuthorizedAction;

/// How long a connection waits for its session before it is told that the server is unavailable.
const OPEN_WAIT_MS: u64 = 4_000;

/// How much group times of two leaders may differ: what came so long after a connection ended counts as sent by it.
const GROUP_TIMES_DIFFER_MS: u64 = 1_000;

/// A session that was opened for a connection.
#[derive(Debug)]
pub(crate) struct OpenedSession {
    pub(crate) location: Location,
    pub(crate) request: Box<OpenRequest>,
    closed_at: Option<GroupTime>,
    pub(crate) session: SessionId,
    pub(crate) epoch: Epoch,
    present: bool,
    inbound: Vec<PacketId>,
    replaying: bool,
}

impl Worker {
    /// The client is accepted: its session is opened when nobody else is opening it.
    pub(super) fn open(self: &Rc<Self>, conn: &Rc<Conn>, request: OpenRequest) {
        if let Some(will) = &request.will
            && !self.may_leave_will(conn, will.message.topic())
        {
            return self.refuse_open(
                conn,
                ReasonCode::NOT_AUTHORIZED,
                "the will's topic is not allowed",
            );
        }
        conn.update(|flags| flags.opening = true);
        self.watch(conn.location, self.now().plus_millis(OPEN_WAIT_MS));
        let request = Box::new(request);
        if let Some(request) = self.shared.gate.enter(conn.location, request) {
            self.pass_gate(conn, request);
        }
    }

    /// The gate is open. Takeovers in quick succession wait a while (R26), and the connections behind them.
    fn pass_gate(self: &Rc<Self>, conn: &Rc<Conn>, request: Box<OpenRequest>) {
        let delay = match self.is_connected(&request.client_id) {
            true => self.shared.gate.takeover(&request.client_id, self.now()),
            false => None,
        };
        let Some(delay) = delay else {
            return self.proceed(conn, request);
        };
        self.counters.takeovers_delayed.increment();
        let (worker, location) = (self.clone(), conn.location);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(delay).await;
            match worker.connection(location) {
                Some(conn) if !conn.flags.get().ending => worker.proceed(&conn, request),
                _ => worker.shared.gate_next(&request.client_id),
            }
        });
    }

    /// Whether a connection has the client's session.
    fn is_connected(&self, client_id: &str) -> bool {
        let kinds = [
            Placement::data_of_client(client_id),
            Placement::live_of_client(client_id),
        ];
        kinds.into_iter().any(|home| {
            let group = self.shared.node().group(home);
            let session = group.session(client_id);
            session.is_some_and(|session| session.owner.is_some())
        })
    }

    fn may_leave_will(&self, conn: &Conn, topic: &str) -> bool {
        !topic.starts_with("$SYS") && self.is_authorized(conn, AuthorizedAction::Publish, topic)
    }

    /// The gate opened for a connection that waited.
    pub(super) fn handle_proceed(self: &Rc<Self>, location: Location, request: Box<OpenRequest>) {
        match self.connection(location) {
            Some(conn) if !conn.flags.get().ending => self.pass_gate(&conn, request),
            _ => self.shared.gate_next(&request.client_id),
        }
    }

    /// Opens the client's session. Other nodes may open one of the same client at the same time, so what this one has
    /// applied is not enough to go by: it reads behind a barrier (R18). A session of the other kind is ended after its
    /// own is open: of two connections that do so at the same least one sees the other.
    pub(super) fn proceed(self: &Rc<Self>, conn: &Rc<Conn>, request: Box<OpenRequest>) {
        if self.shared.node().is_alone() {
            return self.proceed_alone(conn, request);
        }
        if request.durable || request.clean_start {
            return self.open_session(conn, request);
        }
        let home = self
            .shared
            .node()
            .group(Placement::data_of_client(&request.client_id))
            .clone();
        let (shared, location) = (self.shared.clone(), conn.location);
        self.shared.control.spawn(async move {
            home.pass_barrier().await;
            shared.mailboxes[usize::from(location.worker)].send(Mail::LookedUp { location, request });
        });
    }

    /// A durable session is continued, even by a connection that lets it end [MQTT-3.1.2-5].
    pub(super) fn handle_looked_up(self: &Rc<Self>, location: Location, mut request: Box<OpenRequest>) {
        let Some(conn) = self.open_connection(location) else {
            return self.shared.gate_next(&request.client_id);
        };
        let home = self
            .shared
            .node()
            .group(Placement::data_of_client(&request.client_id));
        request.durable = home.session(&request.client_id).is_some();
        self.open_session(&conn, request);
    }

    /// As [`Self::proceed`] where no other node can open the client's session.
    fn proceed_alone(self: &Rc<Self>, conn: &Rc<Conn>, mut request: Box<OpenRequest>) {
        if !request.durable && !request.clean_start {
            // A durable session is continued, even by a connection that lets it end [MQTT-3.1.2-5].
            let home = self
                .shared
                .node()
                .group(Placement::data_of_client(&request.client_id));
            request.durable = home.session(&request.client_id).is_some();
        }
        let client_id = &request.client_id;
        let other = if request.durable {
            Placement::live_of_client(client_id)
        } else {
            Placement::data_of_client(client_id)
        };
        let group = self.shared.node().group(other);
        let known = group.session(client_id).map(|session| session.session);
        match known {
            None => self.open_session(conn, request),
            Some(session) => {
                let end = Command::EndSession {
                    session,
                    publish_will: true,
                };
                group.propose(&end, Self::ticket(conn, WaitsFor::OtherSessionEnded(request)));
            }
        }
    }

    pub(super) fn open_session(self: &Rc<Self>, conn: &Rc<Conn>, request: Box<OpenRequest>) {
        let home = if request.durable {
            Placement::data_of_client(&request.client_id)
        } else {
            Placement::live_of_client(&request.client_id)
        };
        let group = self.shared.node().group(home);
        let (closed_at, known) = match group.session(&request.client_id) {
            None => (None, false),
            Some(view) => (Some(closed_at(&view).unwrap_or_else(|| group.now())), true),
        };
        if !known && self.shared.sessions_are_full() {
            self.refuse_open(conn, ReasonCode::QUOTA_EXCEEDED, "too many sessions");
            self.shared.gate_next(&request.client_id);
            return;
        }
        let will = request.will.as_ref().map(|will| {
            Box::new(WillMessage {
                message: will.message.clone(),
                delay_secs: will.delay_secs,
            })
        });
        let command = Command::OpenSession {
            client_id: request.client_id.clone(),
            clean_start: request.clean_start,
            expiry_secs: request.expiry_secs,
            will,
            limits: self.shared.settings.session_limits,
        };
        group.propose(
            &command,
            Self::ticket(conn, WaitsFor::Opened { request, closed_at }),
        );
    }

    /// The session is open.
    pub(super) fn opened(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        request: Box<OpenRequest>,
        closed_at: Option<GroupTime>,
        completion: Completion,
    ) -> Result<(), Close> {
        let (session, epoch, present, inbound, replaying) = match completion {
            Completion::Applied(Outcome::Opened {
                session,
                epoch,
                present,
                inbound,
                replaying,
                ..
            }) => (session, epoch, present, inbound, replaying),
            _ => {
                self.refuse_open(conn, ReasonCode::QUOTA_EXCEEDED, "too many sessions");
                self.shared.gate_next(&request.client_id);
                return Ok(());
            }
        };
        let opened = OpenedSession {
            location: conn.location,
            request,
            closed_at,
            session,
            epoch,
            present,
            inbound,
            replaying,
        };
        if self.shared.node().is_alone() {
            return self.finish_open(conn, opened);
        }
        let client_id = &opened.request.client_id;
        let other = if opened.request.durable {
            Placement::live_of_client(client_id)
        } else {
            Placement::data_of_client(client_id)
        };
        let other = self.shared.node().group(other).clone();
        let shared = self.shared.clone();
        self.shared.control.spawn(async move {
            other.pass_barrier().await;
            let worker = usize::from(opened.location.worker);
            shared.mailboxes[worker].send(Mail::Checked(Box::new(opened)));
        });
        Ok(())
    }

    /// What there is of the client's session of the other kind is known.
    pub(super) fn handle_checked(self: &Rc<Self>, opened: OpenedSession) {
        let Some(conn) = self.open_connection(opened.location) else {
            return self.close_opened(&opened.request, opened.session, opened.epoch);
        };
        let client_id = &opened.request.client_id;
        let other = if opened.request.durable {
            Placement::live_of_client(client_id)
        } else {
            Placement::data_of_client(client_id)
        };
        let group = self.shared.node().group(other);
        let known = group.session(client_id).map(|session| session.session);
        let Some(session) = known else {
            if let Err(close) = self.finish_open(&conn, opened) {
                self.close(&conn, &close);
            }
            self.after_completion(&conn);
            return;
        };
        let end = Command::EndSession {
            session,
            publish_will: true,
        };
        group.propose(
            &end,
            Self::ticket(&conn, WaitsFor::OtherEndedAfter(Box::new(opened))),
        );
    }

    /// The session is the client's only one: routes know the connection, then the client is told.
    pub(super) fn finish_open(self: &Rc<Self>, conn: &Rc<Conn>, opened: OpenedSession) -> Result<(), Close> {
        let OpenedSession {
            request,
            closed_at,
            session,
            epoch,
            present,
            inbound,
            replaying,
            ..
        } = opened;
        let request = &request;
        if conn.flags.get().ending {
            self.close_opened(request, session, epoch);
            return Ok(());
        }
        conn.update(|flags| flags.opening = false);
        let attached = self.attach(conn, session, epoch);
        self.shared.gate_next(&request.client_id);
        attached?;
        {
            let state = &mut *conn.state.borrow_mut();
            state.open_session(session, epoch);
            self.crossers.borrow_mut().forget(session);
            self.shared.client_came();
            if request.durable {
                // Group times of groups with different leaders differ a little.
                let closed_at = closed_at.map(|at| match self.shared.node().is_alone() {
                    true => at,
                    false => GroupTime(at.0 + GROUP_TIMES_DIFFER_MS),
                });
                let queue = if present {
                    let now = self.shared.node().home(session).now();
                    let now = GroupTime(now.0 + GROUP_TIMES_DIFFER_MS);
                    state.rare().replays.resume(now);
                    DurableQueue::resumed(closed_at, conn.listener.settings.window_out_max)
                } else {
                    DurableQueue::default()
                };
                state.queue = Some(Box::new(queue));
            }
            self.lend_buffer(&mut state.out);
            let local_start = u64::from(epoch.0);
            state.protocol.handle_opened(
                Opened {
                    session_present: present,
                    inbound,
                    durable: request.durable,
                    local_start,
                },
                self.now(),
                &mut state.out,
            )?;
            if let Some(deadline) = state.protocol.deadline() {
                self.watch(conn.location, deadline);
            }
        }
        self.counters.connects.of(request.version).increment();
        self.mark_dirty(conn);
        if present {
            if request.durable && replaying {
                self.resume_replays(conn);
            }
            self.pull(conn);
            self.shared.shares_ready(session);
        }
        Ok(())
    }

    fn attach(&self, conn: &Conn, session: SessionId, epoch: Epoch) -> Result<(), Close> {
        let attached = self
            .shared
            .router
            .write(|table| match table.attach(session, epoch, conn.location) {
                Ok(changed) => (Ok(()), changed),
                Err(error) => (Err(error), false),
            });
        attached.map_err(|error| {
            tracing::debug!(%error, "a connection lost its session before it had it");
            fenced()
        })
    }

    pub(super) fn refuse_open(self: &Rc<Self>, conn: &Rc<Conn>, reason: ReasonCode, what: &'static str) {
        {
            let state = &mut *conn.state.borrow_mut();
            self.lend_buffer(&mut state.out);
            state.protocol.handle_refused(reason, Some(what), &mut state.out);
        }
        self.counters.connects_refused.of(reason).increment();
        self.end(conn);
    }
}

/// When a session's last connection ended, where the session tells.
fn closed_at(view: &SessionView) -> Option<GroupTime> {
    let expires_at = view.expires_at?;
    Some(GroupTime(
        expires_at.0.saturating_sub(u64::from(view.expiry_secs) * 1000),
    ))
}
