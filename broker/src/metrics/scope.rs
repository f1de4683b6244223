//! Families whose values are asked for when somebody scrapes: gauges and counters by callback.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::Metrics;
use super::collector::{family, sample};

/// Where a part of the program declares its families; the prefix comes from the parent.
#[derive(Clone, Debug)]
pub struct Scope {
    metrics: Metrics,
    prefix: String,
}

/// Values of a family: label values, in the order of the label names, and the value.
pub type Samples = Vec<(Vec<String>, f64)>;

impl Scope {
    pub(super) fn new(metrics: Metrics, prefix: &str) -> Self {
        let separator = if prefix.is_empty() { "" } else { "_" };
        Self {
            metrics,
            prefix: format!("{prefix}{separator}"),
        }
    }

    /// A scope within this one.
    pub fn scope(&self, prefix: &str) -> Self {
        Self::new(self.metrics.clone(), &format!("{}{prefix}", self.prefix))
    }

    /// Declares a gauge without labels. The callback runs at every scrape; it must not block.
    ///
    /// # Panics
    ///
    /// Where the name is taken or not a valid one, as in all declarations: a bug at the call.
    pub fn gauge(&self, name: &str, help: &str, value: impl Fn() -> f64 + Send + Sync + 'static) {
        self.gauge_by(name, help, &[], move || vec![(Vec::new(), value())]);
    }

    /// Declares a gauge with labels. Label values come from a closed set or from the configuration.
    pub fn gauge_by(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        samples: impl Fn() -> Samples + Send + Sync + 'static,
    ) {
        self.declare(name, help, labels, MetricType::GAUGE, Box::new(samples));
    }

    /// Declares a counter without labels; its name ends in `_total`.
    pub fn counter(&self, name: &str, help: &str, value: impl Fn() -> u64 + Send + Sync + 'static) {
        self.counter_by(name, help, &[], move || vec![(Vec::new(), value() as f64)]);
    }

    /// Declares a counter with labels; its name ends in `_total`.
    pub fn counter_by(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        samples: impl Fn() -> Samples + Send + Sync + 'static,
    ) {
        debug_assert!(
            format!("{}{name}", self.prefix).ends_with("_total"),
            "counters end in _total, {name} does not"
        );
        self.declare(name, help, labels, MetricType::COUNTER, Box::new(samples));
    }

    /// Declares a histogram without labels, observed by its owner off the hot path.
    ///
    /// # Panics
    ///
    /// As for gauges.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Histogram {
        let options = prometheus::HistogramOpts::new(format!("quorate_{}{name}", self.prefix), help)
            .buckets(buckets.to_vec());
        let histogram = prometheus::Histogram::with_opts(options).expect("buckets rise");
        self.metrics.register(Box::new(histogram.clone()));
        histogram
    }

    fn declare(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        kind: MetricType,
        samples: Box<dyn Fn() -> Samples + Send + Sync>,
    ) {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let name = format!("quorate_{}{name}", self.prefix);
        let desc = Desc::new(
            name,
            help.to_owned(),
            labels.clone(),
            std::collections::HashMap::new(),
        )
        .expect("a metrics family has a valid name and a help text");
        self.metrics.register(Box::new(Callback {
            desc,
            labels,
            kind,
            samples,
        }));
    }
}

/// A family whose samples a callback gives.
struct Callback {
    desc: Desc,
    labels: Vec<String>,
    kind: MetricType,
    samples: Box<dyn Fn() -> Samples + Send + Sync>,
}

impl Collector for Callback {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let samples: Vec<_> = (self.samples)()
            .into_iter()
            .map(|(values, value)| {
                let labels = self
                    .labels
                    .iter()
                    .map(String::as_str)
                    .zip(values.iter().map(String::as_str));
                sample(labels, self.kind, value)
            })
            .collect();
        // The encoder refuses a family without metrics.
        if samples.is_empty() {
            return Vec::new();
        }
        vec![family(&self.desc.fq_name, &self.desc.help, self.kind, samples)]
    }
}
