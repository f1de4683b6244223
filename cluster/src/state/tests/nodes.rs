//! What waits for the connections of a node's start (R11), and what goes with it (R25).

use super::*;

#[test]
fn r11_what_waits_for_a_node_is_taken_and_settled_like_a_sessions() {
    let mut group = Harness::new();
    let s = group.open("s");
    assert_eq!(
        group.publish("1", vec![s.target(), to(node_queue())]),
        published(2, 0)
    );
    group.publish("2", vec![to(node_queue())]);
    let size = counted_bytes(&message("1"));
    let queued = Event::Queued {
        queue: node_queue(),
        first: Sequence(1),
        count: 1,
        bytes: size,
    };
    assert_eq!(group.events, [queued]);
    assert_eq!(group.payloads(&node_queue()), ["1", "2"]);
    // Other starts of the node, and other nodes, have queues of their own.
    let next = TargetQueue::Node(OTHER_NODE, NodeIncarnation(11));
    assert_eq!(group.payloads(&next), [""; 0]);
    group.one(settle(node_queue(), &[0]));
    let removed = Event::Removed {
        queue: node_queue(),
        count: 1,
        bytes: size,
    };
    assert_eq!(group.events, [removed]);
    assert_eq!(group.payloads(&node_queue()), ["2"]);
    assert_eq!(group.payloads(&s.queue()), ["1"]);
    group.one(settle(node_queue(), &[0, 1]));
    group.one(settle(s.queue(), &[0]));
    assert_eq!(group.state.counts().messages, 0);
}

#[test]
fn r11_limits_turn_no_node_away() {
    let mut group = Harness::new();
    let (p, s) = (group.open("p"), group.open("s"));
    for limits in [(0, u64::MAX), (u32::MAX, 0)] {
        (group.queue_limits.messages_max, group.queue_limits.bytes_max) = limits;
        assert_eq!(
            group.publish("m", vec![s.target(), to(node_queue())]),
            published(1, 1)
        );
    }
    // So the message was taken, and its identifier with it (R13).
    let send = publish(
        p.origin(Some(5)),
        message("m"),
        vec![s.target(), to(node_queue())],
    );
    assert_eq!(group.one(send.clone()), published(1, 1));
    assert_eq!(group.one(send), DUPLICATE);
    assert_eq!(group.state.queue_len(&node_queue()), 3);
}

#[test]
fn r11_the_loss_of_a_node_drops_what_waits_for_its_starts() {
    let mut group = Harness::new();
    let queue_of = |node, incarnation| TargetQueue::Node(node, NodeIncarnation(incarnation));
    let queues = [
        queue_of(OTHER_NODE, 9),
        queue_of(OTHER_NODE, 10),
        queue_of(OTHER_NODE, 11),
        queue_of(NodeId(4), 10),
        queue_of(NodeId(6), 1),
    ];
    group.publish("m", queues.each_ref().map(|queue| to(queue.clone())).to_vec());
    group.one(lost(OTHER_NODE, START));
    let removed = |queue: &TargetQueue| Event::Removed {
        queue: queue.clone(),
        count: 1,
        bytes: counted_bytes(&message("m")),
    };
    assert_eq!(
        group.events,
        [removed(&queues[0]), removed(&queues[1]), Event::NodeLost]
    );
    let left: Vec<_> = queues
        .iter()
        .map(|queue| group.state.next_sequence(queue).is_some())
        .collect();
    assert_eq!(left, [false, false, true, true, true]);
    for queue in &queues[2..] {
        group.one(settle(queue.clone(), &[0]));
    }
    assert_eq!(group.state.counts().messages, 0);
}

#[test]
fn r11_a_lost_start_is_no_target() {
    let mut group = Harness::new();
    let s = group.open("s");
    group.one(lost(OTHER_NODE, START));
    assert_eq!(group.publish("m", vec![to(node_queue())]), published(0, 0));
    assert_eq!(
        group.publish("m", vec![s.target(), to(node_queue())]),
        published(1, 0)
    );
    assert_eq!(group.state.next_sequence(&node_queue()), None);
    // Neither is one that the node has a newer start than.
    (group.node, group.incarnation) = (NodeId(6), NodeIncarnation(11));
    let of_start = |incarnation| to(TargetQueue::Node(NodeId(6), NodeIncarnation(incarnation)));
    assert_eq!(group.publish("m", vec![of_start(10)]), published(1, 0));
    assert_eq!(
        group.publish("m", vec![of_start(10), of_start(11)]),
        published(1, 0)
    );
    // What waits for that one goes when its loss is told, though the newer one lives.
    assert_eq!(group.state.queue_len(&of_start(10).queue), 1);
    group.one(lost(NodeId(6), NodeIncarnation(10)));
    assert_eq!(group.state.next_sequence(&of_start(10).queue), None);
    assert_eq!(group.state.queue_len(&of_start(11).queue), 1);
}

