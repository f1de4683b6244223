//! The connection: takes frames apart and hands them to the part that knows the rules.
//!
//! [`Lifecycle`] stands before and after, [`Inbound`] and [`Outbound`] are what happens while connected.

use std::sync::Arc;

use super::inbound::Inbound;
use super::keep_alive::KeepAlive;
use super::lifecycle::{self, Lifecycle};
use super::outbound::Outbound;
use super::subscribe::{check_subscribe, check_unsubscribe};
use super::{
    Action, Close, ConnectionSettings, Decision, DeliverResult, Delivery, DropReason, Farewell, Instant,
    Opened, PublishOutcome, PublishToken, QueueDrops, TrackedDelivery,
};
use crate::codec::{
    Disconnect, Frame, Packet, PacketId, PacketType, ProtocolVersion, Publish, ReasonCode, Suback, Unsuback,
    encode_pingresp,
};
use crate::message::Message;

const SECOND_CONNECT: Close = Close::new(ReasonCode::PROTOCOL_ERROR, "second CONNECT [MQTT-3.1.0-2]");
const SERVERS_PACKET: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "packet that only a server sends [MQTT5 2.1.2]",
);

/// The server's side of one network connection. The order of calls stands on [the module](super).
#[derive(Debug)]
pub struct Connection {
    settings: Arc<ConnectionSettings>,
    lifecycle: Lifecycle,
    keep_alive: KeepAlive,
    inbound: Inbound,
    outbound: Outbound,
    /// SUBSCRIBE and UNSUBSCRIBE packets without an answer.
    requests_pending: u16,
}

impl Connection {
    /// A connection that awaits CONNECT. How long it may is the host's to watch.
    pub fn new(settings: Arc<ConnectionSettings>, now: Instant) -> Self {
        Self {
            settings,
            lifecycle: Lifecycle::new(),
            keep_alive: KeepAlive::new(0, now),
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            requests_pending: 0,
        }
    }

    /// Takes one frame; appends what is to be sent at once to `out`, and says what the host has to do.
    ///
    /// # Errors
    ///
    /// The client broke the protocol: hand the [`Close`] to [`Connection::close`].
    #[inline]
    pub fn handle_frame<'a>(
        &mut self,
        frame: Frame<'a>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Action<'a>, Close> {
        self.keep_alive.touch(now);
        if !self.is_connected() {
            return self.lifecycle.handle_frame(frame, &self.settings);
        }
        if frame.packet_type == PacketType::Publish {
            let peer = self.lifecycle.peer();
            let publish = Publish::decode(frame, peer.version)?;
            return self.inbound.handle_publish(publish, &self.settings, peer, out);
        }
        self.handle_control(frame, now, out)
    }

    fn handle_control<'a>(
        &mut self,
        frame: Frame<'a>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Action<'a>, Close> {
        let (peer, durable) = (*self.lifecycle.peer(), self.is_durable());
        let action = match Packet::decode(frame, peer.version)? {
            Packet::Puback(puback) => self.outbound.in_flight.handle_puback(&puback)?,
            Packet::Pubrec(pubrec) => self
                .outbound
                .in_flight
                .handle_pubrec(&pubrec, durable, &peer, out)?,
            Packet::Pubcomp(pubcomp) => self.outbound.in_flight.handle_pubcomp(&pubcomp)?,
            Packet::Pubrel(pubrel) => self
                .inbound
                .handle_pubrel(pubrel.packet_id, durable, &peer, out)?,
            Packet::Subscribe(subscribe) => {
                let request = check_subscribe(&subscribe, &self.settings, peer.version)?;
                self.requests_pending = self.requests_pending.saturating_add(1);
                Action::Subscribe(request)
            }
            Packet::Unsubscribe(unsubscribe) => {
                let request = check_unsubscribe(&unsubscribe, &self.settings, peer.version)?;
                self.requests_pending = self.requests_pending.saturating_add(1);
                Action::Unsubscribe(request)
            }
            Packet::Pingreq => {
                encode_pingresp(out);
                Action::None
            }
            Packet::Disconnect(disconnect) => self.handle_disconnect(&disconnect)?,
            Packet::Auth(auth) => self.lifecycle.handle_auth(&auth)?,
            Packet::Connect(_) => return Err(SECOND_CONNECT),
            Packet::Publish(publish) => self.inbound.handle_publish(publish, &self.settings, &peer, out)?,
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                return Err(SERVERS_PACKET);
            }
        };
        // An acknowledgement may have made room.
        self.outbound.send_queued(&self.settings, &peer, now, out);
        Ok(action)
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect<'_>) -> Result<Action<'static>, Close> {
        self.lifecycle.handle_disconnect(disconnect, &self.settings)?;
        self.forget_messages();
        Ok(Action::Disconnected)
    }

