//! PUBLISH and its acknowledgements, from a client [3.3 to 3.7, 4.3].

use quorate_tests::client::RawClient;
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Packet, Property, connect, filter, publish, pubrel};
use quorate_tests::{Version, each_version};

use super::broker;

/// [MQTT-3.3.4-1], [MQTT-2.2.1-5], [MQTT-4.3.2-4], [MQTT-4.3.3-8], [MQTT-4.3.3-11], [MQTT-3.4.2-1], [MQTT-3.5.2-1],
/// [MQTT-3.7.2-1]; 3.1.1 [MQTT-3.3.4-1], [MQTT-2.3.1-6]: the answer fits the QoS and has the identifier.
async fn answer_fits_the_qos(version: Version) {
    let scope = Scope::new();
    let mut raw = broker().raw_client(version, &connect(&scope.id("a"))).await;
    raw.subscribe([filter(&scope.topic("x"))]).await;
    raw.send(&publish(&scope.topic("y"), "m")).await;
    raw.expect_alive().await;
    for id in [1, 255, 65_535] {
        raw.send(&publish(&scope.topic("y"), "m").qos(1).id(id)).await;
        let puback = raw.expect_puback().await;
        assert_eq!(puback.id, id);
        assert!(puback.code < 0x80);
        raw.send(&publish(&scope.topic("y"), "m").qos(2).id(id)).await;
        let pubrec = raw.expect_pubrec().await;
        assert_eq!(pubrec.id, id);
        assert!(pubrec.code < 0x80);
        raw.send(&pubrel(id)).await;
        let pubcomp = raw.expect_pubcomp().await;
        assert_eq!((pubcomp.id, pubcomp.code), (id, 0));
    }
}
each_version!(answer_fits_the_qos);

/// Section 3.4.2.1: 0x10 says that nobody subscribes, 0x00 that somebody does.
#[tokio::test]
async fn publisher_is_told_when_nobody_subscribes() {
    let scope = Scope::new();
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    let mut subscriber = broker().clean(Version::V5, &scope.id("s")).await;
    for qos in [1, 2] {
        assert_eq!(
            publisher
                .publish(publish(&scope.topic("x"), "to nobody").qos(qos))
                .await,
            0x10
        );
    }
    subscriber.subscribe(&scope.topic("+"), 0).await;
    for qos in [1, 2] {
        assert_eq!(
            publisher
                .publish(publish(&scope.topic("x"), "to somebody").qos(qos))
                .await,
            0x00
        );
    }
}

/// Publishes at QoS 2 with identifier 7, to the end of the exchange: a server may pass a message on with its PUBLISH
/// or with its PUBREL (section 4.3.3).
async fn complete(raw: &mut RawClient, topic: &str, payload: &str) {
    raw.send(&publish(topic, payload).qos(2).id(7)).await;
    assert_eq!(raw.expect_pubrec().await.id, 7);
    raw.send(&pubrel(7)).await;
    assert_eq!(raw.expect_pubcomp().await.id, 7);
}

/// [MQTT-4.3.3-10]: until PUBREL the same identifier is the same message, with DUP or without.
async fn repeated_qos_2_publish_is_delivered_once(version: Version) {
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 2).await;
    let mut raw = broker().raw_client(version, &connect(&scope.id("p"))).await;
    for packet in [
        publish(&scope.topic("x"), "once"),
        publish(&scope.topic("x"), "once").dup(),
    ] {
        raw.send(&packet.qos(2).id(7)).await;
        assert_eq!(raw.expect_pubrec().await.id, 7);
    }
    raw.send(&pubrel(7)).await;
    assert_eq!(raw.expect_pubcomp().await.id, 7);
    complete(&mut raw, &scope.topic("x"), "end").await;
    subscriber.expect("once").await;
    subscriber.expect("end").await;
}
each_version!(repeated_qos_2_publish_is_delivered_once);

