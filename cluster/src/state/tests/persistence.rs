//! Checkpoints (R42).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::records::Kind;
use super::*;

/// What a state store holds after checkpoints.
#[derive(Default)]
pub(super) struct Store(pub(super) BTreeMap<Vec<u8>, Vec<u8>>);

impl Store {
    pub(super) fn write(&mut self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        assert!(
            changes.is_sorted_by(|left, right| left.0 < right.0),
            "by key, each once"
        );
        for (key, value) in changes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }

    pub(super) fn load(&self) -> Result<GroupState, StateError> {
        let mut state = GroupState::new(GROUP);
        state.load(self.0.iter().map(|(key, value)| (key, value.clone())))?;
        Ok(state)
    }
}

/// A state with a record of every kind.
pub(super) fn full() -> Harness {
    let mut group = Harness::new();
    let client = group.open_with("client", false, 60, Some(will("will", 5)));
    let gone = group.open_with("gone", false, 60, Some(will("due", 0)));
    group.one(gone.close());
    group.one(client.subscribe(&["filter", "$share/g/topic"]));
    let target = Target {
        qos: QoS::ExactlyOnce,
        retain: true,
        replayed: false,
        subscription_ids: vec![5, 6],
        ..client.target()
    };
    let payload = Message::new("topic", &[1, 1], b"payload", QoS::ExactlyOnce, true, Some(30));
    group.one(Command::Publish(PublishCommand {
        origin: client.origin(Some(9)),
        message: payload.clone(),
        targets: vec![target, to(share_queue("g")), to(node_queue())],
        set_retained: true,
        taken_live: false,
    }));
    group.one(Command::Received {
        session: client.session,
        sequences: vec![Sequence(0)],
    });
    group.publish("dropped", vec![to(share_queue("dropped"))]);
    group.one(group.drop_queues(&[share_queue("dropped")]));
    group.one(Command::SetRetained {
        source: RetainedSource {
            group: GroupId(2),
            index: 7,
            position: 1,
        },
        message: payload,
        messages_max: 10,
        bytes_max: 1 << 20,
    });
    group.one(publish(live_will(1), message("live"), vec![]));
    begin_publishes(&mut group, &client, &gone);
    group.one(replays(&client, 1));
    group.one(replayed(&client, 0, Some("topic")));
    group
}

/// A subscription for which retained messages are to come.
fn replays(client: &Opened, number: u32) -> Command {
    Command::Subscribe {
        session: client.session,
        epoch: client.epoch,
        subscriptions: vec![subscription("replayed", QoS::AtLeastOnce)],
        limits: LIMITS,
        replay: Some(number),
    }
}

/// A step of its replay.
fn replayed(client: &Opened, step: u64, after: Option<&str>) -> Command {
    Command::Replay(ReplayStep {
        session: client.session,
        epoch: client.epoch,
        filter: "replayed".into(),
        id: ReplayId {
            epoch: client.epoch,
            number: 1,
        },
        step,
        value: None,
        cursor: after.map(|after| ReplayCursor {
            slot: 7,
            after: Some(after.into()),
            left: 1 << 7 | 1 << 3,
        }),
    })
}

/// One publish of each kind that stays under way, to queues of their own.
fn begin_publishes(group: &mut Harness, client: &Opened, gone: &Opened) {
    let Opened { session, epoch, .. } = *gone;
    let elsewhere = TargetQueue::Session(SessionId::new(GroupId(4), 1, 0));
    let begun = [
        first(client.origin(Some(8)), vec![to(elsewhere)]),
        first(Origin::Will { session, epoch }, vec![]),
        first(live_will(3), vec![to(share_queue("h"))]),
        first(Origin::Server, vec![to(TargetQueue::Node(NodeId(6), START))]),
    ];
    for command in begun {
        group.one(command);
    }
}

