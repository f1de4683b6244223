//! Publishes, queues and their limits, acknowledgements, shared queues.

use super::*;

#[test]
fn r11_a_message_is_stored_once_for_all_its_targets() {
    let mut group = Harness::new();
    let (a, b) = (group.open("a"), group.open("b"));
    let ids = Target {
        qos: QoS::ExactlyOnce,
        retain: true,
        replayed: false,
        subscription_ids: vec![4, 7],
        ..b.target()
    };
    assert_eq!(
        group.publish("m", vec![a.target(), ids, to(share_queue("g"))]),
        published(3, 0)
    );
    let counts = group.state.counts();
    assert_eq!((counts.messages, counts.queued_references), (1, 3));
    assert_eq!(counts.queued_bytes, 3 * counts.message_bytes);
    let pulled = group.pull(&b.queue()).remove(0);
    assert_eq!(pulled.message, message("m"));
    assert_eq!(
        (pulled.sequence, pulled.qos, pulled.retain),
        (Sequence(0), QoS::ExactlyOnce, true)
    );
    assert_eq!((pulled.subscription_ids, pulled.received), (vec![4, 7], false));
    assert_eq!((pulled.received_at, pulled.expires_at), (GroupTime(1000), None));
    group.run(vec![settle(a.queue(), &[0]), settle(share_queue("g"), &[0])]);
    assert_eq!(group.state.counts().messages, 1);
    group.one(settle(b.queue(), &[0]));
    assert_eq!(group.state.counts().messages, 0);
}

#[test]
fn a_message_without_target_is_not_stored() {
    let mut group = Harness::new();
    assert_eq!(group.publish("m", vec![]), published(0, 0));
    assert_eq!(group.state.counts().messages, 0);
}

#[test]
fn r8_an_inbound_identifier_is_recorded_with_its_message_and_answered_as_a_repeat_until_released() {
    let mut group = Harness::new();
    let (p, s) = (group.open("p"), group.open("s"));
    let send = |payload| publish(p.origin(Some(5)), message(payload), vec![s.target()]);
    assert_eq!(group.one(send("1")), published(1, 0));
    assert_eq!(group.one(send("1")), DUPLICATE);
    assert_eq!(group.state.inbound(p.session), [id(5)]);
    // The same connection's other messages have nothing to do with it.
    assert_eq!(
        group.one(publish(p.origin(None), message("q1"), vec![s.target()])),
        published(1, 0)
    );
    let release = Command::Release {
        session: p.session,
        epoch: p.epoch,
        packet_id: id(5),
    };
    assert_eq!(group.one(release.clone()), Outcome::Released(true));
    assert_eq!(group.one(release), Outcome::Released(false));
    assert_eq!(group.one(send("2")), published(1, 0));
    assert_eq!(group.payloads(&s.queue()), ["1", "q1", "2"]);
}

#[test]
fn r8_an_inbound_identifier_outlives_the_connection() {
    let mut group = Harness::new();
    let p = group.open("p");
    group.one(publish(p.origin(Some(5)), message("m"), vec![]));
    group.one(p.close());
    let again = group.open("p");
    assert_eq!(
        group.one(publish(again.origin(Some(5)), message("m"), vec![])),
        DUPLICATE
    );
}

#[test]
fn r13_an_identifier_is_free_when_every_target_turned_the_message_away() {
    let mut group = Harness::new();
    group.queue_limits.messages_max = 0;
    let (p, s) = (group.open("p"), group.open("s"));
    let send = publish(p.origin(Some(5)), message("m"), vec![s.target()]);
    assert_eq!(group.one(send.clone()), published(0, 1));
    assert_eq!(group.state.inbound(p.session), []);
    // It may be answered with 0x97, and the publisher uses the identifier for its next message.
    group.queue_limits = QUEUE_LIMITS;
    assert_eq!(group.one(send), published(1, 0));
}

#[test]
fn r13_an_identifier_is_kept_when_somebody_gets_the_message_live() {
    let mut group = Harness::new();
    group.queue_limits.messages_max = 0;
    let (p, s) = (group.open("p"), group.open("s"));
    let mut send = publish(p.origin(Some(5)), message("m"), vec![s.target()]);
    let Command::Publish(command) = &mut send else {
        unreachable!("just made")
    };
    command.taken_live = true;
    assert_eq!(group.one(send.clone()), published(0, 1));
    assert_eq!(group.one(send), DUPLICATE);
}

