//! Shared subscriptions with members at several nodes, which are lost in the middle of the stream (R37-R40).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use quorate_cluster::node::Placement;
use quorate_tests::Version;
use quorate_tests::client::{Client, Event, RawClient};
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::{Packet, Property, connect, filter, puback, publish};

use super::retained::{name_with, spread_leaders};
use super::{REPLICAS, nodes, three};

const FILTER: &str = "$share/g/jobs/#";
/// The longest that a message may need to a member that has room, the loss of a node included.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);
/// How long nothing may have come before nothing comes any more.
const QUIET: Duration = Duration::from_millis(500);

/// A member whose session ends with its connection, and which acknowledges nothing by itself.
async fn silent_member(cluster: &Cluster, node: usize, id: &str, qos: u8) -> RawClient {
    let mut member = cluster.nodes[node].raw_client(Version::V5, &connect(id)).await;
    let suback = member.subscribe([filter(FILTER).qos(qos)]).await;
    assert_eq!(suback.codes, [qos]);
    member
}

async fn live_member(cluster: &Cluster, node: usize, id: &str, qos: u8) -> Client {
    let mut member = cluster.nodes[node].clean(Version::V5, id).await;
    member.subscribe(FILTER, qos).await;
    member
}

/// Makes the share durable: a member that is away has a session.
async fn absent_durable_member(cluster: &Cluster, node: usize) {
    let mut member = cluster.nodes[node].durable(Version::V5, "absent").await;
    member.subscribe(FILTER, 2).await;
    member.disconnect().await;
}

/// One message of each of so many publishers, whose messages are at home in all groups.
async fn publish_from_all_homes(cluster: &Cluster, node: usize, numbers: std::ops::Range<usize>, qos: u8) {
    for number in numbers {
        let mut publisher = cluster.nodes[node]
            .clean(Version::V5, &format!("p{number}"))
            .await;
        let code = publisher
            .publish(publish("jobs/x", number.to_string()).qos(qos))
            .await;
        assert!(code < 0x80, "{code:#x}");
        publisher.disconnect().await;
    }
}

fn number_of(payload: &[u8]) -> usize {
    let text = std::str::from_utf8(payload).expect("a number");
    text.parse().expect("a number")
}

