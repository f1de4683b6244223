//! What was acknowledged is there after the process was killed, and after it ended by itself (DESIGN section 1).

use std::time::Duration;

use quorate_tests::broker::{Broker, Config};
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Property, Will, connect, filter, pubcomp, publish, pubrec, pubrel};
use quorate_tests::{Version, each_version};
use tokio::time::{Instant, sleep_until};

use super::start;

/// The ways a broker ends.
const ENDS: [fn(&mut Broker); 2] = [
    |broker| broker.crash_and_restart(),
    |broker| {
        assert!(
            broker.stop().success(),
            "SIGTERM ends the broker with exit code 0"
        );
        broker.restart();
    },
];

/// [MQTT-4.3.2-4], [MQTT-4.3.3-8]: PUBACK and PUBREC mean that the message is safe.
async fn acknowledged_messages_survive_a_crash(version: Version) {
    let mut broker = start(Config::new());
    for (round, end) in ENDS.into_iter().enumerate() {
        let id = format!("s{round}");
        let mut subscriber = broker.durable(version, &id).await;
        subscriber.subscribe("x", 2).await;
        subscriber.disconnect().await;
        let mut publisher = broker.clean(version, "p").await;
        let mut expected = Vec::new();
        for number in 0..20 {
            let payload = format!("{round}-{number}");
            publisher
                .publish(publish("x", &payload).qos(1 + number % 2))
                .await;
            expected.push(payload);
        }
        end(&mut broker);
        let mut subscriber = broker.durable(version, &id).await;
        assert_eq!(subscriber.receive_texts(20).await, expected);
    }
}
each_version!(acknowledged_messages_survive_a_crash);

/// [MQTT-4.1.0-1], [MQTT-3.1.2-23]: sessions and their subscriptions, with options and identifiers.
async fn sessions_survive_a_crash(version: Version) {
    let mut broker = start(Config::new());
    for end in ENDS {
        let mut client = broker.durable(version, "a").await;
        client
            .subscribe_with([filter("x/+").qos(1)], [Property::SubscriptionId(9)])
            .await;
        // Before MQTT 5 the bit of No Local is reserved.
        let own = if version == Version::V5 {
            filter("own").no_local()
        } else {
            filter("own")
        };
        client.subscribe_with([own.qos(1)], []).await;
        // The connection breaks with the broker.
        end(&mut broker);
        let mut client = broker.durable(version, "a").await;
        assert_eq!(client.connack.session_present, version != Version::V3_1);
        client.publish(publish("own", "own").qos(1)).await;
        client.publish(publish("x/y", "m").qos(1)).await;
        if version != Version::V5 {
            client.expect("own").await;
        }
        let message = client.expect("m").await;
        assert_eq!(
            message.properties.subscription_ids(),
            if version == Version::V5 { vec![9] } else { vec![] }
        );
    }
}
each_version!(sessions_survive_a_crash);

/// Retained messages, replaced and removed ones included, with their properties.
async fn retained_messages_survive_a_crash(version: Version) {
    let mut broker = start(Config::new());
    for end in ENDS {
        let mut publisher = broker.clean(version, "p").await;
        for (topic, payload) in [
            ("a", "old"),
            ("a", "new"),
            ("b", "removed"),
            ("b", ""),
            ("c", "kept"),
        ] {
            let packet = publish(topic, payload)
                .qos(1)
                .retain()
                .property(Property::user("k", payload));
            publisher.publish(packet).await;
        }
        end(&mut broker);
        let mut client = broker.clean(version, "s").await;
        client.subscribe("#", 1).await;
        let mut received = Vec::new();
        for _ in 0..2 {
            let message = client.receive().await;
            assert!(message.retain);
            if version == Version::V5 {
                assert_eq!(
                    message.properties.users(),
                    [("k".to_owned(), message.text().to_owned())]
                );
            }
            received.push((message.topic.clone(), message.text().to_owned()));
        }
        received.sort();
        assert_eq!(
            received,
            [("a", "new"), ("c", "kept")].map(|(topic, payload)| (topic.to_owned(), payload.to_owned()))
        );
        client.publish(publish("d", "end").qos(1)).await;
        client.expect("end").await;
    }
}
each_version!(retained_messages_survive_a_crash);

