//! Enhanced authentication: whose turn it is [MQTT5 4.12].
//!
//! ```text
//!   CONNECT ──> Host ── continue ──> Client ── AUTH 0x18 ──> Host ── accept ──> Nobody ── AUTH 0x19 ──> Host ...
//! ```
//!
//! The method never changes within a connection [MQTT-4.12.0-5] [MQTT-4.12.1-1]. A client without a method has no part
//! in this, and may not send AUTH [MQTT-4.12.0-6].

use super::peer::Peer;
use super::{AuthenticationRequest, Close};
use crate::codec::{Auth, ReasonCode};

const OTHER_METHOD: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "AUTH has not the authentication method of CONNECT [MQTT-4.12.0-5] [MQTT-4.12.1-1]",
);
const OUT_OF_TURN: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "AUTH does not fit the state of the exchange [MQTT5 4.12]",
);

/// The exchange of a client that named a method.
#[derive(Debug)]
pub(super) struct Authentication {
    method: Box<str>,
    turn: Turn,
    /// The client has been accepted before.
    again: bool,
}

/// Who has to speak next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The host decides.
    Host,
    /// The client answers AUTH 0x18.
    Client,
    /// No exchange is going on.
    Nobody,
}

impl Authentication {
    /// The exchange that a CONNECT with a method begins.
    pub(super) fn begin(method: &str) -> Self {
        Self {
            method: method.into(),
            turn: Turn::Host,
            again: false,
        }
    }

    pub(super) fn method(&self) -> &str {
        &self.method
    }

    pub(super) fn turn(&self) -> Turn {
        self.turn
    }

    /// The client's AUTH.
    pub(super) fn handle_auth<'a>(&mut self, auth: &Auth<'a>) -> Result<AuthenticationRequest<'a>, Close> {
        let method = auth
            .authentication_method
            .filter(|method| **method == *self.method)
            .ok_or(OTHER_METHOD)?;
        let data = auth.authentication_data;
        let request = match (auth.reason, self.turn) {
            (ReasonCode::CONTINUE_AUTHENTICATION, Turn::Client) => AuthenticationRequest::Continue {
                method,
                data,
                again: self.again,
            },
            (ReasonCode::REAUTHENTICATE, Turn::Nobody) => {
                AuthenticationRequest::Reauthenticate { method, data }
            }
            _ => return Err(OUT_OF_TURN),
        };
        self.turn = Turn::Host;
        Ok(request)
    }

    /// The host wants to hear more [MQTT-4.12.0-2].
    pub(super) fn continue_with(
        &mut self,
        data: Option<&[u8]>,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<(), Close> {
        self.turn = Turn::Client;
        self.write(ReasonCode::CONTINUE_AUTHENTICATION, data, peer, out)
    }

    /// CONNECT is accepted: CONNACK says so, not AUTH.
    pub(super) fn accepted(&mut self) {
        self.turn = Turn::Nobody;
        self.again = true;
    }

    /// A connected client is authenticated anew.
    pub(super) fn accepted_again(
        &mut self,
        data: Option<&[u8]>,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<(), Close> {
        self.turn = Turn::Nobody;
        self.write(ReasonCode::SUCCESS, data, peer, out)
    }

    fn write(
        &self,
        reason: ReasonCode,
        data: Option<&[u8]>,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<(), Close> {
        let mut auth = Auth::new(reason);
        auth.authentication_method = Some(&self.method);
        auth.authentication_data = data;
        peer.write_auth(&auth, out)
    }
}
