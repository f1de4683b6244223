//! sled with the longest keys that there may be.

use std::collections::BTreeMap;

use super::*;
use crate::faulty::SplitMix;

/// Keys of the longest length that differ in their last bytes alone are the worst that sled can be given.
#[test]
fn sled_keeps_keys_of_the_longest_length() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let store = SledStore::open(&dir.path().join("sled"), &SledOptions::default()).unwrap();
        Checkpointer::open(Arc::new(RealDisk), dir.path(), Arc::new(store)).unwrap()
    };
    let mut random = SplitMix::new(1);
    let mut truth: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let found = |checkpointer: &Checkpointer| {
        let mut found = Vec::new();
        let visit = |key: &[u8], value: &[u8]| found.push((key.to_vec(), value.to_vec()));
        checkpointer.entries(GROUP, visit).unwrap();
        found
    };
    for index in 1..=8 {
        let checkpointer = open();
        let mut changes = BTreeMap::new();
        for _ in 0..30 {
            let mut key = vec![b'x'; KEY_BYTES_MAX];
            key[KEY_BYTES_MAX - 1] = random.below(100) as u8;
            key.truncate(KEY_BYTES_MAX - usize::from(random.one_in(4)));
            let length = if random.one_in(10) {
                60_000
            } else {
                random.below(50)
            };
            let value = (!random.one_in(3)).then(|| vec![index as u8; length as usize]);
            changes.insert(key, value);
        }
        for (key, value) in &changes {
            match value {
                Some(value) => drop(truth.insert(key.clone(), value.clone())),
                None => drop(truth.remove(key)),
            }
        }
        checkpointer
            .checkpoint(one(GROUP, index, changes.into_iter().collect()))
            .unwrap();
        assert!(
            found(&checkpointer).into_iter().eq(truth.clone()),
            "checkpoint {index}"
        );
    }
    assert!(found(&open()).into_iter().eq(truth.clone()));
    let entries = truth.clone().into_iter().map(Ok);
    open().replace(GROUP, position(9), Bytes::new(), entries).unwrap();
    assert!(found(&open()).into_iter().eq(truth));
}
