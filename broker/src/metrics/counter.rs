//! Counters for the hot path: one writer, any number of readers, no locked instruction.
//!
//! Invariant: each is written by one thread at a time. A second writer would lose counts (never corrupt them), which
//! is why a worker gets them through [`super::WorkerMetrics`], a handle that cannot be shared.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. A load and a store rather than one atomic addition: with one writer the sum is the same.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// The count.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A count that rises and falls, such as open connections.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.set(self.value().wrapping_add(1));
    }

    /// Takes one away.
    #[inline]
    pub fn decrement(&self) {
        debug_assert!(self.value() > 0, "a level never falls below zero");
        self.set(self.value().saturating_sub(1));
    }

    /// Replaces the level.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The level.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of [`Histogram`]'s buckets in microseconds; the last bucket has none. From an acknowledgement out of
/// memory to the longest wait that section 1 of the promise knows.
pub(super) const BUCKET_MICROS_MAX: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    1_500_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Durations in fixed buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKET_MICROS_MAX.len() + 1],
    sum_nanos: Counter,
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let index = BUCKET_MICROS_MAX.partition_point(|bound| bound * 1_000 < nanos);
        self.buckets[index].increment();
        self.sum_nanos.add(nanos);
    }

    /// Adds what this one has counted to a sum over many.
    pub(super) fn add_to(&self, sum: &mut HistogramSum) {
        for (total, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.value();
        }
        sum.seconds += self.sum_nanos.value() as f64 / 1e9;
    }
}

/// The sum of many histograms.
#[derive(Default)]
pub(super) struct HistogramSum {
    pub(super) buckets: [u64; BUCKET_MICROS_MAX.len() + 1],
    pub(super) seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_bounds_are_inclusive() {
        let histogram = Histogram::default();
        for micros in [0, 50, 51, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut sum = HistogramSum::default();
        histogram.add_to(&mut sum);
        assert_eq!((sum.buckets[0], sum.buckets[1]), (2, 1));
        assert_eq!(
            (
                sum.buckets[BUCKET_MICROS_MAX.len() - 1],
                sum.buckets[BUCKET_MICROS_MAX.len()]
            ),
            (1, 1)
        );
        assert!((sum.seconds - 20.000_102).abs() < 1e-9, "{}", sum.seconds);
    }

    #[test]
    fn buckets_rise() {
        assert!(BUCKET_MICROS_MAX.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
