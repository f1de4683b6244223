//! WebSocket as transport [6].

use quorate_tests::client::{Client, RawClient};
use quorate_tests::scope::Scope;
use quorate_tests::transport::{Read, Transport};
use quorate_tests::wire::{Encode, Packet, Will, connect, filter, publish, subscribe};
use quorate_tests::{Version, each_version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

use super::broker;

async fn websocket(version: Version) -> RawClient {
    RawClient::websocket(broker().address("ws"), version).await
}

/// [MQTT-6.0.0-1]: what works over TCP works here, also across the transports.
async fn websocket_carries_mqtt(version: Version) {
    let scope = Scope::new();
    let mut over_tcp = broker().clean(version, &scope.id("t")).await;
    over_tcp.subscribe(&scope.topic("#"), 2).await;
    let mut client = Client::over(websocket(version).await, &connect(&scope.id("w"))).await;
    client.subscribe(&scope.topic("#"), 2).await;
    for qos in 0..=2 {
        for payload in [vec![], vec![7; 100], vec![8; 200_000]] {
            client
                .publish(publish(&scope.topic("x"), &payload).qos(qos))
                .await;
            assert!(over_tcp.receive().await.payload == payload);
            assert!(client.receive().await.payload == payload);
        }
    }
    client.disconnect().await;
}
each_version!(websocket_carries_mqtt);

/// [MQTT-6.0.0-4], section 6.0; `mqttv3.1` is what clients of 3.1 ask for.
#[tokio::test]
async fn subprotocol_is_chosen_from_the_offered() {
    for (offered, chosen) in [
        (&["mqtt"][..], "mqtt"),
        (&["mqttv3.1"], "mqttv3.1"),
        (&["mqttv3.1.1"], "mqttv3.1.1"),
        (&["other", "mqtt"], "mqtt"),
    ] {
        let (_, response) = Transport::websocket(broker().address("ws"), "/mqtt", offered)
            .await
            .expect("upgraded");
        let header = response
            .headers()
            .get("sec-websocket-protocol")
            .map(|value| value.as_bytes());
        assert_eq!(header, Some(chosen.as_bytes()), "of {offered:?}");
    }
}

/// [MQTT-6.0.0-4]: a client that offers other protocols only is not served, nor is another path.
#[tokio::test]
async fn other_subprotocols_and_paths_are_refused() {
    for (path, offered, status) in [
        ("/mqtt", &["chat"][..], 400),
        ("/other", &["mqtt"], 404),
        ("/", &["mqtt"], 404),
    ] {
        match Transport::websocket(broker().address("ws"), path, offered).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), status, "{path} {offered:?}"),
            Err(other) => panic!("{path} {offered:?}: {other}"),
            Ok(_) => panic!("{path} {offered:?} was upgraded"),
        }
    }
}

/// [MQTT-6.0.0-2]: one byte a frame.
async fn packets_may_span_frames(version: Version) {
    let scope = Scope::new();
    let mut raw = websocket(version).await;
    let mut bytes = connect(&scope.id("a")).encode(version);
    bytes.extend(subscribe(1, [filter(&scope.topic("x"))]).encode(version));
    for byte in bytes {
        raw.transport
            .write_frame(&[byte], Data::Binary, true)
            .await
            .expect("sent");
    }
    raw.expect_connack().await;
    assert_eq!(raw.expect_suback().await.codes, [2]);
}
each_version!(packets_may_span_frames);

/// [MQTT-6.0.0-2]: a message in fragments, empty ones among them, and many packets in one frame.
#[tokio::test]
async fn fragments_and_many_packets_in_a_frame_are_taken() {
    let scope = Scope::new();
    let mut raw = websocket(Version::V5).await;
    let bytes = connect(&scope.id("a")).encode(Version::V5);
    raw.transport
        .write_frame(&bytes[..5], Data::Binary, false)
        .await
        .expect("sent");
    raw.transport
        .write_frame(&[], Data::Continue, false)
        .await
        .expect("sent");
    let ping = Message::Ping(vec![9].into());
    futures_util::SinkExt::send(raw.transport.socket(), ping)
        .await
        .expect("sent");
    raw.transport
        .write_frame(&bytes[5..], Data::Continue, true)
        .await
        .expect("sent");
    raw.expect_connack().await;
    raw.transport
        .write_frame(&[0xC0, 0x00].repeat(50), Data::Binary, true)
        .await
        .expect("sent");
    for _ in 0..50 {
        assert_eq!(raw.receive().await, Packet::Pingresp);
    }
}

/// [MQTT-6.0.0-1]: a text frame ends the connection.
#[tokio::test]
async fn text_frame_ends_the_connection() {
    let scope = Scope::new();
    let mut raw = websocket(Version::V5).await;
    raw.connect(&connect(&scope.id("a"))).await;
    raw.transport
        .write_frame(b"text", Data::Text, true)
        .await
        .expect("sent");
    raw.drain_until_closed().await;
    let mut raw = websocket(Version::V5).await;
    raw.transport
        .write_frame(b"text", Data::Text, true)
        .await
        .expect("sent");
    assert!(raw.drain_until_closed().await.is_empty());
}

/// RFC 6455 section 5.5.2: a ping frame is answered with a pong of the same data, on a connection in use.
#[tokio::test]
async fn ping_frames_are_answered() {
    let mut raw = websocket(Version::V5).await;
    raw.connect(&connect(&Scope::new().id("a"))).await;
    let socket = raw.transport.socket();
    futures_util::SinkExt::send(socket, Message::Ping(vec![1, 2, 3].into()))
        .await
        .expect("sent");
    let answer = futures_util::StreamExt::next(raw.transport.socket())
        .await
        .expect("open")
        .expect("a frame");
    assert_eq!(answer, Message::Pong(vec![1, 2, 3].into()));
}

/// [MQTT-3.1.2-8]: a close frame is an end without DISCONNECT.
#[tokio::test]
async fn close_frame_publishes_the_will() {
    let scope = Scope::new();
    let mut watcher = broker().clean(Version::V5, &scope.id("w")).await;
    watcher.subscribe(&scope.topic("#"), 1).await;
    let mut raw = websocket(Version::V5).await;
    raw.connect(&connect(&scope.id("a")).will(Will::new(&scope.topic("will"), "gone")))
        .await;
    raw.transport.socket().close(None).await.expect("sent");
    watcher.expect("gone").await;
    assert!(matches!(raw.transport.read().await.expect("read"), Read::Closed));
}

/// Sends bytes as they are and returns all that comes back until the end.
async fn exchange(bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(broker().address("ws"))
        .await
        .expect("connected");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    // A reset after the answer is as good an end.
    let _ = tokio::time::timeout(quorate_tests::client::DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("ended");
    answer
}

/// What is not a WebSocket handshake gets an HTTP answer and the end.
#[tokio::test]
async fn plain_http_is_refused() {
    let answer = exchange(b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(
        answer.starts_with(b"HTTP/1.1 4"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    assert!(
        !exchange(b"\x10\x0C\x00\x04MQTT\x05\x02\x00\x00\x00\x00\r\n\r\n")
            .await
            .starts_with(b"\x20")
    );
}

/// A header without end is not read for ever.
#[tokio::test]
async fn endless_handshake_is_refused() {
    let mut request = b"GET /mqtt HTTP/1.1\r\n".to_vec();
    (0..5_000).for_each(|index| request.extend(format!("X-{index}: filler of the header\r\n").bytes()));
    let answer = exchange(&request).await;
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
}
