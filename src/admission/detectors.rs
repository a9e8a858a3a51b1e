//! Saturation detectors: formulas and parameters in [`crate::admission`]. Source: the llm-d picker.
//!
//! `utilization-detector` is for pools whose engines tell their load; `concurrency-detector` for a pool whose capacity is
//! known as a number of requests or tokens, or whose pages cannot be read. The latter goes by what we have in flight,
//! which ends with the response: where no response comes by (decision-only without an observer) it sees nothing.

use super::{FULL, View, mean, pressure};
use crate::config::params::{
    ConcurrencyDetectorParams, ConcurrencyMode, UtilizationDetectorParams,
};
use crate::config::{PluginUse, Problem};
use crate::pool::Stages;

/// Says how full endpoints are: 1.0 = full.
#[derive(Debug)]
pub(super) enum Detector {
    Utilization {
        queue: f32,
        kv: f32,
        staleness_ms: u64,
    },
    Concurrency {
        mode: ConcurrencyMode,
        requests: f64,
        tokens: f64,
    },
}

// === impl Detector ===

impl Detector {
    pub(super) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        Ok(match plugin.entry.name {
            "utilization-detector" => {
                let params = UtilizationDetectorParams::of(&plugin.parameters)?;
                Self::Utilization {
                    queue: params.queue_depth_threshold as f32,
                    kv: params.kv_cache_util_threshold as f32,
                    staleness_ms: params.staleness().as_millis() as u64,
                }
            }
            "concurrency-detector" => {
                let params = ConcurrencyDetectorParams::of(&plugin.parameters)?;
                Self::Concurrency {
                    mode: params.concurrency_mode,
                    requests: params.max_concurrency as f64,
                    tokens: params.max_token_concurrency as f64,
                }
            }
            name => {
                let message = format!("plugin type `{name}` cannot be made");
                return Err(Problem::new(0, message));
            }
        })
    }

    /// Of all stages that `candidates` do, the fullest.
    pub(super) fn saturation(&self, view: View<'_>, candidates: &[u32]) -> f32 {
        if candidates.is_empty() {
            return FULL;
        }
        let snapshot = view.snapshot;
        // Those that scheduling will offer.
        let mut offered = candidates.to_vec();
        snapshot.retain_healthy(true, &mut offered);
        let of_stage = |does: fn(Stages) -> bool| {
            let offered = offered.iter().copied();
            let does = |&c: &u32| does(snapshot.member(c).stages);
            self.of_endpoints(view, offered.filter(does)).unwrap_or(0.0)
        };
        of_stage(|stages| stages.prefill).max(of_stage(|stages| stages.decode))
    }

    /// `None`: there are none, or none is known.
    fn of_endpoints(
        &self,
        View {
            snapshot,
            load,
            now_ms,
        }: View<'_>,
        endpoints: impl Iterator<Item = u32>,
    ) -> Option<f32> {
        match *self {
            Self::Utilization {
                queue,
                kv,
                staleness_ms,
            } => {
                let fresh = endpoints.filter(|&e| load.is_fresh(snapshot, e, now_ms, staleness_ms));
                mean(fresh.map(|e| pressure(load, e, queue, kv)))
            }
            // All endpoints have one capacity, so that the mean of the ratios is the ratio of the sums.
            Self::Concurrency {
                mode,
                requests,
                tokens,
            } => mean(endpoints.map(|e| {
                let requests = f64::from(load.in_flight[e as usize]) / requests;
                let tokens = load.tokens[e as usize] as f64 / tokens;
                let ratio = match mode {
                    ConcurrencyMode::Requests => requests,
                    ConcurrencyMode::Tokens => tokens,
                    ConcurrencyMode::Hybrid => requests.max(tokens),
                };
                ratio as f32
            })),
        }
    }
}