    /// Whether frames may be handed in. False while a decision or the opening of the session is outstanding, while
    /// too many requests or (3.x, which knows no receive maximum) publishes wait for their outcome, and after the
    /// end; the host keeps bytes unread meanwhile.
    pub fn ready_for_frames(&self) -> bool {
        if !self.is_connected() {
            return self.lifecycle.awaits_client();
        }
        let has_quota = self.lifecycle.peer().reads_reasons();
        self.requests_pending < self.settings.requests_pending_max.max(1)
            && (has_quota || self.inbound.outstanding() < u32::from(self.settings.receive_maximum_in))
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
        self.keep_alive.touch(now);
        self.lifecycle.handle_authenticated(decision, &self.settings, out)
    }

    /// The session of an [`Action::Open`] is open: answers CONNECT with CONNACK, and is ready for frames.
    ///
    /// # Errors
    ///
    /// The client's maximum packet size has no room for the CONNACK.
    pub fn handle_opened(&mut self, opened: Opened, now: Instant, out: &mut Vec<u8>) -> Result<(), Close> {
        if let Some(granted) = self.lifecycle.handle_opened(&opened, &self.settings, now, out)? {
            self.keep_alive = granted.keep_alive;
            self.outbound = granted.outbound;
            self.inbound.restore(&opened.inbound);
        }
        Ok(())
    }

    /// The session of an [`Action::Open`] could not be opened: answers CONNECT with CONNACK and is closed.
    pub fn handle_refused(&mut self, reason: ReasonCode, reason_string: Option<&str>, out: &mut Vec<u8>) {
        self.close(&lifecycle::refusal(reason, reason_string), out);
    }

    /// What became of the publish of an [`Action::Publish`]. Acknowledgements leave in the order of the publishes
    /// [MQTT-4.6.0-2] [MQTT-4.6.0-3], whatever the order of the outcomes.
    ///
    /// # Errors
    ///
    /// A refusal that the client's version has no words for.
    #[inline]
    pub fn handle_publish_outcome(
        &mut self,
        token: PublishToken,
        outcome: PublishOutcome,
        out: &mut Vec<u8>,
    ) -> Result<(), Close> {
        if !self.is_connected() {
            return Ok(());
        }
        self.inbound
            .handle_outcome(token, outcome, self.lifecycle.peer(), out)
    }

    /// The release of an [`Action::Release`] is committed: answers with PUBCOMP; `found` is whether the session knew
    /// the identifier.
    pub fn handle_released(&mut self, packet_id: PacketId, found: bool, out: &mut Vec<u8>) {
        if self.is_connected() {
            self.inbound
                .handle_released(packet_id, found, self.lifecycle.peer(), out);
        }
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
        if !self.is_connected() {
            return Ok(());
        }
        self.requests_pending = self.requests_pending.saturating_sub(1);
        let mut suback = Suback::new(packet_id, reasons);
        if reasons.iter().any(|reason| reason.is_error()) {
            suback.reason_string = Some("not every filter was granted");
        }
        self.lifecycle.peer().write_suback(suback, out)
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
        if !self.is_connected() {
            return Ok(());
        }
        self.requests_pending = self.requests_pending.saturating_sub(1);
        let mut unsuback = Unsuback::new(packet_id, reasons);
        if reasons.iter().any(|reason| reason.is_error()) {
            unsuback.reason_string = Some("not every filter was removed");
        }
        self.lifecycle.peer().write_unsuback(unsuback, out)
    }

    /// The PUBREC of an [`Action::Received`] is committed: answers with PUBREL, 0x92 at MQTT 5 where the identifier
    /// is not in flight.
    pub fn handle_received_committed(&mut self, packet_id: PacketId, out: &mut Vec<u8>) {
        if self.is_connected() {
            self.outbound
                .in_flight
                .handle_received_committed(packet_id, self.lifecycle.peer(), out);
        }
    }

    /// Delivers a message without replication: at once, or when the window has room. `own` gives the shared message
    /// if it has to wait.
    #[inline]
    pub fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        own: &mut dyn FnMut() -> Message,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> DeliverResult {
        if !self.is_connected() {
            return DeliverResult::Dropped(DropReason::NotConnected);
        }
        self.outbound
            .deliver(delivery, own, &self.settings, self.lifecycle.peer(), now, out)
    }

