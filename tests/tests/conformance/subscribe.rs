//! SUBSCRIBE, UNSUBSCRIBE and their acknowledgements [3.8 to 3.11].

use quorate_tests::broker::Config;
use quorate_tests::client::DEADLINE;
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Property, connect, filter, publish, subscribe, unsubscribe};
use quorate_tests::{Version, each_version};
use tokio::time::Instant;

use super::{broker, start};

/// [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-2.2.1-6], [MQTT-3.8.4-6], [MQTT-3.8.4-7], [MQTT-3.9.3-1], [MQTT-3.9.3-2]:
/// one code for each filter, in order.
async fn suback_answers_every_filter_in_order(version: Version) {
    let scope = Scope::new();
    let mut raw = broker().raw_client(version, &connect(&scope.id("a"))).await;
    for id in [1, 65_535] {
        let filters = [2, 0, 1, 0]
            .iter()
            .enumerate()
            .map(|(index, qos)| filter(&scope.topic(&index.to_string())).qos(*qos));
        raw.send(&subscribe(id, filters)).await;
        let suback = raw.expect_suback().await;
        assert_eq!((suback.id, suback.codes), (id, vec![2, 0, 1, 0]));
    }
}
each_version!(suback_answers_every_filter_in_order);

/// [MQTT-3.8.4-5]; 3.1.1 [MQTT-3.8.4-4]: many filters in one packet are as good as many packets.
async fn many_filters_in_one_packet_all_hold(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    let names: Vec<String> = (0..50).map(|index| scope.topic(&index.to_string())).collect();
    let suback = client
        .subscribe_with(names.iter().map(|name| filter(name).qos(1)), [])
        .await;
    assert_eq!(suback.codes, [1; 50]);
    for name in &names {
        client.publish(publish(name, name).qos(1)).await;
        client.expect(name).await;
    }
}
each_version!(many_filters_in_one_packet_all_hold);

/// [MQTT-3.8.4-3], [MQTT-3.8.4-4]: the new QoS holds, and there is still one subscription.
async fn same_filter_replaces_the_subscription(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    for qos in [2, 0, 1] {
        client.subscribe(&scope.topic("+"), qos).await;
        client
            .publish(publish(&scope.topic("x"), format!("at {qos}")).qos(2))
            .await;
        assert_eq!(client.expect(format!("at {qos}")).await.qos, qos);
    }
    client.unsubscribe(&scope.topic("+")).await;
    client
        .publish(publish(&scope.topic("x"), "to nobody").qos(1))
        .await;
    client.subscribe(&scope.topic("x"), 1).await;
    client.publish(publish(&scope.topic("x"), "end").qos(1)).await;
    client.expect("end").await;
}
each_version!(same_filter_replaces_the_subscription);

/// [MQTT-3.8.4-4]: a message that is published while subscriptions are replaced arrives.
async fn nothing_is_lost_while_a_subscription_is_replaced(version: Version) {
    const COUNT: usize = 60;
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 1).await;
    let publishing = async {
        let mut publisher = broker().clean(version, &scope.id("p")).await;
        for number in 0..COUNT {
            publisher
                .publish(publish(&scope.topic("x"), number.to_string()).qos(1))
                .await;
        }
    };
    let subscribing = async {
        for number in 0..COUNT {
            subscriber
                .subscribe(&scope.topic("x"), 1 + u8::from(number % 2 == 0))
                .await;
        }
        subscriber.receive_texts(COUNT).await
    };
    let ((), received) = tokio::join!(publishing, subscribing);
    assert_eq!(
        received,
        (0..COUNT).map(|number| number.to_string()).collect::<Vec<_>>()
    );
}
each_version!(nothing_is_lost_while_a_subscription_is_replaced);

/// [MQTT-3.3.4-2], [MQTT-3.3.4-3], [MQTT-3.3.4-4]; 3.1.1 [MQTT-3.3.5-1]: one message, at the highest QoS, with all
/// identifiers.
async fn overlapping_subscriptions_give_one_message(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    for (rest, qos, id) in [("#", 0, 3), ("+", 2, 268_435_455), ("x", 1, 1)] {
        client
            .subscribe_with(
                [filter(&scope.topic(rest)).qos(qos)],
                [Property::SubscriptionId(id)],
            )
            .await;
    }
    client.subscribe(&scope.topic("x/#"), 1).await;
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    publisher.publish(publish(&scope.topic("x"), "once").qos(2)).await;
    let message = client.expect("once").await;
    assert_eq!(message.qos, 2);
    if version == Version::V5 {
        assert_eq!(message.properties.subscription_ids(), [1, 3, 268_435_455]);
    }
    publisher.publish(publish(&scope.topic("x"), "end").qos(2)).await;
    client.expect("end").await;
}
each_version!(overlapping_subscriptions_give_one_message);

