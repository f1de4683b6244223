//! Checkpoints (R42) and what is wrong with stored records (R49).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::records::{Kind, seal};
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
fn full() -> Harness {
    let mut group = Harness::new();
    let client = group.open_with("client", false, 60, Some(will("will", 5)));
    let gone = group.open_with("gone", false, 60, Some(will("due", 0)));
    group.one(gone.close());
    group.one(client.subscribe(&["filter", "$share/g/topic"]));
    let target = Target {
        qos: QoS::ExactlyOnce,
        retain: true,
        subscription_ids: vec![5, 6],
        ..client.target()
    };
    let message = Message::new("topic", &[1, 1], b"payload", QoS::ExactlyOnce, true, Some(30));
    group.one(Command::Publish(PublishCommand {
        origin: client.origin(Some(9)),
        message: message.clone(),
        targets: vec![target, to(share_queue("g"))],
        set_retained: true,
    }));
    group.one(Command::Received {
        session: client.session,
        sequences: vec![Sequence(0)],
    });
    group.publish("dropped", vec![to(share_queue("dropped"))]);
    group.one(Command::DropQueues {
        queues: vec![share_queue("dropped")],
    });
    group.one(Command::SetRetained {
        source: RetainedSource {
            group: GroupId(2),
            index: 7,
            position: 1,
        },
        message,
        messages_max: 10,
        bytes_max: 1 << 20,
    });
    group
}

#[test]
fn r42_a_state_comes_back_from_its_records() {
    let mut group = full();
    let kinds: std::collections::BTreeSet<u8> = group.state.records().iter().map(|(key, _)| key[0]).collect();
    assert_eq!(
        kinds,
        (Kind::Meta as u8..=Kind::Mark as u8).collect(),
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
        }));
        group.one(settle(s.queue(), &[sequence]));
        let up_to = RetainedSource {
            group: GROUP,
            index: u64::MAX,
            position: 0,
        };
        group.one(Command::RetainedTaken { up_to });
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

#[test]
fn r42_a_share_that_was_dropped_and_came_back_is_written_as_it_is() {
    let mut group = Harness::new();
    let mut store = Store::default();
    let send = |group: &mut Harness, payload: &str| group.publish(payload, vec![to(share_queue("g"))]);
    send(&mut group, "0");
    send(&mut group, "1");
    store.write(group.state.take_changes());
    group.one(settle(share_queue("g"), &[0]));
    group.one(Command::DropQueues {
        queues: vec![share_queue("g")],
    });
    send(&mut group, "2");
    store.write(group.state.take_changes());
    assert_eq!(store.load().unwrap().digest(), group.state.digest());
    group.one(Command::DropQueues {
        queues: vec![share_queue("g")],
    });
    store.write(group.state.take_changes());
    let mut loaded = store.load().unwrap();
    assert_eq!(loaded.digest(), group.state.digest());
    // The floor of the sequences was stored, too.
    let batch = group.batch(vec![publish(
        Origin::Live,
        message("3"),
        vec![to(share_queue("g"))],
    )]);
    loaded.apply(99, &batch, &mut Vec::new());
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
    assert_eq!(loaded.apply(2, &batch, &mut Vec::new()), outcome);
    assert_eq!(loaded.digest(), group.state.digest());
}

/// A message that waits must not keep the whole entry in memory that it came in.
#[test]
fn a_checkpoint_lets_go_of_log_entries() {
    let mut group = full();
    let s = group.state.session("client").unwrap().session;
    let commands = vec![
        publish(Origin::Live, message("m"), vec![to(TargetQueue::Session(s))]),
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

#[test]
fn r49_a_damaged_value_is_an_error_that_names_its_key() {
    let mut store = Store::default();
    store.write(full().state.take_changes());
    let original = store.0.clone();
    for (key, value) in &original {
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 0x10;
            store.0.insert(key.clone(), damaged);
            let error = store.load().unwrap_err();
            assert_eq!(error, StateError::Checksum { key: key.clone() });
        }
        for len in 0..value.len() {
            store.0.insert(key.clone(), value[..len].to_vec());
            assert_eq!(
                store.load().unwrap_err(),
                StateError::Checksum { key: key.clone() }
            );
        }
        store.0.insert(key.clone(), value.clone());
    }
    let key = original.keys().last().unwrap();
    let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        StateError::Checksum { key: key.clone() }
            .to_string()
            .contains(&name)
    );
}

