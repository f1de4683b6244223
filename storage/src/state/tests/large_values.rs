//! Values that lie in parts: as earlier versions wrote them, and what sled makes of them.

use super::*;

/// An earlier version stored values in longer parts: they are read, and replaced and removed as a whole.
#[test]
fn a_value_in_the_parts_of_an_earlier_version_is_read_replaced_and_removed() {
    let machine = Machine::new();
    let checkpointer = machine.open().unwrap();
    checkpointer.checkpoint(one(GROUP, 1, vec![])).unwrap();
    let keys = machine.store.copy().len();
    let earlier: Vec<u8> = (0..200_000_u32).map(|number| (number / 7) as u8).collect();
    let store = |key: &str| {
        let full = layout::value_key(GROUP, 1, key.as_bytes());
        machine
            .store
            .apply(layout::encode_as_earlier(full, &earlier))
            .unwrap();
    };
    for (key, next) in [
        ("longer", Some(300_000)),
        ("shorter", Some(13_000)),
        ("gone", None),
    ] {
        store(key);
        assert_eq!(machine.store.copy().len(), keys + 6, "a head and five parts");
        assert_eq!(
            checkpointer.value(GROUP, key.as_bytes()).unwrap().as_ref(),
            Some(&earlier)
        );
        let next = next.map(|length| vec![9; length]);
        let index = checkpointer.load(GROUP).unwrap().0.index + 1;
        checkpointer
            .checkpoint(one(GROUP, index, vec![change(key, next.as_deref())]))
            .unwrap();
        assert_eq!(checkpointer.value(GROUP, key.as_bytes()).unwrap(), next);
        checkpointer
            .checkpoint(one(GROUP, index + 1, vec![change(key, None)]))
            .unwrap();
        assert_eq!(machine.store.copy().len(), keys, "no part of {key} is left over");
    }
}

/// sled gives a page that has a file of its own no weight in its cache, and so keeps all of them in memory.
#[test]
fn long_values_make_no_pages_that_sled_keeps_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(&dir.path().join("sled"), &SledOptions::default()).unwrap();
    let checkpointer = Checkpointer::open(Arc::new(RealDisk), dir.path(), Arc::new(store)).unwrap();
    for index in 1..=4_u64 {
        let long = change(&format!("long {index}"), Some(&vec![index as u8; 4 << 20]));
        let middling = (0..40_u64).map(|number| {
            let length = 2_000 * number as usize;
            change(&format!("{index} {number}"), Some(&vec![number as u8; length]))
        });
        let changes = std::iter::once(long).chain(middling).collect();
        checkpointer.checkpoint(one(GROUP, index, changes)).unwrap();
    }
    let files = std::fs::read_dir(dir.path().join("sled/blobs")).unwrap();
    assert_eq!(files.count(), 0, "pages with a file of their own");
}
