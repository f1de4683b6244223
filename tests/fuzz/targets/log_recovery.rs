//! A log whose files hold records in any order, with damage.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_storage::fuzzing::fuzz_log_recovery(data));
