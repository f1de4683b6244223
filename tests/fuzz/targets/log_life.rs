//! Operations on a log, power cuts and kills.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_storage::fuzzing::fuzz_log_life(data));