#[test]
fn r42_a_state_comes_back_from_its_records() {
    let mut group = full();
    let kinds: std::collections::BTreeSet<u8> = group.state.records().iter().map(|(key, _)| key[0]).collect();
    assert_eq!(
        kinds,
        (Kind::Meta as u8..=Kind::Replay as u8).collect(),
        "a record of every kind"
    );
    let mut store = Store::default();
    store.write(group.state.take_changes());
    assert_eq!(
        store.0.clone().into_iter().collect::<Vec<_>>(),
        group.state.records()
    );
    let mut loaded = store.load().unwrap();
    assert_eq!(loaded.digest(), group.state.digest());
    assert_eq!(loaded.next_deadline(), group.state.next_deadline());
    assert_eq!(loaded.counts(), group.state.counts());
    // Nothing of it counts as changed but the record that is always written.
    assert_eq!(loaded.take_changes(), group.state.take_changes());
    assert_eq!(loaded.take_changes().len(), 1);
    // It loads over whatever was there.
    group.open("more");
    group.state.load(store.0.clone()).unwrap();
    assert_eq!(group.state.digest(), loaded.digest());
}

#[test]
fn r42_what_came_and_went_between_two_checkpoints_is_not_written() {
    let mut group = Harness::new();
    let s = group.open("s");
    group.publish("old", vec![s.target()]);
    group.state.take_changes();
    let kinds_of = |group: &mut Harness| -> Vec<(u8, bool)> {
        let changes = group.state.take_changes();
        changes
            .iter()
            .map(|(key, value)| (key[0], value.is_some()))
            .filter(|(kind, _)| ![Kind::Meta as u8, Kind::Proposer as u8].contains(kind))
            .collect()
    };
    for sequence in 1..=50 {
        group.one(Command::Publish(PublishCommand {
            origin: Origin::Server,
            message: message("brief"),
            targets: vec![s.target()],
            set_retained: true,
            taken_live: false,
        }));
        group.one(settle(s.queue(), &[sequence]));
        let up_to = RetainedSource {
            group: GROUP,
            index: u64::MAX,
            position: 0,
        };
        group.one(Command::RetainedTaken {
            up_to,
            refused: vec![],
        });
    }
    assert_eq!(kinds_of(&mut group), [(Kind::Queue as u8, true)]);
    // What a checkpoint has goes with a record of its end.
    group.one(settle(s.queue(), &[0]));
    let ends = [
        (Kind::Message as u8, false),
        (Kind::Queue as u8, true),
        (Kind::Reference as u8, false),
    ];
    assert_eq!(kinds_of(&mut group), ends);
    assert_eq!(kinds_of(&mut group), []);
}

