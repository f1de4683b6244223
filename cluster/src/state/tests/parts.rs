//! Publishes in parts (R7).

use proptest::collection::vec;
use proptest::prelude::*;

use super::persistence::Store;
use super::*;

/// Queues of sessions of another group, in order.
fn queues(count: u64) -> Vec<TargetQueue> {
    let queue = |index| TargetQueue::Session(SessionId::new(GroupId(4), index, 0));
    (0..count).map(queue).collect()
}

fn targets(queues: &[TargetQueue]) -> Vec<Target> {
    queues.iter().map(|queue| to(queue.clone())).collect()
}

/// The answer to the first part that the entry at `index` brought.
fn begun(index: u64) -> Outcome {
    Outcome::Begun { index, position: 0 }
}

/// A group, and origins of every kind that may publish in it, with whether others go on with what they began.
fn origins() -> (Harness, Vec<(Origin, bool)>) {
    let mut group = Harness::new();
    let gone = group.open_with("gone", false, 60, Some(will("w", 0)));
    group.one(gone.close());
    let p = group.open("p");
    let session = Some(live_session(3));
    let will = Origin::Will {
        session: gone.session,
        epoch: gone.epoch,
    };
    let origins = vec![
        (p.origin(None), false),
        (p.origin(Some(5)), true),
        (will, true),
        (live_will(1), true),
        (Origin::Live { session }, false),
        (Origin::Server, false),
    ];
    (group, origins)
}

#[test]
fn r7_the_last_part_answers_for_all_and_the_message_is_held_until_then() {
    let (mut group, origins) = origins();
    let queues = queues(6);
    for (origin, _) in origins {
        assert_eq!(
            group.one(first(origin, targets(&queues[..2]))),
            begun(group.index)
        );
        // Even when everybody is done with it.
        group.run(vec![
            settle(queues[0].clone(), &[0]),
            settle(queues[1].clone(), &[0]),
        ]);
        assert_eq!(
            (group.state.counts().messages, group.state.counts().under_way),
            (1, 1)
        );
        group.queue_limits.messages_max = 0;
        let second = more(origin, &queues[1], targets(&queues[2..3]), false);
        assert_eq!(group.one(second), Outcome::Done);
        group.queue_limits = QUEUE_LIMITS;
        let third = more(origin, &queues[2], targets(&queues[3..]), true);
        assert_eq!(group.one(third), published(5, 1), "{origin:?}");
        assert_eq!(
            (group.state.counts().messages, group.state.counts().under_way),
            (1, 0)
        );
        for queue in &queues[3..] {
            let pulled = group.pull(queue);
            assert_eq!(pulled.len(), 1);
            assert_eq!(pulled[0].publisher, origin.publisher());
        }
        group.one(group.drop_queues(&queues));
        assert_eq!(group.state.counts().messages, 0);
    }
    assert_eq!(group.due(), []);
}

/// The proposer does not wait for one part before it proposes the next.
#[test]
fn r7_parts_may_come_in_one_entry() {
    let (mut group, origins) = origins();
    let queues = queues(3);
    for (origin, _) in origins {
        let outcomes = group.run(vec![
            first(origin, vec![]),
            Command::PublishMore(PublishPart {
                number: 1,
                origin,
                after: None,
                targets: targets(&queues[..1]),
                last: false,
            }),
            more(origin, &queues[0], targets(&queues[1..]), true),
        ]);
        assert_eq!(outcomes, [begun(group.index), Outcome::Done, published(3, 0)]);
    }
    assert_eq!(group.state.queue_len(&queues[2]), 6);
}

#[test]
fn r7_a_client_that_sends_its_message_again_has_it_go_on() {
    let mut group = Harness::new();
    let queues = queues(6);
    let p = group.open("p");
    group.one(first(p.origin(Some(5)), targets(&queues[..3])));
    let begun_at = group.index;
    assert_eq!(group.state.inbound(p.session), []);
    // The connection and its node are lost; the next node does not count the message as received.
    (group.node, group.number) = (NodeId(2), 0);
    group.one(lost(NODE, START));
    let Outcome::Opened { epoch, inbound, .. } = group.one(open("p", false, 60, None)) else {
        panic!("not opened")
    };
    assert_eq!(inbound, []);
    let again = Opened { epoch, ..p };
    // What the one before still has on its way changes nothing.
    let late = more(p.origin(Some(5)), &queues[2], targets(&queues[3..]), true);
    assert_eq!(group.one(late), FENCED);
    // Cut in another way, as subscribers have come and gone, and with other words.
    let lists = [&queues[..4], &queues[4..5], &queues[5..]].map(targets);
    let origin = again.origin(Some(5));
    let [one, two, three] = lists;
    let Command::PublishFirst { number, mut publish } = first(origin, one) else {
        panic!("a first part")
    };
    publish.message = message("much longer than before");
    assert_eq!(
        group.one(Command::PublishFirst { number, publish }),
        begun(begun_at),
        "the message stands where it came first"
    );
    assert_eq!(group.one(more(origin, &queues[3], two, false)), Outcome::Done);
    assert_eq!(group.one(more(origin, &queues[4], three, true)), published(6, 0));
    assert_eq!(group.state.inbound(p.session), [id(5)]);
    for queue in &queues {
        assert_eq!(group.payloads(queue), ["m"]);
    }
    // From here on it is known, whichever way it comes.
    assert_eq!(group.one(first(origin, targets(&queues))), DUPLICATE);
    assert_eq!(group.one(more(origin, &queues[3], vec![], true)), DUPLICATE);
}

