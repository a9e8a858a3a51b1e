//! Parameters of the saturation detectors, which are read where the pool's saturation is told and where they filter.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::{Problem, units};
use super::Parameters;

/// Of `utilization-detector`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct UtilizationDetectorParams {
    /// Requests waiting in a full endpoint.
    pub queue_depth_threshold: i64,
    /// Share of a full endpoint's KV cache that is in use.
    pub kv_cache_util_threshold: f64,
    /// How old a scrape may be, in Go's syntax. [`UtilizationDetectorParams::staleness`] is what it comes to.
    pub metrics_staleness_threshold: String,
    /// How far above the thresholds the filter lets endpoints go: 0.2 = by a fifth.
    pub headroom: f64,
}

/// Of `concurrency-detector`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ConcurrencyDetectorParams {
    /// What is counted.
    pub concurrency_mode: ConcurrencyMode,
    /// Requests in flight at a full endpoint.
    pub max_concurrency: i64,
    /// Tokens in flight at a full endpoint.
    pub max_token_concurrency: i64,
    /// How far above them the filter lets endpoints go: 0.2 = by a fifth.
    pub headroom: f64,
    /// There is one.
    #[serde(rename = "inFlightLoadProducerName")]
    _in_flight_load_producer_name: String,
}

/// What `concurrency-detector` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConcurrencyMode {
    /// Requests.
    #[default]
    Requests,
    /// Tokens, as `inflight-load-producer` estimates them.
    Tokens,
    /// Whichever of both is nearer to its limit.
    Hybrid,
}

/// A threshold that everything would be divided by.
pub(crate) fn positive(
    parameters: &Parameters,
    field: &str,
    value: impl Into<f64>,
) -> Result<(), Problem> {
    let value = value.into();
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(parameters.field_problem(field, &format!("{value} is not above 0"))),
    }
}

/// A share of a KV cache that is not nothing.
pub(crate) fn share(parameters: &Parameters, field: &str, value: f64) -> Result<(), Problem> {
    match value > 0.0 && value <= 1.0 {
        true => Ok(()),
        false => {
            let message = format!("{value} is not above 0 and at most 1");
            Err(parameters.field_problem(field, &message))
        }
    }
}

fn headroom(parameters: &Parameters, value: f64) -> Result<(), Problem> {
    match value >= 0.0 && value.is_finite() {
        true => Ok(()),
        false => {
            let message = format!("{value} is negative or no number; write for instance 0.2");
            Err(parameters.field_problem("headroom", &message))
        }
    }
}

// === impl UtilizationDetectorParams ===

impl Default for UtilizationDetectorParams {
    fn default() -> Self {
        Self {
            queue_depth_threshold: 5,
            kv_cache_util_threshold: 0.8,
            metrics_staleness_threshold: "200ms".to_owned(),
            headroom: 0.0,
        }
    }
}

impl UtilizationDetectorParams {
    /// Reads and checks them.
    pub fn of(parameters: &Parameters) -> Result<Self, Problem> {
        let read: Self = parameters.read()?;
        let (queue, kv) = (read.queue_depth_threshold, read.kv_cache_util_threshold);
        positive(parameters, "queueDepthThreshold", queue as f64)?;
        share(parameters, "kvCacheUtilThreshold", kv)?;
        headroom(parameters, read.headroom)?;
        let field = "metricsStalenessThreshold";
        let staleness = units::duration(&read.metrics_staleness_threshold)
            .map_err(|error| parameters.field_problem(field, &error))?;
        if staleness.is_zero() {
            let message = "0 makes every scrape too old; write for instance 200ms";
            return Err(parameters.field_problem(field, message));
        }
        Ok(read)
    }

    /// How old a scrape may be, unless the next one cannot have been made by then: see
    /// [`LoadView::is_fresh`](crate::pool::LoadView::is_fresh).
    pub fn staleness(&self) -> Duration {
        // Checked when it was read.
        units::duration(&self.metrics_staleness_threshold).unwrap_or_default()
    }
}

// === impl ConcurrencyDetectorParams ===

impl Default for ConcurrencyDetectorParams {
    fn default() -> Self {
        Self {
            concurrency_mode: ConcurrencyMode::Requests,
            max_concurrency: 100,
            max_token_concurrency: 1_000_000,
            headroom: 0.0,
            _in_flight_load_producer_name: String::new(),
        }
    }
}

impl ConcurrencyDetectorParams {
    /// Reads and checks them.
    pub fn of(parameters: &Parameters) -> Result<Self, Problem> {
        let read: Self = parameters.read()?;
        positive(parameters, "maxConcurrency", read.max_concurrency as f64)?;
        let tokens = read.max_token_concurrency as f64;
        positive(parameters, "maxTokenConcurrency", tokens)?;
        headroom(parameters, read.headroom)?;
        Ok(read)
    }
}
