//! Bytes off a wire, at each version.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_proto::codec::fuzzing::fuzz_decode(data));
