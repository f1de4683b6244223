//! What one worker counts, declared with the names and help texts under which all workers' sums are exported.
//!
//! Invariants: labels come from closed sets (quality of service, packet type, reason), never from a client; every
//! label value is exported from the start, at zero, except reason codes, which appear when they happen.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use quorate_proto::codec::{PacketType, ProtocolVersion, QoS, ReasonCode};

use super::counter::{Counter, Histogram, Level};

/// Declares a closed set of label values.
macro_rules! label {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// All values in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label value.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

label! {
    /// Why a message did not reach a session or a subscriber that it matched.
    pub enum DropReason {
        /// The session's queue was full.
        QueueFull = "queue_full",
        /// Its message expiry interval had passed.
        Expired = "expired",
        /// The session ended with messages waiting.
        SessionEnded = "session_ended",
        /// It is larger than the subscriber takes [MQTT-3.1.2-24].
        PacketTooLarge = "packet_too_large",
        /// QoS 0, and the session was not connected.
        Qos0Absent = "qos0_absent",
        /// QoS 0, and the connection's output was full.
        Qos0OutputFull = "qos0_output_full",
        /// The subscriber answered with a reason code of 0x80 or above.
        RefusedBySubscriber = "refused_by_subscriber",
        /// A shared group had no member to take it.
        NoMember = "no_member",
    }
}

label! {
    /// Why a connection ended.
    pub enum CloseReason {
        /// The client sent DISCONNECT.
        Disconnect = "disconnect",
        /// The client closed or lost the connection without DISCONNECT.
        ConnectionLost = "connection_lost",
        /// Nothing came for one and a half keep alive intervals [MQTT-3.1.2-22].
        KeepAliveTimeout = "keep_alive_timeout",
        /// No CONNECT came in time, or a handshake took too long.
        ConnectTimeout = "connect_timeout",
        /// The TLS, WebSocket or PROXY handshake failed.
        HandshakeFailed = "handshake_failed",
        /// CONNECT was refused.
        ConnectRefused = "connect_refused",
        /// The client broke the protocol.
        ProtocolError = "protocol_error",
        /// The session was taken over by another connection.
        TakenOver = "taken_over",
        /// The client read too slowly.
        OutputFull = "output_full",
        /// The node or listener has as many connections as it may.
        ConnectionsMax = "connections_max",
        /// A publish could not be acknowledged in time.
        PublishWait = "publish_wait",
        /// Re-authentication failed.
        AuthenticationFailed = "authentication_failed",
        /// An operator ended it.
        Administrative = "administrative",
        /// The node is stopping.
        Shutdown = "shutdown",
        /// The node is drained.
        Drained = "drained",
    }
}

label! {
    /// Why a connection was not read for a while.
    pub enum PauseReason {
        /// The client does not read what it gets.
        OutputFull = "output_full",
        /// The disk or another worker has not caught up with what clients send.
        Backlog = "backlog",
    }
}

/// One counter per label value.
#[derive(Debug)]
pub struct ByLabel<const N: usize>([Counter; N]);

impl<const N: usize> Default for ByLabel<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> ByLabel<N> {
    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(Counter::value)
    }

    /// Sum over all label values.
    pub fn total(&self) -> u64 {
        self.values().sum()
    }
}

/// One counter per quality of service.
pub type ByQoS = ByLabel<3>;

impl ByQoS {
    /// The counter of one quality of service.
    #[inline]
    pub fn of(&self, qos: QoS) -> &Counter {
        &self.0[qos as usize]
    }
}

/// One counter per packet type.
#[derive(Debug, Default)]
pub struct ByPacketType(ByLabel<16>);

impl ByPacketType {
    /// The counter of one packet type.
    #[inline]
    pub fn of(&self, packet_type: PacketType) -> &Counter {
        &self.0.0[packet_type as usize & 0x0F]
    }

    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        self.0.values()
    }
}

/// One counter per protocol version.
#[derive(Debug, Default)]
pub struct ByVersion([Counter; 3]);

impl ByVersion {
    /// The counter of one version.
    #[inline]
    pub fn of(&self, version: ProtocolVersion) -> &Counter {
        &self.0[match version {
            ProtocolVersion::V3_1 => 0,
            ProtocolVersion::V3_1_1 => 1,
            ProtocolVersion::V5 => 2,
        }]
    }

    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(Counter::value)
    }
}

/// One counter per [`DropReason`].
#[derive(Debug, Default)]
pub struct Dropped(ByLabel<{ DropReason::ALL.len() }>);