#[test]
fn r7_a_publish_as_a_whole_ends_one_that_began_in_parts() {
    let (mut group, origins) = origins();
    let queues = queues(4);
    for (origin, lasting) in origins {
        group.one(first(origin, targets(&queues[..2])));
        let whole = publish(origin, message("m"), targets(&queues));
        assert_eq!(group.one(whole), published(4, 0));
        // What nobody else goes on with is another message.
        assert_eq!(group.state.counts().under_way, u64::from(!lasting));
        assert_eq!(group.payloads(&queues[0]).len(), if lasting { 1 } else { 2 });
        group.one(more(origin, &queues[1], vec![], true));
        group.one(group.drop_queues(&queues));
        assert_eq!(group.state.counts().messages, 0);
    }
}

#[test]
fn r7_a_part_whose_forerunner_is_missing_is_refused() {
    let (mut group, origins) = origins();
    let queues = queues(4);
    for (origin, lasting) in origins {
        let last = more(origin, &queues[2], targets(&queues[3..]), true);
        assert_eq!(group.one(last.clone()), FENCED, "there is no first one");
        group.one(first(origin, targets(&queues[..2])));
        assert_eq!(group.one(last.clone()), FENCED);
        assert_eq!(group.payloads(&queues[3]), [""; 0]);
        // Others go on with it, or nobody does.
        assert_eq!(group.state.counts().under_way, u64::from(lasting));
        let missing = more(origin, &queues[1], targets(&queues[2..3]), false);
        let outcome = if lasting { Outcome::Done } else { FENCED };
        assert_eq!(group.one(missing), outcome);
        let outcome = if lasting { published(4, 0) } else { FENCED };
        assert_eq!(group.one(last), outcome);
        group.one(group.drop_queues(&queues));
        assert_eq!(
            (group.state.counts().messages, group.state.counts().under_way),
            (0, 0)
        );
    }
}

#[test]
fn r9_a_fenced_part_ends_what_nobody_else_goes_on_with() {
    let mut group = Harness::new();
    let queues = queues(4);
    let p = group.open("p");
    for packet_id in [None, Some(5)] {
        group.one(first(p.origin(packet_id), targets(&queues[..2])));
    }
    assert_eq!(group.state.counts().under_way, 2);
    group.open("p");
    for packet_id in [None, Some(5)] {
        let late = more(p.origin(packet_id), &queues[1], targets(&queues[2..]), true);
        assert_eq!(group.one(late), FENCED);
        assert_eq!(group.one(first(p.origin(packet_id), vec![])), FENCED);
    }
    assert_eq!(group.state.counts().under_way, 1);
    assert_eq!(group.payloads(&queues[2]), [""; 0]);
}

