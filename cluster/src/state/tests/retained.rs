//! Retained messages and their way from the publisher's home to the topic's group (R35).

use super::*;

fn source(group: u16, index: u64, position: u32) -> RetainedSource {
    RetainedSource {
        group: GroupId(group),
        index,
        position,
    }
}

fn retain_with(source: RetainedSource, message: Message, messages_max: u32, bytes_max: u64) -> Command {
    Command::SetRetained {
        source,
        message,
        messages_max,
        bytes_max,
    }
}

fn on(topic: &str, payload: &str, expiry_secs: Option<u32>) -> Message {
    Message::new(
        topic,
        &[],
        payload.as_bytes(),
        QoS::AtLeastOnce,
        true,
        expiry_secs,
    )
}

fn retain(source: RetainedSource, topic: &str, payload: &str) -> Command {
    retain_with(source, on(topic, payload, None), 100, 1 << 20)
}

fn release(session: &Opened, packet_id: u16) -> Command {
    Command::Release {
        session: session.session,
        epoch: session.epoch,
        packet_id: id(packet_id),
    }
}

/// The group as it comes back from its records.
fn reloaded(group: &Harness) -> Harness {
    let mut loaded = Harness::new();
    (loaded.index, loaded.number) = (group.index, group.number);
    loaded.state.load(group.state.records()).unwrap();
    loaded
}

fn value(group: &Harness, topic: &str) -> Option<String> {
    group.state.retained(topic).map(|view| text(&view.message))
}

#[test]
fn r35_writes_of_a_source_apply_once_and_never_after_a_later_one() {
    let mut group = Harness::new();
    group.one(retain(source(1, 10, 0), "t", "first"));
    group.one(retain(source(1, 10, 1), "t", "second"));
    assert_eq!(value(&group, "t").as_deref(), Some("second"));
    for replayed in [source(1, 10, 1), source(1, 10, 0), source(1, 9, 7)] {
        assert_eq!(group.one(retain(replayed, "t", "old")), Outcome::Done);
        assert_eq!(group.one(retain(replayed, "u", "old")), Outcome::Done);
    }
    assert_eq!(value(&group, "t").as_deref(), Some("second"));
    assert_eq!(value(&group, "u"), None);
    // Another source has a mark of its own.
    group.one(retain(source(2, 1, 0), "t", "other"));
    assert_eq!(value(&group, "t").as_deref(), Some("other"));
    assert_eq!(group.state.retained_mark(GroupId(1)), Some(source(1, 10, 1)));
    assert_eq!(group.state.retained_mark(GroupId(2)), Some(source(2, 1, 0)));
}

#[test]
fn r35_an_empty_payload_clears_and_a_replay_does_not_bring_it_back() {
    let mut group = Harness::new();
    group.one(retain(source(1, 1, 0), "t", "v"));
    group.one(retain(source(1, 2, 0), "t", ""));
    assert_eq!(value(&group, "t"), None);
    group.one(retain(source(1, 1, 0), "t", "v"));
    assert_eq!(value(&group, "t"), None);
    assert_eq!(
        (group.state.counts().retained, group.state.counts().retained_bytes),
        (0, 0)
    );
}

#[test]
fn r35_a_refused_write_leaves_the_value_and_stays_refused() {
    let mut group = Harness::new();
    group.one(retain(source(1, 1, 0), "t", "v"));
    let refused = retain_with(source(1, 2, 0), on("u", "w", None), 1, 1 << 20);
    assert_eq!(group.one(refused), LIMIT_REACHED);
    assert_eq!(value(&group, "t").as_deref(), Some("v"));
    // Proposed again with more room it has still been refused, and its publisher is told the same (R13).
    assert_eq!(group.one(retain(source(1, 2, 0), "u", "w")), LIMIT_REACHED);
    assert_eq!(value(&group, "u"), None);
    assert_eq!(group.one(retain(source(1, 3, 0), "u", "later")), Outcome::Done);
    let mut loaded = reloaded(&group);
    for group in [&mut group, &mut loaded] {
        assert_eq!(group.one(retain(source(1, 2, 0), "u", "w")), LIMIT_REACHED);
        assert_eq!(group.one(retain(source(1, 1, 0), "t", "v")), Outcome::Done);
        assert_eq!(value(group, "u").as_deref(), Some("later"));
    }
}

