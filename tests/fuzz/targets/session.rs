//! Sequences of client packets and host calls against the session.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_proto::session::fuzzing::fuzz_session(data));
