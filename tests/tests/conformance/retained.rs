//! Retained messages [3.3.1.3, 3.8.3.1].

use quorate_tests::client::{Client, DEADLINE, Event};
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Encode, Packet, Property, connect, disconnect, filter, publish, subscribe};
use quorate_tests::{Version, each_version};
use tokio::time::Instant;

use super::broker;

/// A publisher that has retained a message under `x`.
async fn retaining(version: Version, scope: Scope, payload: &str, qos: u8) -> Client {
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    publisher
        .publish(publish(&scope.topic("x"), payload).qos(qos).retain())
        .await;
    publisher
}

/// Removes what a test retained: other tests subscribe to everything.
async fn clear(publisher: &mut Client, scope: Scope, topics: &[&str]) {
    for topic in topics {
        publisher
            .publish(publish(&scope.topic(topic), "").qos(1).retain())
            .await;
    }
}

/// The next message of the client is a marker: nothing retained came before it.
async fn expect_nothing_retained(client: &mut Client, publisher: &mut Client, scope: Scope) {
    publisher
        .publish(publish(&scope.topic("x"), "marker").qos(1))
        .await;
    assert!(!client.expect("marker").await.retain);
}

/// Waits until this is the retained message: at QoS 0 nothing else says so.
async fn wait_until_retained(version: Version, scope: Scope, payload: &str) {
    let deadline = Instant::now() + DEADLINE;
    let mut client = broker().clean(version, &scope.id("waiting")).await;
    while client.subscribe_until_retained(&scope.topic("x")).await.text() != payload {
        assert!(Instant::now() < deadline, "{payload} is never retained");
    }
}

/// [MQTT-3.3.1-5], [MQTT-3.3.1-9]; 3.1.1 [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-8]: the last
/// one, with its QoS, RETAIN set.
async fn last_retained_message_is_sent_to_new_subscriptions(version: Version) {
    for qos in 0..=2 {
        let scope = Scope::new();
        let mut publisher = retaining(version, scope, "old", 2 - qos).await;
        wait_until_retained(version, scope, "old").await;
        publisher
            .publish(publish(&scope.topic("x"), "new").qos(qos).retain())
            .await;
        wait_until_retained(version, scope, "new").await;
        let mut client = broker().clean(version, &scope.id("a")).await;
        client.subscribe(&scope.topic("+"), 2).await;
        let message = client.expect("new").await;
        assert_eq!((message.retain, message.qos, message.dup), (true, qos, false));
        expect_nothing_retained(&mut client, &mut publisher, scope).await;
        clear(&mut publisher, scope, &["x"]).await;
    }
}
each_version!(last_retained_message_is_sent_to_new_subscriptions);

/// [MQTT-3.3.1-6], [MQTT-3.3.1-7]; 3.1.1 [MQTT-3.3.1-10], [MQTT-3.3.1-11]: an empty one is passed on, and removes.
async fn empty_message_removes_the_retained_one(version: Version) {
    let scope = Scope::new();
    let mut publisher = retaining(version, scope, "kept", 1).await;
    let mut live = broker().clean(version, &scope.id("live")).await;
    live.subscribe(&scope.topic("x"), 1).await;
    live.expect("kept").await;
    clear(&mut publisher, scope, &["x"]).await;
    let message = live.receive().await;
    assert_eq!((message.payload.len(), message.retain), (0, false));
    let mut late = broker().clean(version, &scope.id("late")).await;
    late.subscribe(&scope.topic("x"), 1).await;
    expect_nothing_retained(&mut late, &mut publisher, scope).await;
}
each_version!(empty_message_removes_the_retained_one);

/// [MQTT-3.3.1-8]; 3.1.1 [MQTT-3.3.1-12]: without the flag nothing is stored, replaced or removed.
async fn message_without_retain_leaves_the_retained_one(version: Version) {
    let scope = Scope::new();
    let mut publisher = retaining(version, scope, "kept", 1).await;
    for payload in ["other", ""] {
        publisher
            .publish(publish(&scope.topic("x"), payload).qos(1))
            .await;
    }
    publisher
        .publish(publish(&scope.topic("y"), "never stored").qos(1))
        .await;
    let mut client = broker().clean(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("#"), 1).await;
    client.expect("kept").await;
    expect_nothing_retained(&mut client, &mut publisher, scope).await;
    clear(&mut publisher, scope, &["x"]).await;
}
each_version!(message_without_retain_leaves_the_retained_one);

