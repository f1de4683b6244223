//! Names that no other test uses, so that tests can share one broker and run side by side.

use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A name space of one test.
#[derive(Clone, Copy, Debug)]
pub struct Scope(u32);

impl Scope {
    /// A new one.
    pub fn new() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// A client identifier, within the 23 characters every server takes.
    pub fn id(&self, name: &str) -> String {
        format!("t{}{name}", self.0)
    }

    /// A topic name or filter.
    pub fn topic(&self, rest: &str) -> String {
        format!("t{}/{rest}", self.0)
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::new()
    }
}
