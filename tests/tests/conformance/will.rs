//! The will [3.1.2.5 to 3.1.2.7, 3.1.3.2].

use std::time::Duration;

use quorate_tests::client::Client;
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Property, Will, connect, disconnect, filter, publish};
use quorate_tests::{Version, each_version};
use tokio::time::{Instant, sleep_until};

use super::broker;

/// A client that sees everything of the scope.
async fn watcher(version: Version, scope: Scope) -> Client {
    let mut watcher = broker().clean(version, &scope.id("w")).await;
    watcher.subscribe(&scope.topic("#"), 2).await;
    watcher
}

/// The next message the watcher gets is this marker: no will came before it.
async fn expect_no_will(scope: Scope, watcher: &mut Client) {
    let mut publisher = broker().clean(Version::V5, &scope.id("m")).await;
    publisher
        .publish(publish(&scope.topic("will"), "marker").qos(2))
        .await;
    watcher.expect("marker").await;
}

/// [MQTT-3.1.2-7], [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.1.2-12], [MQTT-3.1.2-14]; 3.1.1 [MQTT-3.1.2-8],
/// [MQTT-3.1.2-9], [MQTT-3.1.2-16]: published once, with its QoS, when the connection breaks.
async fn will_is_published_when_the_connection_breaks(version: Version) {
    for qos in 0..=2 {
        let scope = Scope::new();
        let mut watcher = watcher(version, scope).await;
        let will = Will::new(&scope.topic("will"), "gone").qos(qos);
        let client = broker()
            .client(version, &connect(&scope.id("a")).will(will))
            .await;
        drop(client);
        let message = watcher.expect("gone").await;
        assert_eq!((message.qos, message.retain), (qos, false));
        expect_no_will(scope, &mut watcher).await;
        let mut late = broker().clean(version, &scope.id("l")).await;
        late.subscribe(&scope.topic("#"), 2).await;
        late.publish(publish(&scope.topic("will"), "not retained").qos(2))
            .await;
        late.expect("not retained").await;
    }
}
each_version!(will_is_published_when_the_connection_breaks);

/// [MQTT-3.1.2-15]; 3.1.1 [MQTT-3.1.2-17]
async fn retained_will_is_retained(version: Version) {
    let scope = Scope::new();
    let mut watcher = watcher(version, scope).await;
    let will = Will::new(&scope.topic("will"), "gone").qos(1).retain();
    drop(
        broker()
            .client(version, &connect(&scope.id("a")).will(will))
            .await,
    );
    assert!(
        !watcher.expect("gone").await.retain,
        "live, to an existing subscription [MQTT-3.3.1-12]"
    );
    let mut late = broker().clean(version, &scope.id("l")).await;
    // Nothing says when a will has been retained; each SUBSCRIBE asks again.
    let message = late.subscribe_until_retained(&scope.topic("#")).await;
    assert!(message.retain && message.text() == "gone");
    late.publish(publish(&scope.topic("will"), "").retain()).await;
}
each_version!(retained_will_is_retained);

/// [MQTT-3.1.2-8], [MQTT-3.14.4-3]; 3.1.1 [MQTT-3.1.2-10], [MQTT-3.14.4-3]
async fn disconnect_deletes_the_will(version: Version) {
    let scope = Scope::new();
    let mut watcher = watcher(version, scope).await;
    let will = Will::new(&scope.topic("will"), "gone").qos(1);
    broker()
        .client(version, &connect(&scope.id("a")).will(will))
        .await
        .disconnect()
        .await;
    expect_no_will(scope, &mut watcher).await;
}
each_version!(disconnect_deletes_the_will);

/// 3.1.1 [MQTT-3.1.2-12]: no will of an earlier connection is left to the next.
async fn a_connection_without_will_has_none(version: Version) {
    let scope = Scope::new();
    let mut watcher = watcher(version, scope).await;
    let with_will = connect(&scope.id("a"))
        .resume()
        .expiry(600)
        .will(Will::new(&scope.topic("will"), "gone"));
    broker().client(version, &with_will).await.disconnect().await;
    drop(broker().durable(version, &scope.id("a")).await);
    expect_no_will(scope, &mut watcher).await;
}
each_version!(a_connection_without_will_has_none);

