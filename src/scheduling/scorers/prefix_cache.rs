//! `prefix-cache-scorer`: prefers endpoints that have the prompt's beginning in their prefix cache.
//!
//! Formula: `w · min(1, m / scale)² + (1 − w) · m / total`, with `m` the tokens of the prompt that the endpoint has (as the
//! prefix cache producer takes it to be, times how far that proved true), `total` the tokens that could match, `w` the
//! parameter `matchLengthWeight` (0) and `scale` `matchLengthScaleTokens` (8192). Not known, or nothing there: 0. The first
//! term counts how much prefill is saved, the second which part of it: with `w` = 0 a hit on all of a short prompt is as
//! good as one on all of a long prompt. `prefixMatchInfoProducerName` names the producer; there is one. Source: the llm-d
//! picker. Use it wherever prompts share beginnings, beside scorers of load: alone it piles up what is popular.

use serde::{Deserialize, Serialize};

use super::super::producers::Producers;
use super::super::{Context, Scorer};
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct PrefixCache {
    weight: f32,
    scale: f32,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    prefix_match_info_producer_name: String,
    match_length_weight: f32,
    match_length_scale_tokens: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            prefix_match_info_producer_name: String::new(),
            match_length_weight: 0.0,
            match_length_scale_tokens: 8192,
        }
    }
}

// === impl PrefixCache ===

impl PrefixCache {
    pub(in crate::scheduling) fn of(
        plugin: &PluginUse,
        producers: &Producers,
    ) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        producers.prefix_named(plugin, &params.prefix_match_info_producer_name)?;
        let problem = |field: &str, message: &str| plugin.parameters.field_problem(field, message);
        if !(0.0..=1.0).contains(&params.match_length_weight) {
            return Err(problem("matchLengthWeight", "is not a number from 0 to 1"));
        }
        if params.match_length_scale_tokens == 0 {
            return Err(problem(
                "matchLengthScaleTokens",
                "is 0; give the tokens that count fully",
            ));
        }
        Ok(Self {
            weight: params.match_length_weight,
            scale: params.match_length_scale_tokens as f32,
        })
    }
}

impl Scorer for PrefixCache {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let total = cx.prefix.total_tokens as f32;
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let tokens = cx.prefix.tokens(candidate) as f32;
            let length = (tokens / self.scale).min(1.0);
            let share = if total > 0.0 { tokens / total } else { 0.0 };
            *out = self.weight * length * length + (1.0 - self.weight) * share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{plugin, scores_with_prefix};
    use super::*;

    fn of(parameters: &str) -> Result<PrefixCache, Problem> {
        let producers = Producers::default();
        PrefixCache::of(&plugin("prefix-cache-scorer", parameters), &producers)
    }

    #[test]
    fn the_formula() {
        for (parameters, matched, total, expected) in [
            ("{}", &[0, 64, 128][..], 128, [0.0, 0.5, 1.0]),
            // Not known, or too short.
            ("{}", &[], 0, [0.0, 0.0, 0.0]),
            (
                "{matchLengthWeight: 1, matchLengthScaleTokens: 1024}",
                &[512, 1024, 4096],
                4096,
                [0.25, 1.0, 1.0],
            ),
            (
                "{matchLengthWeight: 0.5}",
                &[0, 4096, 8192],
                8192,
                [0.0, 0.375, 1.0],
            ),
        ] {
            let got = scores_with_prefix(&of(parameters).unwrap(), 3, matched, total);
            assert_eq!(got, expected, "{parameters}");
        }
    }

    #[test]
    fn parameters_are_checked() {
        for (parameters, expected) in [
            (
                "{matchLengthWeight: 1.5}",
                "matchLengthWeight: is not a number",
            ),
            (
                "{matchLengthScaleTokens: 0}",
                "matchLengthScaleTokens: is 0",
            ),
            (
                "{prefixMatchInfoProducerName: mine}",
                "prefixMatchInfoProducerName: no prefix cache producer is called `mine`",
            ),
        ] {
            let got = of(parameters).unwrap_err().message;
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
