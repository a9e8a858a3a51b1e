//! `token-load-scorer`: the fewer tokens of ours an endpoint has still to work through, the better.
//!
//! Formula: `1 − min(t, T) / T`, with `t` the tokens in flight there (as `inflight-load-producer` estimates them) plus
//! those of this request that it has not cached, and the parameter `queueThresholdTokens` (4194304, 128 requests of 32k tokens)
//! as `T`; a threshold that is not positive is the default. What is cached is known where there is a prefix cache producer.
//! `inFlightLoadProducerName`: there is one. Source: the llm-d picker. Use it where prompts differ much in length: ten
//! short requests are less than a long one.

use serde::{Deserialize, Serialize};

use super::super::{Context, Scorer};
use crate::config::{PluginUse, Problem};

const THRESHOLD: i64 = 4_194_304;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct TokenLoad {
    threshold: u64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    queue_threshold_tokens: i64,
    #[serde(rename = "inFlightLoadProducerName")]
    _in_flight_load_producer_name: String,
}

// === impl TokenLoad ===

impl TokenLoad {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let threshold = match params.queue_threshold_tokens {
            n if n > 0 => n,
            _ => THRESHOLD,
        };
        Ok(Self {
            threshold: threshold.unsigned_abs(),
        })
    }
}

impl Scorer for TokenLoad {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let threshold = self.threshold as f64;
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let own = u64::from(cx.request.uncached_tokens(cx.prefix, candidate));
            let tokens = (cx.load.tokens[candidate as usize] + own).min(self.threshold);
            *out = (1.0 - tokens as f64 / threshold) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::snapshot;
    use super::super::super::testing::{plugin, scores_for};
    use super::*;
    use crate::pool::LoadView;

    #[test]
    fn the_formula() {
        for (parameters, prompt_bytes, tokens, expected) in [
            (
                "{queueThresholdTokens: 100}",
                0,
                [0, 25, 100],
                [1.0, 0.75, 0.0],
            ),
            (
                "{queueThresholdTokens: 100}",
                0,
                [50, 100, 900],
                [0.5, 0.0, 0.0],
            ),
            // 100 bytes are 25 tokens.
            (
                "{queueThresholdTokens: 100}",
                100,
                [0, 25, 99],
                [0.75, 0.5, 0.0],
            ),
            ("{}", 0, [0, 1 << 20, 1 << 22], [1.0, 0.75, 0.0]),
            (
                "{queueThresholdTokens: -1}",
                0,
                [0, 1 << 21, 1 << 40],
                [1.0, 0.5, 0.0],
            ),
        ] {
            let scorer = TokenLoad::of(&plugin("token-load-scorer", parameters)).unwrap();
            let load = LoadView {
                tokens: tokens.to_vec(),
                ..Default::default()
            };
            let got = scores_for(&scorer, &snapshot(3), &load, prompt_bytes, &[]);
            assert_eq!(got, expected, "{parameters} {tokens:?}");
        }
    }
}
