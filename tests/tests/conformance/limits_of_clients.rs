//! What a client limits: receive maximum, maximum packet size, topic aliases [3.1.2.11, 4.9].

use quorate_tests::Version;
use quorate_tests::client::{Client, RawClient};
use quorate_tests::scope::Scope;
use quorate_tests::wire::{
    ConnectBuilder, Property, Publish, connect, filter, puback, pubcomp, publish, pubrec, subscribe,
    unsubscribe,
};

use super::broker;

async fn raw_subscriber(packet: &ConnectBuilder, scope: Scope) -> RawClient {
    let mut raw = broker().raw_client(Version::V5, packet).await;
    raw.subscribe([filter(&scope.topic("#"))]).await;
    raw
}

async fn publisher(scope: Scope) -> Client {
    broker().clean(Version::V5, &scope.id("p")).await
}

/// [MQTT-3.3.4-9], [MQTT-4.9.0-1], [MQTT-4.9.0-2]: so many unacknowledged, and the next with the next PUBACK.
#[tokio::test]
async fn receive_maximum_bounds_what_is_on_its_way() {
    let scope = Scope::new();
    let mut raw = raw_subscriber(
        &connect(&scope.id("s")).property(Property::ReceiveMaximum(2)),
        scope,
    )
    .await;
    let mut publisher = publisher(scope).await;
    for number in 1..=6 {
        publisher
            .publish(publish(&scope.topic("x"), number.to_string()).qos(1))
            .await;
    }
    let mut ids = vec![raw.expect_publish().await, raw.expect_publish().await];
    for number in 3..=6 {
        raw.expect_alive().await;
        let acknowledged = ids.remove(0);
        raw.send(&puback(acknowledged.id.expect("QoS 1"))).await;
        let next = raw.expect_publish().await;
        assert_eq!(next.text(), number.to_string());
        ids.push(next);
    }
}

/// [MQTT-4.9.0-2], [MQTT-3.3.4-9]: at QoS 2 PUBCOMP frees the place, PUBREC only when it refuses.
#[tokio::test]
async fn exchange_of_qos_2_holds_its_place_to_the_end() {
    let scope = Scope::new();
    let mut raw = raw_subscriber(
        &connect(&scope.id("s")).property(Property::ReceiveMaximum(1)),
        scope,
    )
    .await;
    let mut publisher = publisher(scope).await;
    for payload in ["1", "2", "3"] {
        publisher
            .publish(publish(&scope.topic("x"), payload).qos(2))
            .await;
    }
    let id = raw.expect_publish().await.id.expect("QoS 2");
    raw.send(&pubrec(id)).await;
    assert_eq!(raw.expect_pubrel().await.id, id);
    raw.expect_alive().await;
    raw.send(&pubcomp(id)).await;
    let second = raw.expect_publish().await;
    assert_eq!(second.text(), "2");
    raw.send(&pubrec(second.id.expect("QoS 2")).code(0x83)).await;
    assert_eq!(raw.expect_publish().await.text(), "3");
}

/// [MQTT-3.3.4-10], [MQTT-4.9.0-3]: all else goes on when the quota is used up, QoS 0 included.
#[tokio::test]
async fn full_window_delays_nothing_else() {
    let scope = Scope::new();
    let mut raw = raw_subscriber(
        &connect(&scope.id("s")).property(Property::ReceiveMaximum(1)),
        scope,
    )
    .await;
    let mut publisher = publisher(scope).await;
    for payload in ["on its way", "waits"] {
        publisher
            .publish(publish(&scope.topic("x"), payload).qos(1))
            .await;
    }
    let id = raw.expect_publish().await.id.expect("QoS 1");
    publisher.publish(publish(&scope.topic("y"), "QoS 0")).await;
    assert_eq!(raw.expect_publish().await.text(), "QoS 0");
    raw.send(&subscribe(2, [filter("other")])).await;
    raw.expect_suback().await;
    raw.send(&unsubscribe(3, ["other"])).await;
    raw.expect_unsuback().await;
    raw.send(&publish(&Scope::new().topic("z"), "m").qos(1).id(4))
        .await;
    raw.expect_puback().await;
    raw.expect_alive().await;
    raw.send(&puback(id)).await;
    assert_eq!(raw.expect_publish().await.text(), "waits");
}

