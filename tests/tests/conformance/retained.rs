//! Retained messages [3.3.1.3, 3.8.3.1].

use quorate_tests::broker::Config;
use quorate_tests::client::{Client, DEADLINE, Event};
use quorate_tests::scope::Scope;
use quorate_tests::wire::{
    Encode, Packet, Property, connect, disconnect, filter, puback, publish, subscribe, unsubscribe,
};
use quorate_tests::{Version, each_version};
use tokio::time::Instant;

use super::{broker, start};

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

/// Sends retained messages without waiting for each.
async fn retain_many(client: &mut Client, topics: impl IntoIterator<Item = String>) {
    let mut bytes = Vec::new();
    for topic in topics {
        bytes.extend(publish(&topic, "v").retain().encode(client.raw.version()));
    }
    client.raw.send(bytes.as_slice()).await;
}

/// [MQTT-3.3.1-9]: also where the first match stands behind thousands of topics that do not match.
#[tokio::test]
async fn matches_far_behind_others_are_found() {
    let broker = start(Config::new());
    let mut publisher = broker.clean(Version::V5, "p").await;
    retain_many(
        &mut publisher,
        (0..8_000).map(|number| format!("s/a{number:05}/x")),
    )
    .await;
    publisher.publish(publish("s/z/y", "found").qos(1).retain()).await;
    let mut client = broker.clean(Version::V5, "a").await;
    client.subscribe("s/+/y", 1).await;
    client.expect("found").await;
    client.subscribe("s/+/nothing", 1).await;
    client.ping().await;
}

