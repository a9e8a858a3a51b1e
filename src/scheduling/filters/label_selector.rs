//! `label-selector-filter`: keeps the endpoints whose labels match a Kubernetes label selector.
//!
//! Parameters: `matchLabels` (all must be equal) and `matchExpressions` (`key`, `operator` `In`, `NotIn`, `Exists` or
//! `DoesNotExist`, `values`; all must hold). As in Kubernetes, `NotIn` holds for an endpoint without the label, and a
//! selector without any requirement matches everything. Source: the llm-d picker and the Kubernetes API's
//! `LabelSelector`. Use it to keep a profile on one kind of endpoint: a GPU type, a role, a canary.
//!
//! Deprecated forms of it are `by-label-selector`, the same under another name, and `by-label`: `label`, `validValues`,
//! `allowsNoLabel` (false).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::per_endpoint::PerEndpoint;
use super::super::{Context, Filter};
use crate::config::{PluginUse, Problem};

type Labels = BTreeMap<String, String>;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct LabelSelector {
    requirements: Vec<Requirement>,
    matching: PerEndpoint<bool>,
}

/// What must be said of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Requirement {
    /// It is there and has one of these values.
    In(String, Vec<String>),
    /// It has one of these values, or is not there.
    InOrAbsent(String, Vec<String>),
    /// It has none of these values; it need not be there.
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    match_labels: Labels,
    match_expressions: Vec<Expression>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ByLabelParams {
    label: String,
    #[serde(default)]
    valid_values: Vec<String>,
    #[serde(default)]
    allows_no_label: bool,
}

// === impl LabelSelector ===

impl LabelSelector {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let equal = params.match_labels.into_iter();
        let mut requirements: Vec<_> = equal
            .map(|(key, value)| Requirement::In(key, vec![value]))
            .collect();
        for (n, expression) in params.match_expressions.into_iter().enumerate() {
            let Expression {
                key,
                operator,
                values,
            } = expression;
            let takes_values = matches!(operator, Operator::In | Operator::NotIn);
            if takes_values == values.is_empty() {
                let field = format!("matchExpressions[{n}].values");
                let message = match takes_values {
                    true => format!("{operator:?} needs at least one value"),
                    false => format!("{operator:?} takes no values"),
                };
                return Err(plugin.parameters.field_problem(&field, &message));
            }
            requirements.push(match operator {
                Operator::In => Requirement::In(key, values),
                Operator::NotIn => Requirement::NotIn(key, values),
                Operator::Exists => Requirement::Exists(key),
                Operator::DoesNotExist => Requirement::DoesNotExist(key),
            });
        }
        Ok(Self::new(requirements))
    }

    /// `by-label`.
    pub(in crate::scheduling) fn by_label(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: ByLabelParams = plugin.parameters.read()?;
        let problem = |field, message| Err(plugin.parameters.field_problem(field, message));
        if params.label.is_empty() {
            return problem("label", "is empty");
        }
        if params.valid_values.is_empty() && !params.allows_no_label {
            return problem("validValues", "is empty, so no endpoint could ever match");
        }
        let (key, values) = (params.label, params.valid_values);
        Ok(Self::new(vec![match params.allows_no_label {
            true => Requirement::InOrAbsent(key, values),
            false => Requirement::In(key, values),
        }]))
    }

    pub(super) fn new(requirements: Vec<Requirement>) -> Self {
        Self {
            requirements,
            matching: PerEndpoint::default(),
        }
    }
}

impl Filter for LabelSelector {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        let matching = self.matching.of(cx.snapshot, |endpoint| {
            let all = &self.requirements;
            all.iter()
                .all(|requirement| requirement.holds(&endpoint.labels))
        });
        candidates.retain(|&candidate| matching.1[candidate as usize]);
    }

    fn is_of_kind(&self) -> bool {
        true
    }
}

// === impl Requirement ===

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::InOrAbsent(key, values) => {
                labels.get(key).is_none_or(|value| values.contains(value))
            }
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{kept, labelled, plugin};
    use super::*;

    /// Of `gpu=a`, `gpu=b` with `canary`, and one without labels.
    fn selected(selector: Result<LabelSelector, Problem>) -> Vec<u32> {
        let snapshot = labelled(&[&[("gpu", "a")], &[("gpu", "b"), ("canary", "")], &[]]);
        kept(&selector.unwrap(), &snapshot)
    }

    #[test]
    fn selectors() {
        for (parameters, expected) in [
            ("{}", vec![0, 1, 2]),
            ("{matchLabels: {gpu: a}}", vec![0]),
            ("{matchLabels: {gpu: b, canary: ''}}", vec![1]),
            ("{matchLabels: {gpu: c}}", vec![]),
            (
                "{matchExpressions: [{key: gpu, operator: In, values: [a, b]}]}",
                vec![0, 1],
            ),
            (
                "{matchExpressions: [{key: gpu, operator: NotIn, values: [b]}]}",
                vec![0, 2],
            ),
            (
                "{matchExpressions: [{key: gpu, operator: Exists}]}",
                vec![0, 1],
            ),
            (
                "{matchExpressions: [{key: canary, operator: DoesNotExist}]}",
                vec![0, 2],
            ),
            (
                "{matchLabels: {gpu: b}, matchExpressions: [{key: canary, operator: DoesNotExist}]}",
                vec![],
            ),
        ] {
            for name in ["label-selector-filter", "by-label-selector"] {
                let got = selected(LabelSelector::of(&plugin(name, parameters)));
                assert_eq!(got, expected, "{parameters}");
            }
        }
    }

    #[test]
    fn by_label() {
        for (parameters, expected) in [
            ("{label: gpu, validValues: [a, x]}", vec![0]),
            (
                "{label: gpu, validValues: [b], allowsNoLabel: true}",
                vec![1, 2],
            ),
            ("{label: gpu, allowsNoLabel: true}", vec![2]),
        ] {
            let got = selected(LabelSelector::by_label(&plugin("by-label", parameters)));
            assert_eq!(got, expected, "{parameters}");
        }
    }

    #[test]
    fn what_can_never_match_is_an_error() {
        for (parameters, expected) in [
            (
                "{matchExpressions: [{key: a, operator: In}]}",
                "parameters.matchExpressions[0].values: In needs at least one value",
            ),
            (
                "{matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
                "Exists takes no values",
            ),
            (
                "{matchExpressions: [{key: a, operator: Is}]}",
                "unknown variant `Is`",
            ),
            ("{matchLabel: {a: b}}", "did you mean `matchLabels`?"),
        ] {
            let got = LabelSelector::of(&plugin("label-selector-filter", parameters));
            let got = got.unwrap_err().message;
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
        let got = LabelSelector::by_label(&plugin("by-label", "{label: gpu}"));
        assert!(got.unwrap_err().message.contains("validValues: is empty"));
    }
}
