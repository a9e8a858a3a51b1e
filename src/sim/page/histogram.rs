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
pub(super) struct Lines(Box<[String]>);

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

    /// Its lines under `name`, each with `labels`.
    pub(super) fn lines(&self, name: &str, labels: &[Label<'_>]) -> Lines {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets = bounds.map(|bound| {
            let mut le = String::new();
            go_float(&mut le, bound);
            let labels = sorted(&[labels, &[("le", &le)]].concat());
            format!("{name}_bucket{labels} ")
        });
        let labels = sorted(labels);
        let ends = ["count", "sum"].map(|end| format!("{name}_{end}{labels} "));
        Lines(buckets.chain(ends).collect())
    }

    /// Prints its `lines`.
    pub(super) fn print(&self, out: &mut String, lines: &Lines) {
        let mut total = 0;
        let mut lines = lines.0.iter();
        let mut line = |value: f64| {
            if let Some(line) = lines.next() {
                out.push_str(line);
                go_float(out, value);
                out.push('\n');
            }
        };
        for count in &self.counts {
            total += count.load(Ordering::Relaxed);
            line(total as f64);
        }
        line(total as f64);
        line(self.sum.load(Ordering::Relaxed) as f64 / 1e6);
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