/// R13, R30: so many refusals of a source are remembered as carriers may ask about; of older ones nothing is said.
#[test]
fn r35_refusals_are_remembered_up_to_a_bound() {
    use crate::state::retained::REFUSED_MAX;
    let mut group = Harness::new();
    let last = REFUSED_MAX as u64 + 2;
    let refused = |index| retain_with(source(1, index, 0), on("u", "w", None), 0, 0);
    group.run(vec![retain(source(1, 1, 0), "t", "v"), refused(2)]);
    for index in 3..=last {
        assert_eq!(group.one(refused(index)), LIMIT_REACHED);
    }
    let mut loaded = reloaded(&group);
    for group in [&mut group, &mut loaded] {
        let mut ask = |index| group.one(retain(source(1, index, 0), "u", "w"));
        let fenced = Outcome::Refused(RefusedReason::Fenced);
        assert_eq!([ask(1), ask(2)], [fenced.clone(), fenced]);
        assert_eq!([ask(3), ask(last)], [LIMIT_REACHED, LIMIT_REACHED]);
    }
    assert_eq!(value(&group, "u"), None);
}

#[test]
fn r30_retained_messages_are_limited_by_number_and_bytes() {
    let mut group = Harness::new();
    let size = counted_bytes(&on("t", "12345", None));
    let set = |index, topic: &str, payload: &str, messages_max, bytes_max| {
        retain_with(
            source(1, index, 0),
            on(topic, payload, None),
            messages_max,
            bytes_max,
        )
    };
    assert_eq!(group.one(set(1, "t", "12345", 1, size - 1)), LIMIT_REACHED);
    assert_eq!(group.one(set(2, "t", "12345", 1, size)), Outcome::Done);
    assert_eq!(group.one(set(3, "u", "1", 1, 1 << 20)), LIMIT_REACHED);
    assert_eq!(group.one(set(4, "t", "123456", 1, size)), LIMIT_REACHED);
    // Above limits that were lowered, what does not grow is taken, and what is cleared is.
    assert_eq!(group.one(set(5, "t", "54321", 0, 0)), Outcome::Done);
    assert_eq!(value(&group, "t").as_deref(), Some("54321"));
    assert_eq!(group.state.counts().retained_bytes, size);
    assert_eq!(group.one(set(6, "t", "", 0, 0)), Outcome::Done);
    assert_eq!(value(&group, "t"), None);
}

#[test]
fn retained_messages_expire_with_group_time() {
    let mut group = Harness::new();
    let set = |index, expiry_secs| retain_with(source(1, index, 0), on("t", "v", expiry_secs), 10, 1 << 20);
    group.one(set(1, Some(5)));
    assert_eq!(group.state.next_deadline(), Some(GroupTime(6_000)));
    let view = group.state.retained("t").unwrap();
    assert_eq!(
        (view.received_at, view.expires_at),
        (GroupTime(1_000), Some(GroupTime(6_000)))
    );
    group.tick(5_999);
    assert_eq!(value(&group, "t").as_deref(), Some("v"));
    group.tick(6_000);
    assert_eq!((value(&group, "t"), group.state.counts().retained), (None, 0));

    // A later value brings its own deadline, or none.
    group.one(set(2, Some(5)));
    group.one(set(3, Some(9)));
    assert_eq!(group.state.next_deadline(), Some(GroupTime(15_000)));
    group.one(set(4, None));
    assert_eq!(group.state.next_deadline(), None);
    group.one(set(5, Some(5)));
    group.one(retain(source(1, 6, 0), "t", ""));
    assert_eq!(group.state.next_deadline(), None);
}

#[test]
fn a_retained_message_that_expires_at_once_is_never_read() {
    let mut group = Harness::new();
    group.one(retain_with(source(1, 1, 0), on("t", "v", Some(0)), 10, 1 << 20));
    assert_eq!(value(&group, "t"), None);
    assert_eq!(group.state.retained_matching("#", None, 10), []);
}

