//! The log alone: random operations, power cuts and kills, also amid opening.

use crate::faulty::{FaultyDisk, SplitMix};
use crate::fuzzing::live_log;

fn life(seed: u64, cut_at: u64, ignore_syncs: bool) -> Result<u64, String> {
    let disk = FaultyDisk::new(seed);
    disk.set_ignore_syncs(ignore_syncs);
    live_log(&disk, SplitMix::new(seed ^ 0xabcd), cut_at)
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_appears() {
    let mut survived = 0;
    for seed in 0..400 {
        // Every early operation of a life is cut at once, later ones at random.
        survived +=
            life(seed, seed % 200 + 1, false).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
    }
    assert!(
        survived > 10_000,
        "the tests did something: {survived} operations survived"
    );
}

#[test]
fn without_syncs_the_test_above_fails() {
    let failed = (0..40).filter(|seed| life(*seed, 200, true).is_err()).count();
    assert!(failed > 20, "{failed} of 40 lives noticed");
}
