//! `slo-headroom-tier-filter`: keeps the endpoints that are predicted to meet the request's SLO, if there are any.
//!
//! Nothing predicts latencies in this version, so it keeps all, as in the reference while its predictor is down; loading
//! it says so. `epsilonExploreNeg` (0.01) is how often the reference explores endpoints that would miss the SLO,
//! `latencyPredictionInfoProducerName` names the predictor: both are read and checked, and have no effect. Source: the
//! llm-d picker.

use serde::{Deserialize, Serialize};

use super::super::{Context, Filter};
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct SloHeadroomTier;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    epsilon_explore_neg: f64,
    #[serde(rename = "latencyPredictionInfoProducerName")]
    _latency_prediction_info_producer_name: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            epsilon_explore_neg: 0.01,
            _latency_prediction_info_producer_name: String::new(),
        }
    }
}

// === impl SloHeadroomTier ===

impl SloHeadroomTier {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        if !(0.0..=1.0).contains(&params.epsilon_explore_neg) {
            let message = "is not a number from 0 to 1";
            return Err(plugin
                .parameters
                .field_problem("epsilonExploreNeg", message));
        }
        Ok(Self)
    }
}

impl Filter for SloHeadroomTier {
    fn filter(&self, _cx: &Context<'_>, _candidates: &mut Vec<u32>) {}
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{kept, plugin, snapshot};
    use super::*;

    #[test]
    fn without_predictions_all_stay() {
        let plugin_of = |parameters| plugin("slo-headroom-tier-filter", parameters);
        let filter = SloHeadroomTier::of(&plugin_of("{}")).unwrap();
        assert_eq!(kept(&filter, &snapshot(3)), [0, 1, 2]);
        let wrong = SloHeadroomTier::of(&plugin_of("{epsilonExploreNeg: 2}"));
        assert!(wrong.unwrap_err().message.contains("epsilonExploreNeg"));
    }
}