#[test]
fn r36_retained_messages_are_read_in_pieces() {
    let mut group = Harness::new();
    let topics = ["a", "a/b", "a/b/c", "a/c", "a-b", "b", "$SYS/a", "/a"];
    for (index, topic) in topics.into_iter().enumerate() {
        group.one(retain(source(1, index as u64 + 1, 0), topic, "v"));
    }
    let read = |filter: &str, after: Option<&str>, count_max| -> Vec<String> {
        let views = group.state.retained_matching(filter, after, count_max);
        views
            .iter()
            .map(|view| view.message.topic().to_string())
            .collect()
    };
    assert_eq!(read("a/#", None, 10), ["a", "a/b", "a/b/c", "a/c"]);
    assert_eq!(read("a/+", None, 10), ["a/b", "a/c"]);
    assert_eq!(read("a/b", None, 10), ["a/b"]);
    assert_eq!(read("+", None, 10), ["a", "a-b", "b"]);
    assert_eq!(read("$SYS/#", None, 10), ["$SYS/a"]);
    assert_eq!(read("nothing", None, 10), [""; 0]);
    let mut pieces: Vec<String> = Vec::new();
    loop {
        let piece = read("#", pieces.last().map(String::as_str), 2);
        assert!(piece.len() <= 2);
        if piece.is_empty() {
            break;
        }
        pieces.extend(piece);
    }
    // Level by level.
    assert_eq!(pieces, ["/a", "a", "a/b", "a/b/c", "a/c", "a-b", "b"]);
}

fn to_outbox(payload: &str, targets: Vec<Target>) -> Command {
    Command::Publish(PublishCommand {
        origin: Origin::Server,
        message: on("t", payload, Some(9)),
        targets,
        set_retained: true,
        taken_live: false,
    })
}

#[test]
fn r35_retained_writes_leave_in_the_order_of_the_log() {
    let mut group = Harness::new();
    let subscriber = group.open("s");
    let commands = vec![to_outbox("1", vec![]), to_outbox("2", vec![subscriber.target()])];
    assert_eq!(group.run(commands), [published(0, 0), published(1, 0)]);
    assert_eq!(
        group
            .events
            .iter()
            .filter(|event| **event == Event::RetainedQueued)
            .count(),
        2
    );
    group.one(to_outbox("3", vec![]));
    let sent = |group: &Harness, after, count_max| -> Vec<(RetainedSource, String)> {
        let writes = group.state.outbox(after, count_max);
        writes
            .iter()
            .map(|write| (write.source, text(&write.message)))
            .collect()
    };
    let (one, two, three) = (source(3, 2, 0), source(3, 2, 1), source(3, 3, 0));
    let all = [
        (one, "1".to_string()),
        (two, "2".to_string()),
        (three, "3".to_string()),
    ];
    assert_eq!(sent(&group, None, 9), all);
    assert_eq!(sent(&group, None, 1), all[..1]);
    assert_eq!(sent(&group, Some(one), 9), all[1..]);
    assert_eq!(group.state.outbox(None, 1)[0].expires_at, Some(GroupTime(10_000)));

    group.one(Command::RetainedTaken {
        up_to: two,
        refused: vec![],
    });
    assert_eq!(sent(&group, None, 9), all[2..]);
    // Its other reference keeps the message; somebody else's writes are not ours.
    assert_eq!(group.payloads(&subscriber.queue()), ["2"]);
    group.one(Command::RetainedTaken {
        up_to: source(4, 99, 0),
        refused: vec![],
    });
    assert_eq!(group.state.counts().outbox, 1);
    group.one(Command::RetainedTaken {
        up_to: two,
        refused: vec![],
    });
    assert_eq!(sent(&group, None, 9), all[2..]);
    group.one(settle(subscriber.queue(), &[0]));
    group.one(Command::RetainedTaken {
        up_to: three,
        refused: vec![],
    });
    assert_eq!(group.state.counts().outbox, 0);
    assert_eq!(group.state.counts().messages, 0);
}