/// [MQTT-3.3.4-3]: for each message the identifiers of what it matches, replaced and removed with the subscription.
#[tokio::test]
async fn subscription_identifiers_follow_the_subscription() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    for id in [Some(7), Some(8), None] {
        client
            .subscribe_with(
                [filter(&scope.topic("x")).qos(1)],
                id.map(Property::SubscriptionId),
            )
            .await;
        client.publish(publish(&scope.topic("x"), "m").qos(1)).await;
        assert_eq!(
            client.expect("m").await.properties.subscription_ids(),
            id.into_iter().collect::<Vec<_>>()
        );
    }
}

/// [MQTT-3.3.4-3]: also for what waited for an absent session, and for retained messages.
#[tokio::test]
async fn subscription_identifiers_stand_on_queued_and_retained_messages() {
    let scope = Scope::new();
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    publisher
        .publish(publish(&scope.topic("x"), "retained").qos(1).retain())
        .await;
    let mut client = broker().durable(Version::V5, &scope.id("a")).await;
    client
        .subscribe_with([filter(&scope.topic("x")).qos(1)], [Property::SubscriptionId(42)])
        .await;
    assert_eq!(
        client.expect("retained").await.properties.subscription_ids(),
        [42]
    );
    client.disconnect().await;
    publisher
        .publish(publish(&scope.topic("x"), "queued").qos(1))
        .await;
    let mut client = broker().durable(Version::V5, &scope.id("a")).await;
    assert_eq!(client.expect("queued").await.properties.subscription_ids(), [42]);
    publisher.publish(publish(&scope.topic("x"), "").retain()).await;
}

/// [MQTT-3.8.3-3]: not to the connection's own client, whoever else gets it; by client identifier, not by user.
#[tokio::test]
async fn no_local_withholds_own_messages() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    client
        .subscribe_with([filter(&scope.topic("x")).qos(1).no_local()], [])
        .await;
    let mut other = broker().clean(Version::V5, &scope.id("b")).await;
    other
        .subscribe_with([filter(&scope.topic("x")).qos(1).no_local()], [])
        .await;
    client.publish(publish(&scope.topic("x"), "from a").qos(1)).await;
    other.publish(publish(&scope.topic("x"), "from b").qos(1)).await;
    client.expect("from b").await;
    other.expect("from a").await;
    client.ping().await;
    other.ping().await;
    client
        .publish(publish(&scope.topic("x"), "from a again").qos(1))
        .await;
    other.expect("from a again").await;
}

/// [MQTT-3.8.3-3]: the option is the subscription's; another one that matches delivers.
#[tokio::test]
async fn no_local_holds_for_its_subscription_alone() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    client
        .subscribe_with(
            [filter(&scope.topic("#")).qos(2).no_local()],
            [Property::SubscriptionId(1)],
        )
        .await;
    client
        .subscribe_with([filter(&scope.topic("x")).qos(1)], [Property::SubscriptionId(2)])
        .await;
    client.publish(publish(&scope.topic("x"), "own").qos(2)).await;
    let message = client.expect("own").await;
    assert_eq!((message.qos, message.properties.subscription_ids()), (1, vec![2]));
}

/// [MQTT-3.10.4-1], [MQTT-3.10.4-2]: only the very same filter, character by character.
async fn unsubscribe_compares_character_by_character(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("x/+"), 1).await;
    for other in ["x/y", "x/#", "X/+", "x/+/", "+/+", "x/y "] {
        client.unsubscribe(&scope.topic(other)).await;
        client.publish(publish(&scope.topic("x/y"), other).qos(1)).await;
        client.expect(other).await;
    }
    client.unsubscribe(&scope.topic("x/+")).await;
    client
        .publish(publish(&scope.topic("x/y"), "to nobody").qos(1))
        .await;
    client.subscribe(&scope.topic("x/y"), 1).await;
    client.publish(publish(&scope.topic("x/y"), "end").qos(1)).await;
    client.expect("end").await;
}
each_version!(unsubscribe_compares_character_by_character);

