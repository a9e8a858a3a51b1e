//! `latency-slo-admitter`: to turn away requests of negative priority whose SLO no endpoint can meet.
//!
//! **It admits everything for now**, and a warning says so: it goes by predicted latencies, and nothing predicts latencies
//! here yet. In the reference it turns a request away only if there are predictions, so this is what it does there while
//! its predictor is down. Parameter: `latencyPredictionInfoProducerName`. Source: the llm-d picker. Use
//! [`super::probabilistic`] to shed by load.

use serde::{Deserialize, Serialize};

use crate::config::{PluginUse, Problem};

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    #[serde(rename = "latencyPredictionInfoProducerName")]
    _latency_prediction_info_producer_name: String,
}

/// Reads its parameters, which is all there is to do.
pub(super) fn check(plugin: &PluginUse) -> Result<(), Problem> {
    plugin.parameters.read::<Params>().map(drop)
}
