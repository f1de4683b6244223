//! Sessions that move between nodes.

use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::wire::{connect, filter, puback, pubcomp, publish, pubrec, pubrel};

use super::{REPLICAS, nodes};

/// Takeovers of one client identifier within ten seconds that are not delayed.
const TAKEOVERS_FREE: u32 = 5;
const TAKEN_OVER: u8 = 0x8e;

/// R9, R25: connecting anywhere takes the session over; the old connection is told.
#[tokio::test(flavor = "multi_thread")]
async fn r9_a_session_moves_to_where_its_client_connects() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let mut old = cluster.nodes[0].raw(Version::V5).await;
        let durable = || connect("c").resume().expiry(600);
        assert!(!old.connect(&durable()).await.session_present);
        old.subscribe([filter("a").qos(1)]).await;
        for step in 1..6 {
            let mut new = cluster.nodes[step % 3].raw(Version::V5).await;
            assert!(new.connect(&durable()).await.session_present, "step {step}");
            old.expect_disconnect(TAKEN_OVER).await;
            let mut publisher = cluster.nodes[(step + 1) % 3].clean(Version::V5, "p").await;
            publisher.publish(publish("a", step.to_string()).qos(1)).await;
            let message = new.expect_publish().await;
            assert_eq!(message.payload, step.to_string().as_bytes());
            new.send(&puback(message.id.expect("QoS 1"))).await;
            old = new;
        }
    }
}

/// R18: a session of expiry 0 is taken over across nodes as well, and by a durable one of the same client: what opened at
/// another node a moment ago is found.
#[tokio::test(flavor = "multi_thread")]
async fn r18_a_client_identifier_has_one_session_in_the_cluster() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let mut first = cluster.nodes[0].raw(Version::V5).await;
        first.connect(&connect("c")).await;
        let mut second = cluster.nodes[1].raw(Version::V5).await;
        assert!(
            !second
                .connect(&connect("c").resume().expiry(600))
                .await
                .session_present
        );
        first.expect_disconnect(TAKEN_OVER).await;
        let mut third = cluster.nodes[2].raw(Version::V5).await;
        assert!(!third.connect(&connect("c")).await.session_present, "Clean Start");
        second.expect_disconnect(TAKEN_OVER).await;
        let mut fourth = cluster.nodes[0].raw(Version::V5).await;
        assert!(
            !fourth
                .connect(&connect("c").resume().expiry(600))
                .await
                .session_present
        );
        third.expect_disconnect(TAKEN_OVER).await;
        let mut fifth = cluster.nodes[1].raw(Version::V5).await;
        // Without expiry it goes on with the durable session, which ends with this connection.
        assert!(fifth.connect(&connect("c").resume()).await.session_present);
        fourth.expect_disconnect(TAKEN_OVER).await;
    }
}

/// R22, R24: what was sent and not acknowledged comes again under the same packet identifier from the next node, and an
/// exchange that had gone further goes on there.
#[tokio::test(flavor = "multi_thread")]
async fn r24_exchanges_go_on_at_another_node_with_the_same_packet_identifiers() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let durable = || connect("c").resume().expiry(600);
        let mut client = cluster.nodes[0].raw(Version::V5).await;
        client.connect(&durable()).await;
        client.subscribe([filter("a").qos(2)]).await;
        let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
        publisher.publish(publish("a", "one").qos(2)).await;
        publisher.publish(publish("a", "two").qos(2)).await;
        let one = client.expect_publish().await;
        let two = client.expect_publish().await;
        let ids = [one.id.expect("QoS 2"), two.id.expect("QoS 2")];
        client.send(&pubrec(ids[0])).await;
        client.expect_pubrel().await;
        drop(client);

        let mut client = cluster.nodes[2].raw(Version::V5).await;
        assert!(client.connect(&durable()).await.session_present);
        assert_eq!(client.expect_pubrel().await.id, ids[0]);
        let again = client.expect_publish().await;
        assert_eq!((again.id, again.dup), (Some(ids[1]), true));
        client.send(&pubcomp(ids[0])).await;
        client.send(&pubrec(ids[1])).await;
        client.expect_pubrel().await;
        client.send(&pubcomp(ids[1])).await;
        client.expect_alive().await;
    }
}

/// A publisher's QoS 2 exchange goes on at another node: the message is stored once.
#[tokio::test(flavor = "multi_thread")]
async fn r8_an_inbound_exchange_goes_on_at_another_node() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
        subscriber.subscribe("a", 2).await;
        let durable = || connect("p").resume().expiry(600);
        let mut publisher = cluster.nodes[0].raw(Version::V5).await;
        publisher.connect(&durable()).await;
        publisher.send(&publish("a", "once").qos(2).id(7)).await;
        publisher.expect_pubrec().await;
        drop(publisher);
        let mut publisher = cluster.nodes[2].raw(Version::V5).await;
        assert!(publisher.connect(&durable()).await.session_present);
        publisher.send(&publish("a", "once").qos(2).id(7).dup()).await;
        publisher.expect_pubrec().await;
        publisher.send(&pubrel(7)).await;
        publisher.expect_pubcomp().await;
        assert_eq!(subscriber.receive().await.payload, b"once"[..]);
        subscriber.ping().await;
        assert!(subscriber.waiting().is_none(), "it was stored once");
    }
}

/// R26: two devices at two nodes that have the same client identifier, and connect again whenever they lose their session
/// to each other, are slowed down more and more, and nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn r26_devices_that_share_an_identifier_are_slowed_down() {
    const TAKEOVERS: u32 = 10;
    const WAIT_MAX: Duration = Duration::from_secs(1);
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let durable = || connect("c").resume().expiry(600);
        let mut bystander = cluster.nodes[2].durable(Version::V5, "bystander").await;
        bystander.subscribe("a", 1).await;
        let mut old = cluster.nodes[0].raw_client(Version::V5, &durable()).await;
        let began = Instant::now();
        let mut times = Vec::new();
        for step in 1..=TAKEOVERS {
            let mut new = cluster.nodes[step as usize % 2].raw(Version::V5).await;
            new.send(&durable()).await;
            let asked = Instant::now();
            bystander.publish(publish("a", step.to_string()).qos(1)).await;
            bystander.expect(step.to_string()).await;
            assert!(
                asked.elapsed() < WAIT_MAX,
                "{replicas} replicas: the bystander waited"
            );
            old.expect_disconnect(TAKEN_OVER).await;
            assert!(new.expect_connack().await.session_present);
            times.push(asked.elapsed());
            old = new;
        }
        // The first delays are 0.2 s, 0.4 s and so on; what came before is forgotten little by little.
        let delayed = TAKEOVERS - TAKEOVERS_FREE;
        let least = Duration::from_millis(150) * (delayed * (delayed + 1) / 2);
        assert!(began.elapsed() >= least, "{replicas} replicas: {times:?}");
    }
}
