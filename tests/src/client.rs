//! Test clients: [`RawClient`] sends whatever it is told and says what comes back; [`Client`] keeps the rules.
//!
//! Nothing here sleeps to see whether something happens. Waiting is for a condition, bounded by [`DEADLINE`]; that
//! something does *not* happen is shown by something later that does.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::transport::{Read, Transport};
use crate::wire::{
    Ack, Connack, ConnectBuilder, Disconnect, Encode, Filter, Packet, Property, Publish, PublishBuilder,
    Suback, Version, disconnect, filter, puback, pubcomp, pubrec, pubrel, split, subscribe, unsubscribe,
};

/// How long a condition may take. Generous, as only a failing test waits for it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What [`RawClient::next`] found.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A packet.
    Packet(Packet),
    /// The end of the connection.
    Closed,
}

/// A connection on which a test may send anything.
pub struct RawClient {
    /// The stream.
    pub transport: Transport,
    version: Version,
    received: Vec<u8>,
}

impl RawClient {
    /// Connects over TCP.
    pub async fn tcp(address: SocketAddr, version: Version) -> Self {
        let transport = Transport::tcp(address)
            .await
            .unwrap_or_else(|error| panic!("no connection: {error}"));
        Self::over(transport, version)
    }

    /// Connects over WebSocket.
    pub async fn websocket(address: SocketAddr, version: Version) -> Self {
        let upgraded = Transport::websocket(address, "/mqtt", &["mqtt"]).await;
        let (transport, _) = upgraded.unwrap_or_else(|error| panic!("no WebSocket: {error}"));
        Self::over(transport, version)
    }

    /// Uses a stream that exists.
    pub fn over(transport: Transport, version: Version) -> Self {
        Self {
            transport,
            version,
            received: Vec::new(),
        }
    }

