//! `endpoint-attribute-filter` (alpha): keeps the endpoints whose attribute is on the right side of a threshold.
//!
//! Parameters: `attribute`, a `customMetrics` key of `core-metrics-extractor`; `producer`, that extractor's name, if it has
//! another; `algorithm`: `type` `threshold` with `threshold`: `operator` (`LessThan`, `LessThanOrEqual`, `GreaterThan`,
//! `GreaterThanOrEqual`, `Equal`, `NotEqual`) and `value`; `onMissing` (`Pass`): what an endpoint without the attribute
//! does, `Pass` or `Fail`; `fallbackOnEmpty` (false): if none is left, keep all. Source: the llm-d picker. Use it to keep
//! requests from endpoints that a number of your own rules out.

use serde::{Deserialize, Serialize};

use super::super::attributes::Attribute;
use super::super::{Context, Filter};
use crate::config::{PickerConfig, PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct EndpointAttribute {
    attribute: Attribute,
    threshold: Threshold,
    missing_passes: bool,
    fallback_on_empty: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Params {
    attribute: String,
    #[serde(default)]
    producer: String,
    #[serde(default)]
    on_missing: OnMissing,
    #[serde(default)]
    fallback_on_empty: bool,
    algorithm: Algorithm,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
enum OnMissing {
    #[default]
    Pass,
    Fail,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Algorithm {
    #[serde(rename = "type")]
    _type: AlgorithmType,
    threshold: Threshold,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum AlgorithmType {
    Threshold,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Threshold {
    operator: Operator,
    value: f32,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum Operator {
    LessThan,
    LessThanOrEqual,
    GreaterThan,
    GreaterThanOrEqual,
    Equal,
    NotEqual,
}

// === impl EndpointAttribute ===

impl EndpointAttribute {
    pub(in crate::scheduling) fn of(
        plugin: &PluginUse,
        config: &PickerConfig,
    ) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let (name, producer) = (&params.attribute, &params.producer);
        Ok(Self {
            attribute: Attribute::of(plugin, "attribute", name, producer, config)?,
            threshold: params.algorithm.threshold,
            missing_passes: params.on_missing == OnMissing::Pass,
            fallback_on_empty: params.fallback_on_empty,
        })
    }

    fn passes(&self, cx: &Context<'_>, candidate: u32) -> bool {
        let value = self.attribute.at(cx, candidate);
        value.map_or(self.missing_passes, |value| self.threshold.holds(value))
    }
}

impl Filter for EndpointAttribute {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        let passes = |candidate: u32| self.passes(cx, candidate);
        if self.fallback_on_empty && !candidates.iter().any(|&candidate| passes(candidate)) {
            return;
        }
        candidates.retain(|&candidate| passes(candidate));
    }
}

// === impl Threshold ===

impl Threshold {
    fn holds(self, value: f32) -> bool {
        match self.operator {
            Operator::LessThan => value < self.value,
            Operator::LessThanOrEqual => value <= self.value,
            Operator::GreaterThan => value > self.value,
            Operator::GreaterThanOrEqual => value >= self.value,
            Operator::Equal => value == self.value,
            Operator::NotEqual => value != self.value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{attributed, config, kept_for, plugin};
    use super::*;

    fn made(parameters: &str) -> Result<EndpointAttribute, Problem> {
        let name = "endpoint-attribute-filter";
        let plugin = plugin(name, parameters);
        EndpointAttribute::of(&plugin, &config(name, parameters))
    }

    #[test]
    fn thresholds() {
        let (snapshot, load) = attributed("a", &[Some(1.0), Some(2.0), Some(3.0), None]);
        for (operator, more, expected) in [
            ("LessThan", "", vec![0, 3]),
            ("LessThanOrEqual", "", vec![0, 1, 3]),
            ("GreaterThan", "", vec![2, 3]),
            ("GreaterThanOrEqual", "", vec![1, 2, 3]),
            ("Equal", "", vec![1, 3]),
            ("NotEqual", "", vec![0, 2, 3]),
            ("Equal", ", onMissing: Fail", vec![1]),
            ("Equal", ", attribute: b, onMissing: Fail", vec![]),
            (
                "Equal",
                ", attribute: b, onMissing: Fail, fallbackOnEmpty: true",
                vec![0, 1, 2, 3],
            ),
        ] {
            let attribute = match more.contains("attribute:") {
                true => "",
                false => ", attribute: a",
            };
            let filter = made(&format!(
                "{{algorithm: {{type: threshold, threshold: {{operator: {operator}, value: 2}}}}{attribute}{more}}}"
            ))
            .unwrap();
            let got = kept_for(&filter, &snapshot, &load, 0, &[]);
            assert_eq!(got, expected, "{operator} {more}");
        }
    }

    #[test]
    fn what_nothing_produces_is_told() {
        let threshold = "algorithm: {type: threshold, threshold: {operator: Equal, value: 2}}";
        for (parameters, expected) in [
            (
                format!("{{attribute: GPUUtilization, producer: dcgm-extractor, {threshold}}}"),
                "parameters.producer: `dcgm-extractor` gives nothing: dataLayer.sources lists no dcgm-data-source",
            ),
            (
                format!("{{attribute: a, producer: x, {threshold}}}"),
                "parameters.producer: `x` gives no attributes in this version",
            ),
            (
                format!("{{attribute: '', {threshold}}}"),
                "parameters.attribute: is empty",
            ),
            ("{attribute: a}".to_owned(), "missing field `algorithm`"),
            (
                "{attribute: a, algorithm: {type: topK}}".to_owned(),
                "unknown variant `topK`",
            ),
        ] {
            let got = made(&parameters).unwrap_err().message;
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