#[test]
fn r13_an_identifier_is_kept_when_some_target_took_the_message() {
    let mut group = Harness::new();
    let (p, s, full) = (group.open("p"), group.open("s"), group.open("full"));
    group.publish("1", vec![full.target()]);
    group.queue_limits.messages_max = 1;
    let send = publish(p.origin(Some(5)), message("2"), vec![s.target(), full.target()]);
    assert_eq!(group.one(send.clone()), published(1, 1));
    assert_eq!(group.one(send), DUPLICATE);
    let nobody = publish(p.origin(Some(6)), message("3"), vec![]);
    assert_eq!(group.one(nobody.clone()), published(0, 0));
    assert_eq!(group.one(nobody), DUPLICATE);
}

#[test]
fn r23_a_full_queue_refuses_the_newest_by_number() {
    let mut group = Harness::new();
    let s = group.open("s");
    group.queue_limits.messages_max = 2;
    for (payload, outcome) in [
        ("1", published(1, 0)),
        ("2", published(1, 0)),
        ("3", published(0, 1)),
    ] {
        assert_eq!(group.publish(payload, vec![s.target()]), outcome);
    }
    assert_eq!(group.events, []);
    assert_eq!(group.payloads(&s.queue()), ["1", "2"]);
    // A settled one makes room, wherever it stands, and no sequence was spent on the refused one.
    group.one(settle(s.queue(), &[1]));
    assert_eq!(group.publish("4", vec![s.target()]), published(1, 0));
    assert_eq!(group.pull(&s.queue())[1].sequence, Sequence(2));
}

#[test]
fn r23_a_full_queue_refuses_the_newest_by_bytes() {
    let mut group = Harness::new();
    let s = group.open("s");
    let size = counted_bytes(&message("1"));
    group.queue_limits.bytes_max = 2 * size;
    assert_eq!(group.publish("1", vec![s.target()]), published(1, 0));
    assert_eq!(group.publish("22", vec![s.target()]), published(0, 1));
    assert_eq!(
        group.publish("2", vec![s.target(), to(share_queue("g"))]),
        published(2, 0)
    );
    assert_eq!(
        group.publish("3", vec![s.target(), to(share_queue("g"))]),
        published(1, 1)
    );
    assert_eq!(group.state.queue_bytes(&s.queue()), 2 * size);
    // A message that fits no queue makes none.
    group.queue_limits.bytes_max = size - 1;
    assert_eq!(group.publish("1", vec![to(share_queue("new"))]), published(0, 1));
    assert_eq!(group.state.next_sequence(&share_queue("new")), None);
    assert_eq!(group.state.counts().messages, 3);
}

/// Limits decide what apply stores, so they may not depend on this build's memory layout (R50).
#[test]
fn r28_the_bytes_of_a_message_are_a_constant_of_the_format() {
    let message = Message::new("12345", &[0; 7], &[0; 11], QoS::AtMostOnce, false, None);
    assert_eq!(counted_bytes(&message), 5 + 7 + 11 + 48);
}

#[test]
fn r21_acknowledgements_are_facts_from_any_epoch_and_may_come_again() {
    let mut group = Harness::new();
    let s = group.open("s");
    for payload in ["0", "1", "2", "3"] {
        group.publish(payload, vec![s.target()]);
    }
    group.one(s.close());
    group.open("s");
    assert_eq!(group.one(settle(s.queue(), &[2, 0])), Outcome::Done);
    let size = counted_bytes(&message("0"));
    assert_eq!(
        group.events,
        [Event::Removed {
            queue: s.queue(),
            count: 2,
            bytes: 2 * size
        }]
    );
    assert_eq!(group.payloads(&s.queue()), ["1", "3"]);
    assert_eq!(group.state.oldest_unsettled(&s.queue()), Some(Sequence(1)));
    assert_eq!(group.one(settle(s.queue(), &[0, 2, 99])), Outcome::Done);
    assert_eq!(group.events, []);
    assert_eq!(group.one(settle(share_queue("none"), &[0])), Outcome::Done);
    group.one(settle(s.queue(), &[1, 3]));
    assert_eq!(
        (group.state.queue_len(&s.queue()), group.state.counts().messages),
        (0, 0)
    );
    assert_eq!(group.state.oldest_unsettled(&s.queue()), None);
}

