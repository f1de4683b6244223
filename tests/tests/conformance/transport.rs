//! What lies below MQTT: TCP over IPv4 and IPv6, and the PROXY protocol [4.2].

use std::net::SocketAddr;
use std::time::Duration;

use quorate_tests::client::RawClient;
use quorate_tests::proxy;
use quorate_tests::scope::Scope;
use quorate_tests::transport::Transport;
use quorate_tests::wire::{Encode, connect, publish};
use quorate_tests::{Version, each_version};

use super::broker;

fn addresses(source: &str) -> (SocketAddr, SocketAddr) {
    let destination = if source.starts_with('[') {
        "[2001:db8::2]:1883"
    } else {
        "198.51.100.2:1883"
    };
    (
        source.parse().expect("an address"),
        destination.parse().expect("an address"),
    )
}

async fn proxied() -> RawClient {
    RawClient::tcp(broker().address("proxied"), Version::V5).await
}

/// The client is served, and the line that says why its connection was closed has its address.
async fn expect_known_as(source: SocketAddr, raw: &mut RawClient) {
    raw.connect(&connect(&Scope::new().id("a"))).await;
    raw.send(&[0xC0, 0x01, 0x00]).await;
    raw.expect_disconnect(0x81).await;
    broker().wait_for_log(&source.to_string());
}

/// [MQTT-4.2-1]; 3.1.1 [MQTT-7.1.1-1]
async fn ipv6_works(version: Version) {
    let mut raw = RawClient::tcp(broker().address("ipv6"), version).await;
    raw.connect(&connect(&Scope::new().id("a"))).await;
    raw.expect_alive().await;
}
each_version!(ipv6_works);

/// Sends bytes so that the broker reads most of them one at a time: it gets the time for it.
async fn send_byte_by_byte(raw: &mut RawClient, bytes: &[u8]) {
    for byte in bytes {
        raw.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// [MQTT-4.2-1]: TCP cuts where it likes.
async fn packets_may_come_byte_by_byte(version: Version) {
    let mut raw = broker().raw(version).await;
    let scope = Scope::new();
    let mut bytes = connect(&scope.id("a")).encode(version);
    bytes.extend(publish(&scope.topic("x"), "m").qos(1).id(1).encode(version));
    send_byte_by_byte(&mut raw, &bytes).await;
    raw.expect_connack().await;
    raw.expect_puback().await;
}
each_version!(packets_may_come_byte_by_byte);

/// PROXY protocol specification, sections 2.1 and 2.2: the client's address is the one in the header.
#[tokio::test]
async fn proxy_header_gives_the_clients_address() {
    for (source, has_tlvs) in [
        ("192.0.2.7:40001", false),
        ("[2001:db8::7]:40002", false),
        ("192.0.2.8:40003", true),
    ] {
        let (source, destination) = addresses(source);
        // A TLV of a kind nobody knows (0xEA, 3 bytes) and an empty one.
        let tlvs: &[u8] = if has_tlvs {
            &[0xEA, 0, 3, 1, 2, 3, 0x04, 0, 0]
        } else {
            &[]
        };
        for header in [
            proxy::v1(source, destination),
            proxy::v2(source, destination, tlvs),
        ] {
            let mut raw = proxied().await;
            raw.send(&header).await;
            expect_known_as(source, &mut raw).await;
        }
    }
}

/// Sections 2.1 and 2.2: headers without an address: version 1 UNKNOWN, version 2 LOCAL and an unknown family.
#[tokio::test]
async fn proxy_header_may_have_no_address() {
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(),
        proxy::v2_local(),
        proxy::v2_header(0x21, 0x00, &[]),
    ];
    for header in headers {
        let mut raw = proxied().await;
        raw.send(&header).await;
        raw.connect(&connect(&Scope::new().id("a"))).await;
    }
}

/// A header may come in pieces, and together with the CONNECT.
#[tokio::test]
async fn proxy_header_may_come_in_any_pieces() {
    let (source, destination) = addresses("192.0.2.9:40004");
    for header in [
        proxy::v1(source, destination),
        proxy::v2(source, destination, &[]),
    ] {
        let bytes = [header, connect(&Scope::new().id("a")).encode(Version::V5)].concat();
        let mut raw = proxied().await;
        raw.send(&bytes).await;
        raw.expect_connack().await;
        let mut raw = proxied().await;
        send_byte_by_byte(&mut raw, &bytes).await;
        raw.expect_connack().await;
    }
}

/// Section 2: a listener that expects the header takes nothing else, and a malformed one ends the connection.
#[tokio::test]
async fn missing_or_wrong_proxy_header_ends_the_connection() {
    let too_long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    let wrong = [
        connect("a").encode(Version::V5),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 99999\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(),
        b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n".to_vec(),
        b"PROXY TCP5 192.0.2.1 198.51.100.2 1 2\r\n".to_vec(),
        b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n".to_vec(),
        too_long,
        proxy::v2_header(0x31, 0x11, &[0; 12]),
        proxy::v2_header(0x22, 0x11, &[0; 12]),
        proxy::v2_header(0x21, 0x11, &[0; 11]),
    ];
    for header in wrong {
        let mut raw = proxied().await;
        raw.send(&header).await;
        raw.send_if_open(&connect(&Scope::new().id("a"))).await;
        raw.expect_closed().await;
    }
}

/// Section 2: a header on a listener that does not expect one is no MQTT.
#[tokio::test]
async fn proxy_header_is_not_believed_unasked() {
    let (source, destination) = addresses("192.0.2.10:40005");
    let mut raw = broker().raw(Version::V5).await;
    raw.send(&proxy::v1(source, destination)).await;
    raw.expect_closed().await;
}

/// The header comes before the WebSocket handshake.
#[tokio::test]
async fn proxy_header_precedes_the_websocket_handshake() {
    let (source, destination) = addresses("192.0.2.11:40006");
    let header = proxy::v2(source, destination, &[]);
    let (transport, _) =
        Transport::websocket_behind(broker().address("proxied-ws"), &header, "/mqtt", &["mqtt"])
            .await
            .expect("upgraded");
    let mut raw = RawClient::over(transport, Version::V5);
    expect_known_as(source, &mut raw).await;
}
