//! A worker without thread and groups, for tests of what it does with its mail and its own connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quorate_cluster::state::{Epoch, NodeId, NodeIncarnation, SessionId, SessionLimits};
use quorate_proto::codec::{Connect, Frame, ProtocolVersion, ReasonCode};
use quorate_proto::session::{ConnectionSettings, Decision, Opened};

use super::connection::{Conn, Writer};
use super::{Mail, Worker};
use crate::auth::{Authentication, AuthenticationRequest, Authenticator, EnhancedMethod, Identity, Verdict};
use crate::config::{DurabilityClass, ListenerKind};
use crate::listener::ListenerContext;
use crate::metrics::WorkerMetrics;
use crate::node::{Shared, SharedSettings};

/// The node of [`worker`], and its start.
pub(super) const THIS: (NodeId, NodeIncarnation) = (NodeId(1), NodeIncarnation(1));

struct Anybody;

impl Authenticator for Anybody {
    fn authenticate(&self, _request: AuthenticationRequest<'_>) -> Authentication {
        Authentication::Ready(Verdict::Accept(Identity::default()))
    }

    fn enhanced_method(&self, _name: &str) -> Option<&dyn EnhancedMethod> {
        None
    }
}

/// The first worker of a process with two. Its node has no groups: nothing may ask for them.
pub(super) fn worker() -> Rc<Worker> {
    let settings = SharedSettings {
        session_limits: SessionLimits {
            sessions_max: 100,
            subscriptions_max: 100,
        },
        sessions_max: 100,
        retained_messages_max: 100,
        retained_bytes_max: 1 << 20,
        queue_messages_max: 100,
        queue_bytes_max: 1 << 20,
        drain_will_delay_secs: 0,
        durability: Vec::new(),
        publish_wait_max: Duration::from_secs(10),
        refused_subscription: ReasonCode::NOT_AUTHORIZED,
        node: THIS.0,
        incarnation: THIS.1,
    };
    let control = tokio::runtime::Handle::current();
    let shared = Arc::new(Shared::new(settings, 2, Box::new(Anybody), None, control));
    shared
        .router
        .write(|table| (table.set_this(THIS.0, THIS.1), false));
    Rc::new(Worker::new(0, shared, WorkerMetrics::detached()))
}

fn listener() -> ListenerContext {
    ListenerContext {
        name: "test".to_owned(),
        kind: ListenerKind::Mqtt,
        settings: Arc::new(ConnectionSettings::default()),
        web_socket: crate::transport::websocket::WebSocketSettings::default(),
        proxy_protocol: false,
        durability: DurabilityClass::Quorum,
        anonymous_allowed: true,
        connect_timeout_ms: 10_000,
        open: Arc::default(),
        open_max: 10,
        refused: Arc::default(),
        keeps_peer: false,
    }
}

impl Worker {
    /// A connection that has opened a durable session, and takes so many messages at once.
    pub(super) fn connect(&self, session: SessionId, receive_maximum: u16) -> Rc<Conn> {
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let conn = self.insert(peer, Arc::new(listener()), Writer::Task);
        let mut connect = Connect::new(ProtocolVersion::V5, "c");
        connect.session_expiry_secs = Some(600);
        connect.receive_maximum = receive_maximum;
        let mut bytes = Vec::new();
        connect.encode(ProtocolVersion::V5, &mut bytes);
        {
            let state = &mut *conn.state.borrow_mut();
            let (protocol, now) = (&mut state.protocol, self.now());
            let frame = Frame::parse(&bytes, u32::MAX).unwrap().unwrap();
            protocol.handle_frame(frame, now, &mut state.out).unwrap();
            let accept = Decision::Accept {
                data: None,
                assigned_client_id: None,
            };
            protocol
                .handle_authenticated(accept, now, &mut state.out)
                .unwrap();
            let opened = Opened {
                session_present: true,
                inbound: Vec::new(),
                durable: true,
                local_start: 0,
            };
            protocol.handle_opened(opened, now, &mut state.out).unwrap();
            state.open_session(session, Epoch(1));
        }
        conn
    }

    /// The mail that waits for a worker of the process.
    pub(super) async fn mail_of(&self, worker: usize) -> Vec<Mail> {
        let mailbox = &self.shared.mailboxes[worker];
        let mut mails = Vec::new();
        // Nobody else sends: what is not there does not come.
        tokio::select! {
            biased;
            () = mailbox.receive(&mut mails) => {}
            () = std::future::ready(()) => {}
        }
        mails
    }
}
