//! A Prometheus histogram, printed as Python's client does.

use std::sync::atomic::{AtomicU64, Ordering};

use super::go_float;
use super::labels::{Label, sorted};

/// Counts a bucket, and the sum in millionths.
#[derive(Debug)]
pub(in crate::sim) struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A histogram's lines without their values: its buckets, its count and its sum. They never change, and most of a page
/// are such lines.
#[derive(Debug)]
pub(super) struct Lines {
    buckets: Box<[String]>,
    count: String,
    sum: String,
    /// As Python's client prints them when it collects from several processes.
    sum_first: bool,
}

// === impl Histogram ===

impl Histogram {
    /// With the given upper bounds, ascending, and one more bucket without.
    pub(in crate::sim) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    pub(in crate::sim) fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// Whether nothing was observed.
    pub(super) fn is_empty(&self) -> bool {
        self.counts
            .iter()
            .all(|count| count.load(Ordering::Relaxed) == 0)
    }

    /// Its lines under `name`, each with `labels`.
    pub(super) fn lines(&self, name: &str, labels: &[Label<'_>]) -> Lines {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets = bounds.map(|bound| {
            let mut le = String::new();
            go_float(&mut le, bound);
            let labels = sorted(&[labels, &[("le", &le)]].concat());
            format!("{name}_bucket{labels} ")
        });
        let buckets = buckets.collect();
        let labels = sorted(labels);
        Lines {
            buckets,
            count: format!("{name}_count{labels} "),
            sum: format!("{name}_sum{labels} "),
            sum_first: false,
        }
    }

    /// Prints its `lines`.
    pub(super) fn print(&self, out: &mut String, lines: &Lines) {
        let mut line = |line: &str, value: f64| {
            out.push_str(line);
            go_float(out, value);
            out.push('\n');
        };
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e6;
        if lines.sum_first {
            line(&lines.sum, sum);
        }
        let mut total = 0;
        for (bucket, count) in lines.buckets.iter().zip(&self.counts) {
            total += count.load(Ordering::Relaxed);
            line(bucket, total as f64);
        }
        line(&lines.count, total as f64);
        if !lines.sum_first {
            line(&lines.sum, sum);
        }
    }
}

// === impl Lines ===

impl Lines {
    pub(super) fn sum_first(self) -> Self {
        Self {
            sum_first: true,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for value in [0.05, 0.1, 0.5, 7.0] {
            histogram.observe(value);
        }
        let mut out = String::new();
        let lines = histogram.lines("h", &[("model_name", "m"), ("engine", "0")]);
        histogram.print(&mut out, &lines);
        let expected = r#"h_bucket{engine="0",le="0.1",model_name="m"} 2.0
h_bucket{engine="0",le="1.0",model_name="m"} 3.0
h_bucket{engine="0",le="+Inf",model_name="m"} 4.0
h_count{engine="0",model_name="m"} 4.0
h_sum{engine="0",model_name="m"} 7.65
"#;
        assert_eq!(out, expected);
    }
}