/// [MQTT-4.4.0-1], [MQTT-4.3.3-6]: exchanges on their way to a subscriber go on with their identifiers.
async fn outbound_exchanges_survive_a_crash(version: Version) {
    let mut broker = start(Config::new());
    for end in ENDS {
        let session = connect(&Scope::new().id("s")).resume().expiry(600);
        let mut raw = broker.raw_client(version, &session).await;
        raw.subscribe([filter("x")]).await;
        let mut publisher = broker.clean(version, "p").await;
        for (payload, qos) in [("one", 1), ("two", 2), ("released", 2)] {
            publisher.publish(publish("x", payload).qos(qos)).await;
        }
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(raw.expect_publish().await.id.expect("QoS above 0"));
        }
        raw.send(&pubrec(ids[2])).await;
        assert_eq!(raw.expect_pubrel().await.id, ids[2]);
        end(&mut broker);
        let mut raw = broker.raw_client(version, &session).await;
        let (mut messages, mut released) = (Vec::new(), None);
        while messages.len() < 2 || released.is_none() {
            match raw.receive().await {
                quorate_tests::wire::Packet::Publish(message) => {
                    assert!(message.dup, "sent again [MQTT-3.3.1-1]");
                    messages.push((message.text().to_owned(), message.id.expect("QoS above 0")));
                }
                quorate_tests::wire::Packet::Pubrel(ack) => released = Some(ack.id),
                other => panic!("the broker sent {other:?}"),
            }
        }
        assert_eq!(messages, [("one".to_owned(), ids[0]), ("two".to_owned(), ids[1])]);
        assert_eq!(released, Some(ids[2]));
        raw.send(&pubcomp(ids[2])).await;
        raw.expect_alive().await;
    }
}
each_version!(outbound_exchanges_survive_a_crash);

/// [MQTT-4.3.3-10], [MQTT-4.3.3-12]: exchanges a publisher has begun are known: its message is not taken twice.
async fn inbound_exchanges_survive_a_crash(version: Version) {
    let mut broker = start(Config::new());
    for end in ENDS {
        let scope = Scope::new();
        let mut subscriber = broker.durable(version, &scope.id("s")).await;
        subscriber.subscribe(&scope.topic("x"), 2).await;
        subscriber.disconnect().await;
        let session = connect(&scope.id("p")).resume().expiry(600);
        let mut raw = broker.raw_client(version, &session).await;
        raw.send(&publish(&scope.topic("x"), "once").qos(2).id(7)).await;
        raw.expect_pubrec().await;
        end(&mut broker);
        let mut raw = broker.raw_client(version, &session).await;
        raw.send(&publish(&scope.topic("x"), "once").qos(2).id(7).dup())
            .await;
        raw.expect_pubrec().await;
        end(&mut broker);
        let mut raw = broker.raw_client(version, &session).await;
        raw.send(&pubrel(7)).await;
        let pubcomp = raw.expect_pubcomp().await;
        assert_eq!((pubcomp.id, pubcomp.code), (7, 0));
        raw.send(&publish(&scope.topic("x"), "new").qos(2).id(7)).await;
        raw.expect_pubrec().await;
        raw.send(&pubrel(7)).await;
        raw.expect_pubcomp().await;
        let mut subscriber = broker.durable(version, &scope.id("s")).await;
        assert_eq!(subscriber.receive_texts(2).await, ["once", "new"]);
    }
}
each_version!(inbound_exchanges_survive_a_crash);

/// What was acknowledged by a subscriber does not come again.
async fn acknowledgements_of_subscribers_survive_a_stop(version: Version) {
    let mut broker = start(Config::new());
    let mut client = broker.durable(version, "a").await;
    client.subscribe("x", 2).await;
    for qos in [1, 2] {
        client.publish(publish("x", "done").qos(qos)).await;
        client.expect("done").await;
    }
    client.ping().await;
    client.disconnect().await;
    assert!(broker.stop().success());
    broker.restart();
    let mut client = broker.durable(version, "a").await;
    client.publish(publish("x", "new").qos(1)).await;
    client.expect("new").await;
}
each_version!(acknowledgements_of_subscribers_survive_a_stop);

