//! Log, checkpoints and store together, as a node uses them.

use std::sync::Arc;

use crate::faulty::{FaultyDisk, SplitMix};
use crate::fuzzing::live_node;
use crate::state::FaultyStore;

#[derive(Clone, Copy, Default)]
struct Lies {
    disk: bool,
    store: bool,
}

fn life(seed: u64, cut_at: u64, lies: Lies) -> Result<u64, String> {
    let disk = FaultyDisk::new(seed);
    disk.set_ignore_syncs(lies.disk);
    let store = Arc::new(FaultyStore::new(disk.clone(), seed));
    store.set_ignore_syncs(lies.store);
    live_node(disk, store, SplitMix::new(seed), cut_at)
}

#[test]
fn state_and_log_fit_together_after_a_power_cut_at_every_operation() {
    let mut checkpoints = 0;
    for seed in 0..300 {
        checkpoints += life(seed, seed % 150 + 1, Lies::default())
            .unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
    }
    assert!(
        checkpoints > 1000,
        "the test did something: {checkpoints} checkpoints"
    );
}

#[test]
fn without_syncs_the_test_above_fails() {
    for lies in [
        Lies {
            disk: true,
            store: false,
        },
        Lies {
            disk: false,
            store: true,
        },
    ] {
        let failed = (0..40).filter(|seed| life(*seed, 200, lies).is_err()).count();
        assert!(failed > 10, "{failed} of 40 lives noticed");
    }
}
