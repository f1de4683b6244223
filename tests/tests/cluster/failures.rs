//! Nodes that end, pause and come back.

use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::wire::{Will, connect, disconnect, filter, publish};

use quorate_tests::broker::Config;
use quorate_tests::cluster::Cluster;

use super::retained::{name_with, spread_leaders};
use super::{BINARY, three};

/// The longest that a session may have to wait for the loss of a node to be known.
const LOSS_MAX: Duration = Duration::from_secs(20);
/// The longest that SUBACK may wait for a node that has died: its lease, and that of a leader of `meta` with an election,
/// about 2.5 s (R1).
const SUBACK_MAX: Duration = Duration::from_secs(3);
/// The same where the broker was not optimized, and shares its machine with what else is tested.
const SUBACK_UNOPTIMIZED_MAX: Duration = Duration::from_secs(4);
/// How long a lease from `meta` lasts (R1).
const LEASE: Duration = Duration::from_millis(1_500);

/// What was acknowledged is there when any one node is gone, and the node gets it when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_messages_survive_the_death_of_any_node() {
    let mut cluster = three();
    for victim in 0..3 {
        let (next, after) = ((victim + 1) % 3, (victim + 2) % 3);
        let id = format!("s{victim}");
        let mut subscriber = cluster.nodes[victim].durable(Version::V5, &id).await;
        subscriber.subscribe("safe", 2).await;
        let mut publisher = cluster.nodes[victim].clean(Version::V5, "p").await;
        let mut expected = Vec::new();
        for number in 0..20 {
            let payload = format!("{victim}-{number}");
            publisher
                .publish(publish("safe", &payload).qos(1 + number % 2))
                .await;
            expected.push(payload);
        }
        drop(subscriber);
        cluster.nodes[victim].kill();
        let mut subscriber = cluster.nodes[next].durable(Version::V5, &id).await;
        let mut texts = subscriber.receive_texts(20).await;
        texts.sort();
        expected.sort();
        assert_eq!(texts, expected);
        subscriber.disconnect().await;
        // Two of three go on.
        let mut publisher = cluster.nodes[after].clean(Version::V5, "p").await;
        publisher.publish(publish("safe", "later").qos(1)).await;
        cluster.restart(victim);
        let mut subscriber = cluster.nodes[victim].durable(Version::V5, &id).await;
        subscriber.expect("later").await;
        subscriber.unsubscribe("safe").await;
        subscriber.disconnect().await;
    }
}