/// [MQTT-3.1.2-10]: any other reason than 0x00 publishes the will.
#[tokio::test]
async fn disconnect_with_another_reason_publishes_the_will() {
    for code in [0x04, 0x80, 0x81, 0x97, 0x98] {
        let scope = Scope::new();
        let mut watcher = watcher(Version::V5, scope).await;
        let will = Will::new(&scope.topic("will"), "gone").qos(1);
        let client = broker()
            .client(Version::V5, &connect(&scope.id("a")).will(will))
            .await;
        client.disconnect_with(&disconnect().code(code)).await;
        watcher.expect("gone").await;
    }
}

/// [MQTT-3.1.2-8]; 3.1.1 [MQTT-3.1.2-8]: a connection closed for a protocol error has broken too.
async fn will_is_published_after_a_protocol_error(version: Version) {
    let scope = Scope::new();
    let mut watcher = watcher(version, scope).await;
    let will = Will::new(&scope.topic("will"), "gone").qos(1);
    let mut client = broker()
        .client(version, &connect(&scope.id("a")).will(will))
        .await;
    client.raw.send(&[0x00, 0x00]).await;
    watcher.expect("gone").await;
}
each_version!(will_is_published_after_a_protocol_error);

/// [MQTT-3.1.2-22], [MQTT-3.1.2-8]: silence is a broken connection.
async fn will_is_published_when_keep_alive_passes(version: Version) {
    let scope = Scope::new();
    let mut watcher = watcher(version, scope).await;
    let will = Will::new(&scope.topic("will"), "gone").qos(1);
    let _silent = broker()
        .client(version, &connect(&scope.id("a")).keep_alive(1).will(will))
        .await;
    watcher.expect("gone").await;
}
each_version!(will_is_published_when_keep_alive_passes);

/// Section 3.1.2.5: the connection that is taken over ends, so its will without delay is published.
async fn takeover_publishes_the_will(version: Version) {
    let scope = Scope::new();
    let mut watcher = watcher(version, scope).await;
    let will = Will::new(&scope.topic("will"), "gone").qos(1);
    let _first = broker()
        .client(version, &connect(&scope.id("a")).will(will))
        .await;
    let _second = broker().clean(version, &scope.id("a")).await;
    watcher.expect("gone").await;
}
each_version!(takeover_publishes_the_will);

/// [MQTT-3.1.2-8]: not before the delay, and soon after it.
#[tokio::test]
async fn will_waits_for_its_delay() {
    let scope = Scope::new();
    let mut watcher = watcher(Version::V5, scope).await;
    let will = Will::new(&scope.topic("will"), "gone").qos(1).delay(2);
    let client = broker()
        .client(Version::V5, &connect(&scope.id("a")).expiry(60).will(will))
        .await;
    let broken = Instant::now();
    drop(client);
    watcher.expect("gone").await;
    let waited = broken.elapsed();
    assert!(
        (2_000..3_000).contains(&waited.as_millis()),
        "{waited:?}, delay 2 s"
    );
}

/// [MQTT-3.1.2-8]: the end of the session ends the delay, and a session without expiry has none.
#[tokio::test]
async fn will_does_not_wait_longer_than_the_session() {
    for expiry in [0, 1] {
        let scope = Scope::new();
        let mut watcher = watcher(Version::V5, scope).await;
        let will = Will::new(&scope.topic("will"), "gone").qos(1).delay(60);
        let client = broker()
            .client(Version::V5, &connect(&scope.id("a")).expiry(expiry).will(will))
            .await;
        let broken = Instant::now();
        drop(client);
        watcher.expect("gone").await;
        let (least, waited) = (u128::from(expiry) * 1_000, broken.elapsed());
        assert!(
            (least..least + 1_000).contains(&waited.as_millis()),
            "{waited:?}, expiry {expiry} s"
        );
    }
}

/// [MQTT-3.1.3-9]: back in time, the will is not published, now or later.
#[tokio::test]
async fn coming_back_within_the_delay_stops_the_will() {
    let scope = Scope::new();
    let mut watcher = watcher(Version::V5, scope).await;
    let will = Will::new(&scope.topic("will"), "gone").qos(1).delay(1);
    drop(
        broker()
            .client(Version::V5, &connect(&scope.id("a")).expiry(60).will(will))
            .await,
    );
    let back = broker().durable(Version::V5, &scope.id("a")).await;
    assert!(back.connack.session_present);
    sleep_until(Instant::now() + Duration::from_millis(2_000)).await;
    expect_no_will(scope, &mut watcher).await;
}

