//! Metrics: what the process counts, and the text Prometheus reads.
//!
//! ```text
//! worker: WorkerCounters (plain, one writer) --.
//! anything else: Scope::gauge, counter (callbacks) --> Metrics::encode --> GET /metrics
//! ```
//!
//! Nothing on the publish path is a Prometheus object: a worker adds to its own counters and the sum is taken when
//! somebody asks. All names begin with `quorate_`; a [`Scope`] adds the prefix of its part of the program, so that a
//! family is declared where it is counted and named by its parent.
//!
//! Invariant: no label carries a client identifier, a topic or a filter; label values come from closed sets or from
//! the configuration.

mod collector;
mod counter;
mod scope;
mod worker;

#[cfg(test)]
mod tests;

pub use counter::{Counter, Histogram, Level};
pub use scope::{Samples, Scope};
pub use worker::{
    ByPacketType, ByQoS, ByReason, ByVersion, CloseReason, Closed, DropReason, Dropped, PauseReason, Paused,
    WorkerCounters, WorkerMetrics,
};

use std::sync::Arc;

use collector::WorkerCollector;

/// Media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// All metrics of the process. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    registry: prometheus::Registry,
    workers: WorkerCollector,
}

impl Metrics {
    /// An empty set with `quorate_build_info`.
    pub fn new() -> Self {
        let metrics = Self {
            registry: prometheus::Registry::new(),
            workers: WorkerCollector::new(),
        };
        metrics.register(Box::new(metrics.workers.clone()));
        metrics.scope("").gauge_by(
            "build_info",
            "Always 1; its labels are the version and the commit this program was built from.",
            &["version", "commit"],
            || vec![(vec![crate::VERSION.to_owned(), crate::COMMIT.to_owned()], 1.0)],
        );
        metrics
    }

    /// Counters for one more worker.
    pub fn add_worker(&self) -> WorkerMetrics {
        WorkerMetrics::new(self.workers.add())
    }

    /// Where a part of the program declares its families, all named `quorate_<prefix>_...`; an empty prefix adds none.
    pub fn scope(&self, prefix: &str) -> Scope {
        Scope::new(self.clone(), prefix)
    }

    /// Sum of a value over all workers.
    pub fn sum(&self, value: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.workers.sum(value)
    }

    /// Text of all metrics in the exposition format, sorted by name.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Fails for a family without metrics only, and no collector gives one.
        if let Err(error) = prometheus::TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics are incomplete");
        }
        text
    }

    fn register(&self, collector: Box<dyn prometheus::core::Collector>) {
        self.registry
            .register(collector)
            .expect("a metrics family is declared once, with a valid name");
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Shares one set of counters between a worker and the collector.
type SharedCounters = Arc<WorkerCounters>;