/// R3, R31: a node that dies ends its connections: wills are published, sessions of expiry 0 end.
#[tokio::test(flavor = "multi_thread")]
async fn r3_the_death_of_a_node_ends_its_connections() {
    let mut cluster = three();
    let mut watcher = cluster.nodes[1].durable(Version::V5, "watcher").await;
    watcher.subscribe("will/#", 1).await;
    let mut dying = Vec::new();
    for number in 0..4 {
        let topic = format!("will/{number}");
        let packet = connect(&format!("dying{number}")).will(Will::new(&topic, "gone").qos(1));
        let packet = if number % 2 == 0 {
            packet
        } else {
            packet.resume().expiry(600)
        };
        let mut client = cluster.nodes[0].client(Version::V5, &packet).await;
        client.subscribe("some/topic", 1).await;
        dying.push(client);
    }
    cluster.nodes[0].kill();
    let mut topics = Vec::new();
    for _ in 0..4 {
        topics.push(watcher.receive().await.topic);
    }
    topics.sort();
    assert_eq!(topics, ["will/0", "will/1", "will/2", "will/3"]);
    let began = Instant::now();
    // Of the four sessions those of expiry 0 are gone, and the watcher's stays.
    while cluster.metric(1, "quorate_sessions") != 3.0 {
        assert!(
            began.elapsed() < LOSS_MAX,
            "{} sessions",
            cluster.metric(1, "quorate_sessions")
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(dying);
}

/// R1: a subscription is acknowledged although a node that would have to know of it is gone, whether that led `meta` or not.
#[tokio::test(flavor = "multi_thread")]
async fn r1_suback_waits_for_a_dead_node_no_longer_than_its_lease() {
    let max = match std::env::var_os("QUORATE_BINARY") {
        Some(_) => SUBACK_MAX,
        None => SUBACK_UNOPTIMIZED_MAX,
    };
    let mut cluster = three();
    for leads_meta in [true, false] {
        let leader = cluster.leader("meta");
        let victim = if leads_meta { leader } else { (leader + 1) % 3 };
        let [here, there] = [(victim + 1) % 3, (victim + 2) % 3];
        let mut client = cluster.nodes[here].raw(Version::V5).await;
        client.connect(&connect("c")).await;
        cluster.nodes[victim].kill();
        let began = Instant::now();
        client.subscribe([filter("a").qos(1)]).await;
        let waited = began.elapsed();
        println!("SUBACK came after {waited:?}; the node led meta: {leads_meta}");
        assert!(waited < max, "{waited:?}");
        let mut publisher = cluster.nodes[there].clean(Version::V5, "p").await;
        publisher.publish(publish("a", "x").qos(1)).await;
        client.expect_publish().await;
        cluster.restart(victim);
    }
}

/// R1: a node that was paused for longer than its lease has lost its place: its clients are closed, nothing that it had
/// not acknowledged is acknowledged late, and it comes back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn r1_a_node_that_was_paused_closes_its_clients_and_comes_back() {
    let mut cluster = three();
    let mut client = cluster.nodes[0].raw(Version::V5).await;
    client.connect(&connect("c").resume().expiry(600)).await;
    cluster.nodes[0].signal("STOP");
    let mut watcher = cluster.nodes[1].clean(Version::V5, "w").await;
    // It is out of the view when this is acknowledged.
    watcher.subscribe("a", 1).await;
    client.send(&publish("a", "late").qos(1).id(1)).await;
    cluster.nodes[0].signal("CONT");
    let packets = client.drain_until_closed().await;
    let acknowledged = packets
        .iter()
        .any(|packet| matches!(packet, quorate_tests::wire::Packet::Puback(_)));
    assert!(!acknowledged, "{packets:?}");
    cluster.nodes[0].wait_for_log("starts anew");
    cluster.nodes[0].wait_until_listening_again();
    cluster.nodes[0].wait_until_ready();
    let mut publisher = cluster.nodes[0].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "fresh").qos(1)).await;
    watcher.expect("fresh").await;
}

/// R13: a node without a majority answers CONNECT with "server unavailable", says so at `/readyz`, acknowledges nothing,
/// closes who waits for it with "server busy", and recovers by itself.
#[tokio::test(flavor = "multi_thread")]
async fn r48_r13_a_minority_serves_nobody_and_recovers() {
    let waits = |config: Config| config.toml("[limits]\npublish_wait_secs_max = 3\n");
    let mut cluster = Cluster::start_with(BINARY, 3, waits);
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    // To nobody, to a queue, and one that is retained: each of a client that waits for nothing else.
    let unsafe_to = |place: usize| match place {
        0 => publish("nobody", "unsafe").qos(1).id(1),
        1 => publish("a", "unsafe").qos(1).id(1),
        _ => publish("kept", "unsafe").qos(2).id(1).retain(),
    };
    let mut clients = Vec::new();
    for version in [Version::V5, Version::V3_1_1] {
        for place in 0..3 {
            let mut client = cluster.nodes[0].raw(version).await;
            client.connect(&connect(&format!("{version:?}-{place}"))).await;
            clients.push((client, unsafe_to(place)));
        }
    }
    let mut leaving = cluster.nodes[0].raw(Version::V5).await;
    leaving.connect(&connect("leaving")).await;
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    cluster.nodes[0].wait_for_readiness(|code, body| code == 503 && body.contains("lease"));
    for (client, message) in &mut clients {
        client.send(message).await;
    }
    // Who leaves is not told either what nobody may be told.
    leaving.send(&publish("nobody", "x").qos(1).id(1)).await;
    leaving.send(&disconnect()).await;
    assert_eq!(
        leaving.drain_until_closed().await,
        [],
        "no acknowledgement leaves"
    );
    let mut refused = cluster.nodes[0].raw(Version::V5).await;
    refused.send(&connect("other")).await;
    refused.expect_refused(Some(0x88)).await;
    let mut refused = cluster.nodes[0].raw(Version::V3_1_1).await;
    refused.send(&connect("other")).await;
    refused.expect_refused(Some(3)).await;
    // The outcome is unknown, so there is none; and nobody waits for it for ever (R13).
    for (client, _) in &mut clients {
        client.expect_disconnect(0x89).await;
    }
    cluster.nodes[1].begin_restart();
    cluster.nodes[2].begin_restart();
    for node in [1, 2] {
        cluster.nodes[node].wait_until_listening();
        cluster.nodes[node].wait_until_ready();
    }
    cluster.nodes[0].wait_until_ready_wherever();
    let mut publisher = cluster.nodes[0].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "safe").qos(1)).await;
    let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
    loop {
        // What was never acknowledged may have been stored.
        if subscriber.receive().await.payload == b"safe"[..] {
            break;
        }
    }
}