/// Time goes on while the broker is away: what expired meanwhile is gone, sessions, messages and retained ones.
#[tokio::test]
async fn expiry_goes_on_while_the_broker_is_away() {
    for end in [
        |broker: &mut Broker| broker.kill(),
        |broker: &mut Broker| assert!(broker.stop().success()),
    ] {
        let mut broker = start(Config::new());
        broker
            .client(Version::V5, &connect("short").expiry(1))
            .await
            .disconnect()
            .await;
        let mut kept = broker.durable(Version::V5, "kept").await;
        kept.subscribe("x", 1).await;
        kept.disconnect().await;
        let mut publisher = broker.clean(Version::V5, "p").await;
        publisher
            .publish(
                publish("x", "expired")
                    .qos(1)
                    .property(Property::MessageExpiry(1)),
            )
            .await;
        publisher
            .publish(
                publish("r", "expired")
                    .qos(1)
                    .retain()
                    .property(Property::MessageExpiry(1)),
            )
            .await;
        publisher
            .publish(publish("x", "left").qos(1).property(Property::MessageExpiry(100)))
            .await;
        end(&mut broker);
        sleep_until(Instant::now() + Duration::from_millis(2_500)).await;
        broker.restart();
        let short = broker.durable(Version::V5, "short").await;
        assert!(!short.connack.session_present);
        let mut kept = broker.durable(Version::V5, "kept").await;
        let message = kept.expect("left").await;
        assert!(
            message.properties.message_expiry().is_some_and(|secs| secs <= 98),
            "{message:?}"
        );
        kept.subscribe("r", 1).await;
        kept.publish(publish("r", "end").qos(1)).await;
        kept.expect("end").await;
    }
}

/// [MQTT-3.1.2-8]: the will of a client whose broker was killed is published when the broker is back, and once however
/// often that happens: what comes again is the same message.
#[tokio::test]
async fn will_is_published_after_a_crash() {
    let mut broker = start(Config::new());
    let session = connect("w").resume().expiry(600);
    let mut watcher = broker.raw_client(Version::V5, &session).await;
    watcher.subscribe([filter("will")]).await;
    drop(watcher);
    let packet = connect("a").expiry(60).will(Will::new("will", "gone").qos(2));
    let client = broker.client(Version::V5, &packet).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        broker.crash_and_restart();
        let mut watcher = broker.raw_client(Version::V5, &session).await;
        let message = watcher.expect_publish().await;
        assert_eq!(message.text(), "gone");
        seen.push(message.id);
        watcher.expect_alive().await;
    }
    drop(client);
    assert!(seen.iter().all(|id| *id == seen[0]), "{seen:?}");
    let mut watcher = broker.raw_client(Version::V5, &session).await;
    watcher.expect_publish().await;
    let mut publisher = broker.clean(Version::V5, "p").await;
    publisher.publish(publish("will", "end").qos(2)).await;
    assert_eq!(watcher.expect_publish().await.text(), "end");
}

/// [MQTT-3.1.2-8], [MQTT-3.1.3-9]: a delay goes on over the crash, and a client that comes back in time stops the will.
#[tokio::test]
async fn will_delay_goes_on_after_a_crash() {
    let mut broker = start(Config::new());
    let mut watcher = broker.durable(Version::V5, "w").await;
    watcher.subscribe("will/#", 1).await;
    watcher.disconnect().await;
    for id in ["away", "back"] {
        let will = Will::new(&format!("will/{id}"), id).qos(1).delay(2);
        drop(
            broker
                .client(Version::V5, &connect(id).expiry(60).will(will))
                .await,
        );
    }
    broker.crash_and_restart();
    let _back = broker.durable(Version::V5, "back").await;
    let mut watcher = broker.durable(Version::V5, "w").await;
    watcher.expect("away").await;
    watcher.publish(publish("will/x", "end").qos(1)).await;
    watcher.expect("end").await;
}

/// Section 3.14.2.1: clients are told that the server ends, and their wills wait for their sessions.
#[tokio::test]
async fn stopping_tells_the_clients() {
    let mut broker = start(Config::new());
    let mut told = broker.raw_client(Version::V5, &connect("a")).await;
    let mut old = broker.raw_client(Version::V3_1_1, &connect("b")).await;
    assert!(broker.stop().success());
    told.expect_disconnect(0x8B).await;
    old.expect_closed().await;
}
