//! Networks that cut: one link, one direction, one node, all; judged by `quorate verify` under load and by clients.
//!
//! Each test makes a network of its own (`quorate_tests::network`), which needs root.

use std::net::IpAddr;
use std::process::Command;

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::client::Event;
use quorate_tests::network::Network;
use quorate_tests::wire::{Packet, connect, filter, publish};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
const CLUSTER_PORT: u16 = 7946;
/// The longest that a publisher may wait for an acknowledgement where a link or a node is cut off.
const WAIT_MAX_MS: u64 = 2_000;
/// The same where the broker was not optimized, and shares its machine with what else is tested.
const WAIT_UNOPTIMIZED_MAX_MS: u64 = 3_000;

/// Three nodes on a network of their own.
pub(super) struct Partitioned {
    // Before the network: the processes end first.
    pub(super) nodes: Vec<Broker>,
    pub(super) network: Network,
}

impl Partitioned {
    pub(super) fn start() -> Option<Self> {
        let network = Network::new(3)?;
        let seeds: Vec<String> = (0..3)
            .map(|node| format!("{}:{CLUSTER_PORT}", network.address(node)))
            .collect();
        let config = |node: usize| {
            let address = network.address(node);
            Config::default()
                .named(&format!("node-{}", node + 1))
                .in_namespace(&network.namespace(node), IpAddr::V4(address))
                .listener_at("mqtt", "mqtt", &format!("{address}:0"), "")
                .argument("--allow-anonymous")
                .argument("--log-level=info")
                .argument(&format!("--cluster-listen={}", seeds[node]))
                .argument(&format!("--join={}", seeds.join(",")))
                .argument("--bootstrap-expect=3")
        };
        let nodes = Broker::start_all(BINARY, (0..3).map(config).collect());
        for node in &nodes {
            node.wait_until_ready();
        }
        Some(Self { nodes, network })
    }

    /// Runs `quorate verify` for so many seconds with these commands at their times; returns its report.
    fn verify(&self, secs: u32, faults: &[(&str, String)]) -> serde_json::Value {
        let targets: Vec<String> = self.nodes.iter().map(|node| node.mqtt().to_string()).collect();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let report = directory.path().join("report.json");
        let mut command = Command::new(released_binary().unwrap_or_else(|| BINARY.into()));
        command
            .arg("verify")
            .args(["--targets", &targets.join(","), "--rate", "500"])
            .args(["--duration", &format!("{secs}s")])
            .arg("--json")
            .arg(&report);
        for (at, fault) in faults {
            command.args(["--at", &format!("{at}:{fault}")]);
        }
        let output = command.output().expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{text}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(
            output.status.code(),
            Some(0),
            "the promise was not kept, or could not be judged"
        );
        let report = std::fs::read_to_string(&report).expect("a report");
        serde_json::from_str(&report).expect("JSON")
    }

    fn verify_with_bound(&self, secs: u32, faults: &[(&str, String)]) {
        let report = self.verify(secs, faults);
        let waited = report["longest_wait_ms"].as_u64().expect("a number");
        let max = match released_binary() {
            Some(_) => WAIT_MAX_MS,
            None => WAIT_UNOPTIMIZED_MAX_MS,
        };
        assert!(waited <= max, "a publisher waited {waited} ms");
    }
}

/// The released build to be tested, where one is named.
fn released_binary() -> Option<String> {
    std::env::var("QUORATE_BINARY").ok()
}

/// Runs a test's clients on this thread, which is in the network of the clients.
pub(super) fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

/// R5: one cut link holds nobody up: what cannot be sent directly goes through the third node, and comes back.
#[test]
fn r5_a_cut_link_is_relayed() {
    let Some(cluster) = Partitioned::start() else {
        return;
    };
    let network = &cluster.network;
    cluster.verify_with_bound(
        10,
        &[("3s", network.cut_command(0, 1)), ("8s", network.heal_command())],
    );
}

/// R5: a link that lets packets through in one direction only is a cut link.
#[test]
fn r5_a_link_cut_in_one_direction_is_relayed() {
    let Some(cluster) = Partitioned::start() else {
        return;
    };
    let network = &cluster.network;
    let cut = network.cut_one_way_command(0, 1);
    cluster.verify_with_bound(10, &[("3s", cut), ("8s", network.heal_command())]);
}

/// A node that is cut off holds up nobody but who is connected to it, and comes back by itself.
#[test]
fn a_node_that_is_cut_off_is_left_behind() {
    let Some(cluster) = Partitioned::start() else {
        return;
    };
    let network = &cluster.network;
    cluster.verify_with_bound(
        10,
        &[("3s", network.isolate_command(0)), ("8s", network.heal_command())],
    );
}