/// [MQTT-4.4.0-1], [MQTT-3.3.4-9]: a client that comes back with a smaller receive maximum gets no more than that.
#[tokio::test]
async fn receive_maximum_holds_for_what_is_sent_again() {
    let scope = Scope::new();
    let mut raw = raw_subscriber(&connect(&scope.id("s")).expiry(600), scope).await;
    let mut publisher = publisher(scope).await;
    for number in 1..=3 {
        publisher
            .publish(publish(&scope.topic("x"), number.to_string()).qos(1))
            .await;
    }
    for _ in 1..=3 {
        raw.expect_publish().await;
    }
    drop(raw);
    let packet = connect(&scope.id("s"))
        .resume()
        .expiry(600)
        .property(Property::ReceiveMaximum(1));
    let mut raw = broker().raw_client(Version::V5, &packet).await;
    for number in 1..=3 {
        let message = raw.expect_publish().await;
        assert_eq!(message.text(), number.to_string());
        raw.expect_alive().await;
        raw.send(&puback(message.id.expect("QoS 1"))).await;
    }
}

/// [MQTT-3.1.2-24], [MQTT-3.1.2-25]: what is too large is skipped for this client, and the flow goes on.
#[tokio::test]
async fn messages_larger_than_the_client_takes_are_skipped() {
    const LIMIT: usize = 100;
    let scope = Scope::new();
    let limited = connect(&scope.id("s")).property(Property::MaximumPacketSize(LIMIT as u32));
    let mut limited = broker().client(Version::V5, &limited).await;
    limited.subscribe(&scope.topic("#"), 2).await;
    let mut other = broker().clean(Version::V5, &scope.id("o")).await;
    other.subscribe(&scope.topic("#"), 2).await;
    let mut publisher = publisher(scope).await;
    for qos in 0..=2 {
        let identifier = if qos > 0 { 2 } else { 0 };
        // Fixed header of 2, topic, identifier, property length of 1.
        let room = LIMIT - 2 - 2 - scope.topic("x").len() - identifier - 1;
        for payload in ["y".repeat(room + 1), "x".repeat(room)] {
            publisher
                .publish(publish(&scope.topic("x"), &payload).qos(qos))
                .await;
            other.expect(&payload).await;
        }
        let message = limited.receive().await;
        assert_eq!(
            (message.size, message.payload),
            (LIMIT, "x".repeat(room).into_bytes()),
            "QoS {qos}"
        );
    }
}

/// [MQTT-3.1.2-25]: as if it had been sent: it takes no place in the window and does not come with the next connection.
#[tokio::test]
async fn skipped_messages_count_as_sent() {
    let scope = Scope::new();
    let limited = |packet: ConnectBuilder| {
        packet
            .expiry(600)
            .property(Property::MaximumPacketSize(100))
            .property(Property::ReceiveMaximum(1))
    };
    let mut client = broker()
        .client(Version::V5, &limited(connect(&scope.id("s"))))
        .await;
    client.subscribe(&scope.topic("#"), 1).await;
    client.disconnect().await;
    let mut publisher = publisher(scope).await;
    for payload in ["x".repeat(200), "small".into(), "x".repeat(300), "end".into()] {
        publisher
            .publish(publish(&scope.topic("x"), payload).qos(1))
            .await;
    }
    let mut client = broker()
        .client(Version::V5, &limited(connect(&scope.id("s")).resume()))
        .await;
    assert_eq!(client.receive_texts(2).await, ["small", "end"]);
    client.disconnect().await;
    let mut client = broker().durable(Version::V5, &scope.id("s")).await;
    client.ping().await;
    publisher.publish(publish(&scope.topic("x"), "new").qos(1)).await;
    client.expect("new").await;
}

/// The topics and aliases of the next messages.
async fn aliases(raw: &mut RawClient, count: usize) -> Vec<(String, Option<u16>)> {
    let mut aliases = Vec::new();
    for _ in 0..count {
        let Publish {
            topic, properties, ..
        } = raw.expect_publish().await;
        aliases.push((topic, properties.topic_alias()));
    }
    aliases
}