/// [MQTT-4.3.3-10], [MQTT-4.4.0-1]: also when the client comes back in between.
async fn repeated_qos_2_publish_is_delivered_once_across_connections(version: Version) {
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 2).await;
    let packet = connect(&scope.id("p")).resume().expiry(600);
    let mut raw = broker().raw_client(version, &packet).await;
    raw.send(&publish(&scope.topic("x"), "once").qos(2).id(7)).await;
    raw.expect_pubrec().await;
    drop(raw);
    let mut raw = broker().raw_client(version, &packet).await;
    raw.send(&publish(&scope.topic("x"), "once").dup().qos(2).id(7))
        .await;
    assert_eq!(raw.expect_pubrec().await.id, 7);
    drop(raw);
    let mut raw = broker().raw_client(version, &packet).await;
    raw.send(&pubrel(7)).await;
    let pubcomp = raw.expect_pubcomp().await;
    assert_eq!((pubcomp.id, pubcomp.code), (7, 0));
    complete(&mut raw, &scope.topic("x"), "end").await;
    subscriber.expect("once").await;
    subscriber.expect("end").await;
}
each_version!(repeated_qos_2_publish_is_delivered_once_across_connections);

/// [MQTT-4.3.3-12]: after PUBCOMP the identifier stands for a new message.
async fn identifier_is_free_after_pubcomp(version: Version) {
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 2).await;
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    for payload in ["first", "second"] {
        publisher
            .publish(publish(&scope.topic("x"), payload).qos(2).id(7))
            .await;
    }
    assert_eq!(subscriber.receive_texts(2).await, ["first", "second"]);
}
each_version!(identifier_is_free_after_pubcomp);

/// [MQTT-4.3.2-5]: after PUBACK the same identifier is a new message, DUP or not.
async fn identifier_is_free_after_puback(version: Version) {
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 1).await;
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    for _ in 0..2 {
        publisher
            .publish(publish(&scope.topic("x"), "again").qos(1).id(7).dup())
            .await;
    }
    assert_eq!(subscriber.receive_texts(2).await, ["again", "again"]);
}
each_version!(identifier_is_free_after_puback);

/// [MQTT-4.3.3-9]: an exchange that PUBREC refused is over; its identifier is a new message. Beyond the configured 1,024
/// bytes topics are refused.
#[tokio::test]
async fn identifier_is_free_after_a_refusal() {
    let scope = Scope::new();
    let mut subscriber = broker().clean(Version::V5, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 2).await;
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    assert_eq!(
        publisher
            .publish(publish(&"x".repeat(1_025), "refused").qos(2).id(7))
            .await,
        0x90
    );
    assert_eq!(
        publisher
            .publish(publish(&scope.topic("x"), "taken").qos(2).id(7))
            .await,
        0x00
    );
    subscriber.expect("taken").await;
}

/// [MQTT-4.3.3-11], section 3.7.2.1: PUBREL for what is not known is completed, and said to be unknown.
async fn pubrel_for_an_unknown_identifier_is_completed(version: Version) {
    let scope = Scope::new();
    let mut raw = broker().raw_client(version, &connect(&scope.id("a"))).await;
    raw.send(&pubrel(9)).await;
    let pubcomp = raw.expect_pubcomp().await;
    assert_eq!(pubcomp.id, 9);
    assert_eq!(pubcomp.code, if version == Version::V5 { 0x92 } else { 0 });
}
each_version!(pubrel_for_an_unknown_identifier_is_completed);

/// [MQTT-3.3.1-3]: DUP of the publisher is not the subscriber's.
async fn dup_is_not_passed_on(version: Version) {
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 2).await;
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    for qos in [1, 2] {
        publisher
            .publish(publish(&scope.topic("x"), "m").qos(qos).dup())
            .await;
        assert!(!subscriber.expect("m").await.dup);
    }
}
each_version!(dup_is_not_passed_on);

