//! Message expiry [3.3.2.3.3].

use std::time::Duration;

use quorate_tests::Version;
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Property, connect, filter, pubcomp, publish, pubrec};
use tokio::time::{Instant, sleep_until};

use super::broker;

/// A session with a subscription, its client gone, and messages published to it: payload and expiry in seconds.
async fn queued(scope: Scope, qos: u8, messages: &[(&str, Option<u32>)]) -> Instant {
    let mut client = broker().durable(Version::V5, &scope.id("s")).await;
    client.subscribe(&scope.topic("x"), 2).await;
    client.disconnect().await;
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    let published = Instant::now();
    for (payload, expiry) in messages {
        let packet = publish(&scope.topic("x"), payload).qos(qos);
        let packet = expiry.iter().fold(packet, |packet, secs| {
            packet.property(Property::MessageExpiry(*secs))
        });
        publisher.publish(packet).await;
    }
    published
}

/// [MQTT-3.3.2-5], [MQTT-3.3.2-6]: what has expired is not delivered; what has not is, with the time it has left.
#[tokio::test]
async fn waiting_messages_expire_and_the_rest_carry_what_is_left() {
    for qos in [1, 2] {
        let scope = Scope::new();
        let messages = [
            ("gone", Some(1)),
            ("forever", None),
            ("gone too", Some(2)),
            ("left", Some(100)),
        ];
        let published = queued(scope, qos, &messages).await;
        sleep_until(published + Duration::from_millis(3_200)).await;
        let mut client = broker().durable(Version::V5, &scope.id("s")).await;
        assert_eq!(client.expect("forever").await.properties.message_expiry(), None);
        let left = client
            .expect("left")
            .await
            .properties
            .message_expiry()
            .expect("a remaining time");
        let waited = u32::try_from(published.elapsed().as_secs()).expect("seconds");
        assert!(
            (100 - waited - 1..=97).contains(&left),
            "{left} s are left of 100 after {waited} s"
        );
    }
}

/// [MQTT-3.3.2-6]: a message that did not wait has its whole time.
#[tokio::test]
async fn live_message_carries_its_expiry() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    client.subscribe(&scope.topic("x"), 1).await;
    client
        .publish(
            publish(&scope.topic("x"), "m")
                .qos(1)
                .property(Property::MessageExpiry(100)),
        )
        .await;
    assert_eq!(client.expect("m").await.properties.message_expiry(), Some(100));
}

/// [MQTT-4.3.3-7], [MQTT-4.3.3-13], [MQTT-4.4.0-1]: a message that has been sent does not expire; its exchange goes on.
#[tokio::test]
async fn message_on_its_way_does_not_expire() {
    for qos in [1, 2] {
        let scope = Scope::new();
        let packet = connect(&scope.id("s")).expiry(600);
        let mut raw = broker().raw_client(Version::V5, &packet).await;
        raw.subscribe([filter(&scope.topic("x"))]).await;
        let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
        let message = publish(&scope.topic("x"), "on its way")
            .qos(qos)
            .property(Property::MessageExpiry(1));
        publisher.publish(message).await;
        let id = raw.expect_publish().await.id;
        let sent = Instant::now();
        drop(raw);
        sleep_until(sent + Duration::from_millis(2_200)).await;
        let mut raw = broker().raw_client(Version::V5, &packet.resume()).await;
        let again = raw.expect_publish().await;
        assert_eq!(
            (again.text(), again.id, again.dup),
            ("on its way", id, true),
            "QoS {qos}"
        );
        if qos == 2 {
            let id = id.expect("QoS 2");
            raw.send(&pubrec(id)).await;
            assert_eq!(raw.expect_pubrel().await.id, id);
            raw.send(&pubcomp(id)).await;
            raw.expect_alive().await;
        }
    }
}

/// [MQTT-3.3.2-5]: also what waits for a place in the window of a connected client.
#[tokio::test]
async fn message_waiting_for_the_window_expires() {
    let scope = Scope::new();
    let mut raw = broker()
        .raw_client(
            Version::V5,
            &connect(&scope.id("s")).property(Property::ReceiveMaximum(1)),
        )
        .await;
    raw.subscribe([filter(&scope.topic("x"))]).await;
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    publisher
        .publish(publish(&scope.topic("x"), "first").qos(1))
        .await;
    publisher
        .publish(
            publish(&scope.topic("x"), "expires")
                .qos(1)
                .property(Property::MessageExpiry(1)),
        )
        .await;
    publisher.publish(publish(&scope.topic("x"), "last").qos(1)).await;
    let published = Instant::now();
    let first = raw.expect_publish().await;
    sleep_until(published + Duration::from_millis(2_200)).await;
    raw.send(&quorate_tests::wire::puback(first.id.expect("QoS 1")))
        .await;
    assert_eq!(raw.expect_publish().await.text(), "last");
}

/// [MQTT-4.3.3-13]: the publisher's exchange goes on where the message has expired on the way, and a repeated PUBLISH
/// does not bring it back.
#[tokio::test]
async fn exchange_goes_on_after_expiry() {
    let scope = Scope::new();
    let mut raw = broker().raw_client(Version::V5, &connect(&scope.id("p"))).await;
    let message = publish(&scope.topic("x"), "m")
        .qos(2)
        .id(7)
        .property(Property::MessageExpiry(1));
    raw.send(&message).await;
    assert_eq!(raw.expect_pubrec().await.id, 7);
    sleep_until(Instant::now() + Duration::from_millis(2_100)).await;
    raw.send(&message.dup()).await;
    assert_eq!(raw.expect_pubrec().await.id, 7);
    raw.send(&quorate_tests::wire::pubrel(7)).await;
    let pubcomp = raw.expect_pubcomp().await;
    assert_eq!((pubcomp.id, pubcomp.code), (7, 0));
}
