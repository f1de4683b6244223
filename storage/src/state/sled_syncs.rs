//! Makes sled sync what it writes, in the order in which it relies on it.
//!
//! sled 0.34 takes a buffer for stable as soon as `sync_file_range` has returned, and writes over segments whose pages are
//! in newer, stable ones. `sync_file_range` leaves the data in the cache of the disk, and the length of a file that grew in
//! memory: a power cut can take the newer segments and leave what was written over the older ones, and synced values are
//! gone. Where the system does not know `sync_file_range`, sled calls fsync instead. So a filter of system calls says so,
//! to the threads that use sled and those that sled starts from them; others pay nothing for it.
//!
//! Pages above 128 KiB are files of their own, whose names sled does not sync. The state store has none as long as its keys,
//! topics most of all, are shorter than about 3.5 KiB: a power cut while longer ones are stored may still damage it.

use std::cell::Cell;
use std::sync::OnceLock;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

thread_local! {
    static HAS_FILTER: Cell<bool> = const { Cell::new(false) };
}

/// Puts the filter on this thread, unless it has it. False where the system does not take it; that is told once.
pub(crate) fn ensure() -> bool {
    if HAS_FILTER.get() {
        return true;
    }
    static FILTER: OnceLock<Option<BpfProgram>> = OnceLock::new();
    let filter = FILTER.get_or_init(|| {
        let made = make_filter().and_then(|filter| {
            seccompiler::apply_filter(&filter).map_err(|error| error.to_string())?;
            HAS_FILTER.set(true);
            Ok(filter)
        });
        made.inspect_err(|error| {
            tracing::warn!(
                %error,
                "the system takes no filter of system calls: the state store syncs far more often, so that a power cut harms nothing"
            );
        })
        .ok()
    });
    let Some(filter) = filter else { return false };
    if !HAS_FILTER.get() {
        HAS_FILTER.set(seccompiler::apply_filter(filter).is_ok());
    }
    HAS_FILTER.get()
}

fn make_filter() -> Result<BpfProgram, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let is_unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = [(libc::SYS_sync_file_range, Vec::new())].into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, is_unknown, arch);
    filter
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}
