//! The power of all machines fails under load, and with it goes whatever was not synced.
//!
//! With `QUORATE_LONG_CLUSTER` set it fails ten times. `QUORATE_CRASH_SEED` repeats what the cuts leave.

use std::time::Duration;

use quorate_tests::cluster::Cluster;
use quorate_tests::power::{Left, cut};
use quorate_tests::random::Random;
use quorate_tests::shim::start_script;

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
    let (rounds, secs) = if long { (10, 180) } else { (2, 30) };
    let verify = Verify::start(&addresses, secs);
    let mut random = Random::new(seed);
    let mut changes = 0;
    for round in 0..rounds {
        receive(&mut cluster, &verify).await;
        let chance = random.below(u64::MAX);
        changes += fail_power(&mut cluster, |node| match round {
            0 => Left::Nothing,
            _ => Left::Some { seed: chance ^ node },
        });
        verify.assert_runs("the power has failed and come back");
    }
    assert!(changes > 0, "everything was synced: nothing was cut");
    verify.assert_held();
}