#[test]
fn r22_sequences_go_on_behind_an_emptied_queue() {
    let mut group = Harness::new();
    let s = group.open("s");
    group.publish("0", vec![s.target()]);
    group.one(settle(s.queue(), &[0]));
    // Also when a checkpoint has reduced the queue to its next sequence.
    group.state.take_changes();
    group.publish("1", vec![s.target()]);
    assert_eq!(group.pull(&s.queue())[0].sequence, Sequence(1));
    assert_eq!(group.state.next_sequence(&s.queue()), Some(Sequence(2)));
}

#[test]
fn received_references_are_marked_and_stay() {
    let mut group = Harness::new();
    let s = group.open("s");
    group.publish("0", vec![s.target()]);
    group.publish("1", vec![s.target()]);
    let received = Command::Received {
        session: s.session,
        sequences: vec![Sequence(1), Sequence(7)],
    };
    group.one(received);
    let marks: Vec<_> = group
        .pull(&s.queue())
        .iter()
        .map(|pulled| pulled.received)
        .collect();
    assert_eq!(marks, [false, true]);
}

#[test]
fn references_that_follow_each_other_make_one_event() {
    let mut group = Harness::new();
    let (a, b) = (group.open("a"), group.open("b"));
    let send = |to: &Opened| publish(Origin::Live { session: None }, message("m"), vec![to.target()]);
    group.run(vec![send(&a), send(&a), send(&b), send(&a)]);
    let size = counted_bytes(&message("m"));
    let queued = |queue, first, count: u32| Event::Queued {
        queue,
        first: Sequence(first),
        count,
        bytes: u64::from(count) * size,
    };
    assert_eq!(
        group.events,
        [
            queued(a.queue(), 0, 2),
            queued(b.queue(), 0, 1),
            queued(a.queue(), 2, 1)
        ]
    );
}

#[test]
fn r29_a_pull_is_bounded_by_number_and_bytes() {
    let mut group = Harness::new();
    let s = group.open("s");
    for payload in ["0", "1", "2", "3", "4"] {
        group.publish(payload, vec![s.target()]);
    }
    group.one(settle(s.queue(), &[2]));
    let size = counted_bytes(&message("0"));
    let pull = |from, count_max, bytes_max| -> Vec<u64> {
        let mut out = Vec::new();
        group
            .state
            .pull(&s.queue(), Sequence(from), count_max, bytes_max, &mut out);
        out.iter().map(|pulled| pulled.sequence.0).collect()
    };
    assert_eq!(pull(0, 9, u64::MAX), [0, 1, 3, 4]);
    assert_eq!(pull(2, 9, u64::MAX), [3, 4]);
    assert_eq!(pull(1, 2, u64::MAX), [1, 3]);
    assert_eq!(pull(0, 9, 2 * size), [0, 1]);
    assert_eq!(pull(0, 9, 1), [0], "one that is larger comes alone");
    assert_eq!(pull(0, 0, u64::MAX), [0; 0]);
    assert_eq!(pull(5, 9, u64::MAX), [0; 0]);
    assert_eq!(pull(u64::MAX, 9, u64::MAX), [0; 0]);
}

/// One member of a share that does not answer must not make the queue remember everything that came after.
#[test]
fn holes_behind_a_slow_receiver_are_closed() {
    let mut group = Harness::new();
    let queue = share_queue("g");
    for round in 0..1000u64 {
        group.publish(&round.to_string(), vec![to(queue.clone())]);
        // All but the first and every hundredth.
        if round % 100 != 0 {
            group.one(settle(queue.clone(), &[round]));
        }
    }
    let left: Vec<_> = (0..10).map(|hundred| (hundred * 100).to_string()).collect();
    assert_eq!(group.payloads(&queue), left);
    assert!(group.state.queues.get(&queue).unwrap().places() <= 2 * 10 + 32);
    // Found by their sequences all the same.
    group.one(settle(queue.clone(), &[500, 501]));
    assert_eq!(group.payloads(&queue).len(), 9);
    group.one(settle(queue.clone(), &[0]));
    assert_eq!(group.state.oldest_unsettled(&queue), Some(Sequence(100)));
}

