//! LoRA adapters for a trace that names none.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{NONE, Trace, WorkloadError};

/// How popular each of some adapters is: by Zipf's law, the n-th has 1 / n^s of what the first has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapters {
    /// How many there are.
    pub count: u16,
    /// The share of the first, from which s follows. GenTD26, of production traffic: 0.31 (gpu-and-simulation.md §3).
    pub top: f64,
}

// === impl Adapters ===

impl Adapters {
    /// What share of all the adapters up to each have.
    fn cumulated(self) -> Result<Vec<f64>, WorkloadError> {
        let even = 1.0 / f64::from(self.count.max(1));
        if self.count == 0 || !(even..1.0).contains(&self.top) && self.count > 1 {
            return Err(WorkloadError::Scale(format!(
                "of {} adapters the most popular cannot have {} of all requests; ask for one adapter at least, and for a share from {even} to less than 1",
                self.count, self.top
            )));
        }
        let weights = |s: f64| (1..=self.count).map(move |n| f64::from(n).powf(-s));
        let (mut low, mut high) = (0.0, 64.0);
        for _ in 0..64 {
            let middle = (low + high) / 2.0;
            // The first weighs 1.
            match 1.0 / weights(middle).sum::<f64>() < self.top {
                true => low = middle,
                false => high = middle,
            }
        }
        let all: f64 = weights(low).sum();
        let mut sum = 0.0;
        let cumulated = weights(low).map(|weight| {
            sum += weight / all;
            sum
        });
        Ok(cumulated.collect())
    }
}

// === impl Trace ===

impl Trace {
    /// Gives each session, or else each request, one of `adapters`, by `seed`. Fails where the trace names adapters itself.
    pub(super) fn with_adapters(
        mut self,
        adapters: Adapters,
        seed: u64,
    ) -> Result<Self, WorkloadError> {
        if self.adapters > 0 {
            let wrong = "the trace names adapters itself; do not ask for others";
            return Err(WorkloadError::Scale(wrong.to_owned()));
        }
        let cumulated = adapters.cumulated()?;
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut draw = || {
            let unit: f64 = rng.random();
            // The last sum may be rounded to less than 1.
            let place = cumulated.partition_point(|&sum| sum <= unit);
            (place as u16).min(adapters.count - 1) + 1
        };
        // Sessions are numbered in the order in which they are met.
        let mut of_sessions: Vec<u16> = Vec::new();
        for row in &mut self.rows {
            let session = row.session as usize;
            row.adapter = match row.session {
                NONE => draw(),
                _ => {
                    while of_sessions.len() <= session {
                        of_sessions.push(draw());
                    }
                    of_sessions[session]
                }
            };
        }
        self.adapters = adapters.count;
        Ok(self)
    }
}
