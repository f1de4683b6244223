//! Sequences of client packets and host calls, driven by bytes: nothing panics, every invariant holds after every
//! step, and the client's view of it all is one that the protocol allows.
//!
//! The host here keeps its part of the contract (tokens go back once, frames are handed in only when the connection is
//! ready for them); the client mostly does, and now and then does not.

mod answers;
mod client;
mod host;
mod sender;

use crate::fuzz_input::Input;
use host::Run;

/// Steps after the end of a connection, which must change nothing.
const STEPS_AFTER_END: usize = 3;

/// Interprets the bytes as connections, one after the other: a sequence of packets and calls each. Checks all that can
/// be checked.
pub fn fuzz_session(data: &[u8]) {
    let mut input = Input::new(data);
    while !input.is_empty() {
        let mut run = Run::new(&mut input);
        let mut steps_left = STEPS_AFTER_END;
        while !input.is_empty() && steps_left > 0 {
            run.step(&mut input);
            steps_left -= usize::from(run.is_closed());
        }
        run.finish();
    }
}