#[test]
fn r37_an_assigned_reference_moves_to_its_member_for_good() {
    let mut group = Harness::new();
    let member = group.open("member");
    group.publish("own", vec![member.target()]);
    group.publish("1", vec![to(share_queue("g"))]);
    group.publish("2", vec![to(share_queue("g"))]);
    assert_eq!(group.one(assign(share("g"), 1, member.session)), Outcome::Done);
    let size = counted_bytes(&message("2"));
    let moved = [
        Event::Removed {
            queue: share_queue("g"),
            count: 1,
            bytes: size,
        },
        Event::Queued {
            queue: member.queue(),
            first: Sequence(1),
            count: 1,
            bytes: size,
        },
    ];
    assert_eq!(group.events, moved);
    assert_eq!(group.payloads(&share_queue("g")), ["1"]);
    let pulled = group.pull(&member.queue()).remove(1);
    assert_eq!(
        (text(&pulled.message), pulled.sequence, pulled.qos),
        ("2".into(), Sequence(1), QoS::ExactlyOnce)
    );
    assert_eq!((pulled.retain, pulled.subscription_ids), (true, vec![9]));
    // Again, to whomever: it is not there any more.
    let other = group.open("other");
    let digest_of_queues = group.state.counts();
    assert_eq!(group.one(assign(share("g"), 1, other.session)), Outcome::Done);
    assert_eq!(group.state.counts(), digest_of_queues);
    assert_eq!(group.payloads(&other.queue()), [""; 0]);
}

#[test]
fn r37_an_assignment_is_not_refused_by_the_members_queue_limit() {
    let mut group = Harness::new();
    group.queue_limits.messages_max = 1;
    let member = group.open("member");
    group.publish("own", vec![member.target()]);
    group.publish("shared", vec![to(share_queue("g"))]);
    group.one(assign(share("g"), 0, member.session));
    assert_eq!(group.payloads(&member.queue()), ["own", "shared"]);
}

#[test]
fn r37_an_assigned_message_ends_with_its_session() {
    let mut group = Harness::new();
    let member = group.open("member");
    group.publish("m", vec![to(share_queue("g"))]);
    group.one(assign(share("g"), 0, member.session));
    group.one(Command::EndSession {
        session: member.session,
        publish_will: false,
    });
    assert_eq!(group.state.counts().messages, 0);
    assert_eq!(group.payloads(&share_queue("g")), [""; 0]);
}

#[test]
fn r37_a_member_that_has_ended_gets_nothing_assigned() {
    let mut group = Harness::new();
    let member = group.open("member");
    group.one(Command::EndSession {
        session: member.session,
        publish_will: false,
    });
    group.publish("m", vec![to(share_queue("g"))]);
    assert_eq!(group.one(assign(share("g"), 0, member.session)), FENCED);
    assert_eq!(group.payloads(&share_queue("g")), ["m"]);
}

#[test]
fn r37_a_reference_is_with_one_member_until_that_gives_it_back() {
    let mut group = Harness::new();
    let (one, other) = (live_session(1), live_session(2));
    group.publish("m", vec![to(share_queue("g"))]);
    assert_eq!(group.one(hold(1, holder(one, 5))), FENCED, "there is none");
    assert_eq!(group.one(hold(0, holder(one, 5))), Outcome::Done);
    // Whoever says the same again has it, nobody else.
    assert_eq!(group.one(hold(0, holder(one, 5))), Outcome::Done);
    assert_eq!(group.one(hold(0, holder(one, 6))), FENCED);
    assert_eq!(group.one(hold(0, holder(other, 7))), FENCED);
    let durable = group.open("durable");
    assert_eq!(group.one(assign(share("g"), 0, durable.session)), FENCED);
    assert_eq!(
        group.payloads(&share_queue("g")),
        ["m"],
        "it is in the queue all the while"
    );
    group.one(unhold(0, 4));
    assert!(group.events.is_empty(), "of another giving");
    group.one(unhold(0, 5));
    assert_eq!(
        group.events,
        [Event::Unheld {
            share: share("g"),
            sequence: Sequence(0),
            give: GiveId(5),
        }]
    );
    assert_eq!(group.one(hold(0, holder(other, 7))), Outcome::Done);
    group.one(settle(share_queue("g"), &[0]));
    assert_eq!(group.state.counts().messages, 0);
    assert_eq!(group.state.held_references().count(), 0);
    assert_eq!(group.one(hold(0, holder(other, 7))), FENCED, "it is settled");
}

