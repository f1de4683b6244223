//! Stored records that are not what was written (R49).

use std::collections::BTreeMap;

use super::persistence::{Store, full};
use super::records::{Kind, seal};
use super::*;

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
    records.swap(0, 1);
    let second = records[1].0.clone();
    assert_eq!(group.state.load(records), Err(StateError::Order { key: second }));
    assert_eq!(group.state.digest(), digest);
}
