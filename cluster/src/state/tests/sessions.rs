//! Sessions: creation, takeover, expiry, limits, subscriptions.

use super::*;

fn owner(opened: &Opened) -> Owner {
    Owner {
        node: NODE,
        incarnation: START,
        epoch: opened.epoch,
    }
}

#[test]
fn r17_a_session_is_its_incarnation_and_never_the_same_again() {
    let mut group = Harness::new();
    let first = group.open("c");
    assert_eq!(first.session, SessionId::new(GROUP, 1, 0));
    assert_eq!(first.session.home(), GROUP);
    assert_eq!(
        (first.epoch, first.present, first.previous),
        (Epoch(1), false, None)
    );
    let owned = Event::SessionOwner {
        client_id: "c".into(),
        session: first.session,
        owner: Some(owner(&first)),
        fenced: None,
    };
    assert_eq!(group.events, [owned]);

    let second = group.open_with("c", true, 60, None);
    assert_eq!((second.epoch, second.present), (Epoch(1), false));
    assert_ne!(second.session, first.session);
    assert!(!group.state.session_exists(first.session));
    assert_eq!(second.previous, Some(owner(&first)));
    let ended = Event::SessionEnded {
        client_id: "c".into(),
        session: first.session,
        fenced: Some(owner(&first)),
    };
    assert_eq!(group.events[0], ended);
    // Two created by one entry differ as well.
    let outcomes = group.run(vec![open("d", false, 60, None), open("e", false, 60, None)]);
    let sessions: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Opened { session, .. } => *session,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_ne!(sessions[0], sessions[1]);
}

#[test]
fn r17_the_end_of_a_session_takes_all_it_has_in_its_home() {
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(client.subscribe(&["a", "b"]));
    group.one(publish(
        client.origin(Some(7)),
        message("m"),
        vec![client.target()],
    ));
    assert_eq!(group.state.counts().messages, 1);
    group.one(Command::EndSession {
        session: client.session,
        publish_will: true,
    });
    let counts = group.state.counts();
    assert_eq!(
        (counts.sessions, counts.subscriptions, counts.messages),
        (0, 0, 0)
    );
    assert_eq!(group.state.next_sequence(&client.queue()), None);
    let removed = Event::Removed {
        queue: client.queue(),
        count: 1,
        bytes: counted_bytes(&message("m")),
    };
    assert!(group.has_event(&removed));

    // A publish that was on its way leaves nothing behind.
    assert_eq!(group.publish("late", vec![client.target()]), published(0, 0));
    assert_eq!(group.state.counts().messages, 0);
    assert_eq!(group.state.queues().count(), 0);
}

#[test]
fn r17_queues_are_dropped_for_sessions_of_other_homes_only_when_told() {
    let mut group = Harness::new();
    let elsewhere = TargetQueue::Session(SessionId::new(GroupId(4), 9, 0));
    let here = group.open("c");
    let targets = vec![to(elsewhere.clone()), here.target(), to(share_queue("g"))];
    assert_eq!(group.publish("m", targets), published(3, 0));
    let drop = group.drop_queues(&[elsewhere.clone(), here.queue(), share_queue("g")]);
    assert_eq!(group.one(drop), Outcome::Done);
    assert_eq!(group.payloads(&elsewhere), [""; 0]);
    assert_eq!(group.payloads(&share_queue("g")), [""; 0]);
    // Its home knows better.
    assert_eq!(group.payloads(&here.queue()), ["m"]);
}

