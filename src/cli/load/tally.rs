//! What is counted while it runs.
//!
//! | Counted | Of which requests |
//! |---|---|
//! | completed, and so the rate and the CPU a request | those that ended well within the measured time, whenever due |
//! | latency, lag, errors, not sent | those due within the measured time, whenever they ended |
//!
//! Past saturation the two differ: what ends after the measured time took none of its CPU, but was late all the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::exchange::Outcome;

/// Distinct kinds of error that are told apart; a picker may invent any status.
const MOST_ERRORS: usize = 32;
const OTHER_ERRORS: &str = "other errors";
/// Microseconds.
const LONGEST: u64 = 3_600_000_000;

/// The measured time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Instant,
    /// Not part of it.
    pub(super) to: Instant,
}

/// Counts.
#[derive(Debug)]
pub(super) struct Tally {
    window: Window,
    /// Requests due.
    pub(super) due: u64,
    /// Those that were never sent, because too many were under way.
    pub(super) not_sent: u64,
    pub(super) completed: u64,
    pub(super) errors: BTreeMap<String, u64>,
    /// Of decisions.
    pub(super) latency: Times,
    /// Of the client itself.
    pub(super) lag: Times,
}

/// Durations of up to an hour, to the microsecond or a thousandth.
#[derive(Debug)]
pub(super) struct Times(Histogram<u64>);

// === impl Window ===

impl Window {
    fn contains(self, at: Instant) -> bool {
        (self.from..self.to).contains(&at)
    }
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            due: 0,
            not_sent: 0,
            completed: 0,
            errors: BTreeMap::new(),
            latency: Times::new(),
            lag: Times::new(),
        }
    }

    pub(super) fn add(&mut self, outcome: &Outcome) {
        if outcome.decided.is_ok() && self.window.contains(outcome.ended) {
            self.completed += 1;
        }
        if !self.window.contains(outcome.due) {
            return;
        }
        self.due += 1;
        if let Some(lag) = outcome.lag {
            self.lag.add(lag);
        }
        match outcome.decided {
            Ok(latency) => self.latency.add(latency),
            Err(failure) => self.error(failure.to_string()),
        }
    }

    /// A request that was due at `due`, while too many were under way.
    pub(super) fn skip(&mut self, due: Instant) {
        if self.window.contains(due) {
            self.due += 1;
            self.not_sent += 1;
        }
    }

    pub(super) fn error(&mut self, error: String) {
        let known = self.errors.len() < MOST_ERRORS || self.errors.contains_key(&error);
        let error = if known {
            error
        } else {
            OTHER_ERRORS.to_owned()
        };
        *self.errors.entry(error).or_default() += 1;
    }
}

// === impl Times ===

impl Times {
    fn new() -> Self {
        Self(
            Histogram::new_with_bounds(1, LONGEST, 3)
                .unwrap_or_else(|_| unreachable!("constant bounds that the library takes")),
        )
    }

    fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST);
        self.0.saturating_record(micros.max(1));
    }

    /// Milliseconds; `None` if there are no times.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        let micros = self.0.value_at_quantile(quantile);
        (!self.0.is_empty()).then(|| micros as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::Failure;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Measures from second 10 to second 20.
    fn tally() -> (Instant, Tally) {
        let start = Instant::now();
        let window = Window {
            from: start + SECOND * 10,
            to: start + SECOND * 20,
        };
        (start, Tally::new(window))
    }

    #[test]
    fn due_and_ended_count_each_for_its_own() {
        let (start, mut tally) = tally();
        for (due, ended, decided) in [
            // Before, across its start, within, across its end, after.
            (5, 9, Ok(SECOND)),
            (9, 11, Ok(SECOND * 2)),
            (12, 13, Ok(SECOND)),
            (19, 25, Ok(SECOND * 6)),
            (20, 21, Ok(SECOND)),
            (12, 13, Err(Failure::Immediate(503))),
            (19, 25, Err(Failure::Deadline)),
            (9, 11, Err(Failure::Deadline)),
        ] {
            tally.add(&Outcome {
                due: start + SECOND * due,
                ended: start + SECOND * ended,
                lag: Some(Duration::from_micros(7)),
                decided,
            });
        }
        for due in [9, 10, 19, 20] {
            tally.skip(start + SECOND * due);
        }
        assert_eq!((tally.due, tally.not_sent, tally.completed), (6, 2, 2));
        let errors = [("immediate response 503", 1), ("timed out", 1)];
        assert!(
            tally
                .errors
                .iter()
                .map(|(k, v)| (k.as_str(), *v))
                .eq(errors)
        );
        assert_eq!((tally.latency.0.len(), tally.lag.0.len()), (2, 4));
        let slowest = tally.latency.quantile(1.0).unwrap();
        assert!((5990.0..6010.0).contains(&slowest), "{slowest}");
        assert_eq!(tally.lag.quantile(0.5), Some(0.007));
    }

    #[test]
    fn distinct_errors_are_bounded() {
        let (_, mut tally) = tally();
        for status in 0..1000 {
            tally.error(Failure::Immediate(status).to_string());
            tally.error(Failure::Immediate(0).to_string());
        }
        assert_eq!(tally.errors.len(), MOST_ERRORS + 1);
        assert_eq!(tally.errors["immediate response 0"], 1001);
        assert_eq!(tally.errors.values().sum::<u64>(), 2000);
        assert_eq!(tally.latency.quantile(0.5), None);
    }
}
