//! The host's part of a run: it hands in frames, does what the actions say in any order, and delivers messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::client::{Client, Expected};
use crate::codec::{
    Connect, Frame, OutboundPublish, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, Will,
};
use crate::fuzz_input::Input;
use crate::message::Message;
use crate::session::{
    Action, AuthenticationRequest, Close, Connection, ConnectionSettings, DeliverResult, Delivery,
    DeliveryPhase, DeliveryToken, DropReason, Instant, OpenRequest, PacketIdSource, PublishOutcome,
    PublishToken, TrackedDelivery,
};

pub(super) const TOPICS: [&str; 5] = [
    "a",
    "sensors/kitchen",
    "sensors/hall/temperature",
    "t/long/long/long/long/long",
    "$x/y",
];

/// What the host still has to answer.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    pub(super) decision: bool,
    pub(super) open: Option<OpenRequest>,
    pub(super) publishes: Vec<PublishToken>,
    pub(super) releases: Vec<PacketId>,
    pub(super) received: Vec<PacketId>,
    /// Identifier, filters, and whether to subscribe.
    pub(super) requests: Vec<(PacketId, usize, bool)>,
}

/// One connection with its client.
pub(super) struct Run {
    pub(super) connection: Connection,
    pub(super) client: Client,
    pub(super) outstanding: Outstanding,
    pub(super) now: Instant,
    pub(super) out: Vec<u8>,
    pub(super) number: u32,
    pub(super) queued: u64,
    pub(super) left_queue: u64,
    pub(super) tracked: BTreeSet<u64>,
    /// The client named an authentication method.
    pub(super) with_method: bool,
}

impl Run {
    /// A connection whose CONNECT is handed in, as the input says.
    pub(super) fn new(input: &mut Input<'_>) -> Self {
        let version = input.pick(&[
            ProtocolVersion::V5,
            ProtocolVersion::V3_1_1,
            ProtocolVersion::V3_1,
        ]);
        let settings = ConnectionSettings {
            receive_maximum_in: u16::from(input.below(5)) + 1,
            window_out_max: u16::from(input.below(5)) + 1,
            topic_alias_max_in: u16::from(input.below(4)),
            topic_alias_max_out: u16::from(input.below(4)),
            topic_bytes_max: 24,
            validate_payload_format: input.flag(),
            queue_messages_max: u32::from(input.below(6)),
            output_bytes_max: 4096,
            requests_pending_max: 2,
            server_keep_alive_secs: input.flag().then_some(10),
            ..ConnectionSettings::default()
        };
        let mut run = Self {
            connection: Connection::new(Arc::new(settings), Instant(0)),
            client: Client::new(version),
            outstanding: Outstanding::default(),
            now: Instant(0),
            out: Vec::new(),
            number: 0,
            queued: 0,
            left_queue: 0,
            tracked: BTreeSet::new(),
            with_method: false,
        };
        run.connect(input);
        run
    }

