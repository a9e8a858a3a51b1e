//! `active-request-scorer`: the fewer of our requests an endpoint has in flight, the better.
//!
//! Formula: `count ≤ idleThreshold` 1.0; else `(max − count) / max · maxBusyScore`, with `max` the most that any candidate
//! has. `count` is our own (what we sent and have not seen to end), so it needs no metrics and is never late. Parameters:
//! `idleThreshold` (0), `maxBusyScore` (1.0), `inFlightLoadProducerName` (there is
//! one) and `requestTimeout` (deprecated, without effect). Source: the llm-d picker. Use it
//! where engines show no queue, or where their pages come too rarely; with several pickers over one pool it sees only
//! its own share.

use serde::{Deserialize, Serialize};

use super::super::{Context, Scorer};
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct ActiveRequest(Params);

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    idle_threshold: u32,
    max_busy_score: f32,
    #[serde(rename = "inFlightLoadProducerName")]
    _in_flight_load_producer_name: String,
    /// Counted no longer; old configurations give it.
    #[serde(rename = "requestTimeout")]
    _request_timeout: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            idle_threshold: 0,
            max_busy_score: 1.0,
            _in_flight_load_producer_name: String::new(),
            _request_timeout: String::new(),
        }
    }
}

// === impl ActiveRequest ===

impl ActiveRequest {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        if !(0.0..=1.0).contains(&params.max_busy_score) {
            let message = "is not from 0 to 1";
            return Err(plugin.parameters.field_problem("maxBusyScore", message));
        }
        Ok(Self(params))
    }
}

impl Scorer for ActiveRequest {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let count = |candidate: u32| cx.load.in_flight[candidate as usize];
        let max = candidates.iter().map(|&c| count(c)).max().unwrap_or(0) as f32;
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let count = count(candidate);
            *out = if count <= self.0.idle_threshold {
                1.0
            } else {
                (max - count as f32) / max * self.0.max_busy_score
            };
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
    fn the_references_vectors() {
        for (parameters, in_flight, expected) in [
            ("{}", [3, 0, 6], [0.5, 1.0, 0.0]),
            ("{}", [4, 0, 1], [0.0, 1.0, 0.75]),
            ("{}", [0, 0, 0], [1.0, 1.0, 1.0]),
            ("{}", [2, 2, 2], [0.0, 0.0, 0.0]),
            ("{idleThreshold: 1}", [4, 0, 1], [0.0, 1.0, 1.0]),
            ("{maxBusyScore: 0.5}", [3, 0, 6], [0.25, 1.0, 0.0]),
        ] {
            let scorer = ActiveRequest::of(&plugin("active-request-scorer", parameters)).unwrap();
            let load = LoadView {
                in_flight: in_flight.to_vec(),
                ..Default::default()
            };
            let got = scores_for(&scorer, &snapshot(3), &load, 0, &[]);
            assert_eq!(got, expected, "{parameters} {in_flight:?}");
        }
    }

    #[test]
    fn a_busy_endpoint_cannot_be_better_than_an_idle_one() {
        let wrong = plugin("active-request-scorer", "{maxBusyScore: 1.5}");
        let got = ActiveRequest::of(&wrong).unwrap_err().message;
        assert!(got.contains("maxBusyScore: is not from 0 to 1"), "{got}");
    }
}