/// R48: the leader of `meta` stops. While the others elect another one, clients at their nodes are answered: nobody waits
/// for longer than a lease, most not at all.
#[tokio::test(flavor = "multi_thread")]
async fn r48_publishes_go_on_while_meta_elects() {
    let mut cluster = three();
    let led = spread_leaders(&cluster).await;
    let stopped = cluster.leader("meta");
    let others = [(stopped + 1) % 3, (stopped + 2) % 3];
    let mut publishing = Vec::new();
    for node in others {
        // What they publish is in groups that others lead: those of the stopped node have to elect as well.
        let client_id = name_with(&led, &format!("at{node}"), |_, leader| leader != stopped);
        let mut subscriber = cluster.nodes[node]
            .durable(Version::V5, &format!("s{node}"))
            .await;
        subscriber.subscribe(&client_id, 1).await;
        let packet = connect(&client_id).resume().expiry(600);
        let mut publisher = cluster.nodes[node].client(Version::V5, &packet).await;
        publishing.push(tokio::spawn(async move {
            let began = Instant::now();
            let mut answered = Vec::new();
            while began.elapsed() < 3 * LEASE {
                publisher.publish(publish(&client_id, "x").qos(1)).await;
                answered.push(Instant::now());
            }
            answered
        }));
    }
    let before = cluster.metric(others[0], "quorate_messages_received_total");
    while cluster.metric(others[0], "quorate_messages_received_total") < before + 10.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.nodes[stopped].signal("STOP");
    let at = Instant::now();
    let elected = loop {
        let status = cluster.ctl(others[0], &["status", "--output", "json"]).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        let leader = status["cluster"]["meta_leader"].as_str();
        if leader.is_some_and(|leader| leader != format!("node-{}", stopped + 1)) {
            break at.elapsed();
        }
        assert!(at.elapsed() < LOSS_MAX, "nobody leads meta");
    };
    for publishing in publishing {
        let answered = publishing.await.expect("everything is answered");
        let waits = answered.windows(2).map(|pair| pair[1] - pair[0]);
        let longest = waits.max().expect("there are many");
        let meanwhile = answered
            .iter()
            .filter(|answer| **answer > at && **answer < at + elected);
        println!(
            "elected after {elected:?}, {} answers meanwhile, longest wait {longest:?}",
            meanwhile.clone().count()
        );
        assert!(meanwhile.count() >= 10, "the election holds publishers up");
        assert!(longest < LEASE, "a publisher waited {longest:?}");
    }
    cluster.nodes[stopped].signal("CONT");
    cluster.nodes[stopped].wait_until_ready_wherever();
}

