//! Numbered batches (R10).

use super::*;

/// A harness whose queue "s" counts how often something took effect.
fn with_subscriber() -> (Harness, Opened) {
    let mut group = Harness::new();
    let subscriber = group.open("s");
    (group, subscriber)
}

fn hit(group: &mut Harness, subscriber: &Opened) -> Batch {
    group.batch(vec![publish(
        Origin::Server,
        message("m"),
        vec![subscriber.target()],
    )])
}

#[test]
fn r10_a_repeated_batch_gets_the_first_outcome_and_has_no_effect() {
    let (mut group, subscriber) = with_subscriber();
    let mut batch = hit(&mut group, &subscriber);
    let first = group.apply(&batch);
    assert_eq!(first, BatchOutcome::Applied(vec![published(1, 0)]));
    let first_index = group.state.applied_at(&batch);
    let digest = group.state.digest();
    // Another stamp, as another leader would give it, and other commands make no difference.
    batch.stamp = GroupTime(1_000_000);
    batch.commands.push(open("x", false, 0, None));
    assert_eq!(group.apply(&batch), first);
    assert_eq!(group.state.digest(), digest);
    assert_eq!(group.events, []);
    assert_eq!(group.state.group_time(), GroupTime(1000));
    assert_eq!(
        group.state.applied_at(&batch),
        first_index,
        "where it had its effect"
    );
    assert!(first_index.is_some());
    batch.number += 1;
    group.apply(&batch);
    assert!(group.state.applied_at(&batch) > first_index);
}

#[test]
fn r10_what_is_remembered_of_a_resumed_session_does_not_grow_with_it_and_still_answers() {
    let mut group = Harness::new();
    let client = group.open("c");
    let packet_ids = 1..=300;
    for packet_id in packet_ids.clone() {
        group.one(publish(client.origin(Some(packet_id)), message("in"), vec![]));
    }
    let filters = ["a", "b", "c"].map(|first| first.repeat(1000));
    group.one(client.subscribe(&filters.each_ref().map(String::as_str)));
    let batch = group.batch(vec![open("c", false, 60, None)]);
    let first = group.apply(&batch);
    let BatchOutcome::Applied(outcomes) = &first else {
        panic!("{first:?}")
    };
    let expected: Vec<_> = packet_ids.map(id).collect();
    assert!(
        matches!(&outcomes[..], [Outcome::Opened { present: true, inbound, .. }] if *inbound == expected),
        "{outcomes:?}"
    );
    let (_, remembered) = (group.state.records().into_iter())
        .find(|(key, _)| key[0] == records::Kind::Proposer as u8)
        .unwrap();
    assert!(remembered.len() < 100, "{} bytes", remembered.len());
    assert_eq!(group.apply(&batch), first);
}

#[test]
fn r10_a_repeat_tells_no_identifiers_of_a_session_that_has_ended() {
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(publish(client.origin(Some(3)), message("in"), vec![]));
    let batch = group.batch(vec![open("c", false, 60, None), open("c", true, 60, None)]);
    let identifiers = |outcome: BatchOutcome| -> Vec<usize> {
        let BatchOutcome::Applied(outcomes) = outcome else {
            panic!("{outcome:?}")
        };
        let inbound = |outcome: &Outcome| match outcome {
            Outcome::Opened { inbound, .. } => inbound.len(),
            other => panic!("{other:?}"),
        };
        outcomes.iter().map(inbound).collect()
    };
    assert_eq!(identifiers(group.apply(&batch)), [1, 0]);
    assert_eq!(identifiers(group.apply(&batch)), [0, 0]);
}

#[test]
fn r10_a_lower_number_is_refused() {
    let (mut group, subscriber) = with_subscriber();
    let old = hit(&mut group, &subscriber);
    group.number += 5;
    let new = hit(&mut group, &subscriber);
    group.apply(&new);
    assert_eq!(group.apply(&old), BatchOutcome::Refused);
    assert_eq!(group.payloads(&subscriber.queue()).len(), 1);
}

#[test]
fn r10_a_new_start_counts_anew_and_an_older_one_is_refused() {
    let (mut group, subscriber) = with_subscriber();
    let old = hit(&mut group, &subscriber);
    (group.incarnation, group.number) = (NodeIncarnation(11), 0);
    let new = hit(&mut group, &subscriber);
    assert_eq!(new.number, 1);
    assert!(matches!(group.apply(&new), BatchOutcome::Applied(_)));
    assert_eq!(group.apply(&old), BatchOutcome::Refused);
    assert_eq!(group.payloads(&subscriber.queue()).len(), 1);
}

#[test]
fn r10_nodes_count_apart() {
    let (mut group, subscriber) = with_subscriber();
    let one = hit(&mut group, &subscriber);
    group.apply(&one);
    group.node = NodeId(2);
    let mut two = hit(&mut group, &subscriber);
    two.number = one.number;
    assert!(matches!(group.apply(&two), BatchOutcome::Applied(_)));
    assert_eq!(group.payloads(&subscriber.queue()).len(), 2);
}

#[test]
fn r10_batches_without_number_are_applied_each_time() {
    let (mut group, subscriber) = with_subscriber();
    let mut batch = hit(&mut group, &subscriber);
    batch.number = 0;
    group.apply(&batch);
    group.apply(&batch);
    assert_eq!(group.payloads(&subscriber.queue()).len(), 2);
}

#[test]
fn r1_proposals_of_a_lost_start_are_refused() {
    let (mut group, subscriber) = with_subscriber();
    let late = hit(&mut group, &subscriber);
    let mut unnumbered = late.clone();
    unnumbered.number = 0;
    unnumbered.commands = vec![open("zombie", false, 60, None)];
    group.node = NodeId(2);
    group.one(Command::NodeLost {
        node: NODE,
        incarnation: START,
    });
    assert_eq!(group.apply(&late), BatchOutcome::Refused);
    // Its leader may still tick, but opens no sessions that nobody would end.
    assert_eq!(group.apply(&unnumbered), BatchOutcome::Applied(vec![FENCED]));
    assert_eq!(group.payloads(&subscriber.queue()), [""; 0]);
    // The next start is welcome.
    (group.node, group.incarnation) = (NODE, NodeIncarnation(11));
    let next = hit(&mut group, &subscriber);
    assert!(matches!(group.apply(&next), BatchOutcome::Applied(_)));
    // And stays so when the loss of the one before is told again.
    group.one(Command::NodeLost {
        node: NODE,
        incarnation: START,
    });
    let next = hit(&mut group, &subscriber);
    assert!(matches!(group.apply(&next), BatchOutcome::Applied(_)));
}

#[test]
fn r1_a_start_may_declare_itself_lost() {
    let (mut group, _) = with_subscriber();
    let batch = group.batch(vec![Command::NodeLost {
        node: NODE,
        incarnation: START,
    }]);
    assert_eq!(group.apply(&batch), BatchOutcome::Applied(vec![Outcome::Done]));
    assert_eq!(group.apply(&batch), BatchOutcome::Refused);
}
