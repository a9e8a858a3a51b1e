//! The file as it is written. Unknown fields are errors.

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::{ConfigErrors, Problem, did_you_mean};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) api_version: Spanned<String>,
    pub(super) kind: Spanned<String>,
    /// Accepted where a Kubernetes object would have it; nothing in it counts.
    #[serde(default, rename = "metadata")]
    pub(super) _metadata: Option<Value>,
    #[serde(default)]
    pub(super) feature_gates: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) plugins: Vec<Plugin>,
    #[serde(default)]
    pub(super) scheduling_profiles: Vec<Profile>,
    #[serde(default)]
    pub(super) request_handler: Option<RequestHandler>,
    /// Where `requestHandler.parsers` used to be.
    #[serde(default)]
    pub(super) parser: Option<Reference>,
    /// Where `flowControl.saturationDetector` used to be.
    #[serde(default)]
    pub(super) saturation_detector: Option<Reference>,
    #[serde(default)]
    pub(super) data_layer: Option<DataLayer>,
    #[serde(default)]
    pub(super) flow_control: Option<Spanned<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plugin {
    #[serde(default)]
    pub(super) name: Option<Spanned<String>>,
    pub(super) r#type: Spanned<String>,
    #[serde(default)]
    pub(super) parameters: Option<Spanned<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) plugins: Vec<ProfilePlugin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ProfilePlugin {
    pub(super) plugin_ref: Spanned<String>,
    #[serde(default)]
    pub(super) weight: Option<Spanned<f64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestHandler {
    #[serde(default)]
    pub(super) parsers: Vec<Reference>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Reference {
    pub(super) plugin_ref: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DataLayer {
    #[serde(default)]
    pub(super) inject_defaults: Option<bool>,
    #[serde(default)]
    pub(super) sources: Vec<Source>,
    #[serde(default)]
    pub(super) discovery: Option<Reference>,
    #[serde(default)]
    pub(super) peer_discovery: Option<Reference>,
    #[serde(default)]
    pub(super) cross_replica_syncer_plugin_ref: Option<Spanned<String>>,
    /// Without a syncer it has nothing to say.
    #[serde(default, rename = "crossReplicaSyncInterval")]
    pub(super) _cross_replica_sync_interval: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Source {
    pub(super) plugin_ref: Spanned<String>,
    #[serde(default)]
    pub(super) extractors: Vec<Reference>,
}

/// Reads `text`, with the line of what does not fit and the nearest name of what is not known.
pub(super) fn parse(text: &str) -> Result<Document, ConfigErrors> {
    serde_saphyr::from_str(text).map_err(|error| yaml_problem(&error).into())
}

/// An error of the YAML reader, in our words.
pub fn yaml_problem(error: &serde_saphyr::Error) -> Problem {
    let error = error.without_snippet();
    let line = error.location().map_or(0, |at| at.line());
    let message = match error {
        serde_saphyr::Error::SerdeUnknownField {
            field, expected, ..
        } => unknown_field(field, expected.iter().copied()),
        other => other.to_string(),
    };
    Problem::new(line, message)
}

pub(super) fn unknown_field<'a>(
    field: &str,
    expected: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let hint = did_you_mean(field, expected.clone());
    let known: Vec<&str> = expected.collect();
    format!(
        "unknown field `{field}`{hint} (known here: {})",
        known.join(", ")
    )
}