/// Whoever has it dropped may not have known the node yet.
#[test]
fn r21_a_late_acknowledgement_settles_nothing_of_a_nodes_queue_that_came_back() {
    let mut group = Harness::new();
    for payload in ["0", "1"] {
        group.publish(payload, vec![to(node_queue())]);
    }
    let late = group.drop_queues(&[node_queue()]);
    group.publish("2", vec![to(node_queue())]);
    group.one(late);
    assert_eq!(group.payloads(&node_queue()), ["0", "1", "2"]);
    group.one(group.drop_queues(&[node_queue()]));
    let removed = Event::Removed {
        queue: node_queue(),
        count: 3,
        bytes: 3 * counted_bytes(&message("0")),
    };
    assert_eq!(group.events, [removed]);
    group.publish("new", vec![to(node_queue())]);
    group.one(settle(node_queue(), &[0, 1, 2]));
    assert_eq!(group.payloads(&node_queue()), ["new"]);
}

#[test]
fn r11_a_reference_tells_who_published_its_message() {
    let mut group = Harness::new();
    let (p, s) = (group.open("p"), group.open("s"));
    let gone = group.open_with("gone", false, 60, Some(will("w", 0)));
    group.one(gone.close());
    let elsewhere = live_session(4);
    let origins = [
        (p.origin(None), Some(p.session)),
        (p.origin(Some(1)), Some(p.session)),
        (
            Origin::Live {
                session: Some(elsewhere),
            },
            Some(elsewhere),
        ),
        (Origin::Live { session: None }, None),
        (
            Origin::Will {
                session: gone.session,
                epoch: gone.epoch,
            },
            Some(gone.session),
        ),
        (live_will(5), Some(live_session(5))),
        (Origin::Server, None),
    ];
    for (origin, _) in origins {
        group.one(publish(
            origin,
            message("m"),
            vec![s.target(), to(share_queue("g"))],
        ));
    }
    group.one(assign(share("g"), 0, s.session));
    let mut expected: Vec<_> = origins.iter().map(|(_, publisher)| *publisher).collect();
    expected.push(Some(p.session));
    let publishers = |group: &Harness| -> Vec<_> {
        let pulled = group.pull(&s.queue());
        pulled.iter().map(|pulled| pulled.publisher).collect()
    };
    assert_eq!(publishers(&group), expected);
    // Also when they come back from a checkpoint.
    group.state.load(group.state.records()).unwrap();
    assert_eq!(publishers(&group), expected);
}

#[test]
fn r25_the_starts_that_a_loss_would_touch_are_known() {
    let mut group = Harness::new();
    let starts = |group: &Harness| -> Vec<(u64, u64)> {
        let starts = group.state.connected_starts();
        starts
            .map(|(node, incarnation)| (node.0, incarnation.0))
            .collect()
    };
    assert_eq!(starts(&group), []);
    let (a, b) = (group.open("a"), group.open("b"));
    assert_eq!(starts(&group), [(1, 10)]);
    // A queue counts as well, also when it is empty.
    group.publish("m", vec![to(node_queue())]);
    group.one(settle(node_queue(), &[0]));
    assert_eq!(starts(&group), [(1, 10), (5, 10)]);
    // Each way a connection goes.
    group.one(a.close());
    assert_eq!(starts(&group), [(1, 10), (5, 10)]);
    (group.node, group.number) = (NodeId(2), 0);
    let again = group.open("b");
    assert_eq!(again.previous.map(|owner| owner.epoch), Some(b.epoch));
    assert_eq!(starts(&group), [(2, 10), (5, 10)]);
    group.open("b");
    group.open("a");
    group.one(Command::EndSession {
        session: b.session,
        publish_will: false,
    });
    assert_eq!(starts(&group), [(2, 10), (5, 10)]);
    assert_eq!(group.state.counts().sessions_connected, 1);
    group.state.load(group.state.records()).unwrap();
    assert_eq!(starts(&group), [(2, 10), (5, 10)]);
    (group.node, group.number) = (NodeId(3), 0);
    group.one(lost(NodeId(2), START));
    group.one(lost(OTHER_NODE, START));
    assert_eq!(starts(&group), []);
    assert_eq!(group.state.counts().sessions_connected, 0);
}

#[test]
fn r25_who_is_lost_is_known() {
    let mut group = Harness::new();
    let is_lost = |group: &Harness, incarnation| group.state.is_lost(NODE, NodeIncarnation(incarnation));
    let known = |group: &Harness| -> Vec<_> { group.state.proposer_starts().collect() };
    assert!(!is_lost(&group, 10));
    assert_eq!(known(&group), []);
    group.tick(0);
    assert_eq!(known(&group), [(NODE, START, false)]);
    assert_eq!(
        [9, 10, 11].map(|start| is_lost(&group, start)),
        [true, false, false]
    );
    (group.node, group.number) = (OTHER_NODE, 0);
    group.one(lost(NODE, START));
    let other = (OTHER_NODE, START, false);
    assert_eq!(known(&group), [(NODE, START, true), other]);
    assert_eq!(
        [9, 10, 11].map(|start| is_lost(&group, start)),
        [true, true, false]
    );
    (group.node, group.incarnation, group.number) = (NODE, NodeIncarnation(11), 0);
    group.tick(0);
    assert_eq!(known(&group), [(NODE, NodeIncarnation(11), false), other]);
    assert_eq!([10, 11].map(|start| is_lost(&group, start)), [true, false]);
}
