//! `latency-scorer`, in the form that needs no predictions: free KV cache, short queue, and cached prefix in one number.
//!
//! Formula: `round(100 · (wk · (1 − kv) + wq · (maxq − q) / maxq + wp · prefix)) / 100`, the weights (parameters
//! `compositeKVWeight`, `compositeQueueWeight`, `compositePrefixWeight`, each 1) divided by their sum; all zero, KV alone.
//! `q` is the effective queue length ([`crate::pool::load`]); no queue anywhere, that term is 1. What is not known is the
//! mean of what is, else neutral. `prefix` is the share of the prompt that the endpoint has cached, 0 to 1; where there is no prefix
//! cache producer it is 0 for all.
//!
//! The other form scores the headroom between predicted latencies and the request's SLO. Nothing predicts latencies here
//! yet, so its parameters (`ttftWeight`, `tpotWeight`, `headroomSelectionStrategy` and the names of producers) are read
//! and have no effect, as in the reference while its predictor is down. Source: the llm-d picker.

use serde::{Deserialize, Serialize};

use super::super::{Context, NEUTRAL, Scorer};
use super::mean_known;
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Latency {
    kv: f32,
    queue: f32,
    prefix: f32,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    #[serde(rename = "ttftWeight")]
    _ttft_weight: f64,
    #[serde(rename = "tpotWeight")]
    _tpot_weight: f64,
    #[serde(rename = "headroomSelectionStrategy")]
    _headroom_selection_strategy: Strategy,
    #[serde(rename = "compositeKVWeight")]
    composite_kv_weight: f32,
    composite_queue_weight: f32,
    composite_prefix_weight: f32,
    #[serde(rename = "latencyPredictionInfoProducerName")]
    _latency_prediction_info_producer_name: String,
    #[serde(rename = "prefixMatchInfoProducerName")]
    _prefix_match_info_producer_name: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    Least,
    Most,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            _ttft_weight: 0.8,
            _tpot_weight: 0.2,
            _headroom_selection_strategy: Strategy::Least,
            composite_kv_weight: 1.0,
            composite_queue_weight: 1.0,
            composite_prefix_weight: 1.0,
            _latency_prediction_info_producer_name: String::new(),
            _prefix_match_info_producer_name: String::new(),
        }
    }
}

// === impl Latency ===

impl Latency {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let weights = [
            ("compositeKVWeight", params.composite_kv_weight),
            ("compositeQueueWeight", params.composite_queue_weight),
            ("compositePrefixWeight", params.composite_prefix_weight),
        ];
        for (field, weight) in weights {
            if !(0.0..=1e6).contains(&weight) {
                let message = "is not a number from 0 to 1000000";
                return Err(plugin.parameters.field_problem(field, message));
            }
        }
        let [kv, queue, prefix] = weights.map(|(_, weight)| weight);
        let sum = kv + queue + prefix;
        if sum <= 0.0 {
            let (kv, queue, prefix) = (1.0, 0.0, 0.0);
            return Ok(Self { kv, queue, prefix });
        }
        Ok(Self {
            kv: kv / sum,
            queue: queue / sum,
            prefix: prefix / sum,
        })
    }
}

impl Scorer for Latency {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let load = cx.load;
        let no_queue = mean_known(&load.waiting, candidates).unwrap_or(0.0);
        let no_kv = mean_known(&load.kv_usage, candidates).unwrap_or(NEUTRAL);
        let known = |value: f32, mean: f32| if value.is_nan() { mean } else { value };
        let queue = |candidate: u32| known(load.waiting[candidate as usize], no_queue);
        let longest = candidates.iter().map(|&c| queue(c)).fold(0.0, f32::max);
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let free = 1.0 - known(load.kv_usage[candidate as usize], no_kv);
            let short = match longest > 0.0 {
                true => (longest - queue(candidate)) / longest,
                false => 1.0,
            };
            let cached = cx.prefix.share(candidate);
            let sum = self.kv * free + self.queue * short + self.prefix * cached;
            *out = (100.0 * sum).round() / 100.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::snapshot;
    use super::super::super::testing::{plugin, scored, scores_for, with_prefix};
    use super::*;
    use crate::pool::LoadView;

    #[test]
    fn the_composite() {
        let nan = f32::NAN;
        let no_prefix = "{compositePrefixWeight: 0}";
        for (parameters, kv_usage, waiting, expected) in [
            (
                no_prefix,
                vec![0.0, 0.5, 1.0],
                vec![0.0, 5.0, 10.0],
                [1.0, 0.5, 0.0],
            ),
            (no_prefix, vec![0.2, 0.2, 0.2], vec![0.0; 3], [0.9; 3]),
            (
                "{}",
                vec![0.0, 0.5, 1.0],
                vec![0.0, 5.0, 10.0],
                [0.67, 0.33, 0.0],
            ),
            (
                "{compositeKVWeight: 0, compositeQueueWeight: 0, compositePrefixWeight: 0}",
                vec![0.0, 0.25, 1.0],
                vec![9.0, 1.0, 0.0],
                [1.0, 0.75, 0.0],
            ),
            (
                "{compositeKVWeight: 3, compositePrefixWeight: 0}",
                vec![0.0, 0.5, 1.0],
                vec![10.0, 0.0, 0.0],
                [0.75, 0.63, 0.25],
            ),
            (
                no_prefix,
                vec![0.0, nan, 1.0],
                vec![0.0, nan, 10.0],
                [1.0, 0.5, 0.0],
            ),
            (no_prefix, vec![nan; 3], vec![nan; 3], [0.75; 3]),
        ] {
            let scorer = Latency::of(&plugin("latency-scorer", parameters)).unwrap();
            let load = LoadView {
                kv_usage,
                waiting,
                ..Default::default()
            };
            let got = scores_for(&scorer, &snapshot(3), &load, 0, &[]);
            assert_eq!(got, expected, "{parameters}");
        }
    }

    #[test]
    fn what_is_cached_counts() {
        let parameters =
            "{compositeKVWeight: 0, compositeQueueWeight: 0, compositePrefixWeight: 2}";
        let scorer = Latency::of(&plugin("latency-scorer", parameters)).unwrap();
        let snapshot = snapshot(3);
        let load = LoadView {
            kv_usage: vec![0.5; 3],
            waiting: vec![0.0; 3],
            ..Default::default()
        };
        let got = with_prefix(&snapshot, &load, (&[0, 32, 128], 128), |cx| {
            scored(&scorer, cx)
        });
        assert_eq!(got, [0.0, 0.25, 1.0]);
    }

    #[test]
    fn weights_are_checked() {
        let wrong = plugin("latency-scorer", "{compositeQueueWeight: -1}");
        let got = Latency::of(&wrong).unwrap_err().message;
        assert!(
            got.contains("compositeQueueWeight: is not a number"),
            "{got}"
        );
        let predicted = "{ttftWeight: 1, tpotWeight: 0, headroomSelectionStrategy: most}";
        assert!(Latency::of(&plugin("latency-scorer", predicted)).is_ok());
    }
}