/// A durable session takes its retained messages piece by piece: more than its queue holds, and more than fits its
/// window.
#[tokio::test]
async fn retained_messages_beyond_the_queue_arrive() {
    const COUNT: usize = 1_000;
    let broker = start(Config::new().toml("[session]\nqueue_messages_max = 200\n"));
    let mut publisher = broker.clean(Version::V5, "p").await;
    retain_many(&mut publisher, (0..COUNT).map(|number| format!("r/{number}"))).await;
    publisher.publish(publish("r/last", "v").qos(1).retain()).await;
    let slow = connect("a")
        .resume()
        .expiry(600)
        .property(Property::ReceiveMaximum(8));
    let mut client = broker.client(Version::V5, &slow).await;
    // QoS 0 messages would not be queued.
    let mut at_qos_1 = broker.clean(Version::V5, "q").await;
    for number in 0..COUNT {
        at_qos_1
            .publish(publish(&format!("r/{number}"), "v1").qos(1).retain())
            .await;
    }
    client.subscribe("r/#", 1).await;
    let mut topics = std::collections::BTreeSet::new();
    for _ in 0..=COUNT {
        topics.insert(client.receive().await.topic);
    }
    assert_eq!(topics.len(), COUNT + 1);
    assert_eq!(
        broker.metric("quorate_messages_dropped_total{reason=\"queue_full\"}"),
        0.0
    );
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

/// What a durable session was not sent yet of its retained messages when its client left, it is sent later.
#[tokio::test]
async fn retained_messages_are_kept_for_a_client_that_leaves() {
    const COUNT: usize = 500;
    let scope = Scope::new();
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    let topics: Vec<String> = (0..COUNT)
        .map(|number| scope.topic(&format!("r/{number}")))
        .collect();
    for topic in &topics {
        publisher.publish(publish(topic, "v").qos(1).retain()).await;
    }
    let slow = connect(&scope.id("a"))
        .resume()
        .expiry(600)
        .property(Property::ReceiveMaximum(4));
    let mut client = broker().client(Version::V5, &slow).await;
    client.subscribe(&scope.topic("r/#"), 1).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10 {
        seen.insert(client.receive().await.topic);
    }
    seen.extend(std::iter::from_fn(|| client.waiting()).map(|message| message.topic));
    client.disconnect().await;
    let mut client = broker().durable(Version::V5, &scope.id("a")).await;
    while seen.len() < COUNT {
        seen.insert(client.receive().await.topic);
    }
    for topic in &topics {
        publisher.publish(publish(topic, "").qos(1).retain()).await;
    }
}

/// [MQTT-3.10.4-2]: also of what is not queued nothing follows UNSUBACK.
#[tokio::test]
async fn r24_nothing_retained_is_sent_behind_unsuback() {
    // More than the sockets between the broker and a client that does not read take.
    const COUNT: usize = 400;
    const PAYLOAD: usize = 64 * 1024;
    let broker = start(Config::new());
    let mut publisher = broker.clean(Version::V5, "p").await;
    let payload = vec![b'v'; PAYLOAD];
    for number in 0..COUNT {
        publisher
            .publish(publish(&format!("r/{number}"), &payload).qos(1).retain())
            .await;
    }
    let mut raw = broker.raw_client(Version::V5, &connect("a")).await;
    raw.send(&subscribe(1, [filter("r/#")])).await;
    raw.send(&unsubscribe(2, ["r/#"])).await;
    let mut sent = 0;
    loop {
        match raw.receive().await {
            Packet::Publish(_) => sent += 1,
            Packet::Unsuback(_) => break,
            _ => {}
        }
    }
    assert!(sent < COUNT, "everything had been sent before");
    raw.expect_alive().await;
}

/// [MQTT-3.8.4-5]: of one SUBSCRIBE with a filter twice the last one counts, and what the first one asked for still comes.
#[tokio::test]
async fn r24_a_filter_that_is_renewed_within_one_subscribe_gets_what_is_retained() {
    let broker = start(Config::new());
    let mut publisher = broker.clean(Version::V5, "p").await;
    publisher.publish(publish("a", "value").qos(1).retain()).await;
    let mut raw = broker
        .raw_client(Version::V5, &connect("s").resume().expiry(600))
        .await;
    let twice = [filter("a").qos(1), filter("a").qos(0).retain_handling(2)];
    raw.send(&subscribe(1, twice)).await;
    assert_eq!(raw.expect_suback().await.codes, [1, 0]);
    let message = raw.expect_publish().await;
    assert_eq!(message.payload, b"value"[..]);
    assert_eq!((message.qos, message.retain), (0, true));
    raw.expect_alive().await;
}

/// [MQTT-3.8.4-3]: what is retained for many subscriptions is looked for without a commit of its own for each.
#[tokio::test]
async fn r24_subscriptions_that_find_nothing_wait_for_no_disk() {
    const COUNT: usize = 500;
    let broker = start(Config::new());
    let mut publisher = broker.clean(Version::V5, "p").await;
    publisher.publish(publish("last", "found").qos(1).retain()).await;
    let mut client = broker.durable(Version::V5, "a").await;
    let syncs = || broker.metric("quorate_log_sync_seconds_count");
    let before = syncs();
    let filters = (0..COUNT).map(|number| filter(&format!("nothing/{number}")).qos(1));
    client.subscribe_with(filters, []).await;
    client.subscribe("last", 1).await;
    client.expect("found").await;
    let needed = syncs() - before;
    assert!(needed < COUNT as f64 / 5.0, "{needed} syncs");
}

/// Of a replay that goes on nothing more is sent than what was on its way when its subscription was removed (R24).
#[tokio::test]
async fn r24_retained_messages_end_with_their_subscription() {
    const COUNT: usize = 250;
    let scope = Scope::new();
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    let topics = || (0..COUNT).map(|number| scope.topic(&format!("r/{number}")));
    for topic in topics().chain([scope.topic("last")]) {
        publisher.publish(publish(&topic, "v").qos(1).retain()).await;
    }
    let slow = connect(&scope.id("a"))
        .expiry(600)
        .property(Property::ReceiveMaximum(4));
    let mut raw = broker().raw_client(Version::V5, &slow).await;
    raw.subscribe([filter(&scope.topic("r/#")).qos(1)]).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.extend(raw.expect_publish().await.id);
    }
    raw.send(&unsubscribe(2, [scope.topic("r/#").as_str()])).await;
    raw.expect_unsuback().await;
    // In order behind what was to come.
    raw.send(&subscribe(3, [filter(&scope.topic("last")).qos(1)]))
        .await;
    raw.expect_suback().await;
    let mut sent = 0;
    for id in waiting {
        raw.send(&puback(id)).await;
    }
    loop {
        let message = raw.expect_publish().await;
        if message.topic == scope.topic("last") {
            break;
        }
        raw.send(&puback(message.id.expect("at QoS 1"))).await;
        sent += 1;
    }
    assert!(sent < COUNT / 2, "{sent} came behind UNSUBACK");
    for topic in topics().chain([scope.topic("last")]) {
        publisher.publish(publish(&topic, "").qos(1).retain()).await;
    }
}
