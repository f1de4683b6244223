//! The life of a connection: CONNECT, authentication, opening, the end, and what the end means.
//!
//! ```text
//!   AwaitingConnect ─> Authenticating ─> Opening ─> Connected ─> Closed
//!          └──────────────> Refused ──────────────────────────────┘   (a CONNECT that breaks the rules)
//! ```

use std::sync::Arc;

use super::authentication::{Authentication, Turn};
use super::handshake::{self, Granted, Handshake};
use super::peer::Peer;
use super::{Action, AuthenticationRequest, Close, ConnectionSettings, Decision, Farewell, Instant, Opened};
use crate::codec::{Auth, Connack, Disconnect, Frame, Packet, PacketType, ProtocolVersion, ReasonCode};

const NOT_CONNECT: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "first packet is not CONNECT [MQTT-3.1.0-1]",
);
const BEFORE_CONNACK: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "packet other than AUTH and DISCONNECT before CONNACK [MQTT-3.1.2-30]",
);
const AUTH_WITHOUT_METHOD: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "AUTH although CONNECT has no authentication method [MQTT-4.12.0-6]",
);
const NO_METHOD: Close = Close::new(
    ReasonCode::BAD_AUTHENTICATION_METHOD,
    "the client named no authentication method to go on with [MQTT5 4.12]",
);
const REFUSED: &str = "the client is refused";
const EXPIRY_RAISED: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "DISCONNECT sets a session expiry, which was 0 in CONNECT [MQTT-3.14.2-2]",
);
const CLIENTS_REFERENCE: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "DISCONNECT of a client has a server reference [MQTT5 3.14.2.2.5]",
);

/// Where a connection is in its life.
#[derive(Debug)]
enum Phase {
    AwaitingConnect,
    /// CONNECT came and broke the rules.
    Refused,
    /// The host decides, or the client has the next AUTH to send.
    Authenticating(Box<Handshake>),
    /// The host opens the session.
    Opening(Box<Handshake>),
    Connected,
    Closed,
}

/// Everything about a connection but its messages.
#[derive(Debug)]
pub(super) struct Lifecycle {
    phase: Phase,
    /// As CONNECT says, from [`Phase::Refused`] or [`Phase::Authenticating`] on.
    peer: Peer,
    authentication: Option<Box<Authentication>>,
    client_id: Option<Arc<str>>,
    durable: bool,
    asked_no_expiry: bool,
    farewell: Farewell,
}