/// All nodes at once, as when the power goes, and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_restart_of_all_nodes_keeps_everything() {
    let mut cluster = three();
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 2).await;
    subscriber.disconnect().await;
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    for number in 0..20 {
        publisher
            .publish(publish("a", number.to_string()).qos(1 + number % 2))
            .await;
    }
    publisher.publish(publish("kept", "value").qos(1).retain()).await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.begin_restart();
    }
    for node in &mut cluster.nodes {
        node.wait_until_listening();
        node.wait_until_ready();
    }
    let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
    let mut texts = subscriber.receive_texts(20).await;
    texts.sort_by_key(|text| text.parse::<u32>().expect("a number"));
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(texts, expected);
    let mut reader = cluster.nodes[1].clean(Version::V5, "r").await;
    reader.subscribe("kept", 1).await;
    reader.expect("value").await;
}

/// R7, R10: the receivers of a message make several entries. Nodes that lead end in between: every receiver gets every
/// message once, in the order of its publisher, and each publisher one answer.
#[tokio::test(flavor = "multi_thread")]
async fn r7_leaders_end_between_the_parts_of_a_publish() {
    const SUBSCRIBERS: usize = 60;
    const MESSAGES: usize = 24;
    let entries = |config: Config| config.toml("[cluster]\nentry_bytes_max = 256");
    let mut cluster = Cluster::start_with(BINARY, 3, entries);
    for number in 0..SUBSCRIBERS {
        let id = format!("s{number}");
        let mut subscriber = cluster.nodes[number % 3].durable(Version::V5, &id).await;
        subscriber.subscribe("all", 2).await;
        subscriber.disconnect().await;
    }
    let publish_all = |name: String, mqtt: std::net::SocketAddr| async move {
        let packet = connect(&name).resume().expiry(600);
        let mut publisher = quorate_tests::client::Client::connect(mqtt, Version::V5, &packet).await;
        for number in 0..MESSAGES {
            let message = publish("all", format!("{name} {number}")).qos(1 + (number % 2) as u8);
            publisher.publish(message).await;
        }
    };
    for victim in [1, 2] {
        // Their homes are all over the groups: some are led by the node that ends.
        let publishers: Vec<_> = (0..4)
            .map(|number| {
                let name = format!("p{victim}{number}");
                tokio::spawn(publish_all(name, cluster.nodes[0].mqtt()))
            })
            .collect();
        let sent = |cluster: &Cluster| cluster.metric(0, "quorate_messages_received_total");
        let before = sent(&cluster);
        while sent(&cluster) < before + 8.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cluster.nodes[victim].kill();
        for publisher in publishers {
            publisher.await.expect("everything was acknowledged");
        }
        cluster.restart(victim);
    }
    for number in 0..SUBSCRIBERS {
        let id = format!("s{number}");
        let mut subscriber = cluster.nodes[number % 3].durable(Version::V5, &id).await;
        let texts = subscriber.receive_texts(2 * 4 * MESSAGES).await;
        for victim in [1, 2] {
            for publisher in 0..4 {
                let name = format!("p{victim}{publisher} ");
                let of_one: Vec<&str> = texts.iter().filter_map(|text| text.strip_prefix(&name)).collect();
                let expected: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
                for qos in 0..2 {
                    let of_one: Vec<&str> = of_one.iter().copied().filter(|text| is_of(text, qos)).collect();
                    let expected: Vec<&str> = expected
                        .iter()
                        .map(String::as_str)
                        .filter(|text| is_of(text, qos))
                        .collect();
                    assert_eq!(of_one, expected, "{id} from {name}");
                }
            }
        }
        subscriber.ping().await;
        assert!(subscriber.waiting().is_none(), "nothing comes twice");
    }
}

/// Whether a message of this number was published with QoS 1 + `qos`.
fn is_of(number: &str, qos: usize) -> bool {
    number.parse::<usize>().is_ok_and(|number| number % 2 == qos)
}
