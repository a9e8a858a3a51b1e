//! Plugin parameters: kept as they came until the plugin's own type reads them.

use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Problem;
use super::yaml::{Tree, unknown_field};

pub(crate) mod detectors;
mod handlers;
mod reporter;
mod sources;
mod topology;

pub use detectors::{ConcurrencyDetectorParams, ConcurrencyMode, UtilizationDetectorParams};
pub use handlers::*;
pub use reporter::*;
pub use sources::*;
pub use topology::*;

/// The `parameters` of one plugin, and where they stand.
#[derive(Clone, Debug)]
pub struct Parameters {
    plugin: String,
    tree: Option<Tree>,
    /// The line on which the plugin is declared.
    line: u64,
    /// What they were read as, for this and all its clones.
    resolved: Arc<OnceLock<Value>>,
}

/// Of `file-discovery`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FileDiscoveryParams {
    /// The endpoints file.
    pub path: String,
    /// Follow its changes.
    #[serde(default)]
    pub watch_file: bool,
}

/// Of `core-metrics-extractor`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct CoreMetricsParams {
    /// The label that names an endpoint's engine.
    pub engine_label_key: String,
    /// The engine of endpoints without that label.
    pub default_engine: String,
    /// Engines beside, or instead of, those that are known.
    pub engine_configs: Vec<EngineParams>,
}

/// One engine's metrics, each as `name` or `name{label=value}`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct EngineParams {
    /// What the engine label says.
    pub name: String,
    /// Requests waiting.
    pub queued_requests_spec: Option<String>,
    /// Requests running.
    pub running_requests_spec: Option<String>,
    /// KV cache use, 0 to 1.
    pub kv_usage_spec: Option<String>,
    /// LoRA info.
    pub lora_spec: Option<String>,
    /// A metric whose labels tell the cache's size.
    pub cache_info_spec: Option<String>,
    /// The label of the block size in it.
    pub cache_block_size_label_name: Option<String>,
    /// The label of the number of blocks in it.
    pub cache_num_blocks_label_name: Option<String>,
    /// A metric whose value is the block size.
    pub cache_block_size_spec: Option<String>,
    /// A metric whose value is the number of blocks.
    pub cache_num_blocks_spec: Option<String>,
    /// Attributes for other plugins.
    pub custom_metrics: Vec<CustomMetric>,
}

/// A metric that is kept under a name of the user's.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct CustomMetric {
    /// The name.
    pub attribute_key: String,
    /// The metric.
    pub metric_spec: String,
}

/// Of all pickers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PickerParams {
    /// How many endpoints to name, best first.
    pub max_num_of_endpoints: usize,
}

/// Of `blocking-testing-scorer`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BlockingTestingParams {
    /// For how long to block, in milliseconds.
    pub sleep_ms: u64,
}

/// Of plugins that have none.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// What is not set is not told.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

// === impl Parameters ===

impl Parameters {
    pub(super) fn new(plugin: &str, tree: Option<Tree>, line: u64) -> Self {
        Self {
            plugin: plugin.to_owned(),
            tree,
            line,
            resolved: Arc::default(),
        }
    }

    /// The name of their plugin.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Reads them as `T`, and keeps what they come to for [`Parameters::to_json`].
    pub fn read<T: DeserializeOwned + Serialize>(&self) -> Result<T, Problem> {
        let value = match self.value() {
            Value::Null => Value::Object(serde_json::Map::new()),
            other => other.clone(),
        };
        let read: T =
            serde_path_to_error::deserialize(value).map_err(|error| self.problem(&error))?;
        if let Ok(resolved) = serde_json::to_value(&read) {
            self.resolved.get_or_init(|| without_nulls(resolved));
        }
        Ok(read)
    }

    /// A problem with one field of them, written `a.b[0].c`; at the field's own line.
    pub fn field_problem(&self, field: &str, message: &str) -> Problem {
        let dot = if field.is_empty() { "" } else { "." };
        Problem::new(
            self.line_of(field),
            format!(
                "plugin `{}`: parameters{dot}{field}: {message}",
                self.plugin
            ),
        )
    }

    /// The line on which that plugin is declared.
    pub(super) fn at(&self) -> u64 {
        self.line
    }

    /// As compact JSON, for reports: with all defaults if they were read, else as they were given.
    pub fn to_json(&self) -> String {
        match self.resolved.get().unwrap_or(self.value()) {
            Value::Null => "{}".to_owned(),
            other => other.to_string(),
        }
    }

    fn value(&self) -> &Value {
        self.tree.as_ref().map_or(&Value::Null, |tree| &tree.value)
    }

    fn problem(&self, error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
        let path = error.path().to_string();
        let path = if path == "." { "" } else { path.as_str() };
        let message = error.inner().to_string();
        if !message.starts_with("unknown field") {
            return self.field_problem(path, &message);
        }
        let mut quoted = message.split('`').skip(1).step_by(2);
        let field = quoted.next().unwrap_or_default();
        let expected: Vec<&str> = quoted.collect();
        let message = if expected.is_empty() {
            format!("unknown field `{field}` (it has no parameters)")
        } else {
            unknown_field(field, expected.iter().copied())
        };
        let owner = path.strip_suffix(field).unwrap_or(path);
        Problem {
            line: self.line_of(path),
            ..self.field_problem(owner.trim_end_matches('.'), &message)
        }
    }

    fn line_of(&self, field: &str) -> u64 {
        let tree = self.tree.as_ref();
        tree.map_or(self.line, |tree| tree.line(field))
    }
}

// === impl CoreMetricsParams ===

impl Default for CoreMetricsParams {
    fn default() -> Self {
        Self {
            engine_label_key: "llm-d.ai/engine-type".to_owned(),
            default_engine: "vllm".to_owned(),
            engine_configs: Vec::new(),
        }
    }
}

// === impl PickerParams ===

impl Default for PickerParams {
    fn default() -> Self {
        Self {
            max_num_of_endpoints: 1,
        }
    }
}
