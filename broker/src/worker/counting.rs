//! What the worker counts, in the words of the metrics.

use quorate_proto::codec::ReasonCode;
use quorate_proto::session::DropReason;

use super::Worker;
use super::connection::Conn;
use crate::metrics::{CloseReason, DropReason as Dropped};

/// The metric's word for why a delivery was dropped.
pub(super) fn drop_reason(reason: DropReason) -> Dropped {
    match reason {
        DropReason::QueueFull => Dropped::QueueFull,
        DropReason::PacketTooLarge => Dropped::PacketTooLarge,
        DropReason::OutputFull => Dropped::Qos0OutputFull,
        DropReason::Expired => Dropped::Expired,
        DropReason::NotConnected => Dropped::SessionEnded,
    }
}

impl Worker {
    /// A connection has ended.
    pub(super) fn count_closed(&self, why: CloseReason) {
        self.counters.connections_closed.of(why).increment();
    }

    /// A connection is closed from this side.
    pub(super) fn count_close(&self, conn: &Conn, reason: ReasonCode) {
        let connected = conn.session().is_some();
        let why = match reason {
            ReasonCode::KEEP_ALIVE_TIMEOUT => CloseReason::KeepAliveTimeout,
            ReasonCode::MAXIMUM_CONNECT_TIME => CloseReason::ConnectTimeout,
            ReasonCode::SESSION_TAKEN_OVER => CloseReason::TakenOver,
            ReasonCode::SERVER_SHUTTING_DOWN => CloseReason::Shutdown,
            ReasonCode::USE_ANOTHER_SERVER => CloseReason::Drained,
            ReasonCode::ADMINISTRATIVE_ACTION => CloseReason::Administrative,
            ReasonCode::SERVER_BUSY if connected => CloseReason::PublishWait,
            ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::BAD_AUTHENTICATION_METHOD => {
                CloseReason::AuthenticationFailed
            }
            _ if !connected && !is_protocol_error(reason) => CloseReason::ConnectRefused,
            _ => CloseReason::ProtocolError,
        };
        self.count_closed(why);
        if why == CloseReason::ProtocolError {
            self.counters.protocol_errors.of(reason).increment();
        }
    }
}

fn is_protocol_error(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::MALFORMED_PACKET
            | ReasonCode::PROTOCOL_ERROR
            | ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
            | ReasonCode::PACKET_TOO_LARGE
    )
}