#[test]
fn r7_a_publish_ends_with_what_it_belongs_to() {
    let queues = queues(2);
    // (which origin, what ends it)
    let end_session = |group: &Harness| Command::EndSession {
        session: group.state.session("p").unwrap().session,
        publish_will: false,
    };
    let clean_start = |_: &Harness| open("p", true, 60, None);
    let release = |group: &Harness| {
        let p = group.state.session("p").unwrap();
        Command::Release {
            session: p.session,
            epoch: p.epoch,
            packet_id: id(5),
        }
    };
    let will_published = |group: &Harness| {
        let due = group.state.due_wills().next().unwrap();
        Command::WillPublished {
            session: due.session,
            epoch: due.epoch,
        }
    };
    let forget = |_: &Harness| Command::ForgetLiveWills {
        wills: vec![(live_session(1), Epoch(7))],
    };
    let node_lost = |_: &Harness| lost(NODE, START);
    type End<'a> = &'a dyn Fn(&Harness) -> Command;
    let ends: [(usize, End<'_>); 8] = [
        (1, &end_session),
        (1, &clean_start),
        (1, &release),
        (2, &will_published),
        (3, &forget),
        (0, &node_lost),
        (4, &node_lost),
        (5, &node_lost),
    ];
    for (which, end) in ends {
        let (mut group, origins) = origins();
        let (origin, _) = origins[which];
        group.one(first(origin, targets(&queues[..1])));
        group.one(settle(queues[0].clone(), &[0]));
        // Another one of the same kind stays.
        (group.node, group.number) = (OTHER_NODE, 0);
        let other = group.open("other");
        group.one(first(other.origin(Some(5)), vec![]));
        group.one(first(live_will(2), vec![]));
        group.one(first(Origin::Server, vec![]));
        assert_eq!(group.state.counts().under_way, 4);
        let command = end(&group);
        group.one(command);
        assert_eq!(group.state.counts().under_way, 3, "{origin:?}");
        assert_eq!(group.state.counts().messages, 3);
    }
}

#[test]
fn r8_an_identifier_under_way_is_known_to_a_release() {
    let mut group = Harness::new();
    let p = group.open("p");
    group.one(first(p.origin(Some(5)), vec![]));
    let release = Command::Release {
        session: p.session,
        epoch: p.epoch,
        packet_id: id(5),
    };
    assert_eq!(group.one(release.clone()), Outcome::Released(true));
    assert_eq!(group.one(release), Outcome::Released(false));
}

#[test]
fn r13_an_identifier_is_free_when_every_part_was_turned_away() {
    let mut group = Harness::new();
    let queues = queues(4);
    let p = group.open("p");
    let origin = p.origin(Some(5));
    let last = more(origin, &queues[1], targets(&queues[2..]), true);
    group.queue_limits.messages_max = 0;
    group.one(first(origin, targets(&queues[..2])));
    assert_eq!(group.one(last.clone()), published(0, 4));
    assert_eq!(group.state.inbound(p.session), []);
    assert_eq!(group.state.counts().messages, 0);
    // One target of any part is enough.
    group.queue_limits = QUEUE_LIMITS;
    group.one(first(origin, targets(&queues[..2])));
    group.queue_limits.messages_max = 0;
    assert_eq!(group.one(last), published(2, 2));
    assert_eq!(group.state.inbound(p.session), [id(5)]);
}

#[test]
fn r13_an_identifier_is_kept_when_an_earlier_attempt_was_taken_live() {
    let mut group = Harness::new();
    let queues = queues(2);
    let p = group.open("p");
    let origin = p.origin(Some(5));
    group.queue_limits.messages_max = 0;
    for taken_live in [true, false] {
        let Command::PublishFirst { number, mut publish } = first(origin, targets(&queues[..1])) else {
            panic!("a first part")
        };
        publish.taken_live = taken_live;
        group.one(Command::PublishFirst { number, publish });
    }
    let last = more(origin, &queues[0], targets(&queues[1..]), true);
    assert_eq!(group.one(last), published(0, 2));
    assert_eq!(group.state.inbound(p.session), [id(5)]);
}

#[test]
fn r35_a_retained_publish_is_put_into_the_outbox_with_its_first_part() {
    let mut group = Harness::new();
    let queues = queues(2);
    let p = group.open("p");
    let origin = p.origin(Some(5));
    let retained = |origin| {
        let Command::PublishFirst { number, mut publish } = first(origin, targets(&queues[..1])) else {
            panic!("a first part")
        };
        publish.set_retained = true;
        Command::PublishFirst { number, publish }
    };
    group.one(retained(origin));
    assert!(group.has_event(&Event::RetainedQueued));
    let source = group.state.outbox(None, 9)[0].source;
    assert_eq!((source.index, source.position), (group.index, 0));
    // Not again when it is sent again, and whether or not its way has ended meanwhile.
    group.one(retained(origin));
    assert_eq!(group.state.outbox(None, 9).len(), 1);
    group.one(Command::RetainedTaken {
        up_to: source,
        refused: vec![],
    });
    group.one(retained(origin));
    assert_eq!(group.state.outbox(None, 9), []);
    group.queue_limits.messages_max = 0;
    let last = more(origin, &queues[0], targets(&queues[1..]), true);
    assert_eq!(group.one(last), published(1, 1));
}

#[test]
fn r31_a_will_in_parts_stays_due_until_its_last_one() {
    let (mut group, _) = origins();
    let queues = queues(3);
    let (session, epoch, _) = group.due()[0].clone();
    let origin = Origin::Will { session, epoch };
    group.one(first(origin, targets(&queues[..2])));
    assert_eq!(group.due().len(), 1);
    // The next leader goes on, whatever the one before has on its way.
    (group.node, group.number) = (OTHER_NODE, 0);
    group.one(first(origin, targets(&queues[..1])));
    let last = more(origin, &queues[0], targets(&queues[1..]), true);
    assert_eq!(group.one(last.clone()), published(3, 0));
    assert_eq!(group.due(), []);
    assert_eq!(group.one(last), FENCED);
    assert_eq!(group.one(first(origin, vec![])), FENCED);
    for queue in &queues {
        assert_eq!(group.payloads(queue), ["m"]);
    }
}

#[test]
fn r31_a_will_of_a_live_group_in_parts_is_listed_from_its_first_one() {
    let mut group = Harness::new();
    let will = |index| (live_session(index), Epoch(7));
    for index in [2, 4] {
        group.one(first(live_will(index), vec![]));
    }
    for index in [1, 3] {
        group.one(publish(live_will(index), message("w"), vec![]));
    }
    assert_eq!(
        group.state.live_wills(None, 9),
        [will(1), will(2), will(3), will(4)]
    );
    assert_eq!(group.state.live_wills(None, 2), [will(1), will(2)]);
    assert_eq!(group.state.live_wills(Some(will(2)), 1), [will(3)]);
    assert_eq!(group.state.live_wills(Some(will(3)), 9), [will(4)]);
    assert_eq!(group.state.counts().live_wills, 2);
}

/// A leader whose start was declared lost has its own batches admitted, and nobody would end what it begins.
#[test]
fn r25_a_lost_start_begins_nothing() {
    let mut group = Harness::new();
    group.node = OTHER_NODE;
    group.one(lost(NODE, START));
    group.node = NODE;
    let mut batch = group.batch(vec![first(Origin::Server, vec![]), first(live_will(1), vec![])]);
    batch.number = 0;
    assert_eq!(
        group.apply(&batch),
        BatchOutcome::Applied(vec![
            FENCED,
            Outcome::Begun {
                index: group.index,
                position: 1
            }
        ])
    );
    assert_eq!(group.state.connected_starts().count(), 0);
}

#[test]
fn r25_a_start_with_a_publish_under_way_is_one_that_a_loss_would_touch() {
    let mut group = Harness::new();
    let starts = |group: &Harness| group.state.connected_starts().collect::<Vec<_>>();
    for origin in [Origin::Server, live_will(1)] {
        group.one(first(origin, vec![]));
        assert_eq!(starts(&group), [(NODE, START)]);
    }
    group.one(more(Origin::Server, &queues(1)[0], vec![], true));
    assert_eq!(starts(&group), []);
}

/// One attempt: where the list is cut, how many parts arrive, and whether a replica is loaded from its records.
type Attempt = (Vec<usize>, usize, bool);

/// The list in parts, each with what comes before it.
fn cut<'a>(queues: &'a [TargetQueue], cuts: &[usize]) -> Vec<&'a [TargetQueue]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (queues.len() + 1)).collect();
    at.extend([0, queues.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| &queues[ends[0]..ends[1]]).collect()
}