/// [MQTT-4.6.0-5], [MQTT-4.6.0-6]; 3.1.1 [MQTT-4.6.0-6]: per topic and QoS in the order of publishing, also with many
/// on the way. The subscriber acknowledges nothing until all is published, so that after the first 100 messages wait.
async fn order_of_a_publisher_is_kept(version: Version) {
    const COUNT: u16 = 90;
    for qos in 0..=2 {
        let scope = Scope::new();
        let mut subscriber = broker().clean(version, &scope.id("s")).await;
        subscriber.subscribe(&scope.topic("#"), 2).await;
        let mut raw = broker().raw_client(version, &connect(&scope.id("p"))).await;
        for first in [1, COUNT + 1] {
            let ids = first..first + COUNT;
            for id in ids.clone() {
                let packet = publish(&scope.topic("x"), id.to_string()).qos(qos);
                raw.send(&if qos > 0 { packet.id(id) } else { packet }).await;
            }
            for id in ids.clone().filter(|_| qos == 2) {
                raw.expect_pubrec().await;
                raw.send(&pubrel(id)).await;
            }
            for _ in ids.filter(|_| qos > 0) {
                match raw.receive().await {
                    Packet::Puback(_) | Packet::Pubcomp(_) => {}
                    other => panic!("the broker sent {other:?}"),
                }
            }
        }
        for number in 1..=2 * COUNT {
            subscriber.expect(number.to_string()).await;
        }
    }
}
each_version!(order_of_a_publisher_is_kept);

/// As before, for a publisher whose session outlives its connection, of whose QoS 2 messages some are retained as well:
/// these take longer to be acknowledged, and no longer to be delivered.
async fn order_is_kept_between_retained_messages_and_others(version: Version) {
    let scope = Scope::new();
    let mut live = broker().clean(version, &scope.id("live")).await;
    live.subscribe(&scope.topic("x"), 2).await;
    let mut durable = broker().durable(version, &scope.id("durable")).await;
    durable.subscribe(&scope.topic("x"), 2).await;
    let mut publisher = broker().durable(version, &scope.id("p")).await;
    let mut expected = Vec::new();
    for number in 0..60_u16 {
        let text = number.to_string();
        let packet = publish(&scope.topic("x"), &text).qos(2).id(number + 1);
        let packet = if number % 3 == 0 { packet.retain() } else { packet };
        publisher.raw.send(&packet).await;
        expected.push(text);
    }
    assert_eq!(live.receive_texts(60).await, expected);
    assert_eq!(durable.receive_texts(60).await, expected);
    let mut left: std::collections::BTreeSet<u16> = (1..=60).collect();
    while !left.is_empty() {
        match publisher.raw.receive().await {
            Packet::Pubrec(ack) => publisher.raw.send(&pubrel(ack.id)).await,
            Packet::Pubcomp(ack) => assert!(left.remove(&ack.id)),
            other => panic!("{other:?}"),
        }
    }
    publisher
        .publish(publish(&scope.topic("x"), "").qos(1).retain())
        .await;
}
each_version!(order_is_kept_between_retained_messages_and_others);

/// [MQTT-4.6.0-2] and [MQTT-4.6.0-3], which bind clients; this server acknowledges in order too.
async fn acknowledgements_come_in_order(version: Version) {
    let scope = Scope::new();
    let mut raw = broker().raw_client(version, &connect(&scope.id("p"))).await;
    for id in 1..=40 {
        raw.send(&publish(&scope.topic("x"), "m").qos(1).id(id)).await;
    }
    for id in 1..=40 {
        assert_eq!(raw.expect_puback().await.id, id);
    }
    for id in 1..=40 {
        raw.send(&publish(&scope.topic("x"), "m").qos(2).id(id)).await;
    }
    for id in 1..=40 {
        assert_eq!(raw.expect_pubrec().await.id, id);
    }
}
each_version!(acknowledgements_come_in_order);

/// [MQTT-3.3.1-1] and section 3.3.3: a payload may be empty and may be anything.
async fn payload_is_passed_on_as_it_is(version: Version) {
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 2).await;
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    let everything: Vec<u8> = (0..=255).collect();
    for payload in [vec![], everything, vec![0; 300_000]] {
        for qos in 0..=2 {
            publisher
                .publish(publish(&scope.topic("x"), &payload).qos(qos))
                .await;
            assert!(
                subscriber.receive().await.payload == payload,
                "{} bytes at QoS {qos}",
                payload.len()
            );
        }
    }
}
each_version!(payload_is_passed_on_as_it_is);

