//! Faults that strike later.

use std::path::Path;

/// A fault that strikes when a countdown of matching operations has run out.
#[derive(Debug)]
pub(super) struct Countdown {
    pub(super) remaining: u64,
    pub(super) path_part: String,
}

impl Countdown {
    /// Counts a matching operation; true when the fault strikes, once.
    pub(super) fn strikes(fault: &mut Option<Self>, path: &Path) -> bool {
        let Some(countdown) = fault else { return false };
        if !path.to_string_lossy().contains(&countdown.path_part) {
            return false;
        }
        if countdown.remaining > 0 {
            countdown.remaining -= 1;
            return false;
        }
        *fault = None;
        true
    }
}
