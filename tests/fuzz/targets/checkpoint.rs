//! A checkpoint file and the store that is recovered with it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_storage::fuzzing::fuzz_checkpoint(data));
