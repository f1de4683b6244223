//! Retained messages that are still to come for the subscriptions of durable sessions (R24).

use quorate_proto::codec::RetainHandling;

use super::persistence::Store;
use super::*;

fn subscribe(client: &Opened, number: u32, subscriptions: Vec<Subscription>) -> Command {
    Command::Subscribe {
        session: client.session,
        epoch: client.epoch,
        subscriptions,
        limits: LIMITS,
        replay: Some(number),
    }
}

fn handled(filter: &str, retain_handling: RetainHandling) -> Subscription {
    let mut subscription = subscription(filter, QoS::AtLeastOnce);
    subscription.options.retain_handling = retain_handling;
    subscription
}

fn unsubscribe(client: &Opened, filter: &str) -> Command {
    Command::Unsubscribe {
        session: client.session,
        epoch: client.epoch,
        filters: vec![filter.into()],
    }
}

fn behind(topic: &str) -> Option<ReplayCursor> {
    Some(ReplayCursor {
        slot: 3,
        after: Some(topic.into()),
        left: 1 << 3,
    })
}

/// The next step of a client's replay.
fn step(
    group: &Harness,
    client: &Opened,
    filter: &str,
    payload: &str,
    cursor: Option<ReplayCursor>,
) -> ReplayStep {
    let replay = pending(group, client)
        .into_iter()
        .find(|replay| &*replay.filter == filter)
        .expect("there is a replay");
    ReplayStep {
        session: client.session,
        epoch: client.epoch,
        filter: replay.filter,
        id: replay.id,
        step: replay.step,
        value: Some(Message::new(
            payload,
            &[],
            payload.as_bytes(),
            QoS::ExactlyOnce,
            true,
            None,
        )),
        cursor,
    }
}

fn pending(group: &Harness, client: &Opened) -> Vec<PendingReplay> {
    group.state.pending_replays(client.session, None, usize::MAX)
}

fn filters(group: &Harness, client: &Opened) -> Vec<String> {
    let filter = |replay: PendingReplay| replay.filter.to_string();
    pending(group, client).into_iter().map(filter).collect()
}

const STORED: Outcome = Outcome::Published {
    duplicate: false,
    stored: 1,
    refused: 0,
};
const FENCED: Outcome = Outcome::Refused(RefusedReason::Fenced);

#[test]
fn r24_a_replay_is_pending_from_its_subscribe_on_and_moves_with_what_it_appends() {
    let mut group = Harness::new();
    let client = group.open("c");
    let mut sub = subscription("a/+", QoS::AtLeastOnce);
    sub.subscription_id = Some(7);
    group.one(subscribe(&client, 4, vec![sub]));
    let id = ReplayId {
        epoch: client.epoch,
        number: 4,
    };
    let mut expected = PendingReplay {
        filter: "a/+".into(),
        id,
        qos: QoS::AtLeastOnce,
        subscription_id: Some(7),
        step: 0,
        cursor: None,
    };
    assert_eq!(pending(&group, &client), [expected.clone()]);
    let first = step(&group, &client, "a/+", "a/1", behind("a/1"));
    assert_eq!(group.one(Command::Replay(first.clone())), STORED);
    (expected.step, expected.cursor) = (1, behind("a/1"));
    assert_eq!(pending(&group, &client), [expected]);
    let pulled = group.pull(&client.queue());
    assert_eq!((pulled.len(), pulled[0].qos), (1, QoS::AtLeastOnce));
    assert!(pulled[0].retain && pulled[0].replayed && pulled[0].publisher.is_none());
    assert_eq!(pulled[0].subscription_ids, [7]);
    assert!(group.has_event(&Event::Queued {
        queue: client.queue(),
        first: Sequence(0),
        count: 1,
        bytes: counted_bytes(&pulled[0].message),
    }));
    // It comes once, and nothing comes behind what is missing.
    let mut early = step(&group, &client, "a/+", "a/3", behind("a/3"));
    early.step += 1;
    for refused in [first, early] {
        assert_eq!(group.one(Command::Replay(refused)), FENCED);
    }
    // To move the cursor alone appends nothing.
    let mut alone = step(&group, &client, "a/+", "", behind("a/2"));
    alone.value = None;
    assert_eq!(group.one(Command::Replay(alone)), Outcome::Done);
    let last = step(&group, &client, "a/+", "a/3", None);
    assert_eq!(group.one(Command::Replay(last.clone())), STORED);
    assert_eq!(filters(&group, &client), [""; 0], "its end");
    assert_eq!(group.one(Command::Replay(last)), FENCED);
    assert_eq!(group.payloads(&client.queue()), ["a/1", "a/3"]);
}

