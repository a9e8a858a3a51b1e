//! What was measured, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::process::Spent;
use super::tally::{Tally, Times};

const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];
/// Width of the first column, and of those of numbers.
const NAME: usize = 16;
const NUMBER: usize = 10;

/// Counts when it is over.
#[derive(Debug)]
pub(super) struct Report {
    tally: Tally,
    duration: Duration,
    offered: Option<f64>,
    spent: Option<Spent>,
}

// === impl Report ===

impl Report {
    /// `offered`: the rate asked for, if one was.
    pub(super) fn new(
        tally: Tally,
        duration: Duration,
        offered: Option<f64>,
        spent: Option<Spent>,
    ) -> Self {
        Self {
            tally,
            duration,
            offered,
            spent,
        }
    }

    fn rate(&self) -> f64 {
        self.tally.completed as f64 / self.duration.as_secs_f64()
    }

    /// `None` also if none completed: then the CPU went elsewhere.
    fn cpu_ms_a_request(&self) -> Option<f64> {
        let spent = self.spent?;
        let completed = self.tally.completed;
        (completed > 0).then(|| spent.cpu_seconds * 1e3 / completed as f64)
    }

    /// The keys are those of `load --help`.
    pub(super) fn to_json(&self) -> Value {
        let tally = &self.tally;
        json!({
            "duration_seconds": self.duration.as_secs_f64(),
            "offered_rate": self.offered,
            "rate": self.rate(),
            "completed": tally.completed,
            "due": tally.due,
            "errors": tally.errors,
            "not_sent": tally.not_sent,
            "latency_ms": quantiles(&tally.latency),
            "client_lag_ms": quantiles(&tally.lag),
            "cpu_seconds": self.spent.map(|spent| spent.cpu_seconds),
            "cpu_ms_per_request": self.cpu_ms_a_request(),
            "rss_bytes": self.spent.map(|spent| spent.rss),
        })
    }
}

fn quantiles(times: &Times) -> Value {
    let object: Map<_, _> = QUANTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), times.quantile(*quantile).into()))
        .collect();
    object.into()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        write!(
            f,
            "{:<NAME$}{:>NUMBER$}  {:.1} a second",
            "completed",
            tally.completed,
            self.rate()
        )?;
        if let Some(offered) = self.offered {
            write!(f, " of {offered} offered")?;
        }
        let errors: u64 = tally.errors.values().sum();
        writeln!(f, "\n{:<NAME$}{errors:>NUMBER$}", "errors")?;
        for (error, count) in &tally.errors {
            writeln!(f, "{:<NAME$}{count:>NUMBER$}  {error}", "")?;
        }
        if tally.not_sent > 0 {
            writeln!(
                f,
                "{:<NAME$}{:>NUMBER$}  too many were under way; the latencies leave them out",
                "not sent", tally.not_sent
            )?;
        }
        write!(f, "{:<NAME$}", "milliseconds")?;
        for (name, _) in QUANTILES {
            write!(f, "{name:>NUMBER$}")?;
        }
        for (name, times) in [
            ("decision latency", &tally.latency),
            ("client lag", &tally.lag),
        ] {
            write!(f, "\n{name:<NAME$}")?;
            for (_, quantile) in QUANTILES {
                match times.quantile(quantile) {
                    Some(time) => write!(f, "{time:>NUMBER$.3}")?,
                    None => write!(f, "{:>NUMBER$}", "-")?,
                }
            }
        }
        writeln!(f)?;
        if let Some(spent) = self.spent {
            write!(
                f,
                "{:<NAME$}{:>NUMBER$.2}  CPU seconds",
                "picker", spent.cpu_seconds
            )?;
            if let Some(cpu) = self.cpu_ms_a_request() {
                write!(f, ", {cpu:.4} ms a request")?;
            }
            let mib = spent.rss as f64 / f64::from(1 << 20);
            writeln!(f, ", {mib:.1} MiB resident")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::exchange::Outcome;
    use super::super::failure::Failure;
    use super::super::tally::Window;
    use super::*;

    fn report(outcomes: &[Result<Duration, Failure>]) -> Report {
        let from = Instant::now();
        let duration = Duration::from_secs(2);
        let to = from + duration;
        let mut tally = Tally::new(Window { from, to });
        for decided in outcomes {
            tally.add(&Outcome {
                due: from,
                ended: from,
                lag: Some(Duration::from_micros(20)),
                decided: *decided,
            });
        }
        let spent = Spent {
            cpu_seconds: 0.5,
            rss: 3 << 20,
        };
        Report::new(tally, duration, Some(2.5), Some(spent))
    }

    #[test]
    fn people_get_a_table() {
        let ms = Duration::from_millis(1);
        let mut report = report(&[Ok(ms), Ok(ms), Err(Failure::Immediate(503))]);
        report.tally.skip(Instant::now());
        let expected = "\
completed                2  1.0 a second of 2.5 offered
errors                   1
                         1  immediate response 503
not sent                 1  too many were under way; the latencies leave them out
milliseconds           p50       p90       p99     p99.9       max
decision latency     1.000     1.000     1.000     1.000     1.000
client lag           0.020     0.020     0.020     0.020     0.020
picker                0.50  CPU seconds, 250.0000 ms a request, 3.0 MiB resident
";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn programs_get_json() {
        let times = json!({"p50": 1.0, "p90": 1.0, "p99": 1.0, "p99.9": 1.0, "max": 1.0});
        let report = report(&[Ok(Duration::from_millis(1)), Err(Failure::Deadline)]);
        let lag = quantiles(&report.tally.lag);
        assert_eq!(
            report.to_json(),
            json!({
                "duration_seconds": 2.0,
                "offered_rate": 2.5,
                "rate": 0.5,
                "completed": 1,
                "due": 2,
                "errors": {"timed out": 1},
                "not_sent": 0,
                "latency_ms": times,
                "client_lag_ms": lag,
                "cpu_seconds": 0.5,
                "cpu_ms_per_request": 500.0,
                "rss_bytes": 3 << 20,
            })
        );
    }

    #[test]
    fn what_is_not_known_is_not_a_number() {
        let report = report(&[]);
        let json = report.to_json();
        assert_eq!(json["cpu_ms_per_request"], Value::Null);
        assert_eq!(json["latency_ms"]["p50"], Value::Null);
        assert!(report.to_string().contains("decision latency         -"));
    }
}
