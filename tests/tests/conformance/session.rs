//! Sessions: what outlives a connection, for how long, and who may take it up [3.1.2.4, 3.1.2.11.2, 4.1].

use std::time::Duration;

use quorate_tests::broker::Config;
use quorate_tests::client::Client;
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Property, connect, disconnect, publish};
use quorate_tests::{Version, each_version};
use tokio::time::{Instant, sleep_until};

use super::{broker, start};

/// Publishes at QoS 1 as the publisher of this scope: order is promised per publisher.
async fn send(scope: Scope, topic: &str, payload: &str) {
    let mut publisher = broker().clean(Version::V5, &scope.id("pub")).await;
    publisher
        .publish(publish(&scope.topic(topic), payload).qos(1))
        .await;
    publisher.disconnect().await;
}

/// A session with one subscription, its client gone.
async fn absent_session(version: Version, scope: Scope) {
    let mut client = broker().durable(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("x"), 2).await;
    client.disconnect().await;
}

/// Two clients with one identifier throw each other out; after a few times each has to wait, and is let in all the same.
#[tokio::test]
async fn takeover_storms_are_slowed_down() {
    let broker = start(Config::new());
    let mut last = broker.clean(Version::V5, "both").await;
    let started = Instant::now();
    for _ in 0..8 {
        let next = broker.clean(Version::V5, "both").await;
        last.raw.expect_disconnect(0x8E).await;
        last = next;
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(200 + 400 + 600), "{took:?}");
    assert_eq!(broker.metric("quorate_takeovers_delayed_total"), 3.0);
    last.raw.expect_alive().await;
    let other = Instant::now();
    broker.clean(Version::V5, "other").await.disconnect().await;
    assert!(other.elapsed() < took, "others do not wait");
}

/// [MQTT-3.1.2-4], [MQTT-3.1.4-4], [MQTT-3.2.2-2]; 3.1.1 [MQTT-3.1.2-6], [MQTT-3.1.4-3], [MQTT-3.2.2-1]:
/// subscriptions and queued messages are gone, and stay gone.
async fn clean_start_discards_the_session(version: Version) {
    let scope = Scope::new();
    absent_session(version, scope).await;
    send(scope, "x", "old").await;
    let packet = if version == Version::V5 {
        connect(&scope.id("a")).expiry(600)
    } else {
        connect(&scope.id("a"))
    };
    let client = broker().client(version, &packet).await;
    assert!(!client.connack.session_present);
    client.disconnect().await;
    send(scope, "x", "unsubscribed").await;
    let mut again = broker().durable(version, &scope.id("a")).await;
    assert_eq!(
        again.connack.session_present,
        version == Version::V5,
        "a clean session of 3.x ends with its connection"
    );
    again.subscribe(&scope.topic("x"), 1).await;
    send(scope, "x", "new").await;
    again.expect("new").await;
}
each_version!(clean_start_discards_the_session);

/// [MQTT-3.1.2-5], [MQTT-3.2.2-3], [MQTT-4.5.0-1], [MQTT-4.1.0-1]; 3.1.1 [MQTT-3.1.2-4], [MQTT-3.1.2-5],
/// [MQTT-3.2.2-2]: the subscription holds while the client is away.
async fn session_is_resumed(version: Version) {
    let scope = Scope::new();
    absent_session(version, scope).await;
    for payload in ["one", "two"] {
        send(scope, "x", payload).await;
    }
    let mut client = broker().durable(version, &scope.id("a")).await;
    assert_eq!(
        client.connack.session_present,
        version != Version::V3_1,
        "3.1 has no such flag"
    );
    assert_eq!(client.receive_texts(2).await, ["one", "two"]);
    send(scope, "x", "three").await;
    client.expect("three").await;
}
each_version!(session_is_resumed);

/// [MQTT-3.1.2-5], [MQTT-4.1.0-2]: a connection that resumes a session may let it end with itself; until then it has
/// the subscriptions and the messages that waited.
#[tokio::test]
async fn session_is_resumed_by_a_connection_without_expiry() {
    let scope = Scope::new();
    absent_session(Version::V5, scope).await;
    send(scope, "x", "waited").await;
    let mut client = broker()
        .client(Version::V5, &connect(&scope.id("a")).resume())
        .await;
    assert!(client.connack.session_present);
    client.expect("waited").await;
    send(scope, "x", "live").await;
    client.expect("live").await;
    client.disconnect().await;
    let again = broker().durable(Version::V5, &scope.id("a")).await;
    assert!(!again.connack.session_present);
}