#[test]
fn r35_a_repeated_qos_2_publish_is_not_retained_again() {
    let mut group = Harness::new();
    let publisher = group.open("p");
    let command = Command::Publish(PublishCommand {
        origin: publisher.origin(Some(1)),
        message: on("t", "v", None),
        targets: vec![],
        set_retained: true,
        taken_live: false,
    });
    assert_eq!(group.one(command.clone()), published(0, 0));
    let written = group.state.outbox(None, 1)[0].source;
    let repeated = Outcome::Repeated {
        index: written.index,
        position: written.position,
        kept: false,
    };
    assert_eq!(group.one(command.clone()), repeated);
    assert_eq!(group.state.counts().outbox, 1);
    // In a state that was stored as well. When it has left there is nothing to wait for.
    let mut loaded = reloaded(&group);
    assert_eq!(loaded.one(command.clone()), repeated);
    for group in [&mut group, &mut loaded] {
        group.one(Command::RetainedTaken {
            up_to: written,
            refused: vec![],
        });
        assert_eq!(group.one(command.clone()), DUPLICATE);
    }
    group.one(release(&publisher, 1));
    assert_eq!(group.one(command), published(0, 0));
    assert_eq!(group.state.counts().outbox, 1);
}

/// R13, R33: a client that sends a message again is told that its topic's group refused it, unless others have it.
#[test]
fn r13_a_repeat_says_that_its_retained_write_was_refused() {
    let mut group = Harness::new();
    let (publisher, subscriber) = (group.open("p"), group.open("s"));
    let command = |id, targets| {
        Command::Publish(PublishCommand {
            origin: publisher.origin(Some(id)),
            message: on("t", "v", None),
            targets,
            set_retained: true,
            taken_live: false,
        })
    };
    let commands = [
        command(1, vec![]),
        command(2, vec![subscriber.target()]),
        command(3, vec![]),
    ];
    for command in &commands {
        group.one(command.clone());
    }
    let writes: Vec<_> = group
        .state
        .outbox(None, 9)
        .iter()
        .map(|write| write.source)
        .collect();
    group.one(Command::RetainedCarried {
        topics: GroupId(7),
        writes: writes[..2].to_vec(),
        refused: writes[..2].to_vec(),
    });
    let mut loaded = reloaded(&group);
    for group in [&mut group, &mut loaded] {
        let mut ask = |number: usize| group.one(commands[number].clone());
        assert_eq!(
            [ask(0), ask(0), ask(1)],
            [LIMIT_REACHED, LIMIT_REACHED, DUPLICATE]
        );
        assert!(matches!(ask(2), Outcome::Repeated { .. }));
        // Its client takes the identifier for the next message.
        group.one(release(&publisher, 1));
        assert_eq!(group.one(commands[0].clone()), published(0, 0));
    }
}

/// R33: a repeat says whether others have the message, in whatever parts it came.
#[test]
fn r33_a_repeat_says_where_its_retained_write_stands_and_whether_others_have_it() {
    let mut group = Harness::new();
    let (publisher, subscriber) = (group.open("p"), group.open("s"));
    let retained = |id, targets, taken_live| PublishCommand {
        origin: publisher.origin(Some(id)),
        message: on("t", "v", None),
        targets,
        set_retained: true,
        taken_live,
    };
    let kept = |outcome| match outcome {
        Outcome::Repeated { kept, index, .. } => (index, kept),
        other => panic!("{other:?} is no repeat"),
    };
    let repeats = [
        (retained(1, vec![], false), false),
        (retained(2, vec![], true), true),
        (retained(3, vec![subscriber.target()], false), true),
    ];
    for (publish, is_kept) in repeats {
        let publish = Command::Publish(publish);
        group.one(publish.clone());
        let index = group.index;
        assert_eq!(kept(group.one(publish)), (index, is_kept));
    }
    let first = Command::PublishFirst {
        number: 1,
        publish: retained(4, vec![], false),
    };
    let more = Command::PublishMore(PublishPart {
        number: 1,
        origin: publisher.origin(Some(4)),
        after: None,
        targets: vec![subscriber.target()],
        last: true,
    });
    group.one(first.clone());
    let index = group.index;
    // As long as a part is missing it is none.
    let mut loaded = reloaded(&group);
    assert_eq!(group.one(more.clone()), published(1, 0));
    assert_eq!(kept(group.one(first)), (index, true));
    assert_eq!(kept(group.one(more)), (index, true));
    // Released before its last part.
    loaded.one(release(&publisher, 4));
    loaded.state.check_invariants().unwrap();
}

