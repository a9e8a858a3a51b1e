//! `utilization-detector` in a profile: keeps the endpoints that are not full.
//!
//! An endpoint passes if its scrape is fresh, `q < queueDepthThreshold · (1 + headroom)` and
//! `kv < kvCacheUtilThreshold · (1 + headroom)`, with `q` its effective queue ([`crate::pool::load`]) and `kv` its KV cache
//! use; what a fresh page does not tell is under its limit. If none passes, all do: the scorers find the least bad one. So
//! an endpoint that tells nothing is passed over only while others are known to have room. Parameters, and what is fresh:
//! see [`crate::admission`]. Source: the llm-d picker. Use it where a full endpoint is to get nothing while another has
//! room; [`super::utilization`] has other numbers, and need not fail open.

use super::super::{Context, Filter};
use crate::config::params::UtilizationDetectorParams;
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct UtilizationDetector {
    queue: f32,
    kv: f32,
    staleness_ms: u64,
}

// === impl UtilizationDetector ===

impl UtilizationDetector {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params = UtilizationDetectorParams::of(&plugin.parameters)?;
        let most = 1.0 + params.headroom;
        Ok(Self {
            queue: (params.queue_depth_threshold as f64 * most) as f32,
            kv: (params.kv_cache_util_threshold * most) as f32,
            staleness_ms: params.staleness().as_millis() as u64,
        })
    }

    fn passes(&self, cx: &Context<'_>, candidate: u32) -> bool {
        let (load, at) = (cx.load, candidate as usize);
        let under = |value: f32, limit: f32| value.is_nan() || value < limit;
        load.is_fresh(cx.snapshot, candidate, cx.now_ms, self.staleness_ms)
            && under(load.waiting[at], self.queue)
            && under(load.kv_usage[at], self.kv)
    }
}

impl Filter for UtilizationDetector {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        if candidates.iter().any(|&c| self.passes(cx, c)) {
            candidates.retain(|&c| self.passes(cx, c));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{kept_for, snapshot};
    use super::*;
    use crate::pool::LoadView;
    use crate::pool::slab::Scrape;

    fn made(parameters: &str) -> Result<UtilizationDetector, String> {
        let text = format!(
            "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{{type: utilization-detector, parameters: {parameters}}}]\n"
        );
        let config = crate::config::load(&text, Default::default()).unwrap();
        UtilizationDetector::of(&config.detector).map_err(|problem| problem.message)
    }

    #[test]
    fn full_and_silent_endpoints_are_passed_over_unless_none_is_left() {
        let snapshot = snapshot(5);
        for (at, (waiting, kv)) in [(4.0, 0.1), (5.0, 0.1), (0.0, 0.8), (4.0, 0.79)]
            .into_iter()
            .enumerate()
        {
            let page = Scrape {
                waiting: Some(waiting),
                kv_usage: Some(kv),
                ..Default::default()
            };
            snapshot.members()[at].slot.record(&page, 0, 1);
        }
        let mut load = LoadView::default();
        load.gather(&snapshot, 1, 1000);
        for (parameters, expected) in [
            ("{}", vec![0, 3]),
            ("{headroom: 0.2}", vec![0, 1, 2, 3]),
            (
                "{queueDepthThreshold: 1, kvCacheUtilThreshold: 0.9}",
                vec![2],
            ),
            // None passes.
            ("{queueDepthThreshold: 1}", vec![0, 1, 2, 3, 4]),
        ] {
            let filter = made(parameters).unwrap();
            let got = kept_for(&filter, &snapshot, &load, 0, &[]);
            assert_eq!(got, expected, "{parameters}");
        }
    }

    #[test]
    fn parameters_are_checked() {
        for (parameters, expected) in [
            (
                "{queueDepthThreshold: 0}",
                "parameters.queueDepthThreshold: 0 is not above 0",
            ),
            (
                "{kvCacheUtilThreshold: 80}",
                "parameters.kvCacheUtilThreshold: 80 is not above 0 and at most 1",
            ),
            ("{headroom: -0.1}", "parameters.headroom: -0.1 is negative"),
            (
                "{metricsStalenessThreshold: 200}",
                "parameters.metricsStalenessThreshold",
            ),
            (
                "{metricsStalenessThreshold: 0s}",
                "parameters.metricsStalenessThreshold: 0 makes every scrape too old",
            ),
            (
                "{stalenessThreshold: 1s}",
                "unknown field `stalenessThreshold`; did you mean `metricsStalenessThreshold`?",
            ),
        ] {
            let got = made(parameters).unwrap_err();
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
