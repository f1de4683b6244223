//! Behaviour tests, named by clause (of MQTT 5 where nothing else is said); one body runs for every version it
//! applies to. [`Side`] is a connection together with its client.

mod acknowledge;
mod aliases;
mod authenticate;
mod connect;
mod deliver;
mod disconnect;
mod exactly_once;
mod keep_alive;
mod publish;
mod sequences;
mod subscribe;
mod track;
mod will;

use std::sync::Arc;

use super::{
    Action, Close, Connection, ConnectionSettings, Decision, DeliverResult, Delivery, DeliveryPhase,
    DeliveryToken, Instant, OpenRequest, Opened, PacketIdSource, PublishOutcome, PublishToken,
    TrackedDelivery,
};
use crate::codec::{
    Ack, Connack, Connect, Disconnect, Frame, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode,
    SubscriptionIds,
};
use crate::message::Message;

const V3: [ProtocolVersion; 2] = [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1];
const EVERY: [ProtocolVersion; 3] = [
    ProtocolVersion::V3_1,
    ProtocolVersion::V3_1_1,
    ProtocolVersion::V5,
];
const MATCHED: PublishOutcome = PublishOutcome::Accepted { matched: true };

/// The server's side, and what the client reads from it.
struct Side {
    connection: Connection,
    version: ProtocolVersion,
    now: Instant,
    out: Vec<u8>,
}

impl Side {
    /// Awaiting CONNECT. The version is printed, to be seen with a failure.
    fn new(version: ProtocolVersion, settings: ConnectionSettings) -> Self {
        println!("{version:?}");
        let connection = Connection::new(Arc::new(settings), Instant(1_000));
        Self {
            connection,
            version,
            now: Instant(1_000),
            out: Vec::new(),
        }
    }

    /// Connected, a session that ends with the connection.
    fn connected(version: ProtocolVersion) -> Self {
        Self::with(version, ConnectionSettings::default(), |_| {}).0
    }

    /// Connected, a session that outlives the connection.
    fn durable(version: ProtocolVersion) -> Self {
        Self::with(version, ConnectionSettings::default(), ask_durable).0
    }

