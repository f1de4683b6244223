//! Groups of several nodes over loopback TCP.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use quorate_storage::log::{Log, SyncPolicy};

use super::harness::{Cluster, Node};
use super::{GROUP, within};
use crate::lineage::Lineage;
use crate::raft::transport::Transport;
use crate::raft::{GroupSettings, MembershipError, NodeIdentity};
use crate::state::{NodeId, NodeIncarnation};

fn settings() -> GroupSettings {
    GroupSettings::new(GROUP)
}

/// Keeps nothing behind a checkpoint.
fn forgetful() -> GroupSettings {
    GroupSettings {
        log_entries_to_keep: 0,
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_entries_reach_every_replica_once() {
    let cluster = Cluster::start(3, &settings()).await;
    let began = Instant::now();
    cluster.propose_many("key", 10_000).await;
    println!("10,000 entries on 3 nodes: {:?}", began.elapsed());
    cluster.check_same().await;
    for node in &cluster.nodes {
        assert_eq!((node.table.rows(), node.table.count()), (10_000, 10_000));
        assert_eq!(node.table.get("key-9999").as_deref(), Some("9999"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_catches_up_from_the_log() {
    let mut cluster = Cluster::start(3, &settings()).await;
    cluster.propose_many("before", 500).await;
    let away = cluster.follower().await;
    cluster.nodes[away].kill().await;
    cluster.propose_many("meanwhile", 3_000).await;
    cluster.nodes[away].start().await;
    cluster.propose_many("after", 500).await;
    cluster.check_same().await;
    assert_eq!(cluster.nodes[away].table.count(), 4_000);
    assert_eq!(
        cluster.nodes[away].disk.log.state(GROUP).purged,
        None,
        "the whole log is there"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_behind_the_log_gets_a_snapshot() {
    let mut cluster = Cluster::start(3, &forgetful()).await;
    cluster.propose_many("before", 100).await;
    cluster.settled().await;
    let away = cluster.follower().await;
    cluster.nodes[away].kill().await;
    cluster.propose_many("meanwhile", 5_000).await;
    cluster.propose("before-0=").await;
    let leader = cluster.leader().await;
    let stored = within(cluster.nodes[leader].group().checkpoint()).await.unwrap();
    within(async {
        // The leader keeps what it still tries to replicate, until the follower's absence shows.
        while cluster.nodes[leader]
            .disk
            .log
            .state(GROUP)
            .purged
            .map(|purged| purged.index)
            != stored
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    cluster.nodes[away].start().await;
    cluster.propose_many("after", 100).await;
    cluster.check_same().await;
    let received = &cluster.nodes[away];
    assert_eq!(received.table.get("before-0"), None, "removed while it was away");
    assert!(
        received.disk.store.position(GROUP) >= stored,
        "the snapshot is stored"
    );
    assert!(received.disk.log.state(GROUP).purged.map(|purged| purged.index) >= stored);

    // What was installed survives a restart, and so does what came behind it.
    cluster.nodes[away].kill().await;
    cluster.nodes[away].start().await;
    cluster.check_same().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_without_a_gap_of_an_election() {
    let cluster = Cluster::start(3, &settings()).await;
    cluster.propose_many("key", 100).await;
    let (old, new) = (cluster.leader().await, cluster.follower().await);
    let began = Instant::now();
    cluster.nodes[old]
        .group()
        .transfer_leader(cluster.nodes[new].id)
        .await
        .unwrap();
    assert_eq!(cluster.propose("key=value").await, 101);
    let took = began.elapsed();
    println!("leadership transfer until the next outcome: {took:?}");
    assert_eq!(cluster.leader().await, new);
    assert!(
        took < Duration::from_millis(300),
        "an election timeout was waited for: {took:?}"
    );
    cluster.check_same().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_succeeded_and_nothing_that_was_answered_is_lost() {
    let mut cluster = Cluster::start(3, &settings()).await;
    let mut fastest = Duration::MAX;
    for round in 0..3 {
        let before = cluster.propose(&format!("round-{round}=before")).await;
        let old = cluster.leader().await;
        let began = Instant::now();
        cluster.nodes[old].kill().await;
        let killed = began.elapsed();
        cluster.propose(&format!("round-{round}=after")).await;
        let took = began.elapsed();
        println!("failover: {took:?}, of which the killing {killed:?}");
        assert!(took < Duration::from_millis(1_200), "{took:?}");
        fastest = fastest.min(took);
        assert_ne!(cluster.leader().await, old);
        cluster.nodes[old].start().await;
        cluster.check_same().await;
        for node in &cluster.nodes {
            assert_eq!(
                node.table.get(&format!("round-{round}")).as_deref(),
                Some("after")
            );
            assert!(node.table.count() > before);
        }
    }
    // Without looking at the connections it is the lease and an election timeout, 0.8 s at the least.
    assert!(fastest < Duration::from_millis(750), "{fastest:?}");
}

/// R15, R18: a leader that no majority hears takes nothing, and does not let its state be read as the group's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r15_r18_a_leader_without_a_quorum_takes_nothing_and_reads_nothing() {
    let mut cluster = Cluster::start(3, &settings()).await;
    cluster.propose("key=value").await;
    let leader = cluster.leader().await;
    for node in (0..3).filter(|node| *node != leader) {
        cluster.nodes[node].kill().await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    let group = cluster.nodes[leader].group();
    let read = within(group.ensure_linearizable()).await;
    assert!(
        matches!(read, Err(crate::raft::ProposeError::NotLeader { .. })),
        "{read:?}"
    );
    let proposed = within(group.propose(&bytes::Bytes::from_static(b"key=lost"))).await;
    assert!(
        matches!(proposed, Err(crate::raft::ProposeError::NotLeader { .. })),
        "{proposed:?}"
    );
    for node in (0..3).filter(|node| *node != leader) {
        cluster.nodes[node].start().await;
    }
    assert_eq!(cluster.propose("key=again").await, 2);
    cluster.check_same().await;
}

/// Pre-vote: who hears nobody asks whether it would be elected, again and again, and its term stays: when it hears the
/// others again it deposes nobody. Nor does who asks beside a leader that lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_would_not_be_elected_raises_no_term() {
    let mut cluster = Cluster::start(3, &settings()).await;
    cluster.propose("key=value").await;
    let leader = cluster.leader().await;
    let (alone, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let term = cluster.nodes[leader].group().status().term;
    cluster.nodes[alone].group().elect().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(cluster.leader().await, leader);
    let terms: Vec<u64> = cluster
        .nodes
        .iter()
        .map(|node| node.group().status().term)
        .collect();
    assert_eq!(terms, [term; 3]);
    for node in [leader, other] {
        cluster.nodes[node].kill().await;
    }
    // Several elections long.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.nodes[alone].group().status().term, term);
    for node in [leader, other] {
        cluster.nodes[node].start().await;
    }
    cluster.propose("key=again").await;
    cluster.check_same().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_as_learners_and_go() {
    let mut cluster = Cluster::start(1, &forgetful()).await;
    cluster.propose_many("key", 5_000).await;
    within(cluster.nodes[0].group().checkpoint()).await.unwrap();
    // The group of one rested; it has to wake up for its new members, and send them a snapshot.
    for id in [2, 3] {
        let mut node = Node::new(id, &forgetful()).await;
        node.start().await;
        let address = node.node_address();
        cluster.nodes[0]
            .group()
            .add_learner(node.id, address)
            .await
            .unwrap();
        cluster.nodes.push(node);
    }
    cluster.check_same().await;
    assert_eq!(cluster.voters().await, BTreeSet::from([NodeId(1)]));
    let all = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
    within(cluster.nodes[0].group().set_voters(all.clone()))
        .await
        .unwrap();
    assert_eq!(cluster.voters().await, all);
    // The leader sends heartbeats again, so that nobody stands for election.
    let term = cluster.nodes[0].group().status().term;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(
        (cluster.leader().await, cluster.nodes[0].group().status().term),
        (0, term)
    );
    let unknown = within(cluster.nodes[0].group().set_voters(BTreeSet::from([NodeId(9)]))).await;
    assert!(matches!(unknown, Err(MembershipError::Refused(_))), "{unknown:?}");

    cluster.nodes[0].kill().await;
    cluster.propose("key=without-the-first").await;
    let rest = BTreeSet::from([NodeId(2), NodeId(3)]);
    let leader = cluster.leader().await;
    within(cluster.nodes[leader].group().set_voters(rest.clone()))
        .await
        .unwrap();
    within(cluster.nodes[leader].group().remove_learner(NodeId(1)))
        .await
        .unwrap();
    assert_eq!(cluster.voters().await, rest);
    assert!(
        !cluster.nodes[leader]
            .group()
            .status()
            .members
            .contains_key(&NodeId(1))
    );
    cluster.check_same().await;
}

/// A group that is written and not synced.
fn unsynced() -> GroupSettings {
    GroupSettings {
        sync: SyncPolicy::Written,
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_the_end_of_its_log_is_brought_up_to_date() {
    let mut cluster = Cluster::start(3, &unsynced()).await;
    cluster.propose_many("key", 200).await;
    cluster.settled().await;
    let lost = cluster.follower().await;
    cluster.nodes[lost].kill().await;
    cluster.nodes[lost].disk.log.lose_end(GROUP, 50);
    cluster.nodes[lost].settings.distrust_log = true;
    cluster.nodes[lost].start().await;
    assert_eq!(cluster.propose("key=more").await, 201);
    cluster.check_same().await;
    // It votes again: with it alone the leader's successor has a majority.
    within(async {
        while !cluster.nodes[lost].group().trusts_its_log() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill().await;
    assert_eq!(cluster.propose("key=again").await, 202);
    cluster.check_same().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_may_have_lost_entries_elects_nobody() {
    let mut cluster = Cluster::start(3, &unsynced()).await;
    // The third node is away and lacks what is answered then, but has more than the second one after its loss.
    cluster.propose_many("before", 60).await;
    cluster.settled().await;
    let behind = cluster.follower().await;
    cluster.nodes[behind].kill().await;
    cluster.propose_many("key", 40).await;
    cluster.settled().await;
    let leader = cluster.leader().await;
    let lost = (0..3).find(|node| *node != leader && *node != behind).unwrap();
    cluster.nodes[leader].kill().await;
    cluster.nodes[lost].kill().await;
    cluster.nodes[lost].disk.log.lose_end(GROUP, 80);
    cluster.nodes[lost].settings.distrust_log = true;
    cluster.nodes[lost].start().await;
    cluster.nodes[behind].start().await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    for node in [lost, behind] {
        assert!(
            !cluster.nodes[node].group().is_leader(),
            "answered entries would be lost"
        );
    }
    cluster.nodes[leader].start().await;
    assert_eq!(cluster.propose("key=more").await, 101);
    cluster.check_same().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r41_replicas_of_different_beginnings_do_not_talk_to_each_other() {
    let mut cluster = Cluster::start(3, &unsynced()).await;
    cluster.propose_many("old", 50).await;
    cluster.settled().await;
    for node in &mut cluster.nodes {
        node.kill().await;
    }
    // Two of them know that the group has begun anew; what they would elect together lacks what the third one has.
    for node in &mut cluster.nodes[..2] {
        node.settings.beginning = 7;
        node.start().await;
    }
    assert_eq!(cluster.propose("new=1").await, 51);
    cluster.nodes[2].start().await;
    let past = cluster.nodes[2].disk.log.state(GROUP).last;
    for number in 52..60 {
        assert_eq!(cluster.propose(&format!("more{number}=1")).await, number);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(cluster.nodes[2].disk.log.state(GROUP).last, past);
    assert!(!cluster.nodes[2].group().is_leader());
    cluster.nodes[2].kill().await;
    cluster.nodes[2].settings.beginning = 7;
    cluster.nodes[2].start().await;
    cluster.check_same().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_not_talked_to() {
    let mut cluster = Cluster::start(1, &settings()).await;
    let mut stranger = Node::new(2, &settings()).await.in_cluster(8);
    stranger.start().await;
    let address = stranger.node_address();
    cluster.nodes[0]
        .group()
        .add_learner(stranger.id, address)
        .await
        .unwrap();
    cluster.nodes.push(stranger);
    cluster.propose("key=secret").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(cluster.nodes[1].group().applied_index(), None);
    assert_eq!(cluster.nodes[1].disk.log.state(GROUP).last, None);
}

#[test]
fn only_the_right_hello_is_accepted() {
    let transport = |cluster, node, incarnation| {
        Transport::new(NodeIdentity {
            cluster,
            node: NodeId(node),
            incarnation: NodeIncarnation(incarnation),
        })
    };
    let (me, you) = (transport(7, 1, 1), NodeId(1));
    let hello = |cluster, node, incarnation| Some(transport(cluster, node, incarnation).hello_to(you));
    me.record_start(NodeId(2), NodeIncarnation(4), None);
    assert_eq!(me.check_hello(hello(7, 2, 5), None).unwrap(), NodeId(2));
    assert_eq!(
        me.check_hello(hello(7, 2, 6), Some(NodeId(2))).unwrap(),
        NodeId(2)
    );
    assert_eq!(
        me.check_hello(hello(7, 2, 6), None).unwrap(),
        NodeId(2),
        "the same start again"
    );
    assert!(me.check_hello(hello(7, 2, 5), None).is_err(), "an earlier start");
    assert!(me.check_hello(hello(8, 2, 7), None).is_err(), "another cluster");
    assert!(me.check_hello(hello(7, 1, 7), None).is_err(), "this node itself");
    assert!(
        me.check_hello(hello(7, 3, 7), Some(NodeId(2))).is_err(),
        "another node than expected"
    );
    assert!(
        me.check_hello(Some(transport(7, 2, 7).hello_to(NodeId(4))), None)
            .is_err(),
        "meant for another node"
    );
    assert!(me.check_hello(None, None).is_err(), "no hello");
    let mut old = hello(7, 2, 7).unwrap();
    old.protocol_version = 0;
    assert!(
        me.check_hello(Some(old), None).is_err(),
        "a version that is not spoken"
    );
    let mut newer = hello(7, 2, 7).unwrap();
    newer.protocol_version = 99;
    assert_eq!(
        me.check_hello(Some(newer), None).unwrap(),
        NodeId(2),
        "a newer version knows what this one speaks"
    );
}

/// R46: who runs on a copy of a member's volume is refused by all who know of its last start, and hears why.
#[tokio::test]
async fn r46_the_hello_of_a_copy_is_refused_and_it_hears_why() {
    let transport = |node, incarnation| {
        Transport::new(NodeIdentity {
            cluster: 7,
            node: NodeId(node),
            incarnation: NodeIncarnation(incarnation),
        })
    };
    let start = |number, start, accepted| {
        let made = transport(2, number);
        made.set_lineage(Lineage {
            incarnation: NodeIncarnation(number),
            start: [start; 16],
            accepted: Some((NodeIncarnation(accepted), [u8::try_from(accepted).unwrap(); 16])),
            offered: Vec::new(),
        });
        made
    };
    let me = transport(1, 1);
    me.record_start(NodeId(2), NodeIncarnation(6), Some([6; 16]));
    let says = |start: &Transport| me.check_hello(Some(start.hello_to(NodeId(1))), None);
    for copy in [start(6, 60, 5), start(5, 5, 4), start(99, 99, 5)] {
        let status = says(&copy).unwrap_err();
        assert!(status.message().contains("its volume is a copy"), "{status}");
        copy.note_refusal(&status);
        let called = tokio::time::timeout(Duration::from_secs(5), copy.until_called_a_copy());
        called.await.unwrap();
    }
    let same = start(6, 6, 5);
    assert_eq!(says(&same).unwrap(), NodeId(2));
    assert_eq!(
        says(&start(7, 7, 6)).unwrap(),
        NodeId(2),
        "the claims of copies left nothing behind"
    );
    // Another reason is no verdict.
    let status = says(&same).unwrap_err();
    same.note_refusal(&status);
    let called = tokio::time::timeout(Duration::ZERO, same.until_called_a_copy());
    assert!(called.await.is_err(), "{status}");
}

/// What somebody says of a node's start does not keep the node out for good.
#[test]
fn only_starts_that_may_be_are_remembered_and_only_of_members() {
    let transport = |node, incarnation| {
        Transport::new(NodeIdentity {
            cluster: 7,
            node: NodeId(node),
            incarnation: NodeIncarnation(incarnation),
        })
    };
    let me = transport(1, 1);
    let says = |node, incarnation| {
        let hello = transport(node, incarnation).hello_to(NodeId(1));
        me.check_hello(Some(hello), None).is_ok()
    };
    assert!(!says(2, u64::MAX));
    assert!(says(2, 6) && says(2, 5), "it is not known as a member");
    me.record_start(NodeId(2), NodeIncarnation(6), None);
    assert!(!says(2, 5), "an earlier start than the recorded one");
    assert!(!says(2, u64::MAX) && says(2, 7) && !says(2, 6));
    assert!(me.may_be_at(NodeId(2), NodeIncarnation(8)));
    assert!(!me.may_be_at(NodeId(2), NodeIncarnation(u64::MAX)));
    me.forget_node(NodeId(2));
    assert!(says(2, 5), "of a node that was removed nothing is remembered");
}
