//! Why a connection ends, what the client is told, and what its end means for the session.

use crate::codec::{DecodeError, ProtocolVersion, ReasonCode};

/// Why a connection is to be closed. Handed to [`super::Connection::close`], which tells the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({reason})")]
pub struct Close {
    /// What an MQTT 5 client is told; the nearest return code before CONNACK at 3.x.
    pub reason: ReasonCode,
    /// A short sentence for the log, naming the clause where there is one; also the reason string, unless another is
    /// given.
    pub what: &'static str,
    /// Reason string instead of `what`.
    pub reason_string: Option<Box<str>>,
    /// Where to go instead, with 0x9C and 0x9D.
    pub server_reference: Option<Box<str>>,
}

impl Close {
    /// A reason and its sentence.
    pub const fn new(reason: ReasonCode, what: &'static str) -> Self {
        Self {
            reason,
            what,
            reason_string: None,
            server_reference: None,
        }
    }

    /// Tells the client this instead of `what`.
    #[must_use]
    pub fn with_reason_string(mut self, reason_string: &str) -> Self {
        self.reason_string = Some(reason_string.into());
        self
    }

    /// Names another server.
    #[must_use]
    pub fn with_server_reference(mut self, server_reference: &str) -> Self {
        self.server_reference = Some(server_reference.into());
        self
    }
}

impl From<DecodeError> for Close {
    fn from(error: DecodeError) -> Self {
        Self::new(error.reason, error.what)
    }
}

impl Close {
    /// What is told as reason string.
    pub(super) fn told(&self) -> &str {
        self.reason_string.as_deref().unwrap_or(self.what)
    }

    /// The reason as a DISCONNECT of the server may carry it [MQTT5 3.14.2.1].
    pub(super) const fn for_disconnect(&self) -> ReasonCode {
        match self.reason.0 {
            0x00 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2 => self.reason,
            0x84 | 0x85 | 0x91 | 0x92 => ReasonCode::PROTOCOL_ERROR,
            0x86 | 0x8C => ReasonCode::NOT_AUTHORIZED,
            0x88 => ReasonCode::SERVER_BUSY,
            0x8A => ReasonCode::ADMINISTRATIVE_ACTION,
            _ => ReasonCode::UNSPECIFIED_ERROR,
        }
    }

    /// The reason as a CONNACK may carry it [MQTT5 3.2.2.2]; `None` where a 3.x client gets none, because there is no
    /// return code for what it did [MQTT-3.1.4-1 of 3.1.1], and "server unavailable" would invite it to try again.
    pub(super) fn for_connack(&self, version: ProtocolVersion) -> Option<ReasonCode> {
        let reason = match self.reason.0 {
            0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F => self.reason,
            0x8B | 0xA0 => ReasonCode::SERVER_UNAVAILABLE,
            0x96 => ReasonCode::CONNECTION_RATE_EXCEEDED,
            _ => ReasonCode::UNSPECIFIED_ERROR,
        };
        let is_unspeakable = matches!(reason.0, 0x81 | 0x82 | 0x90 | 0x95 | 0x99..=0x9B);
        (version == ProtocolVersion::V5 || !is_unspeakable).then_some(reason)
    }
}

/// What the end of a connection means for its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// The client had been answered with a successful CONNACK; otherwise nothing else holds.
    pub connected: bool,
    /// The will, if any, is to be published (after its delay): anything but DISCONNECT 0x00 [MQTT-3.1.2-10].
    pub publish_will: bool,
    /// The session expiry the client changed to with its DISCONNECT, within what is granted.
    pub expiry_secs: Option<u32>,
    /// The reason code of the client's DISCONNECT, where it sent one.
    pub disconnect_reason: Option<ReasonCode>,
}
