//! One run, counted.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{LoadOverTime, Outcome, Served, Slo};

/// Microseconds; what takes longer counts as this.
const LONGEST: u64 = 86_400_000_000;
/// Reasons that are told apart.
const MOST_REASONS: usize = 16;

/// Durations of up to a day, to the microsecond or a thousandth.
#[derive(Clone, Debug)]
pub struct Times {
    histogram: Histogram<u64>,
    /// Seconds.
    sum: f64,
}

/// Counts of one run.
#[derive(Clone, Debug)]
pub struct Tally {
    slo: Slo,
    pub(super) ttft: Times,
    pub(super) tpot: Times,
    pub(super) e2e: Times,
    pub(super) load: LoadOverTime,
    served: u64,
    good: u64,
    late: u64,
    slow: u64,
    lost: u64,
    rejected: BTreeMap<&'static str, u64>,
    prompt: u64,
    cached: u64,
    output: u64,
    lora_loads: Option<u64>,
    /// Seconds: first and last arrival, last end.
    from: f64,
    to: f64,
    end: f64,
}

/// What a run comes to. Seconds, tokens, shares of 0 to 1; NaN: there is nothing to tell it from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Numbers {
    /// Requests that came.
    pub requests: u64,
    /// Requests that were served.
    pub served: u64,
    /// Requests that were sent back, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Requests that were taken and never answered.
    pub lost: u64,
    /// Share of all that was sent back.
    pub rejected_share: f64,
    /// Share of all that was lost.
    pub lost_share: f64,
    /// Share of all that was good.
    pub good_share: f64,
    /// Share of all that was served, and whose first token came too late.
    pub late_share: f64,
    /// Share of all that was served, and whose tokens came too slowly; some of it is late too.
    pub slow_share: f64,
    /// Good requests a second.
    pub goodput: f64,
    /// Output tokens a second.
    pub throughput: f64,
    /// Of prompt tokens, found cached.
    pub cache_hit: f64,
    /// Times that an engine loaded a LoRA adapter; NaN: the traffic has none.
    pub lora_loads: f64,
    /// To the first token.
    pub ttft: Quantiles,
    /// Between tokens.
    pub tpot: Quantiles,
    /// To the end.
    pub e2e: Quantiles,
    /// Coefficient of variation of load over endpoints.
    pub load_cv: f64,
    /// The most loaded endpoint over the mean.
    pub load_max_mean: f64,
    /// From the first arrival to the last end.
    pub seconds: f64,
}

/// Of times, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 90 of 100 are not longer.
    pub p90: f64,
    /// 99 of 100 are not longer.
    pub p99: f64,
}

// === impl Times ===

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3)
            .unwrap_or_else(|_| unreachable!("constant bounds that the library takes"));
        Self {
            histogram,
            sum: 0.0,
        }
    }
}

impl Times {
    fn record(&mut self, seconds: f64) {
        self.sum += seconds;
        self.histogram
            .saturating_record(((seconds * 1e6) as u64).max(1));
    }

    /// Those of `other` too.
    pub(super) fn add(&mut self, other: &Self) {
        // Of the same bounds.
        let _ = self.histogram.add(&other.histogram);
        self.sum += other.sum;
    }

    /// Seconds; NaN: there are none.
    pub fn quantile(&self, quantile: f64) -> f64 {
        if self.histogram.is_empty() {
            return f64::NAN;
        }
        self.histogram.value_at_quantile(quantile) as f64 / 1e6
    }

    /// Mean and quantiles.
    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            // Not the histogram's, which knows a thousandth.
            mean: self.sum / self.histogram.len() as f64,
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Nothing yet, of a run over so many endpoints.
    pub fn new(slo: Slo, endpoints: usize) -> Self {
        Self {
            slo,
            ttft: Times::default(),
            tpot: Times::default(),
            e2e: Times::default(),
            load: LoadOverTime::new(endpoints),
            served: 0,
            good: 0,
            late: 0,
            slow: 0,
            lost: 0,
            rejected: BTreeMap::new(),
            prompt: 0,
            cached: 0,
            output: 0,
            lora_loads: None,
            from: f64::INFINITY,
            to: f64::NEG_INFINITY,
            end: f64::NEG_INFINITY,
        }
    }

    /// A request ended. In any order.
    pub fn add(&mut self, it: &Served) {
        let end = it.end();
        self.from = self.from.min(it.arrival);
        self.to = self.to.max(it.arrival);
        self.end = self.end.max(end);
        if let Some(endpoint) = it.endpoint {
            self.load.add(endpoint, it.arrival, end);
        }
        match it.outcome {
            Outcome::Served { ttft, e2e } => {
                self.served += 1;
                self.prompt += u64::from(it.prompt);
                self.cached += u64::from(it.cached);
                self.output += u64::from(it.output);
                self.ttft.record(ttft);
                self.e2e.record(e2e);
                let tpot = it.tpot();
                if let Some(tpot) = tpot {
                    self.tpot.record(tpot);
                }
                let in_time = ttft <= self.slo.ttft;
                let fast = tpot.is_none_or(|tpot| tpot <= self.slo.tpot);
                self.good += u64::from(in_time && fast);
                self.late += u64::from(!in_time);
                self.slow += u64::from(!fast);
            }
            Outcome::Rejected { reason, .. } => {
                let known =
                    self.rejected.len() < MOST_REASONS || self.rejected.contains_key(reason);
                let reason = if known { reason } else { "other" };
                *self.rejected.entry(reason).or_default() += 1;
            }
            Outcome::Lost { .. } => self.lost += 1,
        }
    }

    /// So many times an engine loaded an adapter.
    pub fn lora_loads(&mut self, loads: Option<u64>) {
        self.lora_loads = loads;
    }

    /// What it comes to.
    pub fn numbers(&self) -> Numbers {
        let rejected: u64 = self.rejected.values().sum();
        let requests = self.served + self.lost + rejected;
        let share = |part: u64| part as f64 / requests as f64;
        // A load that comes all at once has no rate.
        let a_second = |part: f64, seconds: f64| match seconds > 0.0 {
            true => part / seconds,
            false => f64::NAN,
        };
        let (load_cv, load_max_mean) = self.load.imbalance();
        Numbers {
            requests,
            served: self.served,
            rejected: self.rejected.clone(),
            lost: self.lost,
            rejected_share: share(rejected),
            lost_share: share(self.lost),
            good_share: share(self.good),
            late_share: share(self.late),
            slow_share: share(self.slow),
            goodput: a_second(self.good as f64, self.to - self.from),
            throughput: a_second(self.output as f64, self.end - self.from),
            cache_hit: self.cached as f64 / self.prompt as f64,
            lora_loads: self.lora_loads.map_or(f64::NAN, |loads| loads as f64),
            ttft: self.ttft.quantiles(),
            tpot: self.tpot.quantiles(),
            e2e: self.e2e.quantiles(),
            load_cv,
            load_max_mean,
            seconds: self.end - self.from,
        }
    }
}
