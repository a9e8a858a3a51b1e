//! Who may go now: which requests are turned away before they are scheduled, so that others have room.
//!
//! Only a request of negative priority (its objective's, see [`crate::pool::objectives`]) is ever turned away here: it may
//! be shed. First by the saturation detector, which says how full what the request may use is: at 1.0 or above the request
//! is refused with 429. That is the llm-d picker's admission without flow control. Then by the admitters, in the order in
//! which they are declared. For any other request nothing is computed at all.
//!
//! The detector is `flowControl.saturationDetector`; without it a `utilization-detector`:
//!
//! | Detector | Saturation of some endpoints | Parameters |
//! |---|---|---|
//! | `utilization-detector` | mean of `max(q / queueDepthThreshold, kv / kvCacheUtilThreshold)` | `queueDepthThreshold` 5, `kvCacheUtilThreshold` 0.8, `metricsStalenessThreshold` 200ms, `headroom` 0 |
//! | `concurrency-detector` | `Σ in flight / Σ capacity`; `hybrid`: mean of `max(requests / maxConcurrency, tokens / maxTokenConcurrency)` | `concurrencyMode` requests (or tokens, hybrid), `maxConcurrency` 100, `maxTokenConcurrency` 1000000, `headroom` 0, `inFlightLoadProducerName` (the only one) |
//!
//! What counts is the greater of the saturations of the endpoints that do prefill and of those that do decode, by their
//! roles ([`crate::pool::stages`]): a request needs both. `headroom` counts only where a profile has the detector as a
//! filter.
//!
//! Three things differ from the llm-d picker:
//!
//! - It asks the whole pool; here only the request's own candidates are asked, those of its subset, without the endpoints
//!   that an open breaker keeps requests from. No candidate at all is 1.0, as there.
//! - `q` is the effective queue ([`crate::pool::load`]): a burst is felt at once, not with the next scrape.
//! - An endpoint without a fresh scrape is full there, so that a scrape that fails stops the pool. Here it is left out of
//!   the mean, and where nothing is known nothing is shed.
//!
//! For that reason a scrape had better not be called old too soon: a busy server's page is late, and to leave the busiest
//! out is to open the gate when it should close. So a scrape is fresh while its successor is not overdue, which is two
//! scrape intervals and one scrape timeout, and after that for as long as `metricsStalenessThreshold` says. A threshold
//! below that (the default is, at a scrape every 50 ms) has no further effect, and neither has one above
//! `--metrics-staleness-threshold`, past which no part of the picker believes a scrape.

use rand::rngs::SmallRng;

use crate::config::{ConfigErrors, PickerConfig};
use crate::pool::{LoadView, Snapshot};

mod admitters;
mod detectors;

use admitters::probabilistic::Probabilistic;
use detectors::Detector;

/// How full is full.
const FULL: f32 = 1.0;

/// What is looked at: one moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The pool.
    pub snapshot: &'a Snapshot,
    /// Its load, by position.
    pub load: &'a LoadView,
    /// When, in milliseconds of [`crate::pool::clock_ms`].
    pub now_ms: u64,
}

/// The detector and the admitters of a configuration.
#[derive(Debug)]
pub struct Admission {
    detector: Detector,
    /// With their names.
    admitters: Vec<(String, Probabilistic)>,
}

/// Why a request is turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shed {
    /// What it may use is full.
    #[error("{}", self.reason())]
    Saturated,
    /// The admitter of this name does not let it go.
    #[error("request cannot be admitted: {0} sheds requests of its priority at this load")]
    NotAdmitted(String),
}

// === impl Shed ===

impl Shed {
    /// What it says, whatever the configuration's names.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Saturated => "system saturated, sheddable request dropped",
            Self::NotAdmitted(_) => "an admitter turned it away",
        }
    }
}

// === impl Admission ===

impl Admission {
    /// As `config` says.
    pub fn of(config: &PickerConfig) -> Result<Self, ConfigErrors> {
        let mut problems = Vec::new();
        let detector = Detector::of(&config.detector).map_err(|problem| problems.push(problem));
        let mut admitters = Vec::new();
        for plugin in &config.admitters {
            match admitters::of(plugin) {
                Ok(admitter) => admitters.extend(admitter.map(|a| (plugin.name.clone(), a))),
                Err(problem) => problems.push(problem),
            }
        }
        match detector {
            Ok(detector) if problems.is_empty() => Ok(Self {
                detector,
                admitters,
            }),
            _ => Err(ConfigErrors(problems)),
        }
    }

    /// Whether a request of `priority` that may use `candidates` may go.
    pub fn admit(
        &self,
        priority: i32,
        view: View<'_>,
        candidates: &[u32],
        rng: &mut SmallRng,
    ) -> Result<(), Shed> {
        if priority >= 0 {
            return Ok(());
        }
        if self.detector.saturation(view, candidates) >= FULL {
            return Err(Shed::Saturated);
        }
        for (name, admitter) in &self.admitters {
            if !admitter.admits(view, candidates, rng) {
                return Err(Shed::NotAdmitted(name.clone()));
            }
        }
        Ok(())
    }
}

/// How full the endpoint at `position` is: the greater of queue and KV cache, each by what is full. NaN = not known.
fn pressure(load: &LoadView, position: u32, queue: f32, kv: f32) -> f32 {
    let at = position as usize;
    // `max` of f32 passes over NaN.
    (load.waiting[at] / queue).max(load.kv_usage[at] / kv)
}

/// Of those that are known, if any is.
fn mean(values: impl Iterator<Item = f32>) -> Option<f32> {
    let (mut sum, mut count) = (0.0, 0);
    for value in values.filter(|value| !value.is_nan()) {
        sum += f64::from(value);
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)) as f32)
}

#[cfg(test)]
mod tests;
