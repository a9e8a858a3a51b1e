//! The histogram of all hot series: a few atomic adds an observation, and no lock.
//!
//! That of `prometheus-client` takes a lock for each, which a page that is being written holds as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Counts observations by size. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Upper bounds, rising; the last bucket has none.
    bounds: &'static [f64],
    /// One more than bounds, each without those below it.
    counts: Box<[AtomicU64]>,
    /// Bits of an `f64`.
    sum: AtomicU64,
}

// === impl Histogram ===

impl Histogram {
    /// `bounds` are the upper bounds of the buckets, rising, without the infinite one.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self(Arc::new(Inner {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }))
    }

    /// Counts `value`. NaN is not counted: it would make the sum useless for good.
    pub fn observe(&self, value: f64) {
        self.observe_times(value, 1);
    }

    /// Counts `value` as if it had been seen so many `times`: for observations that are made of every so many only.
    pub fn observe_times(&self, value: f64, times: u32) {
        if value.is_nan() {
            return;
        }
        let inner = &*self.0;
        let at = inner.bounds.partition_point(|&bound| bound < value);
        inner.counts[at].fetch_add(u64::from(times), Relaxed);
        let value = value * f64::from(times);
        let mut sum = inner.sum.load(Relaxed);
        loop {
            let next = (f64::from_bits(sum) + value).to_bits();
            match inner.sum.compare_exchange_weak(sum, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(seen) => sum = seen,
            }
        }
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    /// Without observations it is not shown, as in Go, where a series begins with its first: most of the models that clients
    /// make up are never answered. The count is that of the buckets that are shown, so that the two agree whatever is
    /// observed meanwhile.
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let inner = &*self.0;
        let bounds = inner.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = inner.counts.iter().map(|count| count.load(Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        if count == 0 {
            return Ok(());
        }
        let sum = f64::from_bits(inner.sum.load(Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;

    fn page(histogram: &Histogram) -> String {
        let mut registry = Registry::default();
        registry.register("h", "Help", histogram.clone());
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn like_that_of_the_crate() {
        const BOUNDS: &[f64] = &[0.5, 1.0, 2.0];
        let ours = Histogram::new(BOUNDS);
        let theirs = prometheus_client::metrics::histogram::Histogram::new(BOUNDS.iter().copied());
        for value in [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 100.0] {
            ours.observe(value);
            theirs.observe(value);
        }
        let mut registry = Registry::default();
        registry.register("h", "Help", theirs);
        let mut expected = String::new();
        prometheus_client::encoding::text::encode(&mut expected, &registry).unwrap();
        assert_eq!(page(&ours), expected);
        assert_eq!(ours.count(), 9);
    }

    #[test]
    fn what_is_observed_for_others_counts_for_them() {
        let histogram = Histogram::new(&[1.0]);
        histogram.observe_times(0.5, 8);
        histogram.observe(f64::NAN);
        let page = page(&histogram);
        for line in ["h_sum 4.0", "h_count 8", "h_bucket{le=\"1.0\"} 8"] {
            assert!(page.contains(line), "{page}");
        }
    }

    #[test]
    fn threads_lose_nothing() {
        let histogram = Histogram::new(&[1.0]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| histogram.observe(2.0)));
            }
        });
        assert_eq!(histogram.count(), 40_000);
        assert!(page(&histogram).contains("h_sum 80000.0"));
    }
}