#[test]
fn r10_r24_a_repeated_batch_of_steps_appends_once() {
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(subscribe(&client, 1, vec![subscription("#", QoS::ExactlyOnce)]));
    let first = step(&group, &client, "#", "1", behind("1"));
    let mut second = step(&group, &client, "#", "2", None);
    second.step = 1;
    let batch = group.batch(vec![Command::Replay(first), Command::Replay(second)]);
    let outcome = group.apply(&batch);
    assert_eq!(outcome, BatchOutcome::Applied(vec![STORED, STORED]));
    assert_eq!(group.apply(&batch), outcome);
    assert_eq!(group.payloads(&client.queue()), ["1", "2"]);
}

#[test]
fn r24_only_subscriptions_that_ask_for_retained_messages_above_qos_0_begin_a_replay() {
    use RetainHandling::*;
    let mut group = Harness::new();
    let client = group.open("c");
    let asked = vec![
        handled("send", Send),
        handled("new", SendIfNew),
        handled("not", DoNotSend),
        subscription("$share/g/t", QoS::AtLeastOnce),
        subscription("zero", QoS::AtMostOnce),
        subscription("beyond the limit", QoS::AtLeastOnce),
    ];
    group.one(subscribe(&client, 1, asked));
    assert_eq!(filters(&group, &client), ["new", "send"]);
    // Whoever sends all by itself says so.
    let other = group.open("d");
    group.one(other.subscribe(&["a"]));
    assert_eq!(filters(&group, &other), [""; 0]);
}

#[test]
fn r24_a_renewed_subscribe_begins_again_and_one_that_asks_for_nothing_leaves_what_is_pending() {
    use RetainHandling::*;
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(subscribe(&client, 1, vec![handled("a", Send)]));
    group.one(Command::Replay(step(&group, &client, "a", "1", behind("1"))));
    let of_first = step(&group, &client, "a", "2", None);
    for handling in [SendIfNew, DoNotSend] {
        group.one(subscribe(&client, 2, vec![handled("a", handling)]));
    }
    let left = pending(&group, &client);
    assert_eq!((left[0].id.number, left[0].step), (1, 1));
    group.one(subscribe(&client, 3, vec![handled("a", Send)]));
    let renewed = pending(&group, &client);
    assert_eq!((renewed[0].id.number, renewed[0].step), (3, 0));
    assert_eq!(renewed[0].cursor, None);
    assert_eq!(group.one(Command::Replay(of_first.clone())), FENCED);
    // Not even where the numbers of the steps are alike.
    let of_first = ReplayStep { step: 0, ..of_first };
    assert_eq!(group.one(Command::Replay(of_first)), FENCED);
    // At QoS 0 nothing is kept.
    let mut zero = handled("a", Send);
    zero.options.qos = QoS::AtMostOnce;
    group.one(subscribe(&client, 4, vec![zero]));
    assert_eq!(filters(&group, &client), [""; 0]);
}

