//! `utilization-filter`: drops the endpoints of which one number is above its cap.
//!
//! Parameters: `conditions`, at least one, each `metric` (`active-requests`: ours in flight; `running-requests`,
//! `waiting-queue`: effective load, in requests, see [`crate::pool::load`]; `kv-cache-utilization`: 0 to 1) and
//! `maxValue`, which an endpoint may have and still pass; `fallbackOnEmpty` (false): if none is left, keep all;
//! `inFlightLoadProducerName` (the only one). What is not known is under every cap. Source: the llm-d picker. Use it where
//! a full endpoint must get nothing at all; to prefer the emptier one, use scorers.

use serde::{Deserialize, Serialize};

use super::super::{Context, Filter};
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Utilization(Params);

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    conditions: Vec<Condition>,
    fallback_on_empty: bool,
    #[serde(rename = "inFlightLoadProducerName")]
    _in_flight_load_producer_name: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Condition {
    metric: Metric,
    max_value: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Metric {
    ActiveRequests,
    RunningRequests,
    WaitingQueue,
    KvCacheUtilization,
}

// === impl Utilization ===

impl Utilization {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let problem = |field: &str, message| plugin.parameters.field_problem(field, message);
        if params.conditions.is_empty() {
            return Err(problem("conditions", "name at least one"));
        }
        for (n, condition) in params.conditions.iter().enumerate() {
            let most = match condition.metric {
                Metric::KvCacheUtilization => 1.0,
                _ => f32::MAX,
            };
            if !(0.0..=most).contains(&condition.max_value) {
                let message = match condition.metric {
                    Metric::KvCacheUtilization => "is not from 0 to 1",
                    _ => "is negative or no number",
                };
                return Err(problem(&format!("conditions[{n}].maxValue"), message));
            }
        }
        Ok(Self(params))
    }

    fn passes(&self, cx: &Context<'_>, at: usize) -> bool {
        self.0.conditions.iter().all(|condition| {
            let value = match condition.metric {
                Metric::ActiveRequests => cx.load.in_flight[at] as f32,
                Metric::RunningRequests => cx.load.running[at],
                Metric::WaitingQueue => cx.load.waiting[at],
                Metric::KvCacheUtilization => cx.load.kv_usage[at],
            };
            value.is_nan() || value <= condition.max_value
        })
    }
}

impl Filter for Utilization {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        let passes = |candidate: u32| self.passes(cx, candidate as usize);
        if self.0.fallback_on_empty && !candidates.iter().any(|&candidate| passes(candidate)) {
            return;
        }
        candidates.retain(|&candidate| passes(candidate));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::snapshot;
    use super::super::super::testing::{kept_for, plugin};
    use super::*;
    use crate::pool::LoadView;

    fn made(parameters: &str) -> Result<Utilization, String> {
        Utilization::of(&plugin("utilization-filter", parameters)).map_err(|e| e.message)
    }

    #[test]
    fn an_endpoint_must_be_under_every_cap() {
        let load = LoadView {
            running: vec![40.0, 41.0, 0.0, f32::NAN],
            waiting: vec![0.0, 0.0, 1.0, f32::NAN],
            kv_usage: vec![0.8, 0.1, 0.9, f32::NAN],
            in_flight: vec![0, 1, 2, 3],
            ..Default::default()
        };
        let four = snapshot(4);
        for (parameters, expected) in [
            (
                "{conditions: [{metric: running-requests, maxValue: 40}]}",
                vec![0, 2, 3],
            ),
            (
                "{conditions: [{metric: waiting-queue, maxValue: 0}]}",
                vec![0, 1, 3],
            ),
            (
                "{conditions: [{metric: kv-cache-utilization, maxValue: 0.8}]}",
                vec![0, 1, 3],
            ),
            (
                "{conditions: [{metric: active-requests, maxValue: 1}]}",
                vec![0, 1],
            ),
            (
                "{conditions: [{metric: active-requests, maxValue: 2}, {metric: waiting-queue, maxValue: 0}, {metric: running-requests, maxValue: 40}]}",
                vec![0],
            ),
            (
                "{conditions: [{metric: active-requests, maxValue: 0}, {metric: kv-cache-utilization, maxValue: 0.5}]}",
                vec![],
            ),
            (
                "{fallbackOnEmpty: true, conditions: [{metric: active-requests, maxValue: 0}, {metric: kv-cache-utilization, maxValue: 0.5}]}",
                vec![0, 1, 2, 3],
            ),
            (
                "{fallbackOnEmpty: true, conditions: [{metric: active-requests, maxValue: 0}]}",
                vec![0],
            ),
        ] {
            let got = kept_for(&made(parameters).unwrap(), &four, &load, 0, &[]);
            assert_eq!(got, expected, "{parameters}");
        }
    }

    #[test]
    fn conditions_are_checked() {
        for (parameters, expected) in [
            ("{}", "parameters.conditions: name at least one"),
            (
                "{conditions: [{metric: kv-cache-utilization, maxValue: 80}]}",
                "parameters.conditions[0].maxValue: is not from 0 to 1",
            ),
            (
                "{conditions: [{metric: waiting-queue, maxValue: -1}]}",
                "parameters.conditions[0].maxValue: is negative",
            ),
            (
                "{conditions: [{metric: queue, maxValue: 1}]}",
                "unknown variant `queue`",
            ),
        ] {
            let got = made(parameters).unwrap_err();
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