proptest! {
    /// Whatever parts a publish is cut into and wherever its attempts break off, each target gets it once.
    #[test]
    fn r7_each_target_gets_it_once(count in 1..20u64, attempts in vec((vec(0..40usize, 1..5), 0..6usize, any::<bool>()), 1..6)) {
        let mut group = Harness::new();
        let mut store = Store::default();
        let queues = queues(count);
        let mut attempts: Vec<Attempt> = attempts;
        let (cuts, arrive, _) = attempts.last_mut().expect("one at least");
        *arrive = cuts.len() + 1;
        let mut answer = Outcome::Done;
        for (cuts, arrive, load) in attempts {
            let origin = group.open("p").origin(Some(5));
            let parts = cut(&queues, &cuts);
            let mut before = None;
            for (number, part) in parts.iter().enumerate().take(arrive) {
                let last = number + 1 == parts.len();
                answer = match number {
                    0 => group.one(first(origin, targets(part))),
                    _ => group.one(Command::PublishMore(PublishPart {
                        number: 1, origin, after: before.clone(), targets: targets(part), last,
                    })),
                };
                before = part.last().cloned().or(before);
            }
            if load {
                store.write(group.state.take_changes());
                group.state = store.load().unwrap();
            }
        }
        prop_assert!(answer == published(count as u32, 0) || answer == DUPLICATE);
        for queue in &queues {
            prop_assert_eq!(group.payloads(queue), ["m"]);
        }
        prop_assert_eq!(group.state.counts().under_way, 0);
    }
}
