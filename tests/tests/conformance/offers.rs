//! Listeners that offer less than everything: what CONNACK says of it, and what happens to clients that do not listen
//! [3.2.2.3].

use std::sync::OnceLock;

use quorate_tests::broker::{Broker, Config, Shared};
use quorate_tests::client::{Client, RawClient};
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Property, Will, connect, filter, publish};
use quorate_tests::{Version, each_version};
use tokio::time::Instant;

use super::start;

/// A broker whose listener `bare` offers as little as possible, `timed` tells clients when to ping, and `mqtt` has
/// response information.
fn broker() -> Shared {
    const BARE: &str = "maximum_qos = 0\nretain_available = false\nwildcard_available = false\nshared_available = false\n\
                        subscription_ids_available = false\ntopic_alias_maximum = 0\nreceive_maximum = 1\n\
                        maximum_packet_size = 2_000";
    static BROKER: OnceLock<Broker> = OnceLock::new();
    Shared(BROKER.get_or_init(|| {
        let config = Config::new()
            .listener("bare", "mqtt", BARE)
            .listener("timed", "mqtt", "server_keep_alive_secs = 1")
            .listener("capped", "mqtt", "keep_alive_secs_max = 60")
            .toml("[limits]\nresponse_information = \"answers/%c\"");
        start(config)
    }))
}

async fn raw(listener: &str, version: Version) -> RawClient {
    RawClient::tcp(broker().address(listener), version).await
}

async fn client(listener: &str, version: Version) -> Client {
    Client::over(raw(listener, version).await, &connect(&Scope::new().id("a"))).await
}

/// [MQTT-3.2.2-9] and section 3.2.2.3: CONNACK says what is missing.
#[tokio::test]
async fn connack_says_what_is_not_offered() {
    let connack = client("bare", Version::V5).await.connack;
    let properties = connack.properties;
    assert_eq!(properties.maximum_qos(), Some(0));
    assert_eq!(properties.retain_available(), Some(0));
    assert_eq!(properties.wildcard_available(), Some(0));
    assert_eq!(properties.shared_available(), Some(0));
    assert_eq!(properties.subscription_ids_available(), Some(0));
    assert!(matches!(properties.topic_alias_maximum(), None | Some(0)));
    assert_eq!(properties.receive_maximum(), Some(1));
    assert_eq!(properties.maximum_packet_size(), Some(2_000));
}

/// [MQTT-3.2.2-11], [MQTT-3.2.2-14], [MQTT-3.2.2-15], [MQTT-3.2.2-18]: packets beyond the offer, each with its code.
#[tokio::test]
async fn packets_beyond_the_offer_are_refused() {
    for (packet, code) in [
        (publish("a", "m").qos(1).id(1), 0x9B),
        (publish("a", "m").qos(2).id(1), 0x9B),
        (publish("a", "m").retain(), 0x9A),
        (publish("a", "m").property(Property::TopicAlias(1)), 0x94),
        (publish("a", [0; 2_000]), 0x95),
    ] {
        let mut client = client("bare", Version::V5).await;
        client.raw.send(&packet).await;
        client.raw.expect_disconnect(code).await;
    }
}

/// [MQTT-3.2.2-12], [MQTT-3.2.2-13]
async fn wills_beyond_the_offer_are_refused(version: Version) {
    for (will, code) in [
        (Will::new("a", "m").qos(1), 0x9B),
        (Will::new("a", "m").qos(2), 0x9B),
        (Will::new("a", "m").retain(), 0x9A),
    ] {
        let mut raw = raw("bare", version).await;
        raw.send(&connect(&Scope::new().id("a")).will(will)).await;
        if version == Version::V5 {
            raw.expect_refused(Some(code)).await;
        } else {
            // No return code fits [MQTT-3.2.2-6 of 3.1.1]: one of the five, or none.
            let packets = raw.drain_until_closed().await;
            assert!(
                packets
                    .iter()
                    .all(|packet| matches!(packet, quorate_tests::wire::Packet::Connack(it) if it.code > 0))
            );
        }
    }
}
each_version!(wills_beyond_the_offer_are_refused);

