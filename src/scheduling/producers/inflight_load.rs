//! `inflight-load-producer`: how many tokens a request will keep its endpoint busy with.
//!
//! The prompt's tokens (estimated: four bytes each) that the endpoint has not cached weigh on it until the first token of a
//! streamed response, or else the end; with `addEstimatedOutputTokens` (false) those of the answer weigh until the end: `outputRatio` (1.5)
//! times the prompt's, at most `maxEstimatedOutputTokens` and at most what the request allows. `token-load-scorer` reads
//! the sum, and the gauges `inflight_requests` and `inflight_tokens` show it. What is cached is known where there is a
//! prefix cache producer: `prefixMatchInfoProducerName` names it, and there is one. `syncCrossReplicaState` is taken and
//! has no effect: each replica counts its own. Source: the llm-d picker. It is added where a scorer needs it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::{PluginUse, Problem};
use crate::pool::Tokens;

/// See the module.
#[derive(Clone, Debug)]
pub struct InflightLoad {
    /// Its name in the configuration.
    pub name: Arc<str>,
    params: Params,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    add_estimated_output_tokens: bool,
    output_ratio: f64,
    max_estimated_output_tokens: Option<u32>,
    #[serde(rename = "prefixMatchInfoProducerName")]
    _prefix_match_info_producer_name: String,
    #[serde(rename = "syncCrossReplicaState")]
    _sync_cross_replica_state: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            add_estimated_output_tokens: false,
            output_ratio: 1.5,
            max_estimated_output_tokens: None,
            _prefix_match_info_producer_name: String::new(),
            _sync_cross_replica_state: true,
        }
    }
}

// === impl InflightLoad ===

impl InflightLoad {
    pub(super) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        if !(params.output_ratio >= 0.0 && params.output_ratio.is_finite()) {
            let message = "is negative or no number";
            return Err(plugin.parameters.field_problem("outputRatio", message));
        }
        Ok(Self {
            name: plugin.name.as_str().into(),
            params,
        })
    }

    /// What a request with a prompt of `input` tokens, of which `cached` need no work, and which allows `max_tokens` of
    /// output, weighs.
    pub fn weigh(&self, input: u32, cached: u32, max_tokens: Option<u64>) -> Tokens {
        let mut output = 0;
        if self.params.add_estimated_output_tokens {
            // A float becomes the nearest integer there is.
            let estimated = (f64::from(input) * self.params.output_ratio) as u32;
            let limit = max_tokens.map_or(u32::MAX, |most| u32::try_from(most).unwrap_or(u32::MAX));
            let cap = self.params.max_estimated_output_tokens.unwrap_or(u32::MAX);
            output = estimated.min(limit).min(cap);
        }
        Tokens {
            input: input.saturating_sub(cached),
            output,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::producer;
    use super::*;

    #[test]
    fn weights() {
        let out = "addEstimatedOutputTokens: true";
        for (parameters, input, max_tokens, output) in [
            (String::new(), 100, Some(50), 0),
            (out.to_owned(), 100, None, 150),
            (out.to_owned(), 100, Some(50), 50),
            (format!("{out}, outputRatio: 0.25"), 100, None, 25),
            (
                format!("{out}, maxEstimatedOutputTokens: 40"),
                100,
                Some(50),
                40,
            ),
            (out.to_owned(), u32::MAX, Some(u64::MAX), u32::MAX),
        ] {
            let plugin = producer("inflight-load-producer", &format!("{{{parameters}}}"));
            let got = InflightLoad::of(&plugin)
                .unwrap()
                .weigh(input, 0, max_tokens);
            assert_eq!(got, Tokens { input, output }, "{parameters}");
        }
        let plugin = producer("inflight-load-producer", &format!("{{{out}}}"));
        let inflight = InflightLoad::of(&plugin).unwrap();
        let weight = |cached| inflight.weigh(100, cached, None);
        let output = 150;
        assert_eq!(weight(30), Tokens { input: 70, output });
        assert_eq!(weight(130), Tokens { input: 0, output });
        let wrong = producer("inflight-load-producer", "{outputRatio: -1}");
        let got = InflightLoad::of(&wrong).unwrap_err().message;
        assert!(got.contains("outputRatio: is negative"), "{got}");
    }
}
