//! PUBLISH to a subscriber, and what happens when it is not acknowledged [4.3, 4.4, 4.6].

use std::collections::HashSet;

use quorate_tests::client::RawClient;
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Publish, connect, filter, puback, pubcomp, publish, pubrec, pubrel, unsubscribe};
use quorate_tests::{Version, each_version};

use super::broker;

/// A raw connection to the session `s` of the scope, which is taken up where there is one.
async fn subscriber(version: Version, scope: Scope) -> RawClient {
    broker()
        .raw_client(version, &connect(&scope.id("s")).resume().expiry(600))
        .await
}

/// A subscriber to the scope at QoS 2, and messages of this QoS published to it.
async fn subscriber_with(version: Version, scope: Scope, qos: u8, payloads: &[&str]) -> RawClient {
    let mut raw = subscriber(version, scope).await;
    raw.subscribe([filter(&scope.topic("#"))]).await;
    send(scope, qos, payloads).await;
    raw
}

/// Publishes as the publisher of this scope: order is promised per publisher.
async fn send(scope: Scope, qos: u8, payloads: &[&str]) {
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    for payload in payloads {
        publisher
            .publish(publish(&scope.topic("x"), payload).qos(qos))
            .await;
    }
}

/// The next messages, unacknowledged.
async fn receive(raw: &mut RawClient, count: usize) -> Vec<Publish> {
    let mut messages = Vec::new();
    for _ in 0..count {
        messages.push(raw.expect_publish().await);
    }
    messages
}

/// What this connection was sent is complete: the next message comes next, and the next connection begins with it. The
/// message goes the way of those before, so it also waits until their end is committed.
async fn expect_nothing_left(scope: Scope, mut raw: RawClient) {
    raw.expect_alive().await;
    send(scope, 1, &["next"]).await;
    assert_eq!(raw.expect_publish().await.text(), "next");
    let version = raw.version();
    drop(raw);
    let mut raw = subscriber(version, scope).await;
    assert_eq!(raw.expect_publish().await.text(), "next");
}

fn texts(messages: &[Publish]) -> Vec<&str> {
    messages.iter().map(Publish::text).collect()
}

fn ids(messages: &[Publish]) -> Vec<u16> {
    messages
        .iter()
        .map(|message| message.id.expect("QoS above 0"))
        .collect()
}

/// [MQTT-3.8.4-8]; 3.1.1 [MQTT-3.8.4-6]: the lower of both QoS.
async fn qos_is_the_lower_of_both(version: Version) {
    let scope = Scope::new();
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    for granted in 0..=2 {
        let mut subscriber = broker().clean(version, &scope.id(&format!("s{granted}"))).await;
        subscriber.subscribe(&scope.topic("x"), granted).await;
        for published in 0..=2 {
            publisher
                .publish(publish(&scope.topic("x"), "m").qos(published))
                .await;
            assert_eq!(
                subscriber.expect("m").await.qos,
                granted.min(published),
                "{published} to {granted}"
            );
        }
    }
}
each_version!(qos_is_the_lower_of_both);

/// [MQTT-2.2.1-4], [MQTT-4.3.2-1], [MQTT-4.3.2-2], [MQTT-4.3.3-1], [MQTT-4.3.3-2], [MQTT-3.3.1-2]; 3.1.1
/// [MQTT-2.3.1-1], [MQTT-2.3.1-4]: identifiers not in use, DUP 0 the first time.
async fn identifiers_on_the_way_differ(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber(version, scope).await;
    raw.subscribe([filter(&scope.topic("#"))]).await;
    send(scope, 1, &["1"; 15]).await;
    send(scope, 2, &["2"; 15]).await;
    let messages = receive(&mut raw, 30).await;
    assert!(messages.iter().all(|message| !message.dup));
    assert_eq!(
        ids(&messages).into_iter().collect::<HashSet<_>>().len(),
        30,
        "{messages:?}"
    );
}
each_version!(identifiers_on_the_way_differ);

/// [MQTT-4.3.2-3], [MQTT-4.4.0-1], [MQTT-3.3.1-1], [MQTT-4.6.0-1]; 3.1.1 [MQTT-4.4.0-1], [MQTT-2.3.1-3]: the same
/// identifiers, the same order, DUP set.
async fn unacknowledged_messages_are_sent_again(version: Version) {
    for qos in [1, 2] {
        let scope = Scope::new();
        let mut raw = subscriber_with(version, scope, qos, &["a", "b", "c"]).await;
        let first = receive(&mut raw, 3).await;
        drop(raw);
        let mut raw = subscriber(version, scope).await;
        let again = receive(&mut raw, 3).await;
        assert_eq!(texts(&again), ["a", "b", "c"]);
        assert_eq!(ids(&again), ids(&first));
        assert!(again.iter().all(|message| message.dup && message.qos == qos));
    }
}
each_version!(unacknowledged_messages_are_sent_again);