/// [MQTT-3.8.4-8]
#[test]
fn r24_what_a_replay_appends_is_on_the_terms_of_the_last_subscribe() {
    let mut group = Harness::new();
    let client = group.open("c");
    let renewed = |qos: QoS, subscription_id: u32| {
        let mut renewed = handled("#", RetainHandling::DoNotSend);
        renewed.options.qos = qos;
        renewed.subscription_id = Some(subscription_id);
        renewed
    };
    let asked = Subscription {
        options: handled("#", RetainHandling::Send).options,
        ..renewed(QoS::AtLeastOnce, 1)
    };
    group.one(subscribe(&client, 1, vec![asked]));
    group.one(Command::Replay(step(&group, &client, "#", "1", behind("1"))));
    // One that asks for retained messages with another of its filters, and one that asks for none.
    group.one(subscribe(&client, 2, vec![renewed(QoS::ExactlyOnce, 2)]));
    group.one(Command::Replay(step(&group, &client, "#", "2", behind("2"))));
    let nothing_asked = |subscription| Command::Subscribe {
        session: client.session,
        epoch: client.epoch,
        subscriptions: vec![subscription],
        limits: LIMITS,
        replay: None,
    };
    group.one(nothing_asked(renewed(QoS::AtLeastOnce, 3)));
    group.one(Command::Replay(step(&group, &client, "#", "3", behind("3"))));
    // Also when the step was on its way already.
    let on_its_way = step(&group, &client, "#", "4", behind("4"));
    group.one(nothing_asked(renewed(QoS::AtMostOnce, 4)));
    assert_eq!(group.one(Command::Replay(on_its_way)), Outcome::Done);
    let left = pending(&group, &client);
    assert_eq!(
        (left[0].qos, left[0].cursor.clone()),
        (QoS::AtMostOnce, behind("4"))
    );
    let mut encoded = Vec::new();
    left[0].encode(&mut encoded);
    assert_eq!(PendingReplay::decode(&encoded).as_ref(), Ok(&left[0]));
    let mut store = Store::default();
    store.write(group.state.take_changes());
    assert_eq!(store.load().unwrap().digest(), group.state.digest());
    let pulled = group.pull(&client.queue());
    let terms = pulled
        .iter()
        .map(|it| (it.message.topic(), it.qos, it.subscription_ids.as_slice()));
    assert_eq!(
        terms.collect::<Vec<_>>(),
        [
            ("1", QoS::AtLeastOnce, &[1][..]),
            ("2", QoS::ExactlyOnce, &[2]),
            ("3", QoS::AtLeastOnce, &[3]),
        ]
    );
}

#[test]
fn r24_a_replay_ends_with_its_subscription_and_its_session() {
    let mut group = Harness::new();
    let client = group.open("c");
    let both = || {
        vec![
            subscription("a", QoS::AtLeastOnce),
            subscription("b", QoS::AtLeastOnce),
        ]
    };
    group.one(subscribe(&client, 1, both()));
    let gone = step(&group, &client, "a", "1", None);
    group.one(unsubscribe(&client, "a"));
    assert_eq!(filters(&group, &client), ["b"]);
    assert_eq!(group.one(Command::Replay(gone)), FENCED);
    // Subscribed again, it begins again.
    group.one(subscribe(&client, 2, both()));
    assert_eq!(filters(&group, &client), ["a", "b"]);
    let gone = step(&group, &client, "b", "1", None);
    let clean = group.open_with("c", true, 60, None);
    assert_eq!(group.state.counts().replays, 0, "Clean Start");
    assert_eq!(group.one(Command::Replay(gone)), FENCED);
    group.one(subscribe(&clean, 1, both()));
    group.one(clean.close());
    assert_eq!(filters(&group, &clean), ["a", "b"], "it waits for the client");
    group.tick(group.now + 60_000);
    assert_eq!(group.state.counts().replays, 0, "the session expired");
}

#[test]
fn r24_the_next_connection_goes_on_where_the_one_before_was() {
    let mut group = Harness::new();
    let client = group.open("c");
    group.one(subscribe(&client, 1, vec![subscription("#", QoS::AtLeastOnce)]));
    group.one(Command::Replay(step(&group, &client, "#", "1", behind("1"))));
    let late = step(&group, &client, "#", "late", behind("late"));
    group.one(Command::NodeLost {
        node: NODE,
        incarnation: START,
    });
    (group.node, group.number) = (OTHER_NODE, 0);
    assert_eq!(
        group.one(Command::Replay(late.clone())),
        FENCED,
        "nobody is connected"
    );
    let opened = group.one(open("c", false, 60, None));
    let Outcome::Opened {
        session,
        epoch,
        replaying: true,
        ..
    } = opened
    else {
        panic!("{opened:?}")
    };
    let next = Opened {
        session,
        epoch,
        ..client
    };
    assert_eq!(pending(&group, &next)[0].cursor, behind("1"));
    assert_eq!(
        group.one(Command::Replay(late)),
        FENCED,
        "of the connection before"
    );
    group.one(Command::Replay(step(&group, &next, "#", "2", None)));
    assert_eq!(group.payloads(&next.queue()), ["1", "2"]);
    // Nothing is left for the one after that.
    let opened = group.one(open("c", false, 60, None));
    assert!(
        matches!(opened, Outcome::Opened { replaying: false, .. }),
        "{opened:?}"
    );
}