/// [MQTT-3.3.1-12]; 3.1.1 [MQTT-3.3.1-9]: to an existing subscription the flag is 0.
async fn retain_is_cleared_for_existing_subscriptions(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("x"), 2).await;
    let mut publisher = retaining(version, scope, "live", 2).await;
    assert!(!client.expect("live").await.retain);
    clear(&mut publisher, scope, &["x"]).await;
}
each_version!(retain_is_cleared_for_existing_subscriptions);

/// [MQTT-3.3.1-13]: with Retain As Published the flag is the publisher's.
#[tokio::test]
async fn retain_as_published_keeps_the_flag() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    client
        .subscribe_with([filter(&scope.topic("x")).retain_as_published()], [])
        .await;
    let mut publisher = retaining(Version::V5, scope, "with", 1).await;
    publisher
        .publish(publish(&scope.topic("x"), "without").qos(1))
        .await;
    assert!(client.expect("with").await.retain);
    assert!(!client.expect("without").await.retain);
    clear(&mut publisher, scope, &["x"]).await;
}

/// [MQTT-3.3.1-9], [MQTT-3.8.4-4]; 3.1.1 [MQTT-3.8.4-3]: with handling 0, and at 3.x, at every SUBSCRIBE.
async fn subscribing_again_sends_retained_messages_again(version: Version) {
    let scope = Scope::new();
    let mut publisher = retaining(version, scope, "kept", 1).await;
    let mut client = broker().clean(version, &scope.id("a")).await;
    for _ in 0..3 {
        client.subscribe(&scope.topic("x"), 1).await;
        assert!(client.expect("kept").await.retain);
    }
    clear(&mut publisher, scope, &["x"]).await;
}
each_version!(subscribing_again_sends_retained_messages_again);

/// [MQTT-3.3.1-10]: with handling 1 only to a new subscription; one that was removed is new again.
#[tokio::test]
async fn retain_handling_1_sends_to_new_subscriptions() {
    let scope = Scope::new();
    let mut publisher = retaining(Version::V5, scope, "kept", 1).await;
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    let new = || [filter(&scope.topic("x")).qos(1).retain_handling(1)];
    client.subscribe_with(new(), []).await;
    client.expect("kept").await;
    client.subscribe_with(new(), []).await;
    expect_nothing_retained(&mut client, &mut publisher, scope).await;
    client.unsubscribe(&scope.topic("x")).await;
    client.subscribe_with(new(), []).await;
    client.expect("kept").await;
    clear(&mut publisher, scope, &["x"]).await;
}

/// [MQTT-3.3.1-10]: a subscription of a session that was taken up is not new.
#[tokio::test]
async fn retain_handling_1_knows_the_subscriptions_of_a_resumed_session() {
    let scope = Scope::new();
    let mut publisher = retaining(Version::V5, scope, "kept", 1).await;
    let mut client = broker().durable(Version::V5, &scope.id("a")).await;
    client.subscribe(&scope.topic("x"), 1).await;
    client.expect("kept").await;
    client.disconnect().await;
    let mut client = broker().durable(Version::V5, &scope.id("a")).await;
    client
        .subscribe_with([filter(&scope.topic("x")).qos(1).retain_handling(1)], [])
        .await;
    expect_nothing_retained(&mut client, &mut publisher, scope).await;
    clear(&mut publisher, scope, &["x"]).await;
}

/// [MQTT-3.3.1-11]
#[tokio::test]
async fn retain_handling_2_sends_nothing() {
    let scope = Scope::new();
    let mut publisher = retaining(Version::V5, scope, "kept", 1).await;
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    for _ in 0..2 {
        client
            .subscribe_with([filter(&scope.topic("x")).qos(1).retain_handling(2)], [])
            .await;
        expect_nothing_retained(&mut client, &mut publisher, scope).await;
    }
    clear(&mut publisher, scope, &["x"]).await;
}

