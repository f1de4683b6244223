//! Arbitrary sequences of client packets and host calls (see [`super::super::fuzzing`]).

use proptest::prelude::*;

use crate::fuzz_input::cases;
use crate::session::fuzzing::fuzz_session;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2_000), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_keeps_every_promise(data in proptest::collection::vec(any::<u8>(), 0..1_500)) {
        fuzz_session(&data);
    }
}