#[test]
fn r23_r24_a_value_that_finds_no_room_is_refused_and_the_replay_goes_on() {
    let mut group = Harness::new();
    group.queue_limits.messages_max = 1;
    let client = group.open("c");
    group.one(subscribe(&client, 1, vec![subscription("#", QoS::AtLeastOnce)]));
    group.one(Command::Replay(step(&group, &client, "#", "1", behind("1"))));
    let outcome = group.one(Command::Replay(step(&group, &client, "#", "2", behind("2"))));
    let refused = Outcome::Published {
        duplicate: false,
        stored: 0,
        refused: 1,
    };
    assert_eq!(outcome, refused);
    assert_eq!(group.state.counts().messages, 1);
    assert_eq!(pending(&group, &client)[0].cursor, behind("2"));
}

#[test]
fn r24_r42_replays_come_back_from_their_records() {
    let mut group = Harness::new();
    let client = group.open("c");
    let all = ["a", "b", "c"].map(|filter| subscription(filter, QoS::ExactlyOnce));
    group.one(subscribe(&client, 1, all.to_vec()));
    group.one(Command::Replay(step(&group, &client, "b", "1", behind("1"))));
    let mut store = Store::default();
    store.write(group.state.take_changes());
    // As a checkpoint and as a snapshot, which takes all records.
    let mut copied = GroupState::new(GROUP);
    copied.load(group.state.records()).unwrap();
    for loaded in [store.load().unwrap(), copied] {
        assert_eq!(
            loaded.pending_replays(client.session, None, usize::MAX),
            pending(&group, &client)
        );
        assert_eq!(loaded.digest(), group.state.digest());
    }
    // What moves and what ends is stored too.
    group.one(Command::Replay(step(&group, &client, "a", "2", behind("2"))));
    group.one(Command::Replay(step(&group, &client, "b", "3", None)));
    group.one(unsubscribe(&client, "c"));
    store.write(group.state.take_changes());
    let loaded = store.load().unwrap();
    assert_eq!(loaded.digest(), group.state.digest());
    let left = loaded.pending_replays(client.session, None, usize::MAX);
    assert_eq!(left.len(), 1);
    assert_eq!((&*left[0].filter, left[0].cursor.clone()), ("a", behind("2")));
}

#[test]
fn r24_what_is_told_of_replays_is_bounded_and_comes_back() {
    let mut group = Harness::new();
    let client = group.open("c");
    let all = ["a", "b", "c"].map(|filter| subscription(filter, QoS::ExactlyOnce));
    group.one(subscribe(&client, 1, all.to_vec()));
    group.one(Command::Replay(step(&group, &client, "b", "1", behind("1"))));
    let mut found = Vec::new();
    loop {
        let after = found.last().map(|replay: &PendingReplay| replay.filter.clone());
        let page = group.state.pending_replays(client.session, after.as_deref(), 1);
        assert!(page.len() <= 1, "one is larger");
        let Some(replay) = page.into_iter().next() else {
            break;
        };
        let mut encoded = Vec::new();
        replay.encode(&mut encoded);
        assert_eq!(PendingReplay::decode(&encoded), Ok(replay.clone()));
        assert!(PendingReplay::decode(&encoded[..encoded.len() - 1]).is_err());
        found.push(replay);
    }
    assert_eq!(found, pending(&group, &client));
    let bytes: usize = found[..2].iter().map(PendingReplay::size).sum();
    assert_eq!(group.state.pending_replays(client.session, None, bytes).len(), 2);
}
