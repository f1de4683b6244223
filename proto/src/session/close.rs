//! Why a connection ends, what the client is told, and what its end means for the session.

use crate::codec::{DecodeError, ReasonCode};

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
