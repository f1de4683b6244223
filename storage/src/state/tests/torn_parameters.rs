//! What a power cut leaves of the file that sled does not sync.

use std::fs;

use super::super::{Change, SledOptions, SledStore, StateStore};

/// R44: a torn file of parameters is no lost store.
#[test]
fn r44_a_store_opens_with_any_part_of_its_parameters() {
    let dir = tempfile::tempdir().unwrap();
    let open = || SledStore::open(dir.path(), &SledOptions::default()).unwrap();
    let store = open();
    let change: Change = (b"key".to_vec(), Some(b"value".to_vec()));
    store.apply(vec![change]).unwrap();
    store.sync().unwrap();
    drop(store);
    let parameters = dir.path().join("conf");
    let whole = fs::read(&parameters).unwrap();
    for length in 0..whole.len() {
        fs::write(&parameters, &whole[..length]).unwrap();
        let value = open().read(b"key").unwrap();
        assert_eq!(value.as_deref(), Some(&b"value"[..]), "{length} bytes");
        assert_eq!(fs::read(&parameters).unwrap(), whole, "{length} bytes");
    }
}