    fn connect(&mut self, input: &mut Input<'_>) {
        let version = self.client.version;
        let mut connect = Connect::new(version, if input.below(8) == 0 { "" } else { "client" });
        connect.clean_start = input.flag();
        connect.keep_alive_secs = u16::from(input.below(3)) * 10;
        connect.will = input
            .flag()
            .then(|| Will::new("will", b"gone", QoS::AtLeastOnce, false));
        if version == ProtocolVersion::V5 {
            connect.session_expiry_secs = input.flag().then_some(60);
            connect.receive_maximum = u16::from(input.below(6)) + 1;
            connect.topic_alias_maximum = u16::from(input.below(4));
            connect.request_problem_information = input.flag();
            connect.maximum_packet_size = (input.byte() < 64).then(|| u32::from(input.byte()) + 60);
            if input.rarely() {
                connect.maximum_packet_size = Some(u32::from(input.below(50)) + 1);
            }
            self.with_method = input.byte() < 64;
            connect.authentication_method = self.with_method.then_some("method");
        }
        self.client.maximum_packet_size = connect.maximum_packet_size.unwrap_or(u32::MAX);
        let settings = self.connection.settings();
        self.client.alias_maximum = connect.topic_alias_maximum.min(settings.topic_alias_max_out);
        self.client.window = usize::from(connect.receive_maximum.min(settings.window_out_max));
        self.send(&Packet::Connect(connect));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// One step, of the client or of the host.
    pub(super) fn step(&mut self, input: &mut Input<'_>) {
        self.answer_handshake(input);
        self.check();
        match input.below(20) {
            0..=2 => self.send_publish(input),
            3..=7 => self.send_ack(input),
            8 => self.send_other(input),
            9..=10 => self.answer_publish(input),
            11..=13 => self.answer_exchange(input),
            14..=16 => self.deliver(input),
            17..=18 => self.deliver_tracked(input),
            _ => self.pass_time(input),
        }
        self.check();
    }

    /// Answers all there is to answer; then the client must have got all its answers.
    pub(super) fn finish(mut self) {
        let accepted = PublishOutcome::Accepted { matched: true };
        while let Some(token) = self.outstanding.publishes.pop() {
            let result = self
                .connection
                .handle_publish_outcome(token, accepted, &mut self.out);
            self.settle_call(result);
        }
        while let Some(packet_id) = self.outstanding.releases.pop() {
            self.connection.handle_released(packet_id, true, &mut self.out);
        }
        while let Some(packet_id) = self.outstanding.received.pop() {
            self.connection
                .handle_received_committed(packet_id, &mut self.out);
        }
        while let Some((packet_id, count, subscribe)) = self.outstanding.requests.pop() {
            self.answer_request(packet_id, count, subscribe);
        }
        self.check();
        if self.connection.is_connected() {
            self.client.check_answered();
        }
        self.connection.close(
            &Close::new(ReasonCode::SERVER_SHUTTING_DOWN, "end"),
            &mut self.out,
        );
        self.check();
        assert!(self.connection.is_closed());
        assert_eq!(self.connection.farewell().connected, self.client.connected);
    }

    /// The client reads, and everything has to fit together.
    fn check(&mut self) {
        let seen = self.client.publishes_seen;
        self.client.read(&self.out, self.now);
        self.out.clear();
        self.left_queue += self.client.publishes_seen - seen;
        let drops = self.connection.take_queue_drops();
        self.left_queue += drops.expired + drops.packet_too_large;
        self.connection.check_invariants();
        if self.connection.is_connected() {
            assert_eq!(
                self.connection.queued().0 as u64,
                self.queued - self.left_queue,
                "messages in the queue"
            );
            assert_eq!(self.connection.in_flight(), self.client.in_flight(), "in flight");
        }
    }

    pub(super) fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(self.client.version, &mut bytes);
        self.send_bytes(&bytes, Some(packet));
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8], packet: Option<&Packet<'_>>) {
        let Ok(Some(frame)) = Frame::parse(bytes, 1024 * 1024) else {
            return;
        };
        if !self.connection.ready_for_frames() {
            return;
        }
        let decoded = Packet::decode(frame, self.client.version);
        match self.connection.handle_frame(frame, self.now, &mut self.out) {
            Ok(action) => {
                if let Ok(Packet::Publish(publish)) = &decoded
                    && self.client.connected
                {
                    self.check_handed_on(publish, &action);
                }
                let handed_on = matches!(action, Action::Publish(_));
                if let Some(packet) = packet.or(decoded.as_ref().ok()).filter(|_| self.client.connected) {
                    self.client.sent(packet, handed_on);
                }
                self.take(action);
            }
            Err(close) => self.end(&close),
        }
    }

    /// A publish that was taken without complaint is handed on once, under the topic that the client means, unless it
    /// has a fault of its own, which only MQTT 5 has an answer for.
    fn check_handed_on(&self, publish: &Publish<'_>, action: &Action<'_>) {
        let settings = self.connection.settings();
        let topic = self.client.topic_of(publish).expect("an alias that was set");
        let is_valid = topic.len() <= usize::from(settings.topic_bytes_max)
            && !(settings.validate_payload_format
                && publish.payload_is_utf8
                && std::str::from_utf8(publish.payload).is_err());
        let may_be_refused = self.client.version == ProtocolVersion::V5 && publish.qos > QoS::AtMostOnce;
        assert!(
            is_valid || may_be_refused,
            "taken in spite of its fault: {publish:?}"
        );
        let is_new = !self.client.is_repeated(publish, is_valid);
        match action {
            Action::Publish(request) => {
                assert!(is_valid && is_new, "handed on: {publish:?}");
                assert_eq!(&*request.topic, topic, "topic of {publish:?}");
                assert_eq!(request.publish.payload, publish.payload);
            }
            Action::None => assert!(!is_valid || !is_new, "not handed on: {publish:?}"),
            other => panic!("{other:?} for {publish:?}"),
        }
    }

    pub(super) fn take(&mut self, action: Action<'_>) {
        match action {
            Action::None | Action::Disconnected => {}
            Action::Authenticate(request) => {
                let again = matches!(
                    request,
                    AuthenticationRequest::Reauthenticate { .. }
                        | AuthenticationRequest::Continue { again: true, .. }
                );
                assert_eq!(again, self.client.connected);
                self.outstanding.decision = true;
            }
            Action::Open(request) => self.outstanding.open = Some(request),
            Action::Publish(request) => {
                assert!(
                    !request.topic.is_empty() && request.topic.len() <= 24,
                    "topic beyond the limits"
                );
                assert_eq!(request.token.is_some(), request.publish.qos > QoS::AtMostOnce);
                self.outstanding.publishes.extend(request.token);
            }
            Action::Release { packet_id } => self.outstanding.releases.push(packet_id),
            Action::Received { packet_id, .. } => self.outstanding.received.push(packet_id),
            Action::Subscribe(request) => {
                self.outstanding
                    .requests
                    .push((request.packet_id, request.entries.len(), true));
            }
            Action::Unsubscribe(request) => {
                self.outstanding
                    .requests
                    .push((request.packet_id, request.entries.len(), false));
            }
            Action::Settled { token, .. } => assert!(self.tracked.remove(&token.0), "settled twice"),
        }
    }

    pub(super) fn end(&mut self, close: &Close) {
        self.connection.close(close, &mut self.out);
        assert!(self.connection.is_closed());
    }

    pub(super) fn settle_call(&mut self, result: Result<(), Close>) {
        if let Err(close) = result {
            self.end(&close);
        }
    }

    /// A message with its number for payload; `None` if the client cannot take any.
    fn message(
        &mut self,
        input: &mut Input<'_>,
        qos: QoS,
        local: bool,
        dup: bool,
    ) -> (Message, Option<Instant>) {
        self.number += 1;
        let topic = input.pick(&TOPICS);
        let mut payload = self.number.to_be_bytes().to_vec();
        payload.resize(4 + usize::from(input.byte()), b'.');
        let expires_at = input
            .flag()
            .then(|| self.now.plus_millis(u64::from(input.byte()) * 100));
        let expected = Expected {
            topic: topic.into(),
            qos,
            expires_at,
            local,
            dup,
        };
        self.client.expected.insert(self.number, expected);
        (Message::new(topic, &[], &payload, qos, false, None), expires_at)
    }

    fn deliver(&mut self, input: &mut Input<'_>) {
        let qos = input.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
        let (message, expires_at) = self.message(input, qos, true, false);
        let delivery = Delivery {
            expires_at,
            subscription_ids: &[7],
            ..Delivery::of(&message, qos)
        };
        let before = self.client.publishes_seen;
        let result = self
            .connection
            .deliver(&delivery, &mut || message.clone(), self.now, &mut self.out);
        self.client.read(&self.out, self.now);
        self.out.clear();
        let sent = self.client.publishes_seen - before;
        assert_eq!(sent, u64::from(result == DeliverResult::Sent), "{result:?}");
        self.check_dropped(result, &delivery);
        self.queued += u64::from(result == DeliverResult::Queued);
    }

    /// A message is dropped for a reason that it has: it is too large even in full, without an alias.
    fn check_dropped(&self, result: DeliverResult, delivery: &Delivery<'_>) {
        let publish = OutboundPublish {
            topic: delivery.topic,
            payload: delivery.payload,
            forwardable: delivery.forwardable,
            qos: delivery.qos,
            dup: false,
            retain: delivery.retain,
            packet_id: Some(PacketId::MIN).filter(|_| delivery.qos > QoS::AtMostOnce),
            message_expiry_secs: delivery.expires_at.map(|_| 0),
            topic_alias: None,
            subscription_ids: delivery.subscription_ids,
        };
        let size = publish.encoded_len(self.client.version);
        match result {
            DeliverResult::Dropped(DropReason::PacketTooLarge) => {
                assert!(
                    size > self.client.maximum_packet_size as usize,
                    "{size} bytes fit"
                );
            }
            DeliverResult::Dropped(DropReason::Expired) => {
                assert!(
                    delivery.expires_at.is_some_and(|at| at <= self.now),
                    "not expired"
                );
            }
            _ => {}
        }
    }

    fn deliver_tracked(&mut self, input: &mut Input<'_>) {
        let qos = input.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]);
        let phase = input.pick(&[
            DeliveryPhase::Fresh,
            DeliveryPhase::Resent,
            DeliveryPhase::Received,
        ]);
        let sequence = u64::from(input.below(4));
        let derived = PacketIdSource::Derived {
            group: input.below(16),
            sequence,
        };
        let source = if self.connection.is_durable() {
            derived
        } else {
            PacketIdSource::Local
        };
        let (message, expires_at) = self.message(input, qos, false, phase == DeliveryPhase::Resent);
        let qos = if phase == DeliveryPhase::Received {
            QoS::ExactlyOnce
        } else {
            qos
        };
        if phase == DeliveryPhase::Received && source == PacketIdSource::Local {
            return;
        }
        let token = DeliveryToken(u64::from(self.number));
        let delivery = TrackedDelivery {
            token,
            packet_id: source,
            message: &message,
            qos,
            retain: false,
            subscription_ids: &[],
            expires_at,
            phase,
        };
        let had_room = self.connection.window_free() > 0;
        self.client.release_due = source.derived_id().filter(|_| phase == DeliveryPhase::Received);
        let before = self.client.publishes_seen;
        let result = self
            .connection
            .deliver_tracked(&delivery, self.now, &mut self.out);
        self.client.read(&self.out, self.now);
        self.out.clear();
        self.client.release_due = None;
        let sent = self.client.publishes_seen - before;
        let is_published = result == DeliverResult::Sent && phase != DeliveryPhase::Received;
        assert_eq!(sent, u64::from(is_published), "{result:?}");
        assert!(had_room || result != DeliverResult::Sent, "sent without room");
        if phase == DeliveryPhase::Fresh {
            let delivery = Delivery {
                expires_at,
                ..Delivery::of(&message, qos)
            };
            self.check_dropped(result, &delivery);
        }
        if result == DeliverResult::Sent {
            self.tracked.insert(token.0);
        }
    }

    fn pass_time(&mut self, input: &mut Input<'_>) {
        self.now = self.now.plus_millis(u64::from(input.byte()) * 50);
        if input.flag() {
            let result = self.connection.handle_timeout(self.now);
            self.settle_call(result);
        } else {
            self.connection.trim();
        }
    }
}
