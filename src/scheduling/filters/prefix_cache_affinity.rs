//! `prefix-cache-affinity-filter`: keeps the endpoints that have (nearly) all of the prompt cached, as long as they are not
//! much busier than the others.
//!
//! Sticky is an endpoint that has at least `affinityThreshold` (0.80) of the prompt. None is: all stay. The least time to
//! first token among the sticky ones is more than `maxTTFTPenaltyMs` (18000) above the least among the others: all stay.
//! Else only the sticky ones do. That time is estimated as the tokens in flight at the endpoint over
//! `peakPrefillThroughput` (15928 tokens/s; the reference's calibration, a 32B model on two H100). With probability
//! `explorationProbability` (0) all stay, whatever there is. `ttftSource` is `prefillThroughput`; `latencyPredictor` is not
//! available yet. The names of producers (`prefixMatchInfoProducerName`, `latencyPredictionInfoProducerName`,
//! `inFlightLoadProducerName`): there is one of each kind. Source: the llm-d picker. Use it in place of a heavy weight on
//! `prefix-cache-scorer`, with a load scorer after it: it yields to load where a weight only leans against it.

use serde::{Deserialize, Serialize};

use super::super::producers::Producers;
use super::super::{Context, Filter};
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct PrefixCacheAffinity {
    params: Params,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    affinity_threshold: f32,
    exploration_probability: f64,
    #[serde(rename = "maxTTFTPenaltyMs")]
    max_ttft_penalty_ms: f64,
    ttft_source: TtftSource,
    peak_prefill_throughput: f64,
    prefix_match_info_producer_name: String,
    latency_prediction_info_producer_name: String,
    in_flight_load_producer_name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum TtftSource {
    PrefillThroughput,
    LatencyPredictor,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            affinity_threshold: 0.80,
            exploration_probability: 0.0,
            max_ttft_penalty_ms: 18_000.0,
            ttft_source: TtftSource::PrefillThroughput,
            peak_prefill_throughput: 15_928.0,
            prefix_match_info_producer_name: String::new(),
            latency_prediction_info_producer_name: String::new(),
            in_flight_load_producer_name: String::new(),
        }
    }
}

// === impl PrefixCacheAffinity ===

impl PrefixCacheAffinity {
    pub(in crate::scheduling) fn of(
        plugin: &PluginUse,
        producers: &Producers,
    ) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        producers.prefix_named(plugin, &params.prefix_match_info_producer_name)?;
        let problem = |field: &str, message: &str| plugin.parameters.field_problem(field, message);
        if params.ttft_source == TtftSource::LatencyPredictor {
            let message = "`latencyPredictor` is not supported yet; write prefillThroughput";
            return Err(problem("ttftSource", message));
        }
        for (field, in_range, range) in [
            (
                "affinityThreshold",
                (0.0..=1.0).contains(&params.affinity_threshold),
                "0 to 1",
            ),
            (
                "explorationProbability",
                (0.0..=1.0).contains(&params.exploration_probability),
                "0 to 1",
            ),
            (
                "maxTTFTPenaltyMs",
                (0.0..=1e12).contains(&params.max_ttft_penalty_ms),
                "0 to 1e12",
            ),
            (
                "peakPrefillThroughput",
                (1.0..=1e12).contains(&params.peak_prefill_throughput),
                "1 to 1e12",
            ),
        ] {
            if !in_range {
                return Err(problem(field, &format!("is not a number from {range}")));
            }
        }
        Ok(Self { params })
    }

    fn is_sticky(&self, cx: &Context<'_>, candidate: u32) -> bool {
        let share = cx.prefix.share(candidate);
        share > 0.0 && share >= self.params.affinity_threshold
    }
}

impl Filter for PrefixCacheAffinity {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        let explore = self.params.exploration_probability;
        if !cx.prefix.any(candidates) || (explore > 0.0 && rand::random::<f64>() < explore) {
            return;
        }
        let (mut sticky, mut others) = (u64::MAX, u64::MAX);
        for &candidate in &*candidates {
            let tokens = cx.load.tokens[candidate as usize];
            match self.is_sticky(cx, candidate) {
                true => sticky = sticky.min(tokens),
                false => others = others.min(tokens),
            }
        }
        let ms = |tokens: u64| tokens as f64 / self.params.peak_prefill_throughput * 1000.0;
        let none = sticky == u64::MAX;
        let too_busy =
            others < u64::MAX && ms(sticky) - ms(others) > self.params.max_ttft_penalty_ms;
        if !none && !too_busy {
            candidates.retain(|&candidate| self.is_sticky(cx, candidate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{kept_with_prefix, plugin};
    use super::*;

    fn of(parameters: &str) -> Result<PrefixCacheAffinity, Problem> {
        let producers = Producers::default();
        PrefixCacheAffinity::of(
            &plugin("prefix-cache-affinity-filter", parameters),
            &producers,
        )
    }

    #[test]
    fn the_sticky_stay_unless_they_are_too_busy() {
        let penalty = "{maxTTFTPenaltyMs: 1000, peakPrefillThroughput: 1000}";
        for (parameters, matched, tokens, expected) in [
            ("{}", [0, 79, 80], [0, 0, 0], &[2][..]),
            ("{}", [0, 79, 79], [0, 0, 0], &[0, 1, 2]),
            ("{}", [80, 100, 0], [0, 0, 0], &[0, 1]),
            ("{}", [100, 100, 100], [9, 9, 9], &[0, 1, 2]),
            ("{affinityThreshold: 0}", [0, 1, 0], [0, 0, 0], &[1]),
            // One more token than a second's worth.
            (penalty, [0, 0, 100], [500, 0, 1000], &[2]),
            (penalty, [0, 0, 100], [500, 0, 1001], &[0, 1, 2]),
            // Another sticky one is not.
            (penalty, [0, 100, 100], [500, 0, 9000], &[1, 2]),
            (penalty, [100, 100, 100], [9000, 0, 9000], &[0, 1, 2]),
            (
                "{explorationProbability: 1}",
                [0, 0, 100],
                [0, 0, 0],
                &[0, 1, 2],
            ),
        ] {
            let filter = of(parameters).unwrap();
            let got = kept_with_prefix(&filter, &matched, 100, &tokens);
            assert_eq!(got, expected, "{parameters} {matched:?} {tokens:?}");
        }
    }

    #[test]
    fn parameters_are_checked() {
        for (parameters, expected) in [
            (
                "{ttftSource: latencyPredictor}",
                "ttftSource: `latencyPredictor` is not supported yet",
            ),
            (
                "{affinityThreshold: 2}",
                "affinityThreshold: is not a number from 0 to 1",
            ),
            (
                "{peakPrefillThroughput: 0}",
                "peakPrefillThroughput: is not a number",
            ),
        ] {
            let got = of(parameters).unwrap_err().message;
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