/// R5: a link that comes and goes all the time harms nobody.
#[test]
fn r5_a_flapping_link_loses_nothing() {
    let Some(cluster) = Partitioned::start() else {
        return;
    };
    let network = &cluster.network;
    let (cut, heal) = (network.cut_command(0, 1), network.heal_command());
    let flap = format!("for round in 1 2 3 4 5; do {cut}; sleep 1; {heal}; sleep 1; done");
    cluster.verify_with_bound(14, &[("2s", flap)]);
}

/// R5: clients of either side of a cut link hear of what is published at the other, and the nodes tell of the relay.
#[test]
fn r5_clients_do_not_notice_a_cut_link() {
    let Some(cluster) = Partitioned::start() else {
        return;
    };
    block_on(async {
        let (near, far) = (&cluster.nodes[0], &cluster.nodes[1]);
        let mut live = far.clean(Version::V5, "live").await;
        live.subscribe("a", 1).await;
        let mut durable = far.durable(Version::V5, "durable").await;
        durable.subscribe("a", 2).await;
        let mut publisher = near.clean(Version::V5, "p").await;
        cluster.network.run(&cluster.network.cut_command(0, 1));
        for number in 0..50 {
            let text = number.to_string();
            publisher.publish(publish("a", &text).qos(1 + number % 2)).await;
            live.expect(&text).await;
            durable.expect(&text).await;
        }
        for node in [near, far] {
            node.wait_for_log("it is reached through another");
        }
        // SUBACK needs every node as well.
        live.subscribe("b", 1).await;
        publisher.publish(publish("b", "x").qos(1)).await;
        live.expect("x").await;
        cluster.network.run(&cluster.network.heal_command());
        for node in [near, far] {
            node.wait_for_log("a node is reached directly again");
        }
        publisher.publish(publish("b", "y").qos(1)).await;
        live.expect("y").await;
        assert!(!near.log().contains("starts anew") && !far.log().contains("starts anew"));
    });
}

/// A node that is cut off acknowledges nothing, refuses who connects, and comes back by itself.
#[test]
fn r48_a_node_that_is_cut_off_serves_nobody_and_comes_back() {
    let Some(mut cluster) = Partitioned::start() else {
        return;
    };
    block_on(async {
        let mut client = cluster.nodes[0].raw(Version::V5).await;
        client.connect(&connect("c")).await;
        client.subscribe([filter("other").qos(1)]).await;
        cluster.network.run(&cluster.network.isolate_command(0));
        cluster.nodes[0].wait_for_readiness(|code, body| code == 503 && body.contains("lease"));
        client.send(&publish("a", "unsafe").qos(1).id(1)).await;
        let mut refused = cluster.nodes[0].raw(Version::V5).await;
        refused.send(&connect("other")).await;
        refused.expect_refused(Some(0x88)).await;
        // The others go on.
        cluster.nodes[1].wait_for_readiness(|code, _| code == 200);
        let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
        publisher.publish(publish("a", "safe").qos(1)).await;
        loop {
            match client.next().await {
                Event::Packet(Packet::Disconnect(_)) => {}
                Event::Packet(packet) => panic!("{packet:?} from a node that is cut off"),
                Event::Closed => break,
            }
        }
        cluster.network.run(&cluster.network.heal_command());
        cluster.nodes[0].wait_until_ready_wherever();
        let mut publisher = cluster.nodes[0].clean(Version::V5, "p").await;
        publisher.publish(publish("a", "again").qos(1)).await;
    });
}

/// Where no two nodes reach each other nobody acknowledges anything; all of them come back.
#[test]
fn r48_without_any_majority_nobody_is_served_until_it_is_back() {
    let Some(mut cluster) = Partitioned::start() else {
        return;
    };
    block_on(async {
        let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
        subscriber.subscribe("a", 1).await;
        subscriber.disconnect().await;
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            cluster.network.run(&cluster.network.cut_command(one, other));
        }
        for node in &cluster.nodes {
            node.wait_for_readiness(|code, body| code == 503 && body.contains("lease"));
            let mut refused = node.raw(Version::V5).await;
            refused.send(&connect("other")).await;
            refused.expect_refused(Some(0x88)).await;
        }
        cluster.network.run(&cluster.network.heal_command());
        for node in &mut cluster.nodes {
            node.wait_until_ready_wherever();
        }
        let mut publisher = cluster.nodes[0].clean(Version::V5, "p").await;
        publisher.publish(publish("a", "safe").qos(1)).await;
        let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
        subscriber.expect("safe").await;
    });
}
