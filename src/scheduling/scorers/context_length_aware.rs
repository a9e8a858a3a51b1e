//! `context-length-aware`: routes by the length of the prompt, to endpoints that are labelled with the lengths they are
//! for. A scorer, and with `enableFiltering` a filter too.
//!
//! The label (`label`, by default `llm-d.ai/context-length-range`) is `min-max`, in tokens. Formula, with `n` the prompt's
//! tokens and `width = max − min`:
//!
//! ```text
//! in range      0.3 + 0.7 · (0.7 / (1 + width / 10000) + 0.3 · (max − n) / width); width 0: 1
//! out of range  0.3 / (1 + distance to the range / 1000)
//! no label      0.5
//! bad label     0
//! ```
//!
//! As a filter it drops what is out of range or has a bad label. The prompt's tokens are estimated: four bytes each.
//! `reusableTokensProducerName` needs `p2p-source-producer`, which is not available. Source: the llm-d picker. Use it
//! where endpoints differ in the contexts that they can hold or are good at.

use serde::{Deserialize, Serialize};

use super::super::per_endpoint::PerEndpoint;
use super::super::{Context, Filter, NEUTRAL, Scorer};
use crate::config::{PluginUse, Problem};

const LABEL: &str = "llm-d.ai/context-length-range";
/// What the best fallback stays under, and the worst match over.
const FALLBACK: f32 = 0.3;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct ContextLengthAware {
    params: Params,
    ranges: PerEndpoint<Range>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    label: String,
    enable_filtering: bool,
    reusable_tokens_producer_name: String,
}

/// What an endpoint's label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Unlabelled,
    Bad,
    Of { min: u32, max: u32 },
}

impl Default for Params {
    fn default() -> Self {
        Self {
            label: LABEL.to_owned(),
            enable_filtering: false,
            reusable_tokens_producer_name: String::new(),
        }
    }
}

// === impl ContextLengthAware ===

impl ContextLengthAware {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let problem = |field, message| Err(plugin.parameters.field_problem(field, message));
        if params.label.is_empty() {
            return problem("label", "is empty");
        }
        if !params.reusable_tokens_producer_name.is_empty() {
            let message = "needs `p2p-source-producer`, which is not supported yet";
            return problem("reusableTokensProducerName", message);
        }
        Ok(Self {
            params,
            ranges: PerEndpoint::default(),
        })
    }

    fn ranges(&self, cx: &Context<'_>) -> std::sync::Arc<(u64, Vec<Range>)> {
        self.ranges.of(cx.snapshot, |endpoint| {
            let label = endpoint.labels.get(&self.params.label);
            label.map_or(Range::Unlabelled, |label| Range::read(label))
        })
    }
}

impl Filter for ContextLengthAware {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        if !self.params.enable_filtering {
            return;
        }
        let tokens = cx.request.input_tokens();
        let ranges = self.ranges(cx);
        candidates.retain(|&candidate| match ranges.1[candidate as usize] {
            Range::Unlabelled => true,
            Range::Bad => false,
            Range::Of { min, max } => (min..=max).contains(&tokens),
        });
    }

    fn is_of_kind(&self) -> bool {
        true
    }
}

impl Scorer for ContextLengthAware {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let tokens = cx.request.input_tokens();
        let ranges = self.ranges(cx);
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            *out = match ranges.1[candidate as usize] {
                Range::Unlabelled => NEUTRAL,
                Range::Bad => 0.0,
                Range::Of { min, max } => fit(tokens, min, max),
            };
        }
    }
}

fn fit(tokens: u32, min: u32, max: u32) -> f32 {
    if !(min..=max).contains(&tokens) {
        let distance = tokens.saturating_sub(max) + min.saturating_sub(tokens);
        return FALLBACK / (1.0 + distance as f32 / 1000.0);
    }
    let width = (max - min) as f32;
    if width == 0.0 {
        return 1.0;
    }
    let narrow = 1.0 / (1.0 + width / 10_000.0);
    let headroom = (max - tokens) as f32 / width;
    FALLBACK + (1.0 - FALLBACK) * (0.7 * narrow + 0.3 * headroom)
}

// === impl Range ===

impl Range {
    fn read(label: &str) -> Self {
        let bounds = label.split_once('-').and_then(|(min, max)| {
            let (min, max) = (min.trim().parse().ok()?, max.trim().parse().ok()?);
            (min <= max).then_some((min, max))
        });
        bounds.map_or(Self::Bad, |(min, max)| Self::Of { min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{kept_for, labelled, plugin, scores_for};
    use super::*;
    use crate::pool::LoadView;

    #[test]
    fn the_formula() {
        for (tokens, range, expected) in [
            // 0.3 + 0.7 · (0.7 / 1.2048 + 0.3 · 1048 / 2048)
            (1000, (0, 2048), 0.814_172),
            (0, (0, 2048), 0.916_71),
            (2048, (0, 2048), 0.706_71),
            (500, (500, 500), 1.0),
            (9000, (0, 8192), 0.3 / 1.808),
            (1000, (2000, 3000), 0.15),
        ] {
            let got = fit(tokens, range.0, range.1);
            assert!((got - expected).abs() < 1e-4, "{tokens} {range:?}: {got}");
        }
        // A match beats every fallback.
        assert!(fit(1_000_000, 0, 1_000_000) > fit(1_000_001, 0, 1_000_000));
    }

    #[test]
    fn labels() {
        let label = |value| [(LABEL, value)];
        let [a, b, c, d, e] = ["0-2048", "2049-8192", "8-4", "-", "100"].map(label);
        let snapshot = labelled(&[&a, &b, &c, &d, &e, &[]]);
        let made = |parameters| {
            ContextLengthAware::of(&plugin("context-length-aware", parameters)).unwrap()
        };
        let load = LoadView::default();
        // 1000 tokens.
        let got = scores_for(&made("{}"), &snapshot, &load, 4000, &[]);
        assert!(got[0] > 0.3 && got[1] < 0.3 && got[1] > 0.0, "{got:?}");
        assert_eq!(got[2..], [0.0, 0.0, 0.0, 0.5]);
        for (parameters, bytes, expected) in [
            ("{}", 4000, vec![0, 1, 2, 3, 4, 5]),
            ("{enableFiltering: true}", 4000, vec![0, 5]),
            ("{enableFiltering: true}", 4 * 2049, vec![1, 5]),
            (
                "{enableFiltering: true, label: other}",
                4000,
                vec![0, 1, 2, 3, 4, 5],
            ),
        ] {
            let got = kept_for(&made(parameters), &snapshot, &load, bytes, &[]);
            assert_eq!(got, expected, "{parameters} {bytes}");
        }
    }

    #[test]
    fn what_needs_another_producer_says_so() {
        let wrong = plugin("context-length-aware", "{reusableTokensProducerName: p}");
        let got = ContextLengthAware::of(&wrong).unwrap_err().message;
        assert!(got.contains("p2p-source-producer"), "{got}");
    }
}
