//! Log, checkpoints and store together, as a node uses them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_storage::fuzzing::fuzz_node_life(data));