#[test]
fn r36_a_page_says_where_the_next_one_begins() {
    let mut group = Harness::new();
    for index in 0..700 {
        let expiry_secs = (index % 2 == 0).then_some(5);
        let message = on(&format!("a/{index:03}/x"), "v", expiry_secs);
        group.one(retain_with(source(1, index + 1, 0), message, 1000, 1 << 20));
    }
    let pages = |group: &Harness, filter: &str| {
        let mut found = 0;
        let (mut after, mut pages) = (None, 0);
        loop {
            let page = group.state.retained_page(filter, after.as_deref(), 10);
            assert!(page.matches.len() <= 10);
            (found, pages) = (found + page.matches.len(), pages + 1);
            after = page.resume_after;
            if after.is_none() {
                return (found, pages);
            }
        }
    };
    assert_eq!(pages(&group, "a/#"), (700, 70));
    let (found, many) = pages(&group, "a/+/y");
    assert!(found == 0 && many > 1, "the work per page is bounded: {many}");
    assert_eq!(group.state.retained_matching("a/+/y", None, 10), []);
    assert_eq!(group.state.retained_matching("#", None, 300).len(), 300);
    group.tick(6_000);
    assert_eq!(pages(&group, "a/#").0, 350);
}

#[test]
fn r24_r36_a_page_of_large_values_is_cut_and_the_next_one_goes_on() {
    let mut group = Harness::new();
    let sizes = [400 << 10, 400 << 10, 400 << 10, 3 << 20, 10, 10];
    for (index, size) in (1..).zip(sizes) {
        let message = on(&format!("a/{index}"), &"v".repeat(size), None);
        group.one(retain_with(source(1, index, 0), message, 1000, 1 << 30));
    }
    let mut after = None;
    let mut counts = Vec::new();
    loop {
        let page = group.state.retained_page("a/#", after.as_deref(), 64);
        counts.push(page.matches.len());
        after = page.resume_after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(counts, [2, 1, 1, 2], "one that is larger comes alone");
    assert_eq!(group.state.retained_matching("#", None, 64).len(), sizes.len());
}

#[test]
fn r35_writes_to_different_groups_leave_on_their_own() {
    let mut group = Harness::new();
    let subscriber = group.open("s");
    group.run(vec![
        to_outbox("1", vec![]),
        to_outbox("2", vec![subscriber.target()]),
    ]);
    group.one(to_outbox("3", vec![]));
    let sources: Vec<_> = group
        .state
        .outbox(None, 9)
        .iter()
        .map(|write| write.source)
        .collect();
    let carried = |writes: &[RetainedSource], refused: &[RetainedSource]| Command::RetainedCarried {
        topics: GroupId(9),
        writes: writes.to_vec(),
        refused: refused.to_vec(),
    };
    group.one(carried(&sources[1..], &sources[2..]));
    assert!(group.has_event(&Event::RetainedTaken(RetainedTaken {
        topics: Some(GroupId(9)),
        up_to: sources[2],
        refused: vec![sources[2]],
        forgotten: None,
    })));
    let left = |group: &Harness| -> Vec<RetainedSource> {
        let writes = group.state.outbox(None, 9);
        writes.iter().map(|write| write.source).collect()
    };
    assert_eq!(left(&group), sources[..1]);
    assert_eq!(group.payloads(&subscriber.queue()), ["2"]);
    assert!(group.state.outbox_write(sources[1]).is_none());
    // Said again, and by somebody whose writes are not here.
    group.one(carried(&sources[1..], &[]));
    group.one(carried(&[source(4, sources[0].index, sources[0].position)], &[]));
    assert_eq!(left(&group), sources[..1]);
    group.one(carried(&sources[..1], &[]));
    assert_eq!(group.state.counts().outbox, 0);
}

/// R30: what no group takes for a long time does not fill the memory: the next clients are told, at every replica alike.
#[test]
fn r30_the_outbox_is_bounded_and_wills_still_find_room() {
    use crate::state::outbox::WRITES_MAX;
    let mut group = Harness::new();
    let publisher = group.open("p");
    let retained = |origin, targets| {
        Command::Publish(PublishCommand {
            origin,
            message: on("t", "v", None),
            targets,
            set_retained: true,
            taken_live: true,
        })
    };
    for _ in 0..WRITES_MAX / 4_096 {
        group.run(vec![retained(Origin::Server, vec![]); 4_096]);
    }
    assert!(group.state.outbox_is_full());
    let limit = Outcome::Refused(RefusedReason::OutboxFull);
    for origin in [publisher.origin(Some(1)), Origin::Live { session: None }] {
        assert_eq!(group.one(retained(origin, vec![publisher.target()])), limit);
    }
    assert_eq!(
        group.payloads(&publisher.queue()),
        [""; 0],
        "nothing of it is stored"
    );
    assert_eq!(group.one(retained(Origin::Server, vec![])), published(0, 0));
    let writes: Vec<_> = group
        .state
        .outbox(None, 2)
        .iter()
        .map(|write| write.source)
        .collect();
    let carried = Command::RetainedCarried {
        topics: GroupId(9),
        writes,
        refused: vec![],
    };
    group.one(carried);
    assert_eq!(
        group.one(retained(publisher.origin(Some(1)), vec![])),
        published(0, 0)
    );
    assert_eq!(group.one(retained(publisher.origin(Some(2)), vec![])), limit);
    group.state.check_invariants().unwrap();
}

/// R30: nor do few large ones.
#[test]
fn r30_the_outbox_is_bounded_in_bytes() {
    let mut group = Harness::new();
    let payload = "x".repeat(1 << 20);
    for _ in 0..64 {
        assert!(!group.state.outbox_is_full());
        group.one(to_outbox(&payload, vec![]));
    }
    assert!(group.state.outbox_is_full());
    let loaded = {
        let mut loaded = GroupState::new(group.state.group());
        loaded.load(group.state.records()).unwrap();
        loaded
    };
    assert!(loaded.outbox_is_full());
    group.one(Command::RetainedTaken {
        up_to: source(3, u64::MAX, 0),
        refused: vec![],
    });
    assert!(!group.state.outbox_is_full());
}

/// R33: what a subscriber gets by its queue is found by where it stands, as long as the client has not had it.
#[test]
fn r33_the_reference_to_a_retained_message_is_found_in_a_queue() {
    let mut group = Harness::new();
    let client = group.open("client");
    let queue = client.queue();
    group.publish("earlier", vec![client.target()]);
    group.one(publish(
        Origin::Server,
        on("topic", "value", None),
        vec![client.target()],
    ));
    let source = source(GROUP.0, group.index, 0);
    for payload in ["later", "last"] {
        group.publish(payload, vec![client.target()]);
    }
    assert_eq!(group.state.crossing(&queue, source), Some(Sequence(1)));
    let others = [
        RetainedSource {
            index: source.index + 9,
            ..source
        },
        RetainedSource {
            position: 1,
            ..source
        },
    ];
    for other in others {
        assert_eq!(group.state.crossing(&queue, other), None);
    }
    assert_eq!(group.state.crossing(&share_queue("g"), source), None);
    assert_eq!(reloaded(&group).state.crossing(&queue, source), Some(Sequence(1)));
    group.one(Command::Received {
        session: client.session,
        sequences: vec![Sequence(1)],
    });
    assert_eq!(group.state.crossing(&queue, source), None, "the client had it");
    group.one(settle(queue.clone(), &[0, 1, 2]));
    assert_eq!(group.state.crossing(&queue, source), None);
}
