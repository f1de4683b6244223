//! Authentication: at CONNECT, in several steps, and again later; and what the client may do.

use std::rc::Rc;
use std::sync::Arc;

use quorate_cluster::node::Location;
use quorate_proto::codec::ReasonCode;
use quorate_proto::session::{AuthenticationRequest, Close, Credentials, Decision};

use super::connection::{Conn, Writer};
use super::{Mail, Worker};
use crate::auth::{
    Action as AuthorizedAction, Authentication, AuthenticationRequest as CredentialCheck, ClientInfo,
    Decision as Authorization, Exchange, ExchangeStep, Identity, Refusal, Verdict,
};

/// The verdict of an authenticator that took its time.
#[derive(Debug)]
pub(crate) struct AuthenticationAnswer {
    pub(crate) location: Location,
    pub(crate) assigned: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) verdict: Verdict,
}

/// An enhanced authentication that is going on.
pub(crate) struct ExchangeInProgress {
    exchange: Box<dyn Exchange>,
    client_id: Arc<str>,
    assigned: Option<Arc<str>>,
}

impl std::fmt::Debug for ExchangeInProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExchangeInProgress")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn authenticate(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        request: AuthenticationRequest<'_>,
    ) -> Result<(), Close> {
        match request {
            AuthenticationRequest::Connect(credentials) => self.authenticate_connect(conn, &credentials),
            AuthenticationRequest::Continue { data, .. } => {
                let step = {
                    let mut state = conn.state.borrow_mut();
                    let Some(progress) = &mut state.rare().exchange else {
                        return Err(no_exchange());
                    };
                    progress.exchange.step(data.unwrap_or_default())
                };
                self.exchange_stepped(conn, step)
            }
            AuthenticationRequest::Reauthenticate { method, data } => {
                let identity = conn
                    .state
                    .borrow()
                    .rare
                    .as_ref()
                    .and_then(|rare| rare.client.clone());
                let user = identity
                    .as_ref()
                    .and_then(|client| client.identity.user_name.as_deref());
                let client_id = conn
                    .state
                    .borrow()
                    .protocol
                    .client_id()
                    .cloned()
                    .unwrap_or_default();
                self.start_exchange(conn, method, data, user, client_id, None)
            }
        }
    }

    fn authenticate_connect(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        credentials: &Credentials<'_>,
    ) -> Result<(), Close> {
        if self.shared.is_draining() {
            return self.decide(
                conn,
                Decision::Refuse {
                    reason: ReasonCode::USE_ANOTHER_SERVER,
                    reason_string: Some("this node is drained"),
                },
            );
        }
        if !self.shared.is_ready() || !self.shared.may_answer() {
            return self.decide(
                conn,
                Decision::Refuse {
                    reason: ReasonCode::SERVER_UNAVAILABLE,
                    reason_string: Some("the node is not ready, or does not reach a majority of the cluster"),
                },
            );
        }
        let assigned: Option<Arc<str>> = credentials
            .client_id
            .is_empty()
            .then(|| self.shared.assign_client_id().into());
        let client_id: Arc<str> = assigned.clone().unwrap_or_else(|| credentials.client_id.into());
        if let Some(method) = credentials.method {
            return self.start_exchange(conn, method, credentials.data, None, client_id, assigned);
        }
        let check = CredentialCheck {
            client_id: &client_id,
            user_name: credentials.user_name,
            password: credentials.password,
            remote: self.peer(conn),
            anonymous_allowed: conn.listener.anonymous_allowed,
        };
        match self.shared.authenticator.authenticate(check) {
            Authentication::Ready(verdict) => self.verdict(conn, &verdict, client_id, assigned),
            Authentication::Pending(pending) => {
                let location = conn.location;
                let shared = self.shared.clone();
                self.shared.control.spawn(async move {
                    let verdict = pending.await;
                    let answer = AuthenticationAnswer {
                        location,
                        assigned,
                        client_id,
                        verdict,
                    };
                    shared.mailboxes[usize::from(location.worker)]
                        .send(Mail::Authenticated(Box::new(answer)));
                });
                Ok(())
            }
        }
    }

    /// The answer of an authenticator that took its time.
    pub(super) fn handle_authenticated(self: &Rc<Self>, answer: AuthenticationAnswer) {
        let Some(conn) = self.connection(answer.location) else {
            return;
        };
        if conn.flags.get().ending {
            return;
        }
        if let Err(close) = self.verdict(&conn, &answer.verdict, answer.client_id, answer.assigned) {
            self.close(&conn, &close);
        }
    }

    fn verdict(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        verdict: &Verdict,
        client_id: Arc<str>,
        assigned: Option<Arc<str>>,
    ) -> Result<(), Close> {
        match verdict {
            Verdict::Accept(identity) => {
                self.note_client(conn, client_id, identity.clone());
                self.decide(
                    conn,
                    Decision::Accept {
                        data: None,
                        assigned_client_id: assigned.as_deref(),
                    },
                )
            }
            Verdict::Refuse(refusal) => self.refuse(conn, *refusal),
        }
    }

    fn refuse(self: &Rc<Self>, conn: &Rc<Conn>, refusal: Refusal) -> Result<(), Close> {
        self.counters
            .authentication_failures
            .of(refusal.reason())
            .increment();
        let reason_string = match refusal {
            Refusal::BadMethod => Some("the authentication method is not known to this server"),
            Refusal::Busy => Some("too many clients are logging in; come back later"),
            // Nothing that helps to guess.
            Refusal::BadCredentials | Refusal::NotAuthorized | Refusal::Protocol => None,
        };
        self.decide(
            conn,
            Decision::Refuse {
                reason: refusal.reason(),
                reason_string,
            },
        )
    }

    fn start_exchange(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        method: &str,
        data: Option<&[u8]>,
        user: Option<&str>,
        client_id: Arc<str>,
        assigned: Option<Arc<str>>,
    ) -> Result<(), Close> {
        let Some(method) = self.shared.authenticator.enhanced_method(method) else {
            return self.refuse(conn, Refusal::BadMethod);
        };
        let mut exchange = method.start(user);
        let step = exchange.step(data.unwrap_or_default());
        conn.state.borrow_mut().rare().exchange = Some(ExchangeInProgress {
            exchange,
            client_id,
            assigned,
        });
        self.exchange_stepped(conn, step)
    }

    fn exchange_stepped(self: &Rc<Self>, conn: &Rc<Conn>, step: ExchangeStep) -> Result<(), Close> {
        match step {
            ExchangeStep::Continue(data) => self.decide(conn, Decision::Continue { data: Some(&data) }),
            ExchangeStep::Accept { data, identity } => {
                let progress = conn.state.borrow_mut().rare().exchange.take();
                let Some(progress) = progress else {
                    return Err(no_exchange());
                };
                self.note_client(conn, progress.client_id, identity);
                let assigned_client_id = progress.assigned.as_deref();
                self.decide(
                    conn,
                    Decision::Accept {
                        data: Some(&data),
                        assigned_client_id,
                    },
                )
            }
            ExchangeStep::Refuse(refusal) => self.refuse(conn, refusal),
        }
    }

    fn decide(self: &Rc<Self>, conn: &Rc<Conn>, decision: Decision<'_>) -> Result<(), Close> {
        let action = {
            let state = &mut *conn.state.borrow_mut();
            self.lend_buffer(&mut state.out);
            state
                .protocol
                .handle_authenticated(decision, self.now(), &mut state.out)?
        };
        self.mark_dirty(conn);
        self.act(conn, action)
    }

    fn note_client(&self, conn: &Conn, client_id: Arc<str>, identity: Identity) {
        // Only an authorizer, or a later re-authentication, asks for it.
        if self.shared.authorizer.is_some() || identity.user_name.is_some() {
            let remote = self.peer(conn);
            conn.state.borrow_mut().rare().client = Some(Arc::new(ClientInfo {
                client_id,
                identity,
                remote,
            }));
        }
    }

    /// The client's address: as it was kept, else the socket's.
    pub(super) fn peer(&self, conn: &Conn) -> std::net::SocketAddr {
        let state = conn.state.borrow();
        let kept = state.rare.as_ref().and_then(|rare| rare.peer);
        let peer = kept.or_else(|| match &conn.writer {
            Writer::Tcp(writer) => writer.peer_addr().ok(),
            Writer::Task => None,
        });
        peer.unwrap_or_else(|| std::net::SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Whether the client may do this; without an authorizer everybody may.
    pub(super) fn is_authorized(&self, conn: &Conn, action: AuthorizedAction, topic: &str) -> bool {
        let Some(authorizer) = &self.shared.authorizer else {
            return true;
        };
        let client = conn
            .state
            .borrow()
            .rare
            .as_ref()
            .and_then(|rare| rare.client.clone());
        client.is_some_and(|client| authorizer.authorize(&client, action, topic) == Authorization::Allow)
    }
}

fn no_exchange() -> Close {
    Close::new(
        ReasonCode::PROTOCOL_ERROR,
        "no authentication is going on [MQTT5 4.12]",
    )
}