/// A taken-up session does not get retained messages for what it had subscribed to before.
async fn resuming_a_session_sends_no_retained_messages(version: Version) {
    let scope = Scope::new();
    let mut client = broker().durable(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("x"), 1).await;
    client.disconnect().await;
    let mut publisher = retaining(version, scope, "live", 1).await;
    let mut client = broker().durable(version, &scope.id("a")).await;
    assert!(
        !client.expect("live").await.retain,
        "it waited as a message of the subscription"
    );
    expect_nothing_retained(&mut client, &mut publisher, scope).await;
    clear(&mut publisher, scope, &["x"]).await;
}
each_version!(resuming_a_session_sends_no_retained_messages);

/// Every retained message a wildcard matches, and no other; the QoS is capped by the subscription.
async fn wildcards_find_every_retained_message(version: Version) {
    let scope = Scope::new();
    let names: Vec<String> = (0..40).map(|index| format!("deep/{index}/leaf")).collect();
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    for name in names
        .iter()
        .map(String::as_str)
        .chain(["deep/1", "other", "deep/1/leaf/below"])
    {
        publisher
            .publish(publish(&scope.topic(name), name).qos(2).retain())
            .await;
    }
    let mut client = broker().clean(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("deep/+/leaf"), 1).await;
    let mut received = Vec::new();
    for _ in &names {
        let message = client.receive().await;
        assert_eq!((message.qos, message.retain), (1, true));
        received.push(message.text().to_owned());
    }
    received.sort_by_key(|name| names.iter().position(|other| other == name));
    assert_eq!(received, names);
    publisher
        .publish(publish(&scope.topic("deep/x/leaf"), "marker").qos(1))
        .await;
    client.expect("marker").await;
    for name in names
        .iter()
        .map(String::as_str)
        .chain(["deep/1", "other", "deep/1/leaf/below"])
    {
        clear(&mut publisher, scope, &[name]).await;
    }
}
each_version!(wildcards_find_every_retained_message);

/// A retained publish that was acknowledged is seen by every SUBSCRIBE that follows (DESIGN section 3).
async fn acknowledged_retained_message_is_seen_at_once(version: Version) {
    let scope = Scope::new();
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    let mut client = broker().clean(version, &scope.id("a")).await;
    for round in 0..30 {
        publisher
            .publish(publish(&scope.topic("x"), format!("{round}")).qos(1).retain())
            .await;
        client.subscribe(&scope.topic("x"), 1).await;
        client.expect(format!("{round}")).await;
        client.unsubscribe(&scope.topic("x")).await;
    }
    clear(&mut publisher, scope, &["x"]).await;
}
each_version!(acknowledged_retained_message_is_seen_at_once);

/// Section 3.3.2.3.3: a retained message expires, and until then is sent with the time it has left.
#[tokio::test]
async fn retained_message_expires() {
    let scope = Scope::new();
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    publisher
        .publish(
            publish(&scope.topic("x"), "short")
                .qos(1)
                .retain()
                .property(Property::MessageExpiry(1)),
        )
        .await;
    publisher
        .publish(
            publish(&scope.topic("y"), "long")
                .qos(1)
                .retain()
                .property(Property::MessageExpiry(60)),
        )
        .await;
    tokio::time::sleep_until(tokio::time::Instant::now() + std::time::Duration::from_millis(2_100)).await;
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    client.subscribe(&scope.topic("#"), 1).await;
    let left = client
        .expect("long")
        .await
        .properties
        .message_expiry()
        .expect("a remaining time");
    assert!((55..=58).contains(&left), "{left} s are left of 60 after 2 s");
    expect_nothing_retained(&mut client, &mut publisher, scope).await;
    clear(&mut publisher, scope, &["y"]).await;
}

/// Who subscribes behind a retained publish that is not acknowledged yet gets it, once, as retained.
#[tokio::test]
async fn subscription_behind_a_retained_publish_gets_it() {
    for round in 0..60 {
        let scope = Scope::new();
        let durable = round % 2 == 1;
        let packet = connect(&scope.id("a"));
        let packet = if durable { packet.expiry(600) } else { packet };
        let mut raw = broker().raw_client(Version::V5, &packet).await;
        let qos = round % 3;
        let mut message = publish(&scope.topic("x"), "value").qos(qos as u8).retain();
        if qos > 0 {
            message = message.id(7);
        }
        let mut bytes = message.encode(Version::V5);
        bytes.extend(subscribe(1, [filter(&scope.topic("x")).qos(1)]).encode(Version::V5));
        raw.send(bytes.as_slice()).await;
        let deadline = Instant::now() + DEADLINE;
        let got = loop {
            match raw.next_by(deadline).await {
                Some(Event::Packet(Packet::Publish(message))) => break message,
                Some(Event::Packet(_)) => {}
                other => panic!("round {round}: {other:?} instead of the message"),
            }
        };
        assert!(got.retain, "round {round}");
        let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
        clear(&mut publisher, scope, &["x"]).await;
    }
}