/// [MQTT-3.2.2-10]; 3.1.1 [MQTT-3.8.4-6]: a higher QoS is taken and a lower one granted.
async fn subscription_above_the_maximum_qos_is_granted_less(version: Version) {
    let mut client = client("bare", version).await;
    let topic = Scope::new().topic("x");
    for qos in 0..=2 {
        assert_eq!(
            client.subscribe_with([filter(&topic).qos(qos)], []).await.codes,
            [0]
        );
    }
    client.publish(publish(&topic, "m")).await;
    client.expect("m").await;
}
each_version!(subscription_above_the_maximum_qos_is_granted_less);

/// Section 3.8.4 and 3.9.3, 3.1.1 [MQTT-3.8.3-2]: filters beyond the offer.
async fn subscriptions_beyond_the_offer_are_refused(version: Version) {
    let mut client = client("bare", version).await;
    let filters = ["a/#", "+", "$share/g/a", "a"].map(|name| filter(name).qos(0));
    let expected = if version == Version::V5 {
        [0xA2, 0xA2, 0x9E, 0]
    } else {
        [0x80, 0x80, 0x80, 0]
    };
    assert_eq!(client.subscribe_with(filters, []).await.codes, expected);
}
each_version!(subscriptions_beyond_the_offer_are_refused: v3_1_1, v5);

/// Section 3.8.2.1.2: subscription identifiers where there are none.
#[tokio::test]
async fn subscription_identifier_beyond_the_offer_is_refused() {
    let mut client = client("bare", Version::V5).await;
    let suback = client
        .subscribe_with([filter("a").qos(0)], [Property::SubscriptionId(1)])
        .await;
    assert_eq!(suback.codes, [0xA1]);
}

/// [MQTT-3.1.2-21], [MQTT-3.2.2-21], section 3.2.2.3.14: the server's keep alive counts, whatever the client said.
#[tokio::test]
async fn server_keep_alive_counts() {
    for asked in [0, 600] {
        let mut raw = raw("timed", Version::V5).await;
        let connack = raw
            .connect(&connect(&Scope::new().id("a")).keep_alive(asked))
            .await;
        let begun = Instant::now();
        assert_eq!(connack.properties.server_keep_alive(), Some(1));
        raw.expect_disconnect(0x8D).await;
        assert!(
            (1_500..2_500).contains(&begun.elapsed().as_millis()),
            "{:?}",
            begun.elapsed()
        );
    }
}

/// [MQTT-3.2.2-22]: older clients cannot be told, so theirs counts.
#[tokio::test]
async fn server_keep_alive_does_not_bind_older_clients() {
    let mut raw = raw("timed", Version::V3_1_1).await;
    raw.connect(&connect(&Scope::new().id("a")).keep_alive(600)).await;
    // No event ends this wait; it is longer than the end of the server's keep alive.
    assert_eq!(
        raw.next_by(Instant::now() + std::time::Duration::from_millis(2_500))
            .await,
        None
    );
    raw.expect_alive().await;
}

/// Section 3.2.2.3.14: a longest keep alive lowers what is above it, none included, and leaves the rest.
#[tokio::test]
async fn longest_keep_alive_lowers_what_is_above_it() {
    for (asked, told) in [(0, Some(60)), (120, Some(60)), (60, None), (5, None)] {
        let mut raw = raw("capped", Version::V5).await;
        let connack = raw
            .connect(&connect(&Scope::new().id("a")).keep_alive(asked))
            .await;
        assert_eq!(connack.properties.server_keep_alive(), told, "asked for {asked}");
    }
}

/// Section 3.2.2.3.15, [MQTT-3.1.2-28]: response information for those who ask.
#[tokio::test]
async fn response_information_is_sent_on_request() {
    let id = Scope::new().id("a");
    for (request, expected) in [
        (Some(1), Some(format!("answers/{id}"))),
        (Some(0), None),
        (None, None),
    ] {
        let packet = request.into_iter().fold(connect(&id), |packet, request| {
            packet.property(Property::RequestResponseInformation(request))
        });
        let connack = broker().client(Version::V5, &packet).await.connack;
        assert_eq!(
            connack.properties.response_information(),
            expected,
            "requested {request:?}"
        );
    }
}