    /// Connected by a CONNECT that `edit` has changed; with the CONNACK.
    fn with(
        version: ProtocolVersion,
        settings: ConnectionSettings,
        edit: impl FnOnce(&mut Connect<'static>),
    ) -> (Self, Connack<'static>) {
        let mut side = Self::new(version, settings);
        side.request_open(edit);
        let connack = side.open(Opened::default());
        (side, connack)
    }

    /// CONNECT, accepted by the host.
    fn request_open(&mut self, edit: impl FnOnce(&mut Connect<'static>)) -> OpenRequest {
        let mut connect = Connect::new(self.version, "client");
        edit(&mut connect);
        let action = self.send(Packet::Connect(connect)).expect("CONNECT");
        assert!(matches!(action, Action::Authenticate(_)), "{action:?}");
        assert!(!self.connection.ready_for_frames(), "a decision is outstanding");
        match self.accept() {
            Ok(Action::Open(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn accept(&mut self) -> Result<Action<'static>, Close> {
        self.decide(Decision::Accept {
            data: None,
            assigned_client_id: Some("assigned"),
        })
    }

    fn decide(&mut self, decision: Decision<'_>) -> Result<Action<'static>, Close> {
        self.connection
            .handle_authenticated(decision, self.now, &mut self.out)
    }

    fn open(&mut self, opened: Opened) -> Connack<'static> {
        self.connection
            .handle_opened(opened, self.now, &mut self.out)
            .expect("room for CONNACK");
        match self.receive_one() {
            Packet::Connack(connack) => connack,
            other => panic!("{other:?}"),
        }
    }

    /// The client sends a packet. The bytes are leaked, so that what borrows from them outlives the test.
    fn send(&mut self, packet: Packet<'_>) -> Result<Action<'static>, Close> {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes);
        self.send_bytes(bytes)
    }

    fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<Action<'static>, Close> {
        let frame = Frame::parse(bytes.leak(), u32::MAX).unwrap().unwrap();
        let result = self.connection.handle_frame(frame, self.now, &mut self.out);
        self.connection.check_invariants();
        result
    }

    /// The client sends a packet that breaks the protocol; the reason it is told, if any.
    fn violate(&mut self, packet: Packet<'_>) -> (ReasonCode, Option<ReasonCode>) {
        let close = self.send(packet).expect_err("a violation");
        self.close(close)
    }

    /// Closed with this; what the client is told of it.
    fn close(&mut self, close: Close) -> (ReasonCode, Option<ReasonCode>) {
        self.connection.close(&close, &mut self.out);
        self.connection.check_invariants();
        assert!(self.connection.is_closed());
        let told = match self.receive().as_slice() {
            [] => None,
            [Packet::Disconnect(disconnect)] => Some(disconnect.reason),
            [Packet::Connack(connack)] => Some(connack.reason),
            other => panic!("{other:?}"),
        };
        (close.reason, told)
    }

    /// What a violation looks like for a connected client of this version.
    fn told(&self, reason: ReasonCode) -> (ReasonCode, Option<ReasonCode>) {
        (reason, (self.version == ProtocolVersion::V5).then_some(reason))
    }

    /// All the server wrote since the last call.
    fn receive(&mut self) -> Vec<Packet<'static>> {
        let mut bytes: &'static [u8] = std::mem::take(&mut self.out).leak();
        let mut packets = Vec::new();
        while !bytes.is_empty() {
            let frame = Frame::parse(bytes, u32::MAX).unwrap().unwrap();
            packets.push(Packet::decode(frame, self.version).unwrap());
            bytes = &bytes[frame.size..];
        }
        packets
    }

    fn receive_one(&mut self) -> Packet<'static> {
        let mut packets = self.receive();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.remove(0)
    }

    /// All the server wrote, which is PUBLISH only.
    fn receive_publishes(&mut self) -> Vec<Publish<'static>> {
        let publish = |packet| match packet {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        };
        self.receive().into_iter().map(publish).collect()
    }

    /// The client publishes; the host gets the token.
    fn publish(&mut self, qos: QoS, number: u16) -> Option<PublishToken> {
        match self.send(Packet::Publish(publish(qos, number))) {
            Ok(Action::Publish(request)) => request.token,
            other => panic!("{other:?}"),
        }
    }

    /// A publish at QoS 1 or 2 and its outcome.
    fn publish_with(&mut self, qos: QoS, number: u16, outcome: PublishOutcome) -> Result<(), Close> {
        let token = self.publish(qos, number).expect("a token above QoS 0");
        self.outcome(token, outcome)
    }

    fn outcome(&mut self, token: PublishToken, outcome: PublishOutcome) -> Result<(), Close> {
        let result = self
            .connection
            .handle_publish_outcome(token, outcome, &mut self.out);
        self.connection.check_invariants();
        result
    }

    fn deliver(&mut self, message: &Message, qos: QoS) -> DeliverResult {
        self.deliver_as(
            message,
            Delivery {
                retain: false,
                ..Delivery::of(message, qos)
            },
        )
    }

    fn deliver_as(&mut self, message: &Message, delivery: Delivery<'_>) -> DeliverResult {
        let mut own = || message.clone();
        let result = self
            .connection
            .deliver(&delivery, &mut own, self.now, &mut self.out);
        self.connection.check_invariants();
        result
    }

    fn deliver_tracked(&mut self, delivery: &TrackedDelivery<'_>) -> DeliverResult {
        let result = self.connection.deliver_tracked(delivery, self.now, &mut self.out);
        self.connection.check_invariants();
        result
    }
}

fn ask_durable(connect: &mut Connect<'static>) {
    match connect.version {
        ProtocolVersion::V5 => connect.session_expiry_secs = Some(3_600),
        _ => connect.clean_start = false,
    }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn publish(qos: QoS, number: u16) -> Publish<'static> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: "sensors/kitchen",
        packet_id: (qos > QoS::AtMostOnce).then(|| id(number)),
        topic_alias: None,
        message_expiry_secs: None,
        payload_is_utf8: false,
        subscription_ids: SubscriptionIds::default(),
        response_topic: None,
        forwardable: Vec::new().into(),
        payload: b"21.5",
    }
}

fn ack(number: u16) -> Ack<'static> {
    Ack::new(id(number), ReasonCode::SUCCESS)
}

fn message(payload: &str) -> Message {
    Message::new(
        "sensors/kitchen",
        &[],
        payload.as_bytes(),
        QoS::ExactlyOnce,
        false,
        None,
    )
}

fn disconnect(reason: ReasonCode) -> Packet<'static> {
    Packet::Disconnect(Disconnect::new(reason))
}

fn tracked(message: &Message, token: u64, qos: QoS) -> TrackedDelivery<'_> {
    TrackedDelivery {
        token: DeliveryToken(token),
        packet_id: PacketIdSource::Derived {
            group: 0,
            sequence: token,
        },
        message,
        qos,
        retain: false,
        subscription_ids: &[],
        expires_at: None,
        phase: DeliveryPhase::Fresh,
    }
}

/// A connection is small, and an idle one has no memory besides its client identifier.
#[test]
fn size_of_a_connection() {
    let size = std::mem::size_of::<Connection>();
    println!("size_of::<Connection>() = {size}");
    assert!(size <= 320, "{size} bytes");
}