impl Dropped {
    /// Sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// The counter of one reason.
    #[inline]
    pub fn of(&self, reason: DropReason) -> &Counter {
        &self.0.0[reason as usize]
    }

    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        self.0.values()
    }
}

/// One counter per [`CloseReason`].
#[derive(Debug, Default)]
pub struct Closed(ByLabel<{ CloseReason::ALL.len() }>);

impl Closed {
    /// The counter of one reason.
    #[inline]
    pub fn of(&self, reason: CloseReason) -> &Counter {
        &self.0.0[reason as usize]
    }

    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        self.0.values()
    }
}

/// One counter per [`PauseReason`].
#[derive(Debug, Default)]
pub struct Paused(ByLabel<{ PauseReason::ALL.len() }>);

impl Paused {
    /// The counter of one reason.
    #[inline]
    pub fn of(&self, reason: PauseReason) -> &Counter {
        &self.0.0[reason as usize]
    }

    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        self.0.values()
    }
}

/// Reason codes below 0x80 + this are counted apart, what a peer makes up beyond them together.
pub(super) const REASONS: usize = 0x24;

/// One counter per reason code of 0x80 and above.
#[derive(Debug, Default)]
pub struct ByReason(ByLabel<REASONS>);

impl ByReason {
    /// The counter of one reason code.
    #[inline]
    pub fn of(&self, reason: ReasonCode) -> &Counter {
        &self.0.0[usize::from(reason.0.saturating_sub(0x80)).min(REASONS - 1)]
    }

    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        self.0.values()
    }
}

/// Everything one worker counts. Aligned so that no two workers write the same cache line, nor neighbours of a pair
/// that the processor fetches together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Connections whose CONNECT was accepted and that are open.
    pub connections: Level,
    /// Sockets accepted, whatever became of them.
    pub connections_opened: Counter,
    /// Sockets closed, by reason.
    pub connections_closed: Closed,
    /// CONNECT packets accepted, by version.
    pub connects: ByVersion,
    /// CONNECT packets refused, by the reason code of CONNACK.
    pub connects_refused: ByReason,
    /// Connections that waited because their client identifier was taken over again and again.
    pub takeovers_delayed: Counter,
    /// Failed authentications, of CONNECT and of re-authentication, by reason code.
    pub authentication_failures: ByReason,
    /// PUBLISH packets from clients that were taken, by QoS. A QoS 2 message sent again counts once.
    pub messages_received: ByQoS,
    /// PUBLISH packets sent to subscribers, by QoS. A message sent again counts once.
    pub messages_delivered: ByQoS,
    /// PUBLISH packets sent again after a reconnect.
    pub messages_resent: Counter,
    /// Messages that a matching session or subscriber did not get, by reason.
    pub messages_dropped: Dropped,
    /// Publishes refused, by the reason code of PUBACK, PUBREC or, at QoS 0, the one they would have had.
    pub publishes_refused: ByReason,
    /// Subscriptions refused, by the reason code of SUBACK.
    pub subscriptions_refused: ByReason,
    /// Connections the node ended with this reason code because the client broke the protocol.
    pub protocol_errors: ByReason,
    /// Packets received, by type.
    pub packets_received: ByPacketType,
    /// Bytes received from clients, above TCP, TLS and WebSocket.
    pub bytes_received: Counter,
    /// Bytes sent to clients, above TCP, TLS and WebSocket.
    pub bytes_sent: Counter,
    /// Publishes that set or replace a retained message.
    pub retained_set: Counter,
    /// Publishes that delete a retained message by an empty payload.
    pub retained_cleared: Counter,
    /// Retained messages sent because of a subscription.
    pub retained_sent: Counter,
    /// Times a connection was not read for a while, by reason.
    pub reads_paused: Paused,
    /// From the last byte of a QoS 1 or 2 PUBLISH to its PUBACK or PUBREC.
    pub publish_ack: Histogram,
}

/// A worker's handle to its counters: the only one that can be used for writing by intent, and not `Sync`, so that one
/// thread has it at a time. [`super::Metrics::add_worker`] gives it out.
#[derive(Debug)]
pub struct WorkerMetrics {
    counters: Arc<WorkerCounters>,
    one_thread: PhantomData<Cell<()>>,
}

impl WorkerMetrics {
    pub(super) fn new(counters: Arc<WorkerCounters>) -> Self {
        Self {
            counters,
            one_thread: PhantomData,
        }
    }

    /// Counters that nobody exports, for tests.
    pub fn detached() -> Self {
        Self::new(Arc::default())
    }
}

impl Deref for WorkerMetrics {
    type Target = WorkerCounters;

    #[inline]
    fn deref(&self) -> &WorkerCounters {
        &self.counters
    }
}