/// A change that a checkpoint misses is lost with the log before it, so each kind is made alone between two of them.
#[test]
fn r42_every_change_alone_reaches_the_checkpoint() {
    let mut group = full();
    let mut store = Store::default();
    let view = group.state.session("client").unwrap();
    let client = Opened {
        session: view.session,
        epoch: view.epoch,
        present: true,
        previous: None,
    };
    let gone = group.state.session("gone").unwrap();
    let retain = |index, payload: &[u8]| Command::SetRetained {
        source: RetainedSource {
            group: GroupId(2),
            index,
            position: 0,
        },
        message: Message::new("topic", &[], payload, QoS::AtLeastOnce, true, None),
        messages_max: 1,
        bytes_max: 1 << 20,
    };
    let release = |packet_id| Command::Release {
        session: client.session,
        epoch: client.epoch,
        packet_id: id(packet_id),
    };
    let changes = vec![
        publish(client.origin(Some(3)), message("m"), vec![]),
        publish(client.origin(Some(4)), message("m"), vec![]),
        first(client.origin(Some(7)), vec![to(share_queue("a"))]),
        more(
            client.origin(Some(7)),
            &share_queue("a"),
            vec![to(share_queue("b"))],
            false,
        ),
        more(client.origin(Some(7)), &share_queue("b"), vec![], true),
        more(Origin::Server, &share_queue("b"), vec![], true),
        first(Origin::Server, vec![]),
        release(8),
        release(3),
        release(9),
        release(4),
        client.subscribe(&["new"]),
        Command::Subscribe {
            session: client.session,
            epoch: client.epoch,
            subscriptions: vec![subscription("filter", QoS::ExactlyOnce)],
            limits: LIMITS,
            replay: None,
        },
        Command::Unsubscribe {
            session: client.session,
            epoch: client.epoch,
            filters: vec!["new".into()],
        },
        publish(Origin::Server, message("1"), vec![client.target()]),
        publish(Origin::Server, message("2"), vec![client.target()]),
        Command::Received {
            session: client.session,
            sequences: vec![Sequence(2)],
        },
        settle(client.queue(), &[1]),
        settle(client.queue(), &[2]),
        hold(0, holder(live_session(1), 5)),
        unhold(0, 5),
        Command::Assign {
            share: share("g"),
            sequence: Sequence(0),
            session: client.session,
            qos: QoS::ExactlyOnce,
            subscription_ids: vec![],
            retain: false,
            give: GiveId(6),
        },
        group.drop_queues(&[share_queue("g")]),
        publish(Origin::Server, message("1"), vec![to(node_queue())]),
        settle(node_queue(), &[1]),
        lost(OTHER_NODE, START),
        Command::RetainedTaken {
            up_to: RetainedSource {
                group: GROUP,
                index: 99,
                position: 0,
            },
            refused: vec![],
        },
        retain(8, b"value"),
        retain(9, b""),
        // Ignored but for its mark.
        retain(10, b""),
        publish(
            Origin::Will {
                session: gone.session,
                epoch: gone.epoch,
            },
            message("w"),
            vec![],
        ),
        publish(live_will(2), message("w"), vec![]),
        Command::ForgetLiveWills {
            wills: vec![(live_session(1), Epoch(7)), (live_session(2), Epoch(7))],
        },
        replayed(&client, 1, Some("topic/2")),
        replayed(&client, 2, None),
        replays(&client, 2),
        client.close_with(true, Some(50)),
        open("client", false, 60, None),
        open("client", false, 60, Some(will("next", 5))),
        lost(NODE, NodeIncarnation(9)),
        lost(NodeId(2), START),
        Command::EndSession {
            session: client.session,
            publish_will: true,
        },
        Command::WillPublished {
            session: client.session,
            epoch: Epoch(3),
        },
        open("another", true, 0, None),
    ];
    store.write(group.state.take_changes());
    let mut nothing_changed = Vec::new();
    for change in changes {
        let before = group.content();
        group.one(change.clone());
        if group.content() == before {
            nothing_changed.push(change);
        }
        store.write(group.state.take_changes());
        assert_eq!(
            store.0.clone().into_iter().collect::<Vec<_>>(),
            group.state.records()
        );
    }
    // Of a lost node only the proposer's record speaks, which this comparison leaves out.
    let is_lost = |change: &Command| matches!(change, Command::NodeLost { .. });
    assert!(
        nothing_changed.len() == 2 && nothing_changed.iter().all(is_lost),
        "{nothing_changed:?}"
    );
    for now in [2_000, 70_000, 100_000] {
        group.tick(now);
        store.write(group.state.take_changes());
        assert_eq!(store.load().unwrap().digest(), group.state.digest());
    }
}

#[test]
fn r42_a_share_that_was_dropped_and_came_back_is_written_as_it_is() {
    let mut group = Harness::new();
    let mut store = Store::default();
    let send = |group: &mut Harness, payload: &str| group.publish(payload, vec![to(share_queue("g"))]);
    send(&mut group, "0");
    send(&mut group, "1");
    store.write(group.state.take_changes());
    group.one(settle(share_queue("g"), &[0]));
    group.one(group.drop_queues(&[share_queue("g")]));
    send(&mut group, "2");
    store.write(group.state.take_changes());
    assert_eq!(store.load().unwrap().digest(), group.state.digest());
    group.one(group.drop_queues(&[share_queue("g")]));
    store.write(group.state.take_changes());
    let mut loaded = store.load().unwrap();
    assert_eq!(loaded.digest(), group.state.digest());
    // The floor of the sequences was stored, too.
    let batch = group.batch(vec![publish(
        Origin::Live { session: None },
        message("3"),
        vec![to(share_queue("g"))],
    )]);
    loaded.apply(at(99), &batch, &mut Vec::new());
    assert_eq!(loaded.oldest_unsettled(&share_queue("g")), Some(Sequence(3)));
}

#[test]
fn r10_a_repeated_batch_gets_the_first_outcome_after_a_restart() {
    let mut group = Harness::new();
    let batch = group.batch(vec![open("c", false, 60, None), open("c", false, 60, None)]);
    let outcome = group.apply(&batch);
    let mut store = Store::default();
    store.write(group.state.take_changes());
    let mut loaded = store.load().unwrap();
    assert_eq!(loaded.apply(at(2), &batch, &mut Vec::new()), outcome);
    assert_eq!(loaded.digest(), group.state.digest());
}