    /// The protocol version this client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Sends a packet or bytes.
    pub async fn send<P: Encode + ?Sized>(&mut self, packet: &P) {
        let bytes = packet.encode(self.version);
        self.transport
            .write(&bytes)
            .await
            .unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends what may meet a connection that the broker has already closed.
    pub async fn send_if_open<P: Encode + ?Sized>(&mut self, packet: &P) {
        let bytes = packet.encode(self.version);
        let _ = self.transport.write(&bytes).await;
    }

    /// The next packet or the end, whichever comes, by the time given; `None` when neither did.
    pub async fn next_by(&mut self, by: Instant) -> Option<Event> {
        loop {
            let found =
                split(&self.received, self.version).unwrap_or_else(|what| panic!("the broker sent {what}"));
            if let Some((packet, size)) = found {
                self.received.drain(..size);
                return Some(Event::Packet(packet));
            }
            match timeout_at(by, self.transport.read()).await.ok()? {
                Ok(Read::Bytes(bytes)) => self.received.extend(bytes),
                Ok(Read::Closed) => {
                    assert!(
                        self.received.is_empty(),
                        "closed within a packet: {:02X?}",
                        self.received
                    );
                    return Some(Event::Closed);
                }
                Err(error) => panic!("cannot receive: {error}"),
            }
        }
    }

    /// The next packet or the end.
    pub async fn next(&mut self) -> Event {
        match self.next_by(Instant::now() + DEADLINE).await {
            Some(event) => event,
            None => panic!("nothing arrived in {DEADLINE:?}"),
        }
    }

    /// The next packet.
    pub async fn receive(&mut self) -> Packet {
        match self.next().await {
            Event::Packet(packet) => packet,
            Event::Closed => panic!("the broker closed the connection instead of sending a packet"),
        }
    }

    /// The end, as the next thing.
    pub async fn expect_closed(&mut self) {
        assert_eq!(self.next().await, Event::Closed);
    }

    /// The end after any packets, which are returned.
    pub async fn drain_until_closed(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Event::Packet(packet) = self.next().await {
            packets.push(packet);
        }
        packets
    }

    /// At MQTT 5 a DISCONNECT with this reason, then the end; before MQTT 5 just the end [MQTT-4.13.1-1].
    pub async fn expect_disconnect(&mut self, code: u8) -> Option<Disconnect> {
        let mut packet = None;
        if self.version == Version::V5 {
            let disconnect = self.expect_disconnect_packet().await;
            assert_eq!(
                disconnect.code, code,
                "DISCONNECT 0x{:02X}, not 0x{code:02X}",
                disconnect.code
            );
            packet = Some(disconnect);
        }
        self.expect_closed().await;
        packet
    }

    /// The CONNACK of a refusal, then the end. `None` stands for an end without CONNACK.
    pub async fn expect_refused(&mut self, code: Option<u8>) {
        if let Some(code) = code {
            let connack = self.expect_connack().await;
            assert_eq!(
                connack.code, code,
                "CONNACK 0x{:02X}, not 0x{code:02X}",
                connack.code
            );
        }
        self.expect_closed().await;
    }

    /// What becomes of a CONNECT that is malformed or breaks the protocol: at MQTT 5 a CONNACK with this code, before
    /// MQTT 5 nothing, and in any case the end [MQTT-3.1.4-1].
    pub async fn expect_connect_rejected(&mut self, code: u8) {
        self.expect_refused((self.version == Version::V5).then_some(code))
            .await;
    }

    /// Takes the next packet apart with `pick`, which returns what it does not want.
    pub async fn expect_packet<T>(&mut self, pick: impl FnOnce(Packet) -> Result<T, Packet>) -> T {
        match pick(self.receive().await) {
            Ok(picked) => picked,
            Err(other) => panic!("the broker sent {other:?}"),
        }
    }

    /// Sends CONNECT; the CONNACK must be a success.
    pub async fn connect(&mut self, packet: &ConnectBuilder) -> Connack {
        self.send(packet).await;
        let connack = self.expect_connack().await;
        assert_eq!(connack.code, 0, "refused: {connack:?}");
        connack
    }

    /// Subscribes as the first thing on a connection.
    pub async fn subscribe(&mut self, filters: impl IntoIterator<Item = Filter>) -> Suback {
        self.send(&subscribe(1, filters)).await;
        self.expect_suback().await
    }
}

/// `expect_...` for each packet: the next packet must be that one.
macro_rules! expect {
    ($($method:ident -> $variant:ident),* $(,)?) => {
        impl RawClient {
            $(
                #[doc = concat!(stringify!($variant), ", as the next thing.")]
                pub async fn $method(&mut self) -> expect!(@type $variant) {
                    self.expect_packet(|packet| match packet {
                        Packet::$variant(it) => Ok(it),
                        other => Err(other),
                    })
                    .await
                }
            )*
        }
    };
    (@type Connack) => { Connack };
    (@type Publish) => { Publish };
    (@type Suback) => { Suback };
    (@type Unsuback) => { Suback };
    (@type Disconnect) => { Disconnect };
    (@type Auth) => { crate::wire::Auth };
    (@type $ack:ident) => { Ack };
}

expect! {
    expect_connack -> Connack, expect_publish -> Publish, expect_puback -> Puback, expect_pubrec -> Pubrec,
    expect_pubrel -> Pubrel, expect_pubcomp -> Pubcomp, expect_suback -> Suback, expect_unsuback -> Unsuback,
    expect_disconnect_packet -> Disconnect, expect_auth -> Auth,
}

impl RawClient {
    /// PINGREQ, and PINGRESP as the next thing: nothing else was on the way, and the connection lives.
    pub async fn expect_alive(&mut self) {
        self.send(&[0xC0, 0x00]).await;
        assert_eq!(self.receive().await, Packet::Pingresp);
    }
}

/// A client that follows the protocol: acknowledges what it gets, and waits for the acknowledgement of what it sends.
pub struct Client {
    /// The connection below.
    pub raw: RawClient,
    /// The CONNACK.
    pub connack: Connack,
    inbox: VecDeque<Publish>,
    next_id: u16,
}

impl Client {
    /// Connects over TCP with this CONNECT.
    pub async fn connect(address: SocketAddr, version: Version, packet: &ConnectBuilder) -> Self {
        Self::over(RawClient::tcp(address, version).await, packet).await
    }

    /// Connects on a stream that exists.
    pub async fn over(mut raw: RawClient, packet: &ConnectBuilder) -> Self {
        let connack = raw.connect(packet).await;
        Self {
            raw,
            connack,
            inbox: VecDeque::new(),
            next_id: 0,
        }
    }

    fn next_id(&mut self) -> u16 {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.next_id
    }

    /// Subscribes with this QoS, which must be granted.
    pub async fn subscribe(&mut self, topic_filter: &str, qos: u8) {
        let suback = self.subscribe_with([filter(topic_filter).qos(qos)], []).await;
        assert_eq!(suback.codes, [qos], "subscription to {topic_filter}");
    }

    /// Subscribes with options and properties.
    pub async fn subscribe_with(
        &mut self,
        filters: impl IntoIterator<Item = Filter>,
        properties: impl IntoIterator<Item = Property>,
    ) -> Suback {
        let id = self.next_id();
        let packet = properties
            .into_iter()
            .fold(subscribe(id, filters), |packet, property| {
                packet.property(property)
            });
        self.raw.send(&packet).await;
        let suback = self.until(|packet| matches!(packet, Packet::Suback(_))).await;
        let Packet::Suback(suback) = suback else {
            unreachable!("just matched")
        };
        assert_eq!(suback.id, id, "SUBACK for another SUBSCRIBE [MQTT-3.8.4-2]");
        suback
    }