/// What a silent member is sent until nothing more comes.
async fn sent_to(member: &mut RawClient) -> Vec<usize> {
    let mut numbers = Vec::new();
    while let Some(event) = member.next_by(tokio::time::Instant::now() + QUIET).await {
        match event {
            Event::Packet(Packet::Publish(message)) => {
                assert!(!message.dup, "nothing was sent before");
                numbers.push(number_of(&message.payload));
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    numbers
}

/// What a member got that acknowledges, when that is enough, and nothing more comes.
async fn got_by(
    member: &mut Client,
    is_enough: impl Fn(&BTreeMap<usize, usize>) -> bool,
) -> BTreeMap<usize, usize> {
    let mut got = BTreeMap::new();
    let began = Instant::now();
    let mut quiet_since = Instant::now();
    while !is_enough(&got) || quiet_since.elapsed() < QUIET {
        assert!(began.elapsed() < ARRIVAL_MAX, "{} came: {got:?}", got.len());
        member.ping().await;
        while let Some(message) = member.waiting() {
            *got.entry(number_of(&message.payload)).or_insert(0) += 1;
            quiet_since = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    got
}

fn all(range: std::ops::Range<usize>) -> BTreeSet<usize> {
    range.collect()
}

/// R38: what durable members have stays with them where a node reads the group of their sessions from another replica, and
/// is told again who has them.
#[tokio::test(flavor = "multi_thread")]
async fn r38_members_keep_what_they_have_when_their_sessions_are_told_again() {
    const COUNT: usize = 12;
    let mut cluster = nodes(3, 1);
    let led = spread_leaders(&cluster).await;
    let mut members = Vec::new();
    let mut homes = BTreeSet::new();
    for (node, kind) in ["first", "second"].into_iter().enumerate() {
        let id = name_with(&led, kind, |_, leader| leader == 2);
        homes.insert(Placement::data_of_client(&id).0);
        let packet = connect(&id).resume().expiry(600);
        let mut member = cluster.nodes[node].raw_client(Version::V5, &packet).await;
        member.subscribe([filter(FILTER).qos(1)]).await;
        members.push(member);
    }
    let publisher = name_with(&led, "publisher", |_, leader| leader == 0);
    let mut publisher = cluster.nodes[0].clean(Version::V5, &publisher).await;
    for number in 0..COUNT {
        publisher
            .publish(publish("jobs/x", number.to_string()).qos(1))
            .await;
    }
    let mut sent = Vec::new();
    for member in &mut members {
        let had = sent_to(member).await;
        assert_eq!(had.len(), COUNT / 2, "round robin");
        sent.extend(had);
    }
    assert_eq!(sent.into_iter().collect::<BTreeSet<_>>(), all(0..COUNT));

    // How often these nodes began to read the members' homes.
    let followed = |cluster: &Cluster| -> usize {
        let began = |line: &&str, home: &u16| {
            line.contains("\"a replica is followed\"") && line.contains(&format!("\"group\":{home},"))
        };
        let logs = [cluster.nodes[0].log(), cluster.nodes[1].log()];
        let lines = logs.iter().flat_map(|log| log.lines());
        lines
            .filter(|line| homes.iter().any(|home| began(line, home)))
            .count()
    };
    let before = followed(&cluster);
    cluster.nodes[2].kill();
    cluster.restart(2);
    let deadline = Instant::now() + ARRIVAL_MAX;
    while followed(&cluster) < before + 2 * homes.len() {
        assert!(Instant::now() < deadline, "the homes are not read again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for member in &mut members {
        let more = sent_to(member).await;
        assert!(more.is_empty(), "{more:?} had been given to the other");
    }
}

/// R40: what a member of expiry 0 has not acknowledged goes to another when its connection, or its node, is lost: also
/// where its publisher is at a third node, and its messages were acknowledged long before.
#[tokio::test(flavor = "multi_thread")]
async fn r40_messages_of_a_lost_member_go_to_another_at_another_node() {
    const COUNT: usize = 40;
    for by_kill in [false, true] {
        let mut cluster = three();
        let mut silent = silent_member(&cluster, 1, "silent", 1).await;
        let mut other = live_member(&cluster, 2, "other", 1).await;
        publish_from_all_homes(&cluster, 0, 0..COUNT, 1).await;
        let sent = sent_to(&mut silent).await;
        assert!(!sent.is_empty(), "round robin");
        match by_kill {
            true => cluster.nodes[1].kill(),
            false => drop(silent),
        }
        let got = got_by(&mut other, |got| got.len() == COUNT).await;
        assert_eq!(
            got.keys().copied().collect::<BTreeSet<_>>(),
            all(0..COUNT),
            "kill: {by_kill}"
        );
    }
}

/// Nodes in the view, as the first one knows it.
fn serving(cluster: &Cluster) -> u64 {
    let status = cluster.ctl(0, &["status", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    status["cluster"]["serving"].as_u64().expect("a number")
}

/// R40 [MQTT-4.8.2-5]: what a member of expiry 0 was sent at QoS 2 goes to nobody else when it is lost, with its
/// connection or its node; everything else does.
#[tokio::test(flavor = "multi_thread")]
async fn r40_what_a_lost_member_was_sent_at_qos_2_goes_to_nobody_else() {
    const COUNT: usize = 40;
    for by_kill in [false, true] {
        let mut cluster = three();
        let mut silent = silent_member(&cluster, 1, "silent", 2).await;
        let mut other = live_member(&cluster, 2, "other", 2).await;
        publish_from_all_homes(&cluster, 0, 0..COUNT, 2).await;
        let sent: BTreeSet<usize> = sent_to(&mut silent).await.into_iter().collect();
        assert!(!sent.is_empty(), "round robin");
        match by_kill {
            true => {
                cluster.nodes[1].kill();
                // What is given to it until its loss is known counts as sent.
                while serving(&cluster) != 2 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            false => drop(silent),
        }
        let expected = &all(0..COUNT) - &sent;
        publish_from_all_homes(&cluster, 0, COUNT..COUNT + 10, 2).await;
        let got = got_by(&mut other, |got| got.len() >= COUNT + 10 - sent.len()).await;
        assert!(got.values().all(|count| *count == 1), "{got:?}");
        let got: BTreeSet<usize> = got.keys().copied().filter(|number| *number < COUNT).collect();
        assert_eq!(got, expected, "kill: {by_kill}");
    }
}

/// R37, R38: messages at QoS 2 that members of expiry 0 have stay with them when the leaders of their groups die, and
/// are given to nobody else; nothing is left out.
#[tokio::test(flavor = "multi_thread")]
async fn r38_what_live_members_have_at_qos_2_is_not_doubled_when_leaders_die() {
    const COUNT: usize = 48;
    let mut cluster = three();
    absent_durable_member(&cluster, 1).await;
    let mut silent = silent_member(&cluster, 1, "silent", 2).await;
    publish_from_all_homes(&cluster, 2, 0..COUNT, 2).await;
    let sent = sent_to(&mut silent).await;
    let once: BTreeSet<usize> = sent.iter().copied().collect();
    assert_eq!(once.len(), sent.len(), "{sent:?}");
    assert_eq!(once, all(0..COUNT), "it has room for all");
    let mut other = live_member(&cluster, 2, "other", 2).await;
    // It leads a third of the groups.
    cluster.nodes[0].kill();
    cluster.nodes[1].wait_for_readiness(|code, _| code == 200);
    publish_from_all_homes(&cluster, 2, COUNT..2 * COUNT, 2).await;
    let mut later: BTreeMap<usize, usize> = BTreeMap::new();
    let began = Instant::now();
    while later.len() < COUNT {
        assert!(began.elapsed() < ARRIVAL_MAX, "{} came", later.len());
        for number in sent_to(&mut silent).await {
            *later.entry(number).or_insert(0) += 1;
        }
        other.ping().await;
        while let Some(message) = other.waiting() {
            *later.entry(number_of(&message.payload)).or_insert(0) += 1;
        }
    }
    assert!(later.values().all(|count| *count == 1), "{later:?}");
    let later: BTreeSet<usize> = later.into_keys().collect();
    assert_eq!(
        later,
        all(COUNT..2 * COUNT),
        "what was sent before went to nobody else"
    );
}

/// R37: at QoS 1 nothing that was acknowledged is lost while a member lives, whether the node of another member dies or
/// the leaders do.
#[tokio::test(flavor = "multi_thread")]
async fn r37_nothing_is_lost_at_qos_1_when_members_and_leaders_die() {
    const COUNT: usize = 48;
    for victim in [0, 1] {
        let mut cluster = three();
        absent_durable_member(&cluster, 0).await;
        let mut silent = silent_member(&cluster, 1, "silent", 1).await;
        let mut other = live_member(&cluster, 2, "other", 1).await;
        publish_from_all_homes(&cluster, 2, 0..COUNT, 1).await;
        let sent: BTreeSet<usize> = sent_to(&mut silent).await.into_iter().collect();
        assert!(!sent.is_empty(), "round robin");
        cluster.nodes[victim].kill();
        cluster.nodes[2].wait_for_readiness(|code, _| code == 200);
        if victim == 0 {
            drop(silent);
        }
        let got = got_by(&mut other, |got| got.len() == COUNT).await;
        assert_eq!(got.len(), COUNT, "victim {victim}");
    }
}

/// R39: a member whose window is full has no more messages than that, whichever groups' leaders or nodes have some for
/// it, while another has room; when it has room again, it gets more.
#[tokio::test(flavor = "multi_thread")]
async fn r39_nothing_waits_behind_a_member_whose_window_is_full() {
    const COUNT: usize = 48;
    const WINDOW: usize = 2;
    for (durable, qos, replicas) in [(true, 1, 3), (true, 2, 1), (false, 1, 3)] {
        let cluster = nodes(3, replicas);
        if durable {
            absent_durable_member(&cluster, 0).await;
        }
        let packet = connect("slow").property(Property::ReceiveMaximum(WINDOW as u16));
        let mut slow = cluster.nodes[1].raw_client(Version::V5, &packet).await;
        slow.subscribe([filter(FILTER).qos(qos)]).await;
        let mut other = live_member(&cluster, 2, "other", qos).await;
        for node in 0..3 {
            let third = COUNT / 3;
            publish_from_all_homes(&cluster, node, node * third..(node + 1) * third, qos).await;
        }
        let case = format!("durable: {durable}, QoS {qos}, {replicas} replicas");
        let got = got_by(&mut other, |got| got.len() >= COUNT - WINDOW).await;
        assert!(got.values().all(|count| *count == 1), "{case}: {got:?}");
        let sent: BTreeSet<usize> = sent_to(&mut slow).await.into_iter().collect();
        let rest = &all(0..COUNT) - &got.keys().copied().collect();
        assert_eq!(sent, rest, "{case}");
        assert_eq!(sent.len(), WINDOW, "{case}");
    }
}

/// R39: of QoS 2 messages a durable member has no more than its window holds, however many groups' leaders have some for
/// it; the rest goes to one that has room. When it is lost, what it was sent stays its own, and nothing else does.
#[tokio::test(flavor = "multi_thread")]
async fn r39_nothing_at_qos_2_is_parked_with_a_durable_member() {
    const COUNT: usize = 48;
    const WINDOW: usize = 2;
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let packet = connect("slow")
            .property(Property::ReceiveMaximum(WINDOW as u16))
            .expiry(600);
        let mut slow = cluster.nodes[1].raw_client(Version::V5, &packet).await;
        slow.subscribe([filter(FILTER).qos(2)]).await;
        let mut other = cluster.nodes[2].durable(Version::V5, "other").await;
        other.subscribe(FILTER, 2).await;
        for node in 0..3 {
            let third = COUNT / 3;
            publish_from_all_homes(&cluster, node, node * third..(node + 1) * third, 2).await;
        }
        let got = got_by(&mut other, |got| got.len() >= COUNT - WINDOW).await;
        assert!(got.values().all(|count| *count == 1), "{got:?}");
        let sent: BTreeSet<usize> = sent_to(&mut slow).await.into_iter().collect();
        assert_eq!(sent, &all(0..COUNT) - &got.keys().copied().collect());
        assert_eq!(sent.len(), WINDOW);

        drop(slow);
        publish_from_all_homes(&cluster, 0, COUNT..2 * COUNT, 2).await;
        let got = got_by(&mut other, |got| got.len() >= COUNT).await;
        assert_eq!(
            got.keys().copied().collect::<BTreeSet<_>>(),
            all(COUNT..2 * COUNT)
        );
        let mut slow = cluster.nodes[0].durable(Version::V5, "slow").await;
        let again = got_by(&mut slow, |got| got.len() >= WINDOW).await;
        assert_eq!(again.keys().copied().collect::<BTreeSet<_>>(), sent);
    }
}

/// R39: a member that was full gets what waits for it as soon as it has room.
#[tokio::test(flavor = "multi_thread")]
async fn r39_a_member_that_was_full_is_given_more() {
    const COUNT: usize = 24;
    for durable in [true, false] {
        for replicas in REPLICAS {
            let cluster = nodes(3, replicas);
            if durable {
                absent_durable_member(&cluster, 0).await;
            }
            let packet = connect("only").property(Property::ReceiveMaximum(1));
            let mut only = cluster.nodes[1].raw_client(Version::V5, &packet).await;
            only.subscribe([filter(FILTER).qos(1)]).await;
            publish_from_all_homes(&cluster, 0, 0..COUNT, 1).await;
            let mut got = BTreeSet::new();
            while got.len() < COUNT {
                let message = only.expect_publish().await;
                got.insert(number_of(&message.payload));
                only.send(&puback(message.id.expect("QoS 1"))).await;
            }
            assert_eq!(got, all(0..COUNT), "durable: {durable}");
        }
    }
}

/// R40: a share without durable member gets one while messages of it are on their way, and loses its last one: at QoS 2
/// each message arrives once, whichever kind its publisher's session is.
#[tokio::test(flavor = "multi_thread")]
async fn r40_nothing_is_lost_or_doubled_while_a_share_becomes_durable_and_back() {
    const ROUNDS: usize = 6;
    const COUNT: usize = 200;
    let cluster = three();
    let mut member = live_member(&cluster, 2, "member", 2).await;
    let mut live = cluster.nodes[0].clean(Version::V5, "live").await;
    let mut durable = cluster.nodes[1].durable(Version::V5, "durable").await;
    let publishing = async {
        for number in 0..COUNT {
            let publisher = if number % 2 == 0 { &mut live } else { &mut durable };
            let code = publisher
                .publish(publish("jobs/x", number.to_string()).qos(2))
                .await;
            assert!(code < 0x80, "{code:#x}");
        }
    };
    let changing = async {
        let mut got = BTreeMap::new();
        for round in 0..ROUNDS {
            let mut other = cluster.nodes[round % 3].durable(Version::V5, "other").await;
            other.subscribe(FILTER, 2).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            other.unsubscribe(FILTER).await;
            // What it was given is its own.
            tokio::time::sleep(Duration::from_millis(100)).await;
            other.ping().await;
            while let Some(message) = other.waiting() {
                *got.entry(number_of(&message.payload)).or_insert(0) += 1;
            }
            other.disconnect().await;
        }
        let mut other = cluster.nodes[0].durable(Version::V5, "other").await;
        other.ping().await;
        (got, other)
    };
    let ((), (mut got, mut other)) = tokio::join!(publishing, changing);
    let began = Instant::now();
    let mut quiet_since = Instant::now();
    while got.len() < COUNT || quiet_since.elapsed() < QUIET {
        assert!(began.elapsed() < ARRIVAL_MAX, "{} came", got.len());
        for client in [&mut member, &mut other] {
            client.ping().await;
            while let Some(message) = client.waiting() {
                *got.entry(number_of(&message.payload)).or_insert(0) += 1;
                quiet_since = Instant::now();
            }
        }
    }
    let doubled: Vec<_> = got.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    assert_eq!(got.into_keys().collect::<BTreeSet<_>>(), all(0..COUNT));
}