/// [MQTT-3.1.2-6], [MQTT-3.2.2-3]; 3.1.1 [MQTT-3.1.2-4], [MQTT-3.2.2-3]
async fn resuming_nothing_starts_a_session(version: Version) {
    let scope = Scope::new();
    let client = broker().durable(version, &scope.id("a")).await;
    assert!(!client.connack.session_present);
    client.disconnect().await;
    let again = broker().durable(version, &scope.id("a")).await;
    assert_eq!(again.connack.session_present, version != Version::V3_1);
}
each_version!(resuming_nothing_starts_a_session);

/// [MQTT-4.1.0-2]; 3.1.1 [MQTT-3.1.2-6]: nothing is queued for a session that ended with its connection.
async fn session_without_expiry_ends_with_the_connection(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("x"), 1).await;
    client.disconnect().await;
    send(scope, "x", "missed").await;
    let mut again = broker().durable(version, &scope.id("a")).await;
    assert!(!again.connack.session_present);
    again.subscribe(&scope.topic("x"), 1).await;
    send(scope, "x", "seen").await;
    again.expect("seen").await;
}
each_version!(session_without_expiry_ends_with_the_connection);

/// QoS 0 is not queued for an absent session (DESIGN section 5), QoS 1 and 2 are.
async fn messages_wait_for_an_absent_session(version: Version) {
    let scope = Scope::new();
    absent_session(version, scope).await;
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    for qos in 0..=2 {
        publisher
            .publish(publish(&scope.topic("x"), format!("qos {qos}")).qos(qos))
            .await;
    }
    let mut client = broker().durable(version, &scope.id("a")).await;
    for qos in 1..=2 {
        let message = client.expect(format!("qos {qos}")).await;
        assert_eq!(
            (message.qos, message.dup),
            (qos, false),
            "a first delivery [MQTT-4.3.2-2]"
        );
    }
    publisher.publish(publish(&scope.topic("x"), "end").qos(1)).await;
    client.expect("end").await;
}
each_version!(messages_wait_for_an_absent_session);

/// [MQTT-3.1.2-23], [MQTT-4.1.0-2]: present until the interval has passed, gone as soon as it has. The two sessions are
/// asked for shortly before and shortly after the second.
#[tokio::test]
async fn session_expiry_is_exact_to_the_second() {
    const EXPIRY_SECS: u32 = 2;
    let scope = Scope::new();
    for (name, ask_after, present) in [
        ("before", Duration::from_millis(1_500), true),
        ("after", Duration::from_millis(2_900), false),
    ] {
        let client = broker()
            .client(Version::V5, &connect(&scope.id(name)).expiry(EXPIRY_SECS))
            .await;
        client.disconnect().await;
        let disconnected = Instant::now();
        sleep_until(disconnected + ask_after).await;
        let again = broker().durable(Version::V5, &scope.id(name)).await;
        let waited = disconnected.elapsed();
        assert_eq!(
            again.connack.session_present, present,
            "{waited:?} after the end, expiry {EXPIRY_SECS} s"
        );
    }
}

/// [MQTT-4.1.0-1]: the interval counts from the end of a connection, neither from its start nor from the end of the
/// connection before.
#[tokio::test]
async fn session_does_not_expire_while_connected() {
    let scope = Scope::new();
    let packet = connect(&scope.id("a")).resume().expiry(1);
    for is_resumed in [false, true] {
        let mut client = broker().client(Version::V5, &packet).await;
        assert_eq!(client.connack.session_present, is_resumed);
        if !is_resumed {
            client.subscribe(&scope.topic("x"), 1).await;
        }
        sleep_until(Instant::now() + Duration::from_millis(2_200)).await;
        send(scope, "x", "still there").await;
        client.expect("still there").await;
        client.disconnect().await;
    }
    let again = broker().durable(Version::V5, &scope.id("a")).await;
    assert!(again.connack.session_present);
}

/// An expired session takes its messages and subscriptions along.
#[tokio::test]
async fn expired_session_leaves_nothing_behind() {
    let scope = Scope::new();
    let mut client = broker()
        .client(Version::V5, &connect(&scope.id("a")).expiry(1))
        .await;
    client.subscribe(&scope.topic("x"), 1).await;
    client.disconnect().await;
    send(scope, "x", "lost with the session").await;
    sleep_until(Instant::now() + Duration::from_millis(1_900)).await;
    let mut again = broker().durable(Version::V5, &scope.id("a")).await;
    assert!(!again.connack.session_present);
    again.subscribe(&scope.topic("x"), 1).await;
    send(scope, "x", "new").await;
    again.expect("new").await;
}

