//! Work that is too long for a task: a heartbeat behind it would wait as long.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Bytes from which on checking, copying or encoding them is long: a millisecond and more.
pub(super) const LONG_BYTES: usize = 1 << 20;

/// Does the work; if it `is_long`, beside the runtime's threads: another one takes the tasks of this one over meanwhile.
pub(super) fn runtime_if<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    let has_threads = || {
        let runtime = Handle::try_current();
        runtime.is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
    };
    match is_long && has_threads() {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}