    /// Subscribes again and again until there is a retained message, and returns it.
    pub async fn subscribe_until_retained(&mut self, topic_filter: &str) -> Publish {
        const PAUSE: Duration = Duration::from_millis(50);
        let deadline = Instant::now() + DEADLINE;
        while self.inbox.is_empty() {
            assert!(
                Instant::now() < deadline,
                "nothing is retained under {topic_filter}"
            );
            self.subscribe(topic_filter, 1).await;
            if let Some(Event::Packet(packet)) = self.raw.next_by(Instant::now() + PAUSE).await {
                self.handle(packet).await;
            }
        }
        self.receive().await
    }

    /// Unsubscribes.
    pub async fn unsubscribe(&mut self, topic_filter: &str) -> Suback {
        let id = self.next_id();
        self.raw.send(&unsubscribe(id, [topic_filter])).await;
        let unsuback = self.until(|packet| matches!(packet, Packet::Unsuback(_))).await;
        let Packet::Unsuback(unsuback) = unsuback else {
            unreachable!("just matched")
        };
        assert_eq!(unsuback.id, id, "UNSUBACK for another UNSUBSCRIBE");
        unsuback
    }

    /// Publishes and completes the exchange; returns the reason code of PUBACK or PUBREC.
    pub async fn publish(&mut self, packet: PublishBuilder) -> u8 {
        let qos = packet.qos;
        let packet = if qos > 0 && packet.id.is_none() {
            packet.id(self.next_id())
        } else {
            packet
        };
        let id = packet.id;
        self.raw.send(&packet).await;
        match qos {
            0 => 0,
            1 => {
                self.acknowledgement(id, |packet| matches!(packet, Packet::Puback(_)))
                    .await
            }
            _ => {
                let code = self
                    .acknowledgement(id, |packet| matches!(packet, Packet::Pubrec(_)))
                    .await;
                if code < 0x80 {
                    self.raw.send(&pubrel(id.expect("set above"))).await;
                    self.acknowledgement(id, |packet| matches!(packet, Packet::Pubcomp(_)))
                        .await;
                }
                code
            }
        }
    }

    async fn acknowledgement(&mut self, id: Option<u16>, is_it: impl Fn(&Packet) -> bool) -> u8 {
        let (Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubcomp(ack)) = self.until(is_it).await
        else {
            panic!("only acknowledgements are asked for")
        };
        assert_eq!(
            Some(ack.id),
            id,
            "acknowledgement of another packet [MQTT-2.2.1-5]"
        );
        ack.code
    }

    /// The next packet that `is_it`; messages that arrive before it wait in the inbox, exchanges of QoS 2 go on.
    async fn until(&mut self, is_it: impl Fn(&Packet) -> bool) -> Packet {
        loop {
            let packet = self.raw.receive().await;
            if is_it(&packet) {
                return packet;
            }
            self.handle(packet).await;
        }
    }

    async fn handle(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => {
                match (publish.qos, publish.id) {
                    (1, Some(id)) => self.raw.send(&puback(id)).await,
                    (2, Some(id)) => self.raw.send(&pubrec(id)).await,
                    _ => {}
                }
                self.inbox.push_back(publish);
            }
            Packet::Pubrel(ack) => self.raw.send(&pubcomp(ack.id)).await,
            other => panic!("the broker sent {other:?}"),
        }
    }

    /// The next message; its exchange is completed as far as it is the client's turn.
    pub async fn receive(&mut self) -> Publish {
        while self.inbox.is_empty() {
            let packet = self.raw.receive().await;
            self.handle(packet).await;
        }
        self.inbox.pop_front().expect("just filled")
    }

    /// A message that has already arrived.
    pub fn waiting(&mut self) -> Option<Publish> {
        self.inbox.pop_front()
    }

    /// The next message must have this payload.
    pub async fn expect(&mut self, payload: impl AsRef<[u8]> + Debug) -> Publish {
        let publish = self.receive().await;
        assert_eq!(
            publish.payload,
            payload.as_ref(),
            "expected {payload:?}, got {publish:?}"
        );
        publish
    }

    /// The payloads of the next messages.
    pub async fn receive_texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.receive().await.text().into());
        }
        texts
    }

    /// PINGREQ and its answer; messages that arrive before it wait in the inbox.
    pub async fn ping(&mut self) {
        self.raw.send(&[0xC0, 0x00]).await;
        self.until(|packet| *packet == Packet::Pingresp).await;
    }

    /// Ends the connection normally; returns once the broker has closed it, so that what follows comes after it.
    pub async fn disconnect(self) {
        self.disconnect_with(&disconnect()).await;
    }

    /// Ends the connection with this DISCONNECT.
    pub async fn disconnect_with(mut self, packet: &impl Encode) {
        self.raw.send(packet).await;
        self.raw.drain_until_closed().await;
    }
}
