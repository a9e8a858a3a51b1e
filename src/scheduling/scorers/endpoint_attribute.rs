//! `endpoint-attribute-scorer` (alpha): the lower, or the higher, an attribute is, the better.
//!
//! Formula: `(value − min) / (max − min)`, clamped to 0..1, for `linear_higher_is_better`; 1 minus that for
//! `linear_lower_is_better`. `min` and `max` are given (`algorithm.normalization.fixedRange`) or, by default or with
//! `adaptiveRange: {}`, the least and the greatest of the candidates; all equal, 1. An endpoint without the attribute
//! gets 0, as in the reference: here what is not known is bad, because the configuration asks for it by name. Only if
//! none has it is the attribute neutral. `attributeKey` is a `customMetrics` key of `core-metrics-extractor`, `producer`
//! that extractor's name, if it has another. Source: the llm-d picker. Use it for numbers of your own.

use serde::{Deserialize, Serialize};

use super::super::attributes::Attribute;
use super::super::{Context, NEUTRAL, Scorer};
use crate::config::{PickerConfig, PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct EndpointAttribute {
    attribute: Attribute,
    lower_is_better: bool,
    /// `None`: that of the candidates.
    range: Option<Range>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Params {
    attribute_key: String,
    #[serde(default)]
    producer: String,
    algorithm: Algorithm,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Algorithm {
    r#type: AlgorithmType,
    #[serde(default)]
    normalization: Normalization,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum AlgorithmType {
    LinearLowerIsBetter,
    LinearHigherIsBetter,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Normalization {
    fixed_range: Option<Range>,
    adaptive_range: Option<Adaptive>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Adaptive {}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Range {
    min: f32,
    max: f32,
}

// === impl EndpointAttribute ===

impl EndpointAttribute {
    pub(in crate::scheduling) fn of(
        plugin: &PluginUse,
        config: &PickerConfig,
    ) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let field = "algorithm.normalization";
        let problem = |message| Err(plugin.parameters.field_problem(field, message));
        let Normalization {
            fixed_range,
            adaptive_range,
        } = params.algorithm.normalization;
        match fixed_range {
            Some(_) if adaptive_range.is_some() => {
                return problem("give one of fixedRange and adaptiveRange");
            }
            Some(range) if range.min.partial_cmp(&range.max) != Some(std::cmp::Ordering::Less) => {
                return problem("fixedRange.min is not less than fixedRange.max");
            }
            _ => {}
        }
        let (name, producer) = (&params.attribute_key, &params.producer);
        Ok(Self {
            attribute: Attribute::of(plugin, "attributeKey", name, producer, config)?,
            lower_is_better: params.algorithm.r#type == AlgorithmType::LinearLowerIsBetter,
            range: fixed_range,
        })
    }
}

impl Scorer for EndpointAttribute {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let mut seen = Range {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
        };
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            *out = self.attribute.at(cx, candidate).unwrap_or(f32::NAN);
            seen.min = seen.min.min(*out);
            seen.max = seen.max.max(*out);
        }
        if seen.min > seen.max {
            return out.fill(NEUTRAL);
        }
        let Range { min, max } = self.range.unwrap_or(seen);
        for out in out.iter_mut().take(candidates.len()) {
            *out = if out.is_nan() {
                0.0
            } else if max > min {
                let share = ((*out - min) / (max - min)).clamp(0.0, 1.0);
                if self.lower_is_better {
                    1.0 - share
                } else {
                    share
                }
            } else {
                1.0
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{attributed, config, plugin, scores_for};
    use super::*;

    fn made(parameters: &str) -> Result<EndpointAttribute, Problem> {
        let name = "endpoint-attribute-scorer";
        let plugin = plugin(name, parameters);
        EndpointAttribute::of(&plugin, &config(name, parameters))
    }

    #[test]
    fn linear() {
        let fixed = ", normalization: {fixedRange: {min: 0, max: 10}}";
        let adaptive = ", normalization: {adaptiveRange: {}}";
        let some = [Some(10.0), Some(5.0), Some(0.0), None];
        for (way, normalization, values, expected) in [
            ("lower", "", some, [0.0, 0.5, 1.0, 0.0]),
            ("higher", adaptive, some, [1.0, 0.5, 0.0, 0.0]),
            (
                "lower",
                fixed,
                [Some(2.5), Some(11.0), Some(-1.0), None],
                [0.75, 0.0, 1.0, 0.0],
            ),
            (
                "higher",
                fixed,
                [Some(2.5), Some(11.0), Some(-1.0), None],
                [0.25, 1.0, 0.0, 0.0],
            ),
            (
                "lower",
                "",
                [Some(3.0), Some(3.0), Some(3.0), None],
                [1.0, 1.0, 1.0, 0.0],
            ),
            ("lower", "", [None; 4], [0.5; 4]),
            ("lower", fixed, [None; 4], [0.5; 4]),
        ] {
            let scorer = made(&format!(
                "{{attributeKey: a, algorithm: {{type: linear_{way}_is_better{normalization}}}}}"
            ))
            .unwrap();
            let (snapshot, load) = attributed("a", &values);
            let got = scores_for(&scorer, &snapshot, &load, 0, &[]);
            assert_eq!(got, expected, "{way} {normalization} {values:?}");
        }
    }

    #[test]
    fn ranges_are_checked() {
        for (normalization, expected) in [
            (
                "{fixedRange: {min: 1, max: 1}}",
                "fixedRange.min is not less",
            ),
            (
                "{fixedRange: {min: 0, max: 1}, adaptiveRange: {}}",
                "give one of",
            ),
            ("{fixedRang: {}}", "did you mean `fixedRange`?"),
        ] {
            let got = made(&format!(
                "{{attributeKey: a, algorithm: {{type: linear_lower_is_better, normalization: {normalization}}}}}"
            ));
            let got = got.unwrap_err().message;
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