#[test]
fn r9_a_resumed_session_is_whole_and_fences_the_connection_before() {
    let mut group = Harness::new();
    let first = group.open("c");
    group.one(first.subscribe(&["b", "a"]));
    group.one(publish(first.origin(Some(7)), message("in"), vec![]));
    group.publish("out", vec![first.target()]);
    let outcome = group.one(open("c", false, 60, None));
    let Outcome::Opened {
        session,
        epoch,
        present,
        previous,
        inbound,
        ..
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!((session, epoch, present), (first.session, Epoch(2), true));
    assert_eq!(previous, Some(owner(&first)));
    assert_eq!(inbound, [id(7)]);
    let filters: Vec<_> = (group.state.subscriptions(session))
        .map(|subscription| subscription.filter.to_string())
        .collect();
    assert_eq!(filters, ["a", "b"]);
    assert_eq!(group.payloads(&first.queue()), ["out"]);
    let taken_over = Event::SessionOwner {
        client_id: "c".into(),
        session,
        owner: Some(Owner {
            epoch,
            ..owner(&first)
        }),
        fenced: Some(owner(&first)),
    };
    assert_eq!(group.events, [taken_over]);
}

#[test]
fn r9_commands_of_an_old_epoch_are_refused() {
    let mut group = Harness::new();
    let old = group.open("c");
    group.one(old.subscribe(&["a"]));
    let new = group.open("c");
    let before = group.content();
    let stale = vec![
        old.subscribe(&["b"]),
        Command::Unsubscribe {
            session: old.session,
            epoch: old.epoch,
            filters: vec!["a".into()],
        },
        publish(old.origin(Some(1)), message("m"), vec![new.target()]),
        publish(old.origin(None), message("m"), vec![new.target()]),
        Command::Release {
            session: old.session,
            epoch: old.epoch,
            packet_id: id(1),
        },
        old.close(),
        Command::CloseConnection {
            session: old.session,
            epoch: Epoch(9),
            publish_will: true,
            expiry_secs: None,
        },
    ];
    let number = stale.len();
    assert_eq!(group.run(stale), vec![FENCED; number]);
    assert_eq!(group.content(), before);
    assert_eq!(group.events, []);
    assert_eq!(group.state.session("c").unwrap().owner, Some(owner(&new)));
}

#[test]
fn r9_nobody_speaks_for_a_session_without_connection() {
    let mut group = Harness::new();
    let client = group.open("c");
    assert_eq!(group.one(client.close()), Outcome::Done);
    assert_eq!(
        group.one(publish(client.origin(None), message("m"), vec![])),
        FENCED
    );
    assert_eq!(group.one(client.subscribe(&["a"])), FENCED);
    // To close again what is closed, or gone, is done.
    assert_eq!(group.one(client.close()), Outcome::Done);
    group.one(Command::EndSession {
        session: client.session,
        publish_will: false,
    });
    assert_eq!(group.one(client.close()), Outcome::Done);
    assert_eq!(
        group.one(publish(client.origin(None), message("m"), vec![])),
        FENCED
    );
}

#[test]
fn a_session_expires_exactly_when_its_interval_has_passed() {
    let mut group = Harness::new();
    let client = group.open_with("c", false, 60, None);
    group.now = 5_000;
    group.one(client.close());
    assert_eq!(group.state.next_deadline(), Some(GroupTime(65_000)));
    assert!(group.has_event(&Event::DeadlineChanged));
    group.tick(64_999);
    assert_eq!(
        group.state.session("c").unwrap().expires_at,
        Some(GroupTime(65_000))
    );
    assert_eq!(group.events, []);
    group.tick(65_000);
    assert_eq!(group.state.session("c"), None);
    let ended = Event::SessionEnded {
        client_id: "c".into(),
        session: client.session,
        fenced: None,
    };
    assert_eq!(group.events, [ended]);
    assert_eq!(group.state.next_deadline(), None);
}

#[test]
fn an_expired_session_is_not_resumed_even_by_the_entry_that_finds_it_so() {
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(client.close());
    group.now += 60_000;
    let again = group.open("c");
    assert!(!again.present);
    assert_ne!(again.session, client.session);
}

#[test]
fn a_connection_stops_the_expiry_and_its_end_starts_it_anew() {
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(client.close());
    group.now += 59_999;
    let again = group.open_with("c", false, 10, None);
    assert!(again.present);
    assert_eq!(group.state.next_deadline(), None);
    group.tick(1_000_000);
    group.one(again.close());
    assert_eq!(group.state.next_deadline(), Some(GroupTime(1_010_000)));
}

#[test]
fn a_disconnect_may_change_the_expiry() {
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(client.close_with(false, Some(5)));
    assert_eq!(group.state.next_deadline(), Some(GroupTime(6_000)));
    let client = group.open("c");
    group.one(client.close_with(false, Some(u32::MAX)));
    assert_eq!(group.state.next_deadline(), None);
    group.tick(u64::MAX);
    let client = group.open("c");
    assert!(client.present, "it never expires");
    group.one(client.close_with(false, Some(0)));
    assert_eq!(group.state.session("c"), None);
}

#[test]
fn a_session_of_expiry_0_ends_with_its_connection() {
    let mut group = Harness::new();
    let client = group.open_with("c", false, 0, None);
    group.one(client.close());
    assert_eq!(group.state.session("c"), None);
    // A takeover ends the connection as well, and so there is nothing to resume.
    let client = group.open_with("c", false, 0, None);
    let again = group.open_with("c", false, 60, None);
    assert!(!again.present);
    assert_ne!(again.session, client.session);
    assert!(again.previous.is_some());
}

#[test]
fn r30_sessions_are_limited_where_one_would_be_added() {
    let mut group = Harness::new();
    let limits = SessionLimits {
        sessions_max: 1,
        subscriptions_max: 0,
    };
    let open = |client: &str, clean_start| Command::OpenSession {
        client_id: client.into(),
        clean_start,
        expiry_secs: 60,
        will: None,
        limits,
    };
    assert!(matches!(group.one(open("a", false)), Outcome::Opened { .. }));
    assert_eq!(group.one(open("b", false)), LIMIT_REACHED);
    assert!(matches!(
        group.one(open("a", true)),
        Outcome::Opened { present: false, .. }
    ));
    assert!(matches!(
        group.one(open("a", false)),
        Outcome::Opened { present: true, .. }
    ));
    assert_eq!(group.state.counts().sessions, 1);
}

#[test]
fn r30_subscriptions_are_limited_per_session() {
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(client.subscribe(&["1", "2", "3", "4"]));
    use SubscribeResult::*;
    let outcome = group.one(client.subscribe(&["4", "5", "6", "1"]));
    assert_eq!(
        outcome,
        Outcome::Subscribed(vec![Replaced, Added, LimitReached, Replaced])
    );
    assert_eq!(group.events.len(), 3);
    assert_eq!(group.state.session("c").unwrap().subscriptions, 5);
    let other = group.open("d");
    assert_eq!(
        group.one(other.subscribe(&["6"])),
        Outcome::Subscribed(vec![Added])
    );
}

#[test]
fn subscriptions_are_replaced_and_removed_in_order() {
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(client.subscribe(&["a", "$share/g/a"]));
    let replaced = subscription("a", QoS::ExactlyOnce);
    let command = Command::Subscribe {
        session: client.session,
        epoch: client.epoch,
        subscriptions: vec![replaced.clone()],
        limits: LIMITS,
        replay: None,
    };
    group.one(command);
    assert_eq!(
        group.events,
        [Event::Subscribed {
            session: client.session,
            subscription: replaced.clone()
        }]
    );
    let subscriptions: Vec<_> = group.state.subscriptions(client.session).collect();
    assert_eq!(
        subscriptions,
        [subscription("$share/g/a", QoS::AtLeastOnce), replaced]
    );
    let filters = ["b", "a", "a"].map(Arc::from).to_vec();
    let command = Command::Unsubscribe {
        session: client.session,
        epoch: client.epoch,
        filters,
    };
    assert_eq!(
        group.one(command),
        Outcome::Unsubscribed(vec![false, true, false])
    );
    assert_eq!(
        group.events,
        [Event::Unsubscribed {
            session: client.session,
            filter: "a".into()
        }]
    );
}

#[test]
fn r32_group_time_never_goes_back() {
    let mut group = Harness::new();
    group.tick(9_000);
    group.tick(4_000);
    assert_eq!(group.state.group_time(), GroupTime(9_000));
    let client = group.open("c");
    group.one(client.close());
    assert_eq!(group.state.next_deadline(), Some(GroupTime(69_000)));
}

#[test]
fn r25_a_lost_start_of_a_node_ends_its_connections_and_no_others() {
    let mut group = Harness::new();
    let durable = group.open_with("durable", false, 60, Some(will("w", 0)));
    let clean = group.open_with("clean", false, 0, None);
    let closed = group.open("closed");
    group.one(closed.close());
    (group.incarnation, group.number) = (NodeIncarnation(11), 0);
    let newer = group.open("newer");
    (group.node, group.number) = (NodeId(2), 0);
    let other = group.open("other");
    group.now = 2_000;
    group.one(Command::NodeLost {
        node: NODE,
        incarnation: START,
    });

    assert_eq!(group.state.session_by_id(clean.session), None);
    let view = group.state.session_by_id(durable.session).unwrap();
    assert_eq!((view.owner, view.expires_at), (None, Some(GroupTime(62_000))));
    assert_eq!(group.due(), [(durable.session, durable.epoch, "w".into())]);
    assert_eq!(
        group.state.session_by_id(closed.session).unwrap().expires_at,
        Some(GroupTime(61_000))
    );
    assert!(group.state.session_by_id(newer.session).unwrap().owner.is_some());
    assert!(group.state.session_by_id(other.session).unwrap().owner.is_some());
    // In the order of their client identifiers.
    let ended = Event::SessionEnded {
        client_id: "clean".into(),
        session: clean.session,
        fenced: None,
    };
    assert_eq!(group.events[0], ended);
    assert!(
        matches!(&group.events[1], Event::SessionOwner { session, owner: None, fenced: None, .. }
        if *session == durable.session)
    );

    group.one(Command::NodeLost {
        node: NODE,
        incarnation: NodeIncarnation(11),
    });
    assert_eq!(group.state.session_by_id(newer.session).unwrap().owner, None);
    assert_eq!(group.state.counts().sessions_connected, 1);
}

#[test]
fn sessions_are_listed_by_client_identifier() {
    let mut group = Harness::new();
    for client in ["b", "a", "c"] {
        group.open(client);
    }
    let list = |after| {
        group
            .state
            .sessions(after)
            .map(|view| view.client_id.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(None), ["a", "b", "c"]);
    assert_eq!(list(Some("a")), ["b", "c"]);
    assert_eq!(list(Some("bb")), ["c"]);
}
