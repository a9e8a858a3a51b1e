//! The file as it is written. Unknown fields are errors.

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::yaml::Tree;

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
    pub(super) flow_control: Option<Spanned<FlowControl>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plugin {
    #[serde(default)]
    pub(super) name: Option<Spanned<String>>,
    pub(super) r#type: Spanned<String>,
    #[serde(default)]
    pub(super) parameters: Option<Tree>,
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
    #[serde(default)]
    pub(super) cross_replica_sync_interval: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Source {
    pub(super) plugin_ref: Spanned<String>,
    #[serde(default)]
    pub(super) extractors: Vec<Reference>,
}

/// Queues before scheduling. Checked, although nothing of it is built yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FlowControl {
    #[serde(default)]
    pub(super) max_bytes: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) max_requests: Option<Spanned<String>>,
    #[serde(default, rename = "defaultRequestTTL")]
    pub(super) default_request_ttl: Option<Spanned<String>>,
    #[serde(default, rename = "noEndpointRequestTTL")]
    pub(super) no_endpoint_request_ttl: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) default_priority_band: Option<PriorityBand>,
    #[serde(default)]
    pub(super) default_negative_priority_band: Option<PriorityBand>,
    #[serde(default)]
    pub(super) priority_bands: Vec<PriorityBand>,
    #[serde(default)]
    pub(super) usage_limit_policy_plugin_ref: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) saturation_detector: Option<Reference>,
    #[serde(default)]
    pub(super) enable_eviction: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PriorityBand {
    #[serde(default, rename = "priority")]
    pub(super) _priority: i32,
    #[serde(default)]
    pub(super) max_bytes: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) max_requests: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) fairness_policy_ref: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) ordering_policy_ref: Option<Spanned<String>>,
}