/// A batch of a leader that its successor proposes again: what it chose may be with another member by now.
#[test]
fn r37_what_another_leader_chose_is_refused() {
    let give = |term| GiveId::first(term).next();
    for is_held in [true, false] {
        let mut group = Harness::new();
        let member = group.open("member").session;
        group.publish("m", vec![to(share_queue("g"))]);
        for (term, expected) in [(6, FENCED), (8, FENCED), (7, Outcome::Done)] {
            let give = give(term);
            let batch = group.batch(vec![match is_held {
                true => hold(
                    0,
                    ShareHolder {
                        give,
                        ..holder(live_session(1), 0)
                    },
                ),
                false => assign_as(give, share("g"), 0, member),
            }]);
            group.index += 1;
            let at = LogPosition {
                term: 7,
                ..at(group.index)
            };
            let outcome = group.state.apply(at, &batch, &mut Vec::new());
            assert_eq!(outcome, BatchOutcome::Applied(vec![expected]), "of term {term}");
        }
    }
}

#[test]
fn r37_a_member_that_has_ended_is_given_nothing() {
    let mut group = Harness::new();
    let member = group.open("member");
    group.one(Command::EndSession {
        session: member.session,
        publish_will: false,
    });
    group.publish("m", vec![to(share_queue("g"))]);
    assert_eq!(group.one(hold(0, holder(member.session, 1))), FENCED);
}

#[test]
fn r21_a_late_acknowledgement_settles_nothing_of_a_share_that_came_back() {
    let mut group = Harness::new();
    for payload in ["0", "1"] {
        group.publish(payload, vec![to(share_queue("g"))]);
    }
    group.one(group.drop_queues(&[share_queue("g")]));
    let size = counted_bytes(&message("0"));
    assert_eq!(
        group.events,
        [Event::Removed {
            queue: share_queue("g"),
            count: 2,
            bytes: 2 * size
        }]
    );
    group.publish("new", vec![to(share_queue("g"))]);
    group.one(settle(share_queue("g"), &[0, 1]));
    assert_eq!(group.payloads(&share_queue("g")), ["new"]);
    assert_eq!(group.state.oldest_unsettled(&share_queue("g")), Some(Sequence(2)));
}

/// A share that came back between the look at its members and the entry that drops its queue keeps what it got since.
#[test]
fn r17_a_queue_that_got_a_message_since_is_not_dropped() {
    let mut group = Harness::new();
    let elsewhere = TargetQueue::Session(SessionId::new(GroupId(4), 9, 0));
    for queue in [share_queue("g"), elsewhere] {
        group.publish("old", vec![to(queue.clone())]);
        let late = group.drop_queues(std::slice::from_ref(&queue));
        group.one(settle(queue.clone(), &[0]));
        group.publish("acknowledged", vec![to(queue.clone())]);
        group.one(late);
        assert_eq!(group.payloads(&queue), ["acknowledged"]);
    }
    // One that was dropped and has come back is not what was to be dropped either.
    let late = group.drop_queues(&[share_queue("g")]);
    group.one(late.clone());
    group.publish("new", vec![to(share_queue("g"))]);
    group.one(late);
    assert_eq!(group.payloads(&share_queue("g")), ["new"]);
}

#[test]
fn r23_expired_references_are_found_for_the_leader_to_settle() {
    let mut group = Harness::new();
    let s = group.open("s");
    let expiring = Message::new("topic", &[], b"m", QoS::AtLeastOnce, false, Some(5));
    for expires in [true, false, true, true] {
        let message = if expires { expiring.clone() } else { message("m") };
        group.one(publish(Origin::Server, message, vec![s.target()]));
    }
    assert_eq!(group.pull(&s.queue())[0].expires_at, Some(GroupTime(6_000)));
    group.tick(5_999);
    let all = |_, _| true;
    assert_eq!(group.state.expired(&s.queue(), all, 9), []);
    group.tick(6_000);
    assert_eq!(group.state.expired(&s.queue(), all, 9), [0, 2, 3].map(Sequence));
    let unsent = |sequence, received_at| sequence > Sequence(0) && received_at == GroupTime(1_000);
    assert_eq!(group.state.expired(&s.queue(), unsent, 1), [Sequence(2)]);
}
