//! What prometheus-fastapi-instrumentator counts of a server's HTTP requests.

use std::time::Duration;

use parking_lot::Mutex;

use super::labels::{Label, sorted};
use super::{Histogram, Lines, go_float, head, now};

/// Bounds, in seconds.
const FINE: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
];
const COARSE: &[f64] = &[0.1, 0.5, 1.0];

const REQUESTS: &str = "Total number of requests by method, status and handler.";
const RECEIVED: &str = "Content length of incoming requests by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ";
const SENT: &str = "Content length of outgoing responses by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ";
const DURATION: &str = "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ";
const DURATION_FINE: &str = "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ";

/// Requests by handler, method and status. A series begins with its first request; there are as many as the server
/// has routes, times methods and classes of status.
#[derive(Debug)]
pub(in crate::sim) struct HttpStats {
    created: f64,
    fine: Histogram,
    fine_lines: Lines,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: Family<f64>,
    received: Family<[f64; 2]>,
    sent: Family<[f64; 2]>,
    duration: Family<(Histogram, Lines)>,
}

/// Series in the order in which they began.
#[derive(Debug)]
struct Family<T>(Vec<Series<T>>);

#[derive(Debug)]
struct Series<T> {
    labels: String,
    created: f64,
    value: T,
}

// === impl HttpStats ===

impl HttpStats {
    /// `created`: when the server began, in seconds of Unix time.
    pub(super) fn new(created: f64) -> Self {
        let fine = Histogram::new(FINE);
        Self {
            created,
            fine_lines: fine.lines("http_request_duration_highr_seconds", &[]),
            fine,
            counts: Mutex::default(),
        }
    }

    /// A request was answered. `handler` is its route, or `none`; sizes are in bytes, 0 where no header told them.
    pub(in crate::sim) fn observe(
        &self,
        handler: &str,
        method: &str,
        status: u16,
        received: u64,
        sent: u64,
        time: Duration,
    ) {
        let seconds = time.as_secs_f64();
        self.fine.observe(seconds);
        let status = format!("{}xx", status / 100);
        let handler = ("handler", handler);
        let method = ("method", method);
        let mut counts = self.counts.lock();
        *counts
            .requests
            .of(&[handler, method, ("status", &status)], || 0.0) += 1.0;
        let Counts {
            received: r,
            sent: s,
            ..
        } = &mut *counts;
        for (family, bytes) in [(r, received), (s, sent)] {
            let [count, sum] = family.of(&[handler], || [0.0; 2]);
            *count += 1.0;
            *sum += bytes as f64;
        }
        let labels = [handler, method];
        let (histogram, _) = counts.duration.of(&labels, || {
            let histogram = Histogram::new(COARSE);
            let lines = histogram.lines("http_request_duration_seconds", &labels);
            (histogram, lines)
        });
        histogram.observe(seconds);
    }

    pub(super) fn print(&self, out: &mut String) {
        let counts = self.counts.lock();
        out.push_str(&head("http_requests_total", "counter", REQUESTS));
        for series in &counts.requests.0 {
            line(out, "http_requests_total", &series.labels, series.value);
        }
        counts
            .requests
            .print_created(out, "http_requests", REQUESTS);
        for (name, help, family) in [
            ("http_request_size_bytes", RECEIVED, &counts.received),
            ("http_response_size_bytes", SENT, &counts.sent),
        ] {
            out.push_str(&head(name, "summary", help));
            for series in &family.0 {
                let [count, sum] = series.value;
                line(out, &format!("{name}_count"), &series.labels, count);
                line(out, &format!("{name}_sum"), &series.labels, sum);
            }
            family.print_created(out, name, help);
        }
        let name = "http_request_duration_highr_seconds";
        out.push_str(&head(name, "histogram", DURATION_FINE));
        self.fine.print(out, &self.fine_lines);
        let created = format!("{name}_created");
        out.push_str(&head(&created, "gauge", DURATION_FINE));
        line(out, &created, "", self.created);
        let name = "http_request_duration_seconds";
        out.push_str(&head(name, "histogram", DURATION));
        for series in &counts.duration.0 {
            let (histogram, lines) = &series.value;
            histogram.print(out, lines);
        }
        counts.duration.print_created(out, name, DURATION);
    }
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    out.push_str(name);
    out.push_str(labels);
    out.push(' ');
    go_float(out, value);
    out.push('\n');
}

// === impl Family ===

impl<T> Default for Family<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Family<T> {
    /// The series with these labels, new if there is none.
    fn of(&mut self, labels: &[Label<'_>], new: impl FnOnce() -> T) -> &mut T {
        let labels = sorted(labels);
        let found = self.0.iter().position(|series| series.labels == labels);
        let index = found.unwrap_or_else(|| {
            self.0.push(Series {
                labels,
                created: now(),
                value: new(),
            });
            self.0.len() - 1
        });
        &mut self.0[index].value
    }

    /// Python's client knows no such family before it has a series.
    fn print_created(&self, out: &mut String, name: &str, help: &str) {
        if self.0.is_empty() {
            return;
        }
        let name = format!("{name}_created");
        out.push_str(&head(&name, "gauge", help));
        for series in &self.0 {
            line(out, &name, &series.labels, series.created);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route() {
        let stats = HttpStats::new(1.5e9);
        let mut idle = String::new();
        stats.print(&mut idle);
        let types: Vec<_> = idle
            .lines()
            .filter_map(|l| l.strip_prefix("# TYPE "))
            .collect();
        assert_eq!(
            types,
            [
                "http_requests_total counter",
                "http_request_size_bytes summary",
                "http_response_size_bytes summary",
                "http_request_duration_highr_seconds histogram",
                "http_request_duration_highr_seconds_created gauge",
                "http_request_duration_seconds histogram",
            ]
        );
        assert!(!idle.contains("handler="), "{idle}");
        for (status, time) in [(200, 50), (204, 2000), (503, 1)] {
            let time = Duration::from_millis(time);
            stats.observe("/v1/completions", "POST", status, 10, 0, time);
        }
        let mut page = String::new();
        stats.print(&mut page);
        for line in [
            r#"http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 2.0"#,
            r#"http_requests_total{handler="/v1/completions",method="POST",status="5xx"} 1.0"#,
            r#"http_request_size_bytes_sum{handler="/v1/completions"} 30.0"#,
            r#"http_response_size_bytes_count{handler="/v1/completions"} 3.0"#,
            r#"http_request_duration_highr_seconds_bucket{le="0.05"} 2.0"#,
            "http_request_duration_highr_seconds_sum 2.051",
            "http_request_duration_highr_seconds_created 1.5e+09",
            r#"http_request_duration_seconds_bucket{handler="/v1/completions",le="1.0",method="POST"} 2.0"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
