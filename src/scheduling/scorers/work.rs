//! `work-scorer` (ours): one number for all that a request costs where it goes, in tokens of prefill; the least cost wins.
//!
//! ```text
//! cost  = own · (1 + delayWeight · requests / (mean + 1)) + queueWeight · ahead + requestTokens · requests
//! score = (least + 1000) / (cost + 1000), least over the candidates
//! ```
//!
//! `own` is what the endpoint must prefill of this prompt, that is without what it has cached; `ahead` the prefill that it
//! still has before it, of requests of ours; `requests` those that run or wait there (as scraped, and what was sent since),
//! `mean` the mean of these over the candidates. What each term is for: prefill of this prompt makes all requests there wait
//! (a step that reads a prompt takes as long as a hundred that do not), so it costs more where there are more of them than
//! elsewhere; what is ahead makes this one wait, and none but this one, as it will be read anyway; and each request there
//! makes every step a little longer. So a cached prefix attracts as much as it saves, and no more: an endpoint that is busier
//! by more than that loses. The 1000 tokens (some 20 ms of prefill of an 8B model on an H100) keep differences that nobody
//! feels from outweighing another scorer's. Parameters: `delayWeight` (2), `queueWeight` (1), `requestTokens` (1000). Where
//! responses are not seen, nothing is known to be ahead, and `requests` is what was scraped.
//!
//! Source: our own; the terms are those of Dynamo's cost and LMetric's product, in one unit, and the weights are from
//! simulation, of other traffic than is reported (docs/simulation.md). It is the default profile.

use serde::{Deserialize, Serialize};

use super::super::{Context, Scorer};
use crate::config::{PluginUse, Problem};

/// Tokens of prefill that nobody feels.
const UNFELT: f32 = 1000.0;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Work(Params);

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    delay_weight: f32,
    queue_weight: f32,
    request_tokens: f32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            delay_weight: 2.0,
            queue_weight: 1.0,
            request_tokens: 1000.0,
        }
    }
}

// === impl Work ===

impl Work {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        for (field, value) in [
            ("delayWeight", params.delay_weight),
            ("queueWeight", params.queue_weight),
            ("requestTokens", params.request_tokens),
        ] {
            if !(0.0..=1e6).contains(&value) {
                let message = "is not a number from 0 to 1000000";
                return Err(plugin.parameters.field_problem(field, message));
            }
        }
        Ok(Self(params))
    }
}

impl Scorer for Work {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let (load, weights) = (cx.load, &self.0);
        let mut all = 0.0;
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let at = candidate as usize;
            // `max` passes over NaN.
            *out = load.requests[at].max(load.in_flight[at] as f32);
            all += *out;
        }
        let mean = all / candidates.len() as f32;
        let delay = weights.delay_weight / (mean + 1.0);
        let mut least = f32::INFINITY;
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let requests = *out;
            let own = cx.request.uncached_tokens(cx.prefix, candidate) as f32;
            let ahead = load.tokens[candidate as usize] as f32;
            *out = own * (1.0 + delay * requests)
                + weights.queue_weight * ahead
                + weights.request_tokens * requests;
            least = least.min(*out);
        }
        for out in out.iter_mut().take(candidates.len()) {
            *out = (least + UNFELT) / (*out + UNFELT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{plugin, scored, snapshot, with_prefix};
    use super::*;
    use crate::pool::LoadView;

    #[test]
    fn the_formula() {
        let parameters = "{delayWeight: 0.5, queueWeight: 2, requestTokens: 10}";
        let scorer = Work::of(&plugin("work-scorer", parameters)).unwrap();
        let snapshot = snapshot(4);
        let nan = f32::NAN;
        let load = LoadView {
            requests: vec![0.0, 2.0, nan, 4.0],
            in_flight: vec![0, 0, 4, 2],
            tokens: vec![10, 0, 0, 50],
            ..Default::default()
        };
        // Requests are 0, 2, 4 and 4, so each makes the prompt 0.5 / 3.5 dearer. Costs: 100 + 20, 60 · 9 / 7 + 20,
        // 100 · 11 / 7 + 40 and 100 + 40.
        let got = with_prefix(&snapshot, &load, (&[0, 40, 0, 100], 100), |cx| {
            scored(&scorer, cx)
        });
        let costs = [120.0, 540.0 / 7.0 + 20.0, 1100.0 / 7.0 + 40.0, 140.0];
        let expected = costs.map(|cost| (costs[1] + 1000.0) / (cost + 1000.0));
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
        }
        let wrong = plugin("work-scorer", "{queueWeight: -1}");
        assert!(
            Work::of(&wrong)
                .unwrap_err()
                .message
                .contains("queueWeight")
        );
    }
}
