//! Packets of every type from a description, sent and received, then damaged.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_proto::codec::fuzzing::fuzz_round_trip(data));