/// [MQTT-3.1.2-26], [MQTT-3.3.2-11], [MQTT-3.3.2-8]: within the client's maximum, set with the topic before it stands
/// alone, and standing for that topic ever after.
#[tokio::test]
async fn outbound_aliases_stay_within_the_maximum() {
    const MAXIMUM: u16 = 3;
    let scope = Scope::new();
    let packet = connect(&scope.id("s")).property(Property::TopicAliasMaximum(MAXIMUM));
    let mut raw = raw_subscriber(&packet, scope).await;
    let mut publisher = publisher(scope).await;
    let topics: Vec<String> = (0..8).map(|index| scope.topic(&index.to_string())).collect();
    // Each topic twice in a row and all of them again: whichever topics the aliases are for, some are met again.
    let sent: Vec<&String> = topics
        .iter()
        .chain(&topics)
        .flat_map(|topic| [topic, topic])
        .collect();
    for topic in &sent {
        publisher.publish(publish(topic, topic)).await;
    }
    let mut known = std::collections::HashMap::new();
    let mut shortened = 0;
    for expected in sent {
        let message = raw.expect_publish().await;
        let alias = message.properties.topic_alias();
        assert!(
            alias.is_none_or(|alias| (1..=MAXIMUM).contains(&alias)),
            "{message:?}"
        );
        let topic = match (message.topic.is_empty(), alias) {
            (false, Some(alias)) => {
                known.insert(alias, message.topic.clone());
                message.topic.clone()
            }
            (false, None) => message.topic.clone(),
            (true, alias) => {
                shortened += 1;
                known[&alias.expect("an empty topic has an alias")].clone()
            }
        };
        assert_eq!(&topic, expected);
        assert_eq!(message.text(), topic);
    }
    assert!(shortened > 0, "aliases are used");
}

/// [MQTT-3.1.2-26]: an alias is of use from the first message on, whatever its QoS.
#[tokio::test]
async fn outbound_alias_is_set_with_the_first_message() {
    let scope = Scope::new();
    let mut raw = raw_subscriber(
        &connect(&scope.id("s")).property(Property::TopicAliasMaximum(1)),
        scope,
    )
    .await;
    let mut publisher = publisher(scope).await;
    for qos in 0..=2 {
        publisher.publish(publish(&scope.topic("x"), "m").qos(qos)).await;
    }
    let aliases = aliases(&mut raw, 3).await;
    assert_eq!(
        aliases,
        [
            (scope.topic("x"), Some(1)),
            (String::new(), Some(1)),
            (String::new(), Some(1))
        ]
    );
}

/// [MQTT-3.1.2-27]: without a maximum, or with 0, there are none.
#[tokio::test]
async fn no_aliases_without_a_maximum() {
    for packet in [
        connect(&Scope::new().id("s")),
        connect(&Scope::new().id("s")).property(Property::TopicAliasMaximum(0)),
    ] {
        let scope = Scope::new();
        let mut raw = raw_subscriber(&packet, scope).await;
        let mut publisher = publisher(scope).await;
        for _ in 0..3 {
            publisher.publish(publish(&scope.topic("x"), "m")).await;
        }
        assert_eq!(aliases(&mut raw, 3).await, vec![(scope.topic("x"), None); 3]);
    }
}

/// [MQTT-3.3.2-7]: aliases end with their connection; what is sent again has its topic.
#[tokio::test]
async fn outbound_aliases_are_not_carried_over() {
    let scope = Scope::new();
    let packet = connect(&scope.id("s"))
        .expiry(600)
        .property(Property::TopicAliasMaximum(5));
    let mut raw = raw_subscriber(&packet, scope).await;
    let mut publisher = publisher(scope).await;
    for _ in 0..2 {
        publisher.publish(publish(&scope.topic("x"), "m").qos(1)).await;
    }
    assert_eq!(aliases(&mut raw, 2).await[1].0, "");
    drop(raw);
    let mut raw = broker().raw_client(Version::V5, &packet.resume()).await;
    let again = aliases(&mut raw, 2).await;
    assert_eq!(again[0].0, scope.topic("x"));
    assert!(
        again[1].0 == scope.topic("x") || again[1].1 == again[0].1,
        "{again:?}"
    );
}