/// A message that waits must not keep the whole entry in memory that it came in.
#[test]
fn a_checkpoint_lets_go_of_log_entries() {
    let mut group = full();
    let s = group.state.session("client").unwrap().session;
    let commands = vec![
        publish(
            Origin::Live { session: None },
            message("m"),
            vec![to(TargetQueue::Session(s))],
        ),
        open("w", false, 60, Some(will("w", 5))),
        Command::SetRetained {
            source: RetainedSource {
                group: GroupId(2),
                index: 8,
                position: 1,
            },
            message: message("retained"),
            messages_max: 10,
            bytes_max: 1 << 20,
        },
    ];
    let mut entry = Vec::new();
    group.batch(commands).encode(&mut entry);
    let entry = Bytes::from(entry);
    let decoded = Batch::decode(&entry).unwrap();
    group.apply(&decoded);
    drop(decoded);
    assert!(!entry.is_unique(), "until then nothing is copied");
    group.state.take_changes();
    assert!(entry.is_unique());
    assert_eq!(group.payloads(&TargetQueue::Session(s)), ["payload", "m"]);
}

/// Version 1 of every kind of record: these bytes never change, and they load. Where a record says more today, what it says
/// stands behind that.
#[test]
fn version_1_of_the_records_is_frozen() {
    // What a session has received, and a retained message, without and with the place of the retained write.
    const GROWN: [[&str; 2]; 2] = [
        [
            "050300000000010000 01010900844fe282",
            "050300000000010000 0101090001090005000100a07db58e",
        ],
        [
            "0c746f706963 01e8070198f201000e1e050207746f70696301017061796c6f61647727209d",
            "0c746f706963 01e8070198f201000e1e050207746f70696301017061796c6f61640207011b7d25a0",
        ],
    ];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let frozen = include_str!("records_v1.txt");
    let state = full().state;
    let written: Vec<_> = state
        .records()
        .iter()
        .map(|(key, value)| format!("{} {}", hex(key), hex(value)))
        .collect();
    let grown = |line| {
        let found = GROWN.iter().find(|[was, _]| *was == line);
        found.map_or(line, |[_, is]| *is)
    };
    assert_eq!(written, frozen.lines().map(grown).collect::<Vec<_>>());

    let bytes = |text: &str| -> Vec<u8> {
        let digits: Vec<_> = text
            .chars()
            .map(|digit| digit.to_digit(16).unwrap() as u8)
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    let load = |records: &mut dyn Iterator<Item = &str>| {
        let mut loaded = GroupState::new(GROUP);
        let records = records.map(|line| {
            let (key, value) = line.split_once(' ').unwrap();
            (bytes(key), bytes(value))
        });
        loaded.load(records).unwrap();
        loaded
    };
    let now = load(&mut written.iter().map(String::as_str));
    assert_eq!(now.digest(), state.digest());
    let loaded = load(&mut frozen.lines());
    assert_eq!(
        loaded.digest(),
        2_072_450_097_556_828_290,
        "replicas of different versions compare it"
    );
}

/// R37: who has a reference outlives a restart, whether it was stored before it was given or after.
#[test]
fn r37_who_has_a_reference_is_stored() {
    let mut group = Harness::new();
    let member = live_session(1);
    let mut store = Store::default();
    let mut stored = |group: &mut Harness| {
        store.write(group.state.take_changes());
        let loaded = store.load().unwrap();
        assert_eq!(loaded.digest(), group.state.digest());
        loaded.held_references().collect::<Vec<_>>()
    };
    for payload in ["0", "1"] {
        group.publish(payload, vec![to(share_queue("g"))]);
    }
    group.one(hold(0, holder(member, 5)));
    let first = (share("g"), Sequence(0), holder(member, 5));
    assert_eq!(stored(&mut group), std::slice::from_ref(&first));
    group.one(hold(1, holder(member, 6)));
    let second = (share("g"), Sequence(1), holder(member, 6));
    assert_eq!(stored(&mut group), [first, second.clone()]);
    group.one(unhold(0, 5));
    assert_eq!(stored(&mut group), [second]);
    group.one(settle(share_queue("g"), &[0, 1]));
    assert_eq!(stored(&mut group), []);
}
