//! The connection: takes frames apart and hands them to the part that knows the rules.

use std::sync::Arc;

use super::{
    Action, Close, ConnectionSettings, Decision, DeliverResult, Delivery, DropReason, Farewell, Instant,
    Opened, PublishOutcome, PublishToken, TrackedDelivery,
};
use crate::codec::{Frame, PacketId, ProtocolVersion, ReasonCode};
use crate::message::Message;

/// The server's side of one network connection. The order of calls stands on [the module](super).
#[derive(Debug)]
pub struct Connection {
    settings: Arc<ConnectionSettings>,
    client_id: Option<Arc<str>>,
}

impl Connection {
    /// A connection that awaits CONNECT. How long it may is the host's to watch.
    pub fn new(settings: Arc<ConnectionSettings>, now: Instant) -> Self {
        let _ = now;
        Self {
            settings,
            client_id: None,
        }
    }

    /// Takes one frame; appends what is to be sent at once to `out`, and says what the host has to do.
    ///
    /// # Errors
    ///
    /// The client broke the protocol: hand the [`Close`] to [`Connection::close`].
    pub fn handle_frame<'a>(
        &mut self,
        frame: Frame<'a>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Action<'a>, Close> {
        let _ = (frame, now, out);
        Ok(Action::None)
    }

    /// Whether frames may be handed in. False while a decision or the opening of the session is outstanding, while
    /// too many requests or (3.x) publishes wait for their outcome, and after the end; the host keeps bytes unread
    /// meanwhile.
    pub fn ready_for_frames(&self) -> bool {
        true
    }

    /// The decision on an [`Action::Authenticate`]. Acceptance of a CONNECT yields [`Action::Open`].
    ///
    /// # Errors
    ///
    /// The client is refused, by the decision or by what follows from it.
    pub fn handle_authenticated(
        &mut self,
        decision: Decision<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Action<'static>, Close> {
        let _ = (decision, now, out);
        Ok(Action::None)
    }

    /// The session of an [`Action::Open`] is open: answers CONNECT with CONNACK, and is ready for frames.
    ///
    /// # Errors
    ///
    /// The client's maximum packet size has no room for the CONNACK.
    pub fn handle_opened(&mut self, opened: Opened, now: Instant, out: &mut Vec<u8>) -> Result<(), Close> {
        let _ = (opened, now, out);
        Ok(())
    }

    /// The session of an [`Action::Open`] could not be opened: answers CONNECT with CONNACK and is closed.
    pub fn handle_refused(&mut self, reason: ReasonCode, reason_string: Option<&str>, out: &mut Vec<u8>) {
        let _ = (reason, reason_string, out);
    }

    /// What became of the publish of an [`Action::Publish`]. Acknowledgements leave in the order of the publishes
    /// [MQTT-4.6.0-2] [MQTT-4.6.0-3], whatever the order of the outcomes.
    ///
    /// # Errors
    ///
    /// A refusal that the client's version has no words for.
    pub fn handle_publish_outcome(
        &mut self,
        token: PublishToken,
        outcome: PublishOutcome,
        out: &mut Vec<u8>,
    ) -> Result<(), Close> {
        let _ = (token, outcome, out);
        Ok(())
    }

    /// The release of an [`Action::Release`] is committed: answers with PUBCOMP; `found` is whether the session knew
    /// the identifier.
    pub fn handle_released(&mut self, packet_id: PacketId, found: bool, out: &mut Vec<u8>) {
        let _ = (packet_id, found, out);
    }

    /// The outcome of an [`Action::Subscribe`], one reason per entry, in order: answers with SUBACK.
    ///
    /// # Errors
    ///
    /// The client's maximum packet size has no room for the SUBACK.
    pub fn handle_subscribed(
        &mut self,
        packet_id: PacketId,
        reasons: &[ReasonCode],
        out: &mut Vec<u8>,
    ) -> Result<(), Close> {
        let _ = (packet_id, reasons, out);
        Ok(())
    }

    /// The outcome of an [`Action::Unsubscribe`], one reason per entry, in order: answers with UNSUBACK.
    ///
    /// # Errors
    ///
    /// The client's maximum packet size has no room for the UNSUBACK.
    pub fn handle_unsubscribed(
        &mut self,
        packet_id: PacketId,
        reasons: &[ReasonCode],
        out: &mut Vec<u8>,
    ) -> Result<(), Close> {
        let _ = (packet_id, reasons, out);
        Ok(())
    }

    /// The PUBREC of an [`Action::Received`] is committed: answers with PUBREL, 0x92 at MQTT 5 where the identifier
    /// is not in flight.
    pub fn handle_received_committed(&mut self, packet_id: PacketId, out: &mut Vec<u8>) {
        let _ = (packet_id, out);
    }

    /// Delivers a message without replication: at once, or when the window has room. `own` gives the shared message
    /// if it has to wait.
    pub fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        own: &mut dyn FnMut() -> Message,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> DeliverResult {
        let _ = (delivery, own, now, out);
        DeliverResult::Dropped(DropReason::NotConnected)
    }

    /// Delivers a message the host keeps track of; it may while [`Connection::window_free`] is not 0.
    pub fn deliver_tracked(
        &mut self,
        delivery: &TrackedDelivery<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> DeliverResult {
        let _ = (delivery, now, out);
        DeliverResult::Dropped(DropReason::NotConnected)
    }

    /// Deliveries at QoS 1 and 2 that may be sent now.
    pub fn window_free(&self) -> usize {
        0
    }

    /// Deliveries at QoS 1 and 2 that the client has not completed.
    pub fn in_flight(&self) -> usize {
        0
    }

    /// Messages that wait for the window, and their bytes.
    pub fn queued(&self) -> (usize, usize) {
        (0, 0)
    }

    /// When [`Connection::handle_timeout`] is to be called. It moves with every packet of the client, so a host may
    /// keep an old deadline and look again when that has come.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Time has passed; too early is harmless.
    ///
    /// # Errors
    ///
    /// 0x8D: one and a half times the keep alive without a packet [MQTT-3.1.2-22].
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Close> {
        let _ = now;
        Ok(())
    }

    /// Ends the connection from this side: writes the DISCONNECT or the failing CONNACK, where the version has one.
    /// After the end it does nothing.
    pub fn close(&mut self, close: &Close, out: &mut Vec<u8>) {
        let _ = (close, out);
    }

    /// What the end means for the session. To be asked after [`Connection::close`], [`Action::Disconnected`] or the
    /// loss of the socket.
    pub fn farewell(&self) -> Farewell {
        Farewell::default()
    }

    /// Gives memory back that is not needed while the connection is idle.
    pub fn trim(&mut self) {}

    /// Protocol version, once CONNECT is in.
    pub fn version(&self) -> Option<ProtocolVersion> {
        None
    }

    /// Client identifier, once accepted.
    pub fn client_id(&self) -> Option<&Arc<str>> {
        self.client_id.as_ref()
    }

    /// Whether a successful CONNACK was sent and the end has not come.
    pub fn is_connected(&self) -> bool {
        false
    }

    /// Whether the end has come.
    pub fn is_closed(&self) -> bool {
        false
    }

    /// Whether the session outlives this connection.
    pub fn is_durable(&self) -> bool {
        false
    }

    /// The listener's settings.
    pub fn settings(&self) -> &Arc<ConnectionSettings> {
        &self.settings
    }

    /// Panics on a state that must not be: a bug of ours.
    pub fn check_invariants(&self) {}
}