#[test]
fn r49_a_value_of_another_key_is_found_out() {
    let mut store = Store::default();
    store.write(full().state.take_changes());
    let mut swapped = store.0.clone();
    let of_sessions: Vec<_> = store
        .0
        .keys()
        .filter(|key| key[0] == Kind::Session as u8)
        .collect();
    swapped.insert(of_sessions[0].clone(), store.0[of_sessions[1]].clone());
    let error = Store(swapped).load().unwrap_err();
    assert_eq!(
        error,
        StateError::Checksum {
            key: of_sessions[0].clone()
        }
    );
}

/// Removing any record that others need is noticed; so is one that is not needed any more.
#[test]
fn r49_records_that_contradict_each_other_are_an_error() {
    let mut store = Store::default();
    store.write(full().state.take_changes());
    let original = store.0.clone();
    for (key, value) in &original {
        let needed = [Kind::Message, Kind::Queue].contains(&kind_of(key));
        if needed || (kind_of(key) == Kind::Session && value.windows(6).any(|text| text == b"client")) {
            store.0.remove(key);
            assert!(store.load().is_err(), "{:?}", kind_of(key));
            store.0.insert(key.clone(), value.clone());
        }
    }
    let is_reference = |key: &Vec<u8>| [Kind::Reference, Kind::Outbox].contains(&kind_of(key));
    store.0.retain(|key, _| !is_reference(key));
    assert!(
        matches!(store.load(), Err(StateError::Invariant(_))),
        "a message that nothing refers to"
    );
}

fn kind_of(key: &[u8]) -> Kind {
    super::records::KeyReader::new(key).unwrap().0
}

#[test]
fn r49_versions_and_kinds_that_are_unknown_are_errors() {
    let key = vec![Kind::Meta as u8];
    let mut value = seal(&key, |out| out.extend_from_slice(&[1, 0]));
    Store(BTreeMap::from([(key.clone(), value.clone())]))
        .load()
        .unwrap();
    value[0] = 2;
    let body = value.len() - 4;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&key), &value[..body]);
    value[body..].copy_from_slice(&checksum.to_le_bytes());
    let error = Store(BTreeMap::from([(key.clone(), value)])).load().unwrap_err();
    assert_eq!(
        error,
        StateError::Version {
            key: key.clone(),
            version: 2
        }
    );

    for (key, fields) in [
        (vec![99], vec![]),
        (vec![], vec![]),
        (key.clone(), vec![1]),
        (key, vec![1, 0, 0]),
    ] {
        let value = seal(&key, |out| out.extend_from_slice(&fields));
        let error = Store(BTreeMap::from([(key.clone(), value)])).load().unwrap_err();
        assert!(
            matches!(&error, StateError::Form { key: named, .. } if *named == key),
            "{error}"
        );
    }
}

#[test]
fn r49_records_out_of_order_are_an_error_and_leave_the_state_alone() {
    let mut group = full();
    let digest = group.state.digest();
    let mut records = group.state.records();
    records.reverse();
    let second = records[1].0.clone();
    assert_eq!(group.state.load(records), Err(StateError::Order { key: second }));
    assert_eq!(group.state.digest(), digest);
}

/// Version 1 of every kind of record: these bytes never change, and they load.
#[test]
fn version_1_of_the_records_is_frozen() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let frozen = include_str!("records_v1.txt");
    let state = full().state;
    let written: Vec<_> = state
        .records()
        .iter()
        .map(|(key, value)| format!("{} {}", hex(key), hex(value)))
        .collect();
    assert_eq!(written, frozen.lines().collect::<Vec<_>>());

    let bytes = |text: &str| -> Vec<u8> {
        let digits: Vec<_> = text
            .chars()
            .map(|digit| digit.to_digit(16).unwrap() as u8)
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    let records = frozen.lines().map(|line| {
        let (key, value) = line.split_once(' ').unwrap();
        (bytes(key), bytes(value))
    });
    let mut loaded = GroupState::new(GROUP);
    loaded.load(records).unwrap();
    assert_eq!(loaded.digest(), state.digest());
    assert_eq!(
        loaded.digest(),
        6_167_048_006_012_494_551,
        "replicas of different versions compare it"
    );
}
