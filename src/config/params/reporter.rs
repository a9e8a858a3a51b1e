//! Parameters of `request-attribute-reporter`.

use serde::{Deserialize, Serialize};

/// Of `request-attribute-reporter`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReporterParams {
    /// What is reported; at least one.
    pub attributes: Vec<ReportedAttribute>,
}

/// One value of a response.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportedAttribute {
    /// Where in the dynamic metadata.
    pub key: AttributeKey,
    /// A CEL expression over `usage` that gives a number, of which the whole part is reported.
    pub expression: String,
    /// A CEL expression that gives true or false: whether anything is reported. None = yes.
    pub condition: Option<String>,
}

/// Where a value goes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttributeKey {
    /// Namespace of the dynamic metadata.
    pub namespace: String,
    /// Key in it.
    pub name: String,
}

// === impl AttributeKey ===

impl Default for AttributeKey {
    fn default() -> Self {
        Self {
            namespace: "envoy.lb".to_owned(),
            name: String::new(),
        }
    }
}
