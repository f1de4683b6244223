//! The power of all machines fails under load, and with it goes whatever was not synced.
//!
//! With `QUORATE_LONG_CLUSTER` set it fails ten times. `QUORATE_CRASH_SEED` repeats what the cuts leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::cluster::Cluster;
use quorate_tests::power::{Left, cut};
use quorate_tests::random::Random;
use quorate_tests::shim::start_script;
use quorate_tests::wire::{connect, publish};

use super::BINARY;
use super::durability::restart_machine;
use super::load::{Verify, three_at_known_addresses};

/// Messages that the load publishes between two cuts, at the least.
const MESSAGES: f64 = 200.0;

/// Kills all nodes at once, leaves of their disks what a power cut leaves, and starts them again on another boot. Answers
/// how many changes of files that took.
fn fail_power(cluster: &mut Cluster, left: impl Fn(u64) -> Left) -> usize {
    for node in &cluster.nodes {
        node.signal("KILL");
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    let mut changes = 0;
    for (number, node) in (0..).zip(&cluster.nodes) {
        let taken = cut(node.directory(), left(number));
        println!("{taken:?}");
        changes += taken.changes;
        restart_machine(node);
    }
    for node in &mut cluster.nodes {
        node.begin_restart();
    }
    for node in &mut cluster.nodes {
        node.wait_until_listening();
    }
    for node in &mut cluster.nodes {
        node.wait_until_ready_wherever();
    }
    changes
}

/// Waits until the nodes have received so many messages. They may start themselves anew meanwhile, with other ports, and
/// count from nothing again then.
async fn receive(cluster: &mut Cluster, verify: &Verify) {
    let mut last = vec![None; cluster.nodes.len()];
    let mut more = 0.0;
    while more < MESSAGES {
        verify.assert_runs("the next cut is due");
        for (node, last) in (0..).zip(&mut last) {
            cluster.nodes[node].look_for_listeners();
            if cluster.nodes[node].admin("/livez").0 == 200 {
                let now = cluster.metric(node, "quorate_messages_received_total");
                more += last.map_or(0.0, |last: f64| (now - last).max(0.0));
                *last = Some(now);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// R41-R43: the power of all machines fails, again and again, and takes with it all that was not synced, or all but some
/// of it; what was acknowledged is there.
#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_all_machines_take_nothing_that_was_acknowledged() {
    let seed = Random::seed();
    println!("QUORATE_CRASH_SEED={seed}");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let script = start_script(directory.path(), BINARY, "power", &[]);
    let (mut cluster, addresses) = three_at_known_addresses(script.to_str().expect("the path is UTF-8"));
    let long = std::env::var_os("QUORATE_LONG_CLUSTER").is_some();
    let (rounds, secs) = if long { (10, 180) } else { (3, 30) };
    let verify = Verify::start(&addresses, secs);
    let mut random = Random::new(seed);
    let mut changes = 0;
    for round in 0..rounds {
        receive(&mut cluster, &verify).await;
        let chance = random.below(u64::MAX);
        changes += fail_power(&mut cluster, |node| match round {
            0 => Left::Nothing,
            1 => Left::Some { seed: chance ^ node },
            _ => Left::Torn { seed: chance ^ node },
        });
        verify.assert_runs("the power has failed and come back");
    }
    assert!(changes > 0, "everything was synced: nothing was cut");
    verify.assert_held();
}

/// R42, R43: the power fails while the state store takes long queues, and tears what was not synced, in any order. What was
/// acknowledged is there, and in its order.
#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_that_tear_what_is_being_stored_take_nothing_that_was_acknowledged() {
    const BYTES: usize = 16 * 1024;
    const WINDOW: usize = 20;
    const CONFIG: &str = "[session]\nqueue_messages_max = 100000\nqueue_bytes_max = 1000000000\n";
    let seed = Random::seed();
    println!("QUORATE_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let rounds = if std::env::var_os("QUORATE_LONG_CLUSTER").is_some() {
        40
    } else {
        6
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let script = start_script(directory.path(), BINARY, "power", &[]);
    let mut node = Broker::start(
        script.to_str().expect("the path is UTF-8"),
        Config::new().toml(CONFIG),
    );
    let mut subscriber = node.durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    subscriber.disconnect().await;
    // What was acknowledged and not received yet, and what may have been stored without an acknowledgement.
    let (mut stored, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    let (mut number, mut changes) = (0_u64, 0);
    for round in 0..rounds {
        let mut publisher = node.raw_client(Version::V5, &connect("p")).await;
        let mut sent = BTreeMap::new();
        for acknowledged in 0..300 + random.below(500) {
            while sent.len() < WINDOW {
                let id = (number % 60_000) as u16 + 1;
                let mut payload = number.to_be_bytes().to_vec();
                payload.resize(BYTES, number as u8);
                publisher.send(&publish("a", payload).qos(1).id(id)).await;
                sent.insert(id, number);
                number += 1;
            }
            let puback = publisher.expect_puback().await;
            assert!(puback.code < 0x80, "{acknowledged}: {:#x}", puback.code);
            stored.insert(sent.remove(&puback.id).expect("it was sent"));
        }
        node.signal("KILL");
        unknown.extend(sent.into_values());
        node.kill();
        let left = Left::Torn {
            seed: random.below(u64::MAX),
        };
        let taken = cut(node.directory(), left);
        println!("round {round}: {} stored, {taken:?}", stored.len());
        changes += taken.changes;
        restart_machine(&node);
        node.begin_restart();
        node.wait_until_listening();
        node.wait_until_ready();
        // Every other time the queue grows, and what is received makes room that is written over.
        if round % 2 == 0 {
            continue;
        }
        let mut subscriber = node.durable(Version::V5, "s").await;
        let mut last = None;
        while !stored.is_empty() {
            let message = subscriber.receive().await;
            let found = u64::from_be_bytes(message.payload[..8].try_into().expect("8 bytes"));
            assert!(
                message.payload[8..].iter().all(|byte| *byte == found as u8),
                "{found} is damaged"
            );
            assert!(last < Some(found), "{found} behind {last:?}");
            assert!(
                stored.remove(&found) || unknown.remove(&found),
                "{found} was not sent"
            );
            last = Some(found);
        }
        subscriber.disconnect().await;
    }
    assert!(changes > 0, "everything was synced: nothing was cut");
}