impl Lifecycle {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::AwaitingConnect,
            peer: Peer::new(ProtocolVersion::V3_1_1),
            authentication: None,
            client_id: None,
            durable: false,
            asked_no_expiry: false,
            farewell: Farewell::default(),
        }
    }

    #[inline]
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn client_id(&self) -> Option<&Arc<str>> {
        self.client_id.as_ref()
    }

    #[inline]
    pub(super) fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Connected)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable
    }

    pub(super) fn farewell(&self) -> Farewell {
        self.farewell
    }

    /// Whether the client has the next word, CONNACK not being sent.
    pub(super) fn awaits_client(&self) -> bool {
        match self.phase {
            Phase::AwaitingConnect => true,
            Phase::Authenticating(_) => self
                .authentication
                .as_ref()
                .is_some_and(|authentication| authentication.turn() == Turn::Client),
            _ => false,
        }
    }

    /// A frame before CONNACK.
    pub(super) fn handle_frame<'a>(
        &mut self,
        frame: Frame<'a>,
        settings: &ConnectionSettings,
    ) -> Result<Action<'a>, Close> {
        match self.phase {
            Phase::AwaitingConnect => self.handle_first(frame, settings),
            Phase::Authenticating(_) | Phase::Opening(_) => self.handle_before_connack(frame),
            Phase::Refused | Phase::Connected | Phase::Closed => Ok(Action::None),
        }
    }

    /// The first frame has to be CONNECT [MQTT-3.1.0-1].
    fn handle_first<'a>(
        &mut self,
        frame: Frame<'a>,
        settings: &ConnectionSettings,
    ) -> Result<Action<'a>, Close> {
        if frame.packet_type != PacketType::Connect {
            return Err(NOT_CONNECT);
        }
        if let Some(version) = handshake::answer_version(frame.body) {
            self.peer = Peer::new(version);
            self.phase = Phase::Refused;
        }
        let Packet::Connect(connect) = Packet::decode(frame, self.peer.version)? else {
            return Err(NOT_CONNECT);
        };
        self.peer = handshake::peer(&connect);
        let handshake = Handshake::new(&connect, settings)?;
        self.authentication = connect
            .authentication_method
            .map(|method| Box::new(Authentication::begin(method)));
        self.phase = Phase::Authenticating(Box::new(handshake));
        Ok(Action::Authenticate(AuthenticationRequest::Connect(
            handshake::credentials(&connect),
        )))
    }

    /// Only AUTH and DISCONNECT may come before CONNACK, and only from a client whose turn it is; the host keeps all
    /// else unread until then.
    fn handle_before_connack<'a>(&mut self, frame: Frame<'a>) -> Result<Action<'a>, Close> {
        match Packet::decode(frame, self.peer.version)? {
            Packet::Auth(auth) => self.handle_auth(&auth),
            Packet::Disconnect(_) => {
                self.phase = Phase::Closed;
                Ok(Action::Disconnected)
            }
            _ => Err(BEFORE_CONNACK),
        }
    }

    pub(super) fn handle_auth<'a>(&mut self, auth: &Auth<'a>) -> Result<Action<'a>, Close> {
        let authentication = self.authentication.as_mut().ok_or(AUTH_WITHOUT_METHOD)?;
        authentication.handle_auth(auth).map(Action::Authenticate)
    }

    pub(super) fn handle_authenticated(
        &mut self,
        decision: Decision<'_>,
        settings: &ConnectionSettings,
        out: &mut Vec<u8>,
    ) -> Result<Action<'static>, Close> {
        if !self.is_decision_due() {
            return Ok(Action::None);
        }
        match decision {
            Decision::Refuse {
                reason,
                reason_string,
            } => Err(refusal(reason, reason_string)),
            Decision::Continue { data } => {
                let authentication = self.authentication.as_mut().ok_or(NO_METHOD)?;
                authentication.continue_with(data, &self.peer, out)?;
                Ok(Action::None)
            }
            Decision::Accept {
                data,
                assigned_client_id,
            } => self.accept(data, assigned_client_id, settings, out),
        }
    }

    fn is_decision_due(&self) -> bool {
        let turn = self
            .authentication
            .as_ref()
            .map(|authentication| authentication.turn());
        match self.phase {
            Phase::Authenticating(_) => turn.is_none_or(|turn| turn == Turn::Host),
            Phase::Connected => turn == Some(Turn::Host),
            _ => false,
        }
    }

    fn accept(
        &mut self,
        data: Option<&[u8]>,
        assigned_client_id: Option<&str>,
        settings: &ConnectionSettings,
        out: &mut Vec<u8>,
    ) -> Result<Action<'static>, Close> {
        match std::mem::replace(&mut self.phase, Phase::Refused) {
            Phase::Authenticating(mut handshake) => {
                let data = data.filter(|_| self.authentication.is_some());
                let request = handshake.accept(data, assigned_client_id, settings, &self.peer)?;
                self.client_id = Some(handshake.client_id().clone());
                if let Some(authentication) = &mut self.authentication {
                    authentication.accepted();
                }
                self.phase = Phase::Opening(handshake);
                Ok(Action::Open(request))
            }
            phase => {
                self.phase = phase;
                if let Some(authentication) = &mut self.authentication {
                    authentication.accepted_again(data, &self.peer, out)?;
                }
                Ok(Action::None)
            }
        }
    }

    /// Answers with CONNACK; `None` if no session was to be opened.
    pub(super) fn handle_opened(
        &mut self,
        opened: &Opened,
        settings: &ConnectionSettings,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Option<Granted>, Close> {
        let Phase::Opening(handshake) = &self.phase else {
            return Ok(None);
        };
        let method = self
            .authentication
            .as_ref()
            .map(|authentication| authentication.method());
        let durable = handshake.expiry_secs() > 0 || opened.durable;
        let granted = handshake.open(opened, method, settings, &self.peer, now, out)?;
        self.durable = durable;
        self.asked_no_expiry = handshake.asked_no_expiry();
        self.farewell = Farewell {
            connected: true,
            publish_will: true,
            ..Farewell::default()
        };
        self.phase = Phase::Connected;
        Ok(Some(granted))
    }

    /// The client's DISCONNECT after CONNACK.
    pub(super) fn handle_disconnect(
        &mut self,
        disconnect: &Disconnect<'_>,
        settings: &ConnectionSettings,
    ) -> Result<(), Close> {
        if disconnect.server_reference.is_some() {
            return Err(CLIENTS_REFERENCE);
        }
        if self.asked_no_expiry && disconnect.session_expiry_secs.is_some_and(|secs| secs > 0) {
            return Err(EXPIRY_RAISED);
        }
        self.phase = Phase::Closed;
        self.farewell.publish_will = disconnect.reason != ReasonCode::SUCCESS;
        self.farewell.expiry_secs = disconnect
            .session_expiry_secs
            .map(|secs| secs.min(settings.session_expiry_secs_max));
        self.farewell.disconnect_reason = Some(disconnect.reason);
        Ok(())
    }

    /// The end from this side.
    pub(super) fn close(&mut self, close: &Close, out: &mut Vec<u8>) {
        match self.phase {
            Phase::Connected => {
                let mut disconnect = Disconnect::new(close.for_disconnect());
                disconnect.reason_string = Some(close.told());
                disconnect.server_reference = close.server_reference.as_deref();
                self.peer.write_disconnect(disconnect, out);
            }
            Phase::Refused | Phase::Authenticating(_) | Phase::Opening(_) => self.write_refusal(close, out),
            // Nobody knows what the other end speaks, or it is gone.
            Phase::AwaitingConnect | Phase::Closed => {}
        }
        self.phase = Phase::Closed;
        self.authentication = None;
    }

    fn write_refusal(&self, close: &Close, out: &mut Vec<u8>) {
        let Some(reason) = close.for_connack(self.peer.version) else {
            return;
        };
        let mut connack = Connack::new(reason);
        connack.reason_string = Some(close.told());
        connack.server_reference = close.server_reference.as_deref();
        // A client that takes no packet of this size gets none.
        self.peer.write_connack(connack, out).ok();
    }

    pub(super) fn check_invariants(&self) {
        let is_accepted = matches!(self.phase, Phase::Opening(_) | Phase::Connected);
        assert!(
            !is_accepted || self.client_id.is_some(),
            "accepted without a client identifier"
        );
        assert!(
            !self.is_connected() || self.farewell.connected,
            "connected, but not for the farewell"
        );
    }
}

/// The end of a client that may not connect.
pub(super) fn refusal(reason: ReasonCode, reason_string: Option<&str>) -> Close {
    let reason = if reason.is_error() {
        reason
    } else {
        ReasonCode::NOT_AUTHORIZED
    };
    let close = Close::new(reason, REFUSED);
    match reason_string {
        Some(told) => close.with_reason_string(told),
        None => close,
    }
}