/// [MQTT-4.4.0-1]: what was acknowledged is not sent again, what was not is, before what waited.
async fn only_unacknowledged_messages_are_sent_again(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber_with(version, scope, 1, &["a", "b", "c"]).await;
    let first = receive(&mut raw, 3).await;
    raw.send(&puback(ids(&first)[1])).await;
    raw.expect_alive().await;
    drop(raw);
    send(scope, 1, &["d"]).await;
    let mut raw = subscriber(version, scope).await;
    let again = receive(&mut raw, 3).await;
    assert_eq!(texts(&again), ["a", "c", "d"]);
    assert_eq!(
        again.iter().map(|message| message.dup).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!(ids(&again)[..2], [ids(&first)[0], ids(&first)[2]]);
}
each_version!(only_unacknowledged_messages_are_sent_again);

/// [MQTT-4.3.3-4], [MQTT-4.3.3-5], [MQTT-4.3.3-6], [MQTT-4.4.0-1], [MQTT-3.6.2-1]: after PUBREC only PUBREL is sent
/// again, with the identifier.
async fn pubrel_is_sent_again_instead_of_the_message(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber_with(version, scope, 2, &["a"]).await;
    let id = raw.expect_publish().await.id.expect("QoS 2");
    raw.send(&pubrec(id)).await;
    assert_eq!(raw.expect_pubrel().await.id, id);
    for _ in 0..2 {
        drop(raw);
        raw = subscriber(version, scope).await;
        let pubrel = raw.expect_pubrel().await;
        assert_eq!((pubrel.id, pubrel.code), (id, 0));
    }
    raw.send(&pubcomp(id)).await;
    expect_nothing_left(scope, raw).await;
}
each_version!(pubrel_is_sent_again_instead_of_the_message);

/// [MQTT-4.6.0-4], which binds clients at MQTT 5 and both sides at 3.1.1: PUBREL in the order of PUBREC.
async fn pubrels_follow_the_order_of_pubrecs(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber_with(version, scope, 2, &["a", "b", "c", "d"]).await;
    let ids = ids(&receive(&mut raw, 4).await);
    let order = [ids[2], ids[0], ids[3], ids[1]];
    for id in order {
        raw.send(&pubrec(id)).await;
    }
    for id in order {
        assert_eq!(raw.expect_pubrel().await.id, id);
    }
}
each_version!(pubrels_follow_the_order_of_pubrecs);

/// [MQTT-4.3.3-4]: PUBREC sent again, as a client that missed PUBREL does, gets PUBREL again.
async fn repeated_pubrec_gets_pubrel_again(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber_with(version, scope, 2, &["a"]).await;
    let id = raw.expect_publish().await.id.expect("QoS 2");
    for _ in 0..2 {
        raw.send(&pubrec(id)).await;
        assert_eq!(raw.expect_pubrel().await.id, id);
    }
}
each_version!(repeated_pubrec_gets_pubrel_again);

/// [MQTT-4.4.0-1]: nothing is sent again on a connection that stays open.
async fn nothing_is_sent_again_while_connected(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber_with(version, scope, 1, &["a"]).await;
    raw.expect_publish().await;
    // No event ends this wait: a broker that retries on a timer would do so within these seconds.
    let quiet = tokio::time::Instant::now() + std::time::Duration::from_secs(3);
    assert_eq!(raw.next_by(quiet).await, None);
    raw.expect_alive().await;
}
each_version!(nothing_is_sent_again_while_connected: v3_1_1, v5);

/// [MQTT-4.4.0-2], [MQTT-4.3.3-4]: an error code ends the exchange: nothing again, no PUBREL, and the identifier's
/// place in the window is free.
#[tokio::test]
async fn refused_message_is_not_sent_again() {
    for qos in [1, 2] {
        let scope = Scope::new();
        let mut raw = subscriber_with(Version::V5, scope, qos, &["a"]).await;
        let id = raw.expect_publish().await.id.expect("QoS above 0");
        let refusal = if qos == 1 { puback(id) } else { pubrec(id) };
        raw.send(&refusal.code(0x80)).await;
        expect_nothing_left(scope, raw).await;
    }
}

/// Section 4.3.3: a PUBREC for what is not known, from a client with a better memory, gets PUBREL 0x92.
async fn pubrec_for_an_unknown_identifier_is_released(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber(version, scope).await;
    raw.send(&pubrec(77)).await;
    let pubrel = raw.expect_pubrel().await;
    assert_eq!(pubrel.id, 77);
    assert_eq!(pubrel.code, if version == Version::V5 { 0x92 } else { 0 });
}
each_version!(pubrec_for_an_unknown_identifier_is_released);

/// A PUBACK or PUBCOMP for what is not known changes nothing.
async fn unknown_acknowledgements_are_ignored(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber_with(version, scope, 1, &["a"]).await;
    let id = raw.expect_publish().await.id.expect("QoS 1");
    let other = if id == 9 { 10 } else { 9 };
    raw.send(&puback(other)).await;
    raw.send(&pubcomp(other)).await;
    raw.expect_alive().await;
    drop(raw);
    let mut raw = subscriber(version, scope).await;
    assert_eq!(raw.expect_publish().await.text(), "a");
}
each_version!(unknown_acknowledgements_are_ignored);

/// An identifier is acknowledged by the packet of its exchange alone: a PUBACK does not end an exchange of QoS 2.
async fn puback_does_not_end_a_qos_2_exchange(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber_with(version, scope, 2, &["a"]).await;
    let id = raw.expect_publish().await.id.expect("QoS 2");
    raw.send(&puback(id)).await;
    // A broker may close for this; it must not forget the message.
    drop(raw);
    let mut raw = subscriber(version, scope).await;
    assert_eq!(raw.expect_publish().await.text(), "a");
}
each_version!(puback_does_not_end_a_qos_2_exchange);

/// [MQTT-3.10.4-2], [MQTT-3.10.4-3]: what was on its way is completed, on this connection or the next, and nothing new
/// is added.
async fn unsubscribing_completes_what_is_on_its_way(version: Version) {
    for (qos, breaks) in [(1, false), (1, true), (2, false), (2, true)] {
        let scope = Scope::new();
        let mut raw = subscriber_with(version, scope, qos, &["on its way"]).await;
        let id = raw.expect_publish().await.id.expect("QoS above 0");
        raw.send(&unsubscribe(5, [scope.topic("#")])).await;
        assert_eq!(raw.expect_unsuback().await.id, 5);
        send(scope, qos, &["too late"]).await;
        if breaks {
            drop(raw);
            raw = subscriber(version, scope).await;
            let again = raw.expect_publish().await;
            assert_eq!(
                (again.text(), again.id, again.dup),
                ("on its way", Some(id), true)
            );
        }
        if qos == 1 {
            raw.send(&puback(id)).await;
        } else {
            raw.send(&pubrec(id)).await;
            assert_eq!(raw.expect_pubrel().await.id, id);
            raw.send(&pubcomp(id)).await;
        }
        raw.subscribe([filter(&scope.topic("#"))]).await;
        expect_nothing_left(scope, raw).await;
    }
}
each_version!(unsubscribing_completes_what_is_on_its_way);

/// [MQTT-3.3.2-3]: the topic of a delivered message is the one it was published under.
async fn topic_is_passed_on(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber_with(version, scope, 0, &["a"]).await;
    assert_eq!(raw.expect_publish().await.topic, scope.topic("x"));
}
each_version!(topic_is_passed_on);

/// Exchanges of both directions may use the same identifier at the same time (section 2.2.1).
async fn directions_have_identifiers_of_their_own(version: Version) {
    let scope = Scope::new();
    let mut raw = subscriber_with(version, scope, 2, &["in"]).await;
    let id = raw.expect_publish().await.id.expect("QoS 2");
    raw.send(&publish(&Scope::new().topic("x"), "out").qos(2).id(id))
        .await;
    assert_eq!(raw.expect_pubrec().await.id, id);
    raw.send(&pubrec(id)).await;
    assert_eq!(raw.expect_pubrel().await.id, id);
    raw.send(&pubrel(id)).await;
    assert_eq!(raw.expect_pubcomp().await.id, id);
    raw.send(&pubcomp(id)).await;
    raw.expect_alive().await;
}
each_version!(directions_have_identifiers_of_their_own);

/// Section 2.2.1: packet identifiers are taken until the exchange ends. A client that leaves its oldest message
/// unacknowledged while thousands behind it are done with gets the rest as soon as it acknowledges it.
#[tokio::test]
async fn an_old_message_without_acknowledgement_holds_up_others_only_until_it_has_one() {
    /// Identifiers of the messages of one publisher.
    const IDENTIFIERS: usize = 3_640;
    const PIECE: usize = 95;
    let scope = Scope::new();
    let mut raw = subscriber(Version::V5, scope).await;
    raw.subscribe([filter(&scope.topic("#"))]).await;
    let mut publisher = broker().raw_client(Version::V5, &connect(&scope.id("p"))).await;
    let mut oldest = None;
    let mut received = 0;
    for sent in (0..=IDENTIFIERS).step_by(PIECE) {
        for id in 1..=PIECE {
            let text = (sent + id).to_string();
            publisher
                .send(&publish(&scope.topic("x"), &text).qos(1).id(id as u16))
                .await;
        }
        while received < (sent + PIECE).min(IDENTIFIERS) {
            let message = raw.expect_publish().await;
            received += 1;
            assert_eq!(message.text(), received.to_string());
            match oldest {
                None => oldest = message.id,
                Some(_) => raw.send(&puback(message.id.unwrap())).await,
            }
        }
        for _ in 0..PIECE {
            publisher.expect_puback().await;
        }
    }
    raw.expect_alive().await;
    raw.send(&puback(oldest.unwrap())).await;
    let message = raw.expect_publish().await;
    assert_eq!(message.text(), (IDENTIFIERS + 1).to_string());
}