/// While subscriptions begin and values change, a retained message never comes after a newer live one (R34), and live
/// ones stay in order.
#[tokio::test]
async fn r34_values_never_go_back() {
    let scope = Scope::new();
    let topic = scope.topic("x");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let publishing = tokio::spawn({
        let topic = topic.clone();
        async move {
            let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
            let mut number: u32 = 0;
            while !*stopped.borrow() {
                let mut bytes = Vec::new();
                for id in 1..=4 {
                    number += 1;
                    let message = publish(&topic, number.to_string()).qos(1).retain().id(id);
                    bytes.extend(message.encode(Version::V5));
                }
                publisher.raw.send(bytes.as_slice()).await;
                for id in 1..=4 {
                    assert_eq!(publisher.raw.expect_puback().await.id, id);
                }
            }
            clear(&mut publisher, scope, &["x"]).await;
        }
    });
    for round in 0..40 {
        let name = scope.id(&format!("s{round}"));
        let mut client = match round % 2 {
            0 => broker().clean(Version::V5, &name).await,
            _ => broker().durable(Version::V5, &name).await,
        };
        client.subscribe(&scope.topic("+"), 1).await;
        let mut last = 0;
        for _ in 0..20 {
            let message = client.receive().await;
            let value: u32 = message.text().parse().expect("a number");
            assert!(value >= last, "round {round}: {value} after live {last}");
            if !message.retain {
                last = value;
            }
        }
        client.disconnect().await;
    }
    stop.send_replace(true);
    publishing.await.expect("the publisher runs");
}

/// Retained messages that a client was not sent before it left are skipped where it is sent newer live ones first (R34).
#[tokio::test]
async fn r34_values_kept_for_a_client_that_left_never_follow_newer_ones() {
    const TOPICS: usize = 64;
    const PUBLISHERS: usize = 16;
    let scope = Scope::new();
    let topic = |number: usize| scope.topic(&format!("r/{number}"));
    let mut first = broker().clean(Version::V5, &scope.id("p")).await;
    for number in 0..TOPICS {
        first
            .publish(publish(&topic(number), "old").qos(1).retain())
            .await;
    }
    let subscribers: Vec<String> = (0..8).map(|number| scope.id(&format!("s{number}"))).collect();
    for name in &subscribers {
        let slow = connect(name).expiry(600).property(Property::ReceiveMaximum(1));
        let mut raw = broker().raw_client(Version::V5, &slow).await;
        raw.subscribe([filter(&scope.topic("r/#")).qos(1)]).await;
        raw.expect_publish().await;
        raw.send(&disconnect()).await;
    }
    // Their homes, and so the queues, are in all groups.
    for publisher in 0..PUBLISHERS {
        let mut client = broker()
            .clean(Version::V5, &scope.id(&format!("q{publisher}")))
            .await;
        for number in (publisher..TOPICS).step_by(PUBLISHERS) {
            client.publish(publish(&topic(number), "new").qos(1)).await;
        }
    }
    for name in &subscribers {
        let mut client = broker().durable(Version::V5, name).await;
        let mut new = std::collections::BTreeSet::new();
        while new.len() < TOPICS {
            let message = client.receive().await;
            match message.text() {
                "new" => drop(new.insert(message.topic.clone())),
                _ => assert!(
                    message.dup || !new.contains(&message.topic),
                    "{name}: {message:?}"
                ),
            }
        }
        client.ping().await;
        let late: Vec<_> = std::iter::from_fn(|| client.waiting())
            .filter(|it| !it.dup)
            .collect();
        assert!(late.is_empty(), "{name}: {late:?}");
    }
    for number in 0..TOPICS {
        first.publish(publish(&topic(number), "").qos(1).retain()).await;
    }
}