/// Section 3.1.2.4 and [MQTT-3.1.2-8]: Clean Start within the delay ends the old session, and with it the delay: the
/// will is published at once.
#[tokio::test]
async fn clean_start_within_the_delay_publishes_the_will() {
    let scope = Scope::new();
    let mut watcher = watcher(Version::V5, scope).await;
    let will = Will::new(&scope.topic("will"), "gone").qos(1).delay(60);
    drop(
        broker()
            .client(Version::V5, &connect(&scope.id("a")).expiry(600).will(will))
            .await,
    );
    let _back = broker()
        .client(Version::V5, &connect(&scope.id("a")).expiry(600))
        .await;
    watcher.expect("gone").await;
    expect_no_will(scope, &mut watcher).await;
}

/// [MQTT-3.1.2-8]: likewise where the client was still connected when it was taken over.
#[tokio::test]
async fn takeover_with_a_delayed_will_follows_clean_start() {
    for clean in [true, false] {
        let scope = Scope::new();
        let mut watcher = watcher(Version::V5, scope).await;
        let will = Will::new(&scope.topic("will"), "gone").qos(1).delay(60);
        let _first = broker()
            .client(Version::V5, &connect(&scope.id("a")).expiry(600).will(will))
            .await;
        let packet = connect(&scope.id("a")).expiry(600);
        let _second = broker()
            .client(Version::V5, &if clean { packet } else { packet.resume() })
            .await;
        if clean {
            watcher.expect("gone").await;
        }
        expect_no_will(scope, &mut watcher).await;
    }
}

/// Section 3.1.3.2 and [MQTT-3.1.3-10]: the will's properties are the message's.
#[tokio::test]
async fn will_carries_its_properties() {
    let scope = Scope::new();
    let mut watcher = watcher(Version::V5, scope).await;
    let properties = [
        Property::PayloadFormat(1),
        Property::ContentType("text/plain".into()),
        Property::ResponseTopic("answers".into()),
        Property::CorrelationData(vec![0, 255]),
        Property::user("b", "2"),
        Property::user("a", "1"),
        Property::user("b", "1"),
    ];
    let will = properties
        .iter()
        .cloned()
        .fold(Will::new(&scope.topic("will"), "gone"), |will, property| {
            will.property(property)
        });
    let will = will.property(Property::MessageExpiry(100)).delay(0);
    drop(
        broker()
            .client(Version::V5, &connect(&scope.id("a")).will(will))
            .await,
    );
    let message = watcher.expect("gone").await;
    assert!(
        properties
            .iter()
            .all(|property| message.properties.0.contains(property)),
        "{message:?}"
    );
    let users: Vec<_> = message.properties.users();
    assert_eq!(
        users,
        [("b", "2"), ("a", "1"), ("b", "1")].map(|(name, value)| (name.into(), value.into()))
    );
    assert!(
        message
            .properties
            .message_expiry()
            .is_some_and(|secs| (99..=100).contains(&secs))
    );
    assert_eq!(message.properties.will_delay(), None);
}

/// The interval of the will's expiry starts when it is published, not when it was handed over.
#[tokio::test]
async fn will_expiry_counts_from_its_publication() {
    let scope = Scope::new();
    let mut watcher = watcher(Version::V5, scope).await;
    let will = Will::new(&scope.topic("will"), "gone").property(Property::MessageExpiry(1));
    let client = broker()
        .client(Version::V5, &connect(&scope.id("a")).will(will))
        .await;
    sleep_until(Instant::now() + Duration::from_millis(1_500)).await;
    drop(client);
    watcher.expect("gone").await;
}

/// [MQTT-3.8.3-3]: the will is the client's own message, also for a subscription of its session that has No Local.
#[tokio::test]
async fn no_local_withholds_the_own_will() {
    for qos in 0..=2 {
        let scope = Scope::new();
        let mut watcher = watcher(Version::V5, scope).await;
        let packet = connect(&scope.id("a")).resume().expiry(600);
        let will = Will::new(&scope.topic("will"), "gone").qos(qos);
        let mut first = broker().client(Version::V5, &packet.clone().will(will)).await;
        first
            .subscribe_with([filter(&scope.topic("#")).qos(2).no_local()], [])
            .await;
        // The session is taken over, which ends the connection that left the will.
        let mut second = broker().client(Version::V5, &packet).await;
        watcher.expect("gone").await;
        watcher
            .publish(publish(&scope.topic("will"), "marker").qos(qos))
            .await;
        second.expect("marker").await;
        drop(first);
    }
}