    /// The output has been written: what waited for room there may follow.
    pub fn output_written(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.is_connected() {
            let peer = self.lifecycle.peer();
            self.outbound.send_queued(&self.settings, peer, now, out);
        }
    }

    /// Delivers a message the host keeps track of; it may while [`Connection::window_free`] is not 0 and the output is
    /// not full.
    pub fn deliver_tracked(
        &mut self,
        delivery: &TrackedDelivery<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> DeliverResult {
        if !self.is_connected() {
            return DeliverResult::Dropped(DropReason::NotConnected);
        }
        self.outbound
            .deliver_tracked(delivery, &self.settings, self.lifecycle.peer(), now, out)
    }

    /// Deliveries at QoS 1 and 2 that may be sent now.
    pub fn window_free(&self) -> usize {
        if self.is_connected() {
            self.outbound.in_flight.free()
        } else {
            0
        }
    }

    /// Deliveries at QoS 1 and 2 that the client has not completed.
    pub fn in_flight(&self) -> usize {
        self.outbound.in_flight.len()
    }

    /// Messages that wait for the window, and their bytes.
    pub fn queued(&self) -> (usize, usize) {
        self.outbound.queued()
    }

    /// What was dropped after it had been queued, since the last call; for the counters.
    pub fn take_queue_drops(&mut self) -> QueueDrops {
        self.outbound.take_queue_drops()
    }

    /// Something arrived that is not a whole packet yet, or the host does not read for reasons of its own: the
    /// silence begins anew.
    #[inline]
    pub fn record_activity(&mut self, now: Instant) {
        self.keep_alive.touch(now);
    }

    /// When [`Connection::handle_timeout`] is to be called. It moves with every packet of the client, so a host may
    /// keep an old deadline and look again when that has come.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_connected() {
            self.keep_alive.deadline()
        } else {
            None
        }
    }

    /// Time has passed; too early is harmless. While frames are not taken the silence is not the client's.
    ///
    /// # Errors
    ///
    /// 0x8D: one and a half times the keep alive without a packet [MQTT-3.1.2-22].
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Close> {
        if !self.is_connected() {
            return Ok(());
        }
        if !self.ready_for_frames() {
            self.keep_alive.touch(now);
        }
        self.keep_alive.check(now)
    }

    /// Ends the connection from this side: writes the DISCONNECT or the failing CONNACK, where the version has one.
    /// After the end it does nothing.
    pub fn close(&mut self, close: &Close, out: &mut Vec<u8>) {
        self.lifecycle.close(close, out);
        self.forget_messages();
    }

    /// What waited is lost with the connection.
    fn forget_messages(&mut self) {
        self.inbound = Inbound::default();
        self.outbound = Outbound::default();
        self.requests_pending = 0;
    }

    /// What the end means for the session. To be asked after [`Connection::close`], [`Action::Disconnected`] or the
    /// loss of the socket.
    pub fn farewell(&self) -> Farewell {
        self.lifecycle.farewell()
    }

    /// Gives memory back that is not needed while the connection is idle.
    pub fn trim(&mut self) {
        self.inbound.trim();
        self.outbound.trim();
    }

    /// Protocol version, once the client is accepted.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.client_id().map(|_| self.lifecycle.peer().version)
    }

    /// Client identifier, once accepted.
    pub fn client_id(&self) -> Option<&Arc<str>> {
        self.lifecycle.client_id()
    }

    /// Whether a successful CONNACK was sent and the end has not come.
    #[inline]
    pub fn is_connected(&self) -> bool {
        self.lifecycle.is_connected()
    }

    /// Whether the end has come.
    pub fn is_closed(&self) -> bool {
        self.lifecycle.is_closed()
    }

    /// Whether the session outlives this connection.
    pub fn is_durable(&self) -> bool {
        self.lifecycle.is_durable()
    }

    /// The listener's settings.
    pub fn settings(&self) -> &Arc<ConnectionSettings> {
        &self.settings
    }

    /// Panics on a state that must not be: a bug of ours.
    pub fn check_invariants(&self) {
        self.lifecycle.check_invariants();
        self.inbound
            .check_invariants(&self.settings, self.lifecycle.peer());
        self.outbound.check_invariants();
        let idle = self.in_flight() == 0 && self.queued().0 == 0 && self.inbound.outstanding() == 0;
        assert!(
            self.is_connected() || idle,
            "messages on their way without a connection"
        );
    }
}
