//! What the server limits towards clients: receive maximum, packet size, topic aliases [3.2.2.3, 4.9].

use quorate_tests::scope::Scope;
use quorate_tests::wire::{Property, connect, filter, publish, pubrel};
use quorate_tests::{Version, each_version};

use super::broker;

/// The server's receive maximum and topic alias maximum, as its CONNACK has them.
const RECEIVE_MAXIMUM: u16 = 100;
const TOPIC_ALIAS_MAXIMUM: u16 = 32;

/// [MQTT-3.3.4-7], section 4.9: one more than the receive maximum ends the connection with 0x93, and the messages
/// within it are not lost.
#[tokio::test]
async fn client_beyond_the_receive_maximum_is_told_and_closed() {
    let scope = Scope::new();
    let mut subscriber = broker().clean(Version::V5, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 0).await;
    let packet = connect(&scope.id("p")).expiry(600);
    let mut raw = broker().raw_client(Version::V5, &packet).await;
    for id in 1..=RECEIVE_MAXIMUM {
        raw.send(&publish(&scope.topic("x"), "within").qos(2).id(id))
            .await;
    }
    for id in 1..=RECEIVE_MAXIMUM {
        assert_eq!(raw.expect_pubrec().await.id, id);
    }
    raw.expect_alive().await;
    raw.send(
        &publish(&scope.topic("x"), "beyond")
            .qos(2)
            .id(RECEIVE_MAXIMUM + 1),
    )
    .await;
    raw.expect_disconnect(0x93).await;
    let mut raw = broker().raw_client(Version::V5, &packet.resume()).await;
    for id in 1..=RECEIVE_MAXIMUM {
        raw.send(&pubrel(id)).await;
        assert_eq!(raw.expect_pubcomp().await.id, id);
    }
    for _ in 0..RECEIVE_MAXIMUM {
        subscriber.expect("within").await;
    }
    subscriber.publish(publish(&scope.topic("x"), "end")).await;
    subscriber.expect("end").await;
}

/// Section 4.9: PUBCOMP gives the place back, so does PUBACK; QoS 0 takes none.
#[tokio::test]
async fn completed_exchanges_give_their_place_back() {
    let scope = Scope::new();
    let mut raw = broker().raw_client(Version::V5, &connect(&scope.id("p"))).await;
    for id in 1..RECEIVE_MAXIMUM {
        raw.send(&publish(&scope.topic("x"), "m").qos(2).id(id)).await;
        raw.expect_pubrec().await;
    }
    for _ in 0..3 {
        for qos in [0, 0, 1, 2] {
            let packet = publish(&scope.topic("x"), "m").qos(qos);
            raw.send(&if qos > 0 { packet.id(500) } else { packet }).await;
            if qos == 1 {
                raw.expect_puback().await;
            }
        }
        raw.expect_pubrec().await;
        raw.send(&pubrel(500)).await;
        raw.expect_pubcomp().await;
    }
    raw.expect_alive().await;
}

/// Section 4.9: a repeated PUBLISH of an exchange on its way is not one more.
#[tokio::test]
async fn repeated_publish_takes_no_further_place() {
    let scope = Scope::new();
    let mut raw = broker().raw_client(Version::V5, &connect(&scope.id("p"))).await;
    for id in 1..=RECEIVE_MAXIMUM {
        raw.send(&publish(&scope.topic("x"), "m").qos(2).id(id)).await;
        raw.expect_pubrec().await;
    }
    raw.send(&publish(&scope.topic("x"), "m").qos(2).id(1).dup())
        .await;
    assert_eq!(raw.expect_pubrec().await.id, 1);
}

/// [MQTT-3.2.2-15], section 3.2.2.3.6: one byte above the maximum packet size ends the connection with 0x95, at the
/// announcement; the maximum itself is taken.
async fn packet_above_the_maximum_size_is_refused(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("x"), 0).await;
    let properties = usize::from(version == Version::V5);
    let room = 1_048_576 - 1 - 3 - 2 - scope.topic("x").len() - properties;
    client.publish(publish(&scope.topic("x"), vec![b'x'; room])).await;
    assert_eq!(client.receive().await.payload.len(), room);
    let mut raw = broker().raw_client(version, &connect(&scope.id("b"))).await;
    raw.send(&[0x30, 0xFD, 0xFF, 0x3F]).await;
    raw.expect_disconnect(0x95).await;
}
each_version!(packet_above_the_maximum_size_is_refused);

/// [MQTT-3.3.2-12], [MQTT-3.3.2-7]: every alias up to the maximum is taken, stands for its topic, and can be set anew.
#[tokio::test]
async fn inbound_aliases_stand_for_their_topics() {
    let scope = Scope::new();
    let mut subscriber = broker().clean(Version::V5, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("#"), 2).await;
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    for round in ["first", "second"] {
        for alias in 1..=TOPIC_ALIAS_MAXIMUM {
            let topic = scope.topic(&format!("{round}/{alias}"));
            publisher
                .publish(publish(&topic, "set").property(Property::TopicAlias(alias)))
                .await;
            assert_eq!(subscriber.expect("set").await.topic, topic);
        }
        for alias in 1..=TOPIC_ALIAS_MAXIMUM {
            let qos = u8::try_from(alias % 3).expect("a QoS");
            publisher
                .publish(publish("", "used").property(Property::TopicAlias(alias)).qos(qos))
                .await;
            let message = subscriber.expect("used").await;
            assert_eq!(message.topic, scope.topic(&format!("{round}/{alias}")));
            assert_eq!(
                message.properties.topic_alias(),
                None,
                "the publisher's alias is not the subscriber's"
            );
        }
    }
}

/// [MQTT-3.3.2-8], [MQTT-3.3.2-9], [MQTT-3.2.2-17]: 0 and more than the maximum are 0x94.
#[tokio::test]
async fn alias_out_of_range_is_refused() {
    for alias in [0, TOPIC_ALIAS_MAXIMUM + 1, 65_535] {
        for topic in ["a", ""] {
            let mut raw = broker()
                .raw_client(Version::V5, &connect(&Scope::new().id("a")))
                .await;
            raw.send(&publish(topic, "m").property(Property::TopicAlias(alias)))
                .await;
            raw.expect_disconnect(0x94).await;
        }
    }
}

/// [MQTT-3.3.2-7], section 3.3.2.3.4: an alias that was never set, or on another connection only, stands for nothing.
#[tokio::test]
async fn unknown_alias_is_a_protocol_error() {
    let scope = Scope::new();
    let packet = connect(&scope.id("a")).expiry(600);
    let mut raw = broker().raw_client(Version::V5, &packet).await;
    raw.send(&publish(&scope.topic("x"), "m").property(Property::TopicAlias(1)))
        .await;
    raw.expect_alive().await;
    drop(raw);
    let mut raw = broker().raw_client(Version::V5, &packet.resume()).await;
    raw.send(&publish("", "m").property(Property::TopicAlias(1)))
        .await;
    raw.expect_disconnect(0x82).await;
}

/// Section 3.8.2.1.2: subscription identifiers of every length on the wire.
#[tokio::test]
async fn largest_subscription_identifier_is_taken() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    for id in [1, 127, 128, 16_383, 16_384, 2_097_152, 268_435_455] {
        client
            .subscribe_with([filter(&scope.topic("x")).qos(0)], [Property::SubscriptionId(id)])
            .await;
        client.publish(publish(&scope.topic("x"), "m")).await;
        assert_eq!(client.expect("m").await.properties.subscription_ids(), [id]);
    }
}