/// [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6], [MQTT-3.11.3-1], [MQTT-3.11.3-2], [MQTT-2.2.1-6]: one UNSUBACK,
/// whatever was there.
async fn unsuback_answers_every_filter_in_order(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("x"), 1).await;
    client.subscribe(&scope.topic("y"), 1).await;
    client
        .raw
        .send(&unsubscribe(
            65_535,
            ["none", "x", "x", "none"].map(|name| scope.topic(name)),
        ))
        .await;
    let unsuback = client.raw.expect_unsuback().await;
    assert_eq!(unsuback.id, 65_535);
    let expected: &[u8] = if version == Version::V5 {
        &[0x11, 0x00, 0x11, 0x11]
    } else {
        &[]
    };
    assert_eq!(unsuback.codes, expected);
    client
        .publish(publish(&scope.topic("x"), "to nobody").qos(1))
        .await;
    client
        .publish(publish(&scope.topic("y"), "still there").qos(1))
        .await;
    client.expect("still there").await;
}
each_version!(unsuback_answers_every_filter_in_order);

/// Section 3.8.4: each filter of a SUBSCRIBE is judged by itself.
#[tokio::test]
async fn invalid_filters_are_refused_one_by_one() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    let good = scope.topic("x");
    let filters = [
        &good[..],
        "a/#/b",
        "a#",
        "a/b+",
        "+a",
        "$share/g",
        "$share//a",
        "$share/g/",
        "$share/+/a",
        "$share/g#/a",
    ];
    let suback = client
        .subscribe_with(filters.map(|name| filter(name).qos(1)), [])
        .await;
    assert_eq!(suback.codes[0], 1);
    assert_eq!(suback.codes[1..], [0x8F; 9]);
    client.publish(publish(&good, "m").qos(1)).await;
    client.expect("m").await;
}

/// 3.1.1 [MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.8.0-1]: before MQTT 5 a wildcard in the wrong place ends the
/// connection.
async fn invalid_filters_end_the_connection_before_mqtt_5(version: Version) {
    for name in ["a/#/b", "a#", "a/b+", "+a", "#/a", ""] {
        let mut raw = broker()
            .raw_client(version, &connect(&Scope::new().id("a")))
            .await;
        raw.send(&subscribe(1, [filter(name)])).await;
        raw.expect_closed().await;
    }
}
each_version!(invalid_filters_end_the_connection_before_mqtt_5: v3_1, v3_1_1);

/// 3.1.1 [MQTT-3.8.4-5], [MQTT-3.9.3-2]: what only this server does not take is a failure of that filter.
#[tokio::test]
async fn filter_beyond_the_limits_is_refused_with_0x80_at_3_1_1() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V3_1_1, &scope.id("a")).await;
    let suback = client
        .subscribe_with([filter(&"a".repeat(1_025)), filter(&scope.topic("x")).qos(1)], [])
        .await;
    assert_eq!(suback.codes, [0x80, 1]);
}

/// A SUBACK means that what is published afterwards anywhere is delivered; likewise UNSUBACK (DESIGN section 1).
async fn acknowledged_subscription_holds_at_once(version: Version) {
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    for round in 0..50 {
        subscriber.subscribe(&scope.topic("x"), 1).await;
        publisher
            .publish(publish(&scope.topic("x"), format!("in {round}")).qos(1))
            .await;
        subscriber.expect(format!("in {round}")).await;
        subscriber.unsubscribe(&scope.topic("x")).await;
        publisher
            .publish(publish(&scope.topic("x"), format!("out {round}")).qos(1))
            .await;
    }
    subscriber.subscribe(&scope.topic("x"), 1).await;
    publisher.publish(publish(&scope.topic("x"), "end").qos(1)).await;
    subscriber.expect("end").await;
}
each_version!(acknowledged_subscription_holds_at_once);

/// What a SUBSCRIBE asked for beyond the limit is not routed, also where the client did not wait for the answer.
#[tokio::test]
async fn refused_subscriptions_leave_no_route() {
    let broker = start(Config::new().toml("[limits]\nsubscriptions_per_session_max = 2\n"));
    let mut publisher = broker.clean(Version::V5, "p").await;
    for round in 0..20 {
        let packet = connect(&format!("a{round}")).expiry(600);
        let mut raw = broker.raw_client(Version::V5, &packet).await;
        let names = ["one", "two", "three"].map(|name| format!("{round}/{name}"));
        raw.send(&subscribe(1, names.iter().map(|name| filter(name).qos(1))))
            .await;
        drop(raw);
        for (name, code) in names.iter().zip([0x00, 0x00, 0x10]) {
            let deadline = Instant::now() + DEADLINE;
            while publisher.publish(publish(name, "m").qos(1)).await != code {
                assert!(Instant::now() < deadline, "{name}: PUBACK never says {code:#04X}");
            }
        }
    }
}
