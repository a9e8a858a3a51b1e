//! What was measured.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::exchange::Outcome;
use super::process::Usage;

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Counts while it runs.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Latencies in microseconds.
    latencies: Vec<u32>,
    errors: BTreeMap<String, u64>,
    /// Due, but too many were under way.
    pub(super) not_sent: u64,
}

/// Counts when it is over.
#[derive(Debug)]
pub(super) struct Report {
    completed: u64,
    errors: BTreeMap<String, u64>,
    not_sent: u64,
    rate: f64,
    offered: f64,
    histogram: Histogram<u64>,
    usage: Option<(f64, u64)>,
}

// === impl Tally ===

impl Tally {
    /// Takes an exchange that was due within the measured time.
    pub(super) fn add(&mut self, ended: Result<Outcome, JoinError>, from: Instant, to: Instant) {
        let (from, to) = (from.into_std(), to.into_std());
        match ended {
            Ok(outcome) if outcome.due < from || outcome.due >= to => {}
            Ok(outcome) => match outcome.decided {
                Ok(latency) => {
                    let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
                    self.latencies.push(micros);
                }
                Err(failure) => self.error(failure.to_string()),
            },
            Err(error) => self.error(error.to_string()),
        }
    }

    pub(super) fn error(&mut self, error: String) {
        *self.errors.entry(error).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.not_sent += other.not_sent;
    }
}

// === impl Report ===

impl Report {
    pub(super) fn new(
        tally: Tally,
        duration: Duration,
        offered: f64,
        usage: Option<(Usage, Usage)>,
    ) -> Self {
        let completed = tally.latencies.len() as u64;
        let bounds = (1, 600_000_000, 3);
        // The bounds are constants that the library takes.
        let mut histogram = Histogram::new_with_bounds(bounds.0, bounds.1, bounds.2)
            .unwrap_or_else(|_| unreachable!("constant bounds"));
        for micros in tally.latencies {
            histogram.saturating_record(u64::from(micros.max(1)));
        }
        Self {
            completed,
            errors: tally.errors,
            not_sent: tally.not_sent,
            rate: completed as f64 / duration.as_secs_f64(),
            offered,
            histogram,
            usage: usage.map(|(before, after)| (after.cpu_seconds - before.cpu_seconds, after.rss)),
        }
    }

    /// Milliseconds.
    fn quantile(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1e3
    }

    fn cpu_ms_a_request(&self) -> Option<f64> {
        let (seconds, _) = self.usage?;
        Some(seconds * 1e3 / self.completed.max(1) as f64)
    }

    pub(super) fn to_json(&self) -> Value {
        let latency: serde_json::Map<String, Value> = QUANTILES
            .iter()
            .map(|(name, quantile)| ((*name).to_owned(), self.quantile(*quantile).into()))
            .chain([("max".to_owned(), (self.histogram.max() as f64 / 1e3).into())])
            .collect();
        json!({
            "completed": self.completed,
            "errors": self.errors,
            "not_sent": self.not_sent,
            "offered_rate": self.offered,
            "rate": self.rate,
            "latency_ms": latency,
            "cpu_seconds": self.usage.map(|(cpu, _)| cpu),
            "cpu_ms_per_request": self.cpu_ms_a_request(),
            "rss_bytes": self.usage.map(|(_, rss)| rss),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "completed {}, {:.0} a second", self.completed, self.rate)?;
        if self.offered > 0.0 {
            write!(f, " of {:.0} offered", self.offered)?;
        }
        writeln!(f)?;
        let errors: u64 = self.errors.values().sum();
        writeln!(f, "errors {errors}")?;
        for (error, count) in &self.errors {
            writeln!(f, "  {count} {error}")?;
        }
        if self.not_sent > 0 {
            writeln!(f, "not sent {}: too many were under way", self.not_sent)?;
        }
        write!(f, "decision latency, ms:")?;
        for (name, quantile) in QUANTILES {
            write!(f, " {name} {:.3}", self.quantile(quantile))?;
        }
        write!(f, " max {:.3}", self.histogram.max() as f64 / 1e3)?;
        if let (Some((cpu, rss)), Some(a_request)) = (self.usage, self.cpu_ms_a_request()) {
            write!(
                f,
                "\npicker: {cpu:.2} CPU seconds, {a_request:.4} ms a request, {:.1} MiB resident",
                rss as f64 / f64::from(1 << 20)
            )?;
        }
        Ok(())
    }
}
