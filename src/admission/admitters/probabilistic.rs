//! `probabilistic-admitter`: turns away requests of negative priority, the more of them the fuller the endpoints are.
//!
//! A request is turned away with probability `min(sat^power · k, 1)`, where `sat` is the mean over its candidates of
//! `max(q / queueDepthThreshold, kv / kvCacheUtilThreshold)`, `q` the effective queue ([`crate::pool::load`]) and `kv` the
//! KV cache use. Parameters: `queueDepthThreshold` (5), `kvCacheUtilThreshold` (0.8), `power` (5), `k` (300): nothing is
//! shed below a saturation of about 0.1, all at `(1 / k)^(1 / power)`, about 0.32. No candidates, or none whose load is
//! known: admitted.
//!
//! Source: the llm-d picker. There an endpoint without metrics is full, here it is left out; there the client is
//! answered with 500, here with 429 and the drop reason `rejected-saturated`, which clients know how to retry. Use it
//! where a hard limit sheds too late or too much at once. The saturation detector still has its say before it: to leave
//! it all to this one, give a `utilization-detector` thresholds that are never met.

use rand::RngExt as _;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};

use super::super::{View, mean, pressure};
use crate::config::params::detectors::{positive, share};
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::admission) struct Probabilistic(Params);

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    queue_depth_threshold: i64,
    kv_cache_util_threshold: f64,
    power: f64,
    k: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            queue_depth_threshold: 5,
            kv_cache_util_threshold: 0.8,
            power: 5.0,
            k: 300.0,
        }
    }
}

// === impl Probabilistic ===

impl Probabilistic {
    pub(super) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let parameters = &plugin.parameters;
        let queue = params.queue_depth_threshold as f64;
        positive(parameters, "queueDepthThreshold", queue)?;
        let kv = params.kv_cache_util_threshold;
        share(parameters, "kvCacheUtilThreshold", kv)?;
        positive(parameters, "power", params.power)?;
        positive(parameters, "k", params.k)?;
        Ok(Self(params))
    }

    /// For a request that may be shed.
    pub(in crate::admission) fn admits(
        &self,
        view: View<'_>,
        candidates: &[u32],
        rng: &mut SmallRng,
    ) -> bool {
        // Never below 0, so that a probability of 0 sheds nothing.
        rng.random::<f64>() >= self.probability(view, candidates)
    }

    /// That the request is turned away.
    fn probability(&self, view: View<'_>, candidates: &[u32]) -> f64 {
        let params = &self.0;
        let queue = params.queue_depth_threshold as f32;
        let kv = params.kv_cache_util_threshold as f32;
        let pressures = candidates
            .iter()
            .map(|&c| pressure(view.load, c, queue, kv));
        let saturation = mean(pressures).unwrap_or(0.0);
        (f64::from(saturation).powf(params.power) * params.k).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{loads, plugins};
    use super::*;
    use rand::SeedableRng as _;

    const NAN: f32 = f32::NAN;

    fn made(parameters: &str) -> Result<Probabilistic, String> {
        let config = plugins(&format!(
            "[{{type: probabilistic-admitter, parameters: {parameters}}}]"
        ));
        Probabilistic::of(&config.admitters[0]).map_err(|problem| problem.message)
    }

    #[test]
    fn the_fuller_the_more_are_shed() {
        for (parameters, load, expected) in [
            ("{}", &[(0.0, 0.0)][..], 0.0),
            ("{}", &[(0.75, 0.0)], 0.0228),
            ("{}", &[(1.0, 0.1)], 0.096),
            ("{}", &[(0.0, 0.24)], 0.729),
            ("{}", &[(2.0, 0.0), (0.0, 0.16)], 0.729),
            ("{}", &[(2.0, 0.0)], 1.0),
            ("{}", &[], 0.0),
            ("{}", &[(NAN, NAN)], 0.0),
            ("{}", &[(NAN, NAN), (1.0, NAN)], 0.096),
            ("{power: 1, k: 1}", &[(2.5, 0.0)], 0.5),
            (
                "{power: 1, k: 0.5, queueDepthThreshold: 10}",
                &[(2.5, 0.1)],
                0.125,
            ),
            (
                "{power: 1, k: 1, kvCacheUtilThreshold: 0.4}",
                &[(0.0, 0.1)],
                0.25,
            ),
        ] {
            let (snapshot, load_view) = loads(load);
            let view = View {
                snapshot: &snapshot,
                load: &load_view,
                now_ms: 1,
            };
            let candidates: Vec<u32> = (0..load.len() as u32).collect();
            let admitter = made(parameters).unwrap();
            let got = admitter.probability(view, &candidates);
            assert!(
                (got - expected).abs() < 1e-3,
                "{parameters} {load:?}: {got}"
            );
            let mut rng = SmallRng::seed_from_u64(7);
            let shed = (0..10_000).filter(|_| !admitter.admits(view, &candidates, &mut rng));
            let share = shed.count() as f64 / 10_000.0;
            assert!(
                (share - expected).abs() < 0.02,
                "{parameters} {load:?}: {share}"
            );
        }
    }

    #[test]
    fn parameters_are_checked() {
        for (parameters, expected) in [
            ("{power: 0}", "parameters.power: 0 is not above 0"),
            ("{k: -1}", "parameters.k: -1 is not above 0"),
            (
                "{queueDepthThreshold: 0}",
                "parameters.queueDepthThreshold: 0 is not above 0",
            ),
            (
                "{kvCacheUtilThreshold: 2}",
                "parameters.kvCacheUtilThreshold: 2 is not above 0 and at most 1",
            ),
            ("{pover: 2}", "unknown field `pover`; did you mean `power`?"),
        ] {
            let got = made(parameters).unwrap_err();
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