/// Section 3.3.2.3.2: a payload said to be UTF-8 is checked, and refused with 0x99 where it is not; nobody gets it. The
/// same of a will, in CONNACK.
#[tokio::test]
async fn payload_format_is_checked() {
    let scope = Scope::new();
    let mut subscriber = broker().clean(Version::V5, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 2).await;
    let mut raw = broker().raw_client(Version::V5, &connect(&scope.id("p"))).await;
    let text = |payload: &[u8]| publish(&scope.topic("x"), payload).property(Property::PayloadFormat(1));
    for payload in [&[0xFF][..], &[b'a', 0xC3], &[0xED, 0xA0, 0x80]] {
        raw.send(&text(payload).qos(1).id(1)).await;
        assert_eq!(raw.expect_puback().await.code, 0x99);
        raw.send(&text(payload).qos(2).id(2)).await;
        assert_eq!(raw.expect_pubrec().await.code, 0x99);
    }
    raw.send(&text("é".as_bytes()).qos(1).id(3)).await;
    assert_eq!(raw.expect_puback().await.code, 0);
    assert_eq!(subscriber.receive().await.payload, "é".as_bytes());
    raw.send(&text(&[0xFF])).await;
    raw.expect_disconnect(0x99).await;
}

/// [MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-18], [MQTT-3.3.2-20]: live, queued and retained alike.
#[tokio::test]
async fn properties_are_passed_on_unaltered() {
    let scope = Scope::new();
    let properties = [
        Property::user("z", "1"),
        Property::PayloadFormat(1),
        Property::user("a", ""),
        Property::ContentType("text/plain; charset=utf-8".into()),
        Property::ResponseTopic("answers/here".into()),
        Property::CorrelationData(vec![0, 1, 254, 255]),
        Property::user("z", "1"),
        Property::user("", "é"),
    ];
    let message = properties
        .iter()
        .cloned()
        .fold(publish(&scope.topic("x"), "m").qos(1), |packet, property| {
            packet.property(property)
        });
    let mut live = broker().clean(Version::V5, &scope.id("live")).await;
    live.subscribe(&scope.topic("x"), 1).await;
    let mut absent = broker().durable(Version::V5, &scope.id("absent")).await;
    absent.subscribe(&scope.topic("x"), 1).await;
    absent.disconnect().await;
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    publisher.publish(message.retain()).await;
    let mut late = broker().clean(Version::V5, &scope.id("late")).await;
    late.subscribe(&scope.topic("x"), 1).await;
    let mut absent = broker().durable(Version::V5, &scope.id("absent")).await;
    for subscriber in [&mut live, &mut absent, &mut late] {
        let received = subscriber.expect("m").await.properties;
        assert_eq!(received.0.len(), properties.len(), "{received:?}");
        assert!(
            properties.iter().all(|property| received.0.contains(property)),
            "{received:?}"
        );
        let users = [("z", "1"), ("a", ""), ("z", "1"), ("", "é")];
        assert_eq!(
            received.users(),
            users.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
    publisher.publish(publish(&scope.topic("x"), "").retain()).await;
}

/// A message with properties reaches clients that know none.
#[tokio::test]
async fn properties_are_left_out_for_older_clients() {
    let scope = Scope::new();
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut old = broker().clean(version, &scope.id("old")).await;
        old.subscribe(&scope.topic("x"), 2).await;
        let packet = publish(&scope.topic("x"), "m")
            .qos(2)
            .property(Property::user("a", "b"));
        publisher
            .publish(packet.property(Property::MessageExpiry(60)))
            .await;
        old.expect("m").await;
    }
}

/// Section 4.10: request and response between clients.
#[tokio::test]
async fn response_finds_its_request() {
    let scope = Scope::new();
    let mut requester = broker().clean(Version::V5, &scope.id("q")).await;
    requester.subscribe(&scope.topic("answers"), 1).await;
    let mut responder = broker().clean(Version::V5, &scope.id("r")).await;
    responder.subscribe(&scope.topic("requests"), 1).await;
    let request =
        publish(&scope.topic("requests"), "?").property(Property::ResponseTopic(scope.topic("answers")));
    requester
        .publish(request.property(Property::CorrelationData(b"17".to_vec())).qos(1))
        .await;
    let request = responder.expect("?").await;
    let topic = request.properties.response_topic().expect("a response topic");
    let data = request.properties.correlation_data().expect("correlation data");
    responder
        .publish(
            publish(&topic, "!")
                .property(Property::CorrelationData(data))
                .qos(1),
        )
        .await;
    assert_eq!(
        requester
            .expect("!")
            .await
            .properties
            .correlation_data()
            .as_deref(),
        Some(&b"17"[..])
    );
}