/// Section 3.14.2.2.2: DISCONNECT may change the interval, up and down.
#[tokio::test]
async fn disconnect_changes_the_session_expiry() {
    let scope = Scope::new();
    for (name, from, to, present) in [("shorter", 600, 0, false), ("longer", 1, 600, true)] {
        let client = broker()
            .client(Version::V5, &connect(&scope.id(name)).expiry(from))
            .await;
        client
            .disconnect_with(&disconnect().property(Property::SessionExpiry(to)))
            .await;
        let asked_at = Instant::now() + Duration::from_millis(if present { 2_000 } else { 0 });
        sleep_until(asked_at).await;
        let again = broker().durable(Version::V5, &scope.id(name)).await;
        assert_eq!(again.connack.session_present, present, "{name}");
    }
}

/// Section 3.14.2.2.2: a session that was to end with the connection cannot be given a life afterwards.
#[tokio::test]
async fn disconnect_cannot_revive_a_session_without_expiry() {
    let scope = Scope::new();
    let mut raw = broker().raw_client(Version::V5, &connect(&scope.id("a"))).await;
    raw.send(&disconnect().property(Property::SessionExpiry(60)))
        .await;
    raw.expect_disconnect(0x82).await;
    let again = broker().durable(Version::V5, &scope.id("a")).await;
    assert!(!again.connack.session_present);
}

/// Section 3.1.2.11.2: 0xFFFFFFFF means never, as far as this server goes: it cuts and says so.
#[tokio::test]
async fn endless_session_expiry_is_cut_and_said() {
    let client = broker()
        .client(Version::V5, &connect(&Scope::new().id("a")).expiry(u32::MAX))
        .await;
    assert_eq!(client.connack.properties.session_expiry(), Some(7 * 24 * 3600));
}

/// [MQTT-3.1.4-3], [MQTT-3.1.3-2]; 3.1.1 [MQTT-3.1.4-2]: the newcomer has the session, the other is told and closed.
async fn second_connection_takes_the_session_over(version: Version) {
    let scope = Scope::new();
    let mut first = broker().durable(version, &scope.id("a")).await;
    first.subscribe(&scope.topic("x"), 1).await;
    let mut second = broker().durable(version, &scope.id("a")).await;
    assert_eq!(second.connack.session_present, version != Version::V3_1);
    first.raw.expect_disconnect(0x8E).await;
    send(scope, "x", "for the second").await;
    second.expect("for the second").await;
}
each_version!(second_connection_takes_the_session_over);

/// [MQTT-3.1.4-3]: also when neither wants to keep a session, across versions, and over and over.
#[tokio::test]
async fn takeover_holds_across_versions() {
    let scope = Scope::new();
    let mut previous: Option<Client> = None;
    for version in [Version::V3_1, Version::V5, Version::V3_1_1, Version::V5] {
        let client = broker().clean(version, &scope.id("a")).await;
        assert!(!client.connack.session_present);
        if let Some(mut previous) = previous.replace(client) {
            previous.raw.expect_disconnect(0x8E).await;
        }
    }
    previous.expect("four were connected").raw.expect_alive().await;
}

/// [MQTT-3.1.2-5]: state made at one version is there at the next.
#[tokio::test]
async fn session_survives_a_change_of_version() {
    let scope = Scope::new();
    for (index, version) in [Version::V3_1_1, Version::V5, Version::V3_1, Version::V5]
        .into_iter()
        .enumerate()
    {
        let mut client = broker().durable(version, &scope.id("a")).await;
        if index == 0 {
            client.subscribe(&scope.topic("x"), 1).await;
        } else {
            client.expect(format!("for {index}")).await;
        }
        client.disconnect().await;
        send(scope, "x", &format!("for {}", index + 1)).await;
    }
}

/// 3.1.1 [MQTT-3.1.2-7]: retained messages are not part of a session.
async fn retained_messages_outlive_the_session(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    client
        .publish(publish(&scope.topic("x"), "kept").qos(1).retain())
        .await;
    client.disconnect().await;
    let mut other = broker().clean(version, &scope.id("b")).await;
    other.subscribe(&scope.topic("x"), 1).await;
    other.expect("kept").await;
    other.publish(publish(&scope.topic("x"), "").retain()).await;
}
each_version!(retained_messages_outlive_the_session);

/// A client that acknowledges, leaves and comes back at once is not sent the message again, although the
/// acknowledgement may still be on its way to the disk.
#[tokio::test]
async fn what_was_acknowledged_before_leaving_does_not_come_again() {
    for _ in 0..100 {
        let scope = Scope::new();
        let mut client = broker().durable(Version::V5, &scope.id("a")).await;
        client.subscribe(&scope.topic("x"), 1).await;
        send(scope, "x", "once").await;
        client.expect("once").await;
        client.disconnect().await;
        let mut client = broker().durable(Version::V5, &scope.id("a")).await;
        send(scope, "x", "new").await;
        client.expect("new").await;
    }
}
