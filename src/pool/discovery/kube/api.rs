//! The objects that are read, by the fields that are used of them.
//!
//! They are [`Object`]s, not derived types: which group serves them is known when the process runs (`--pool-group`, the
//! legacy group), and what a type does not name is dropped while it is read.

use std::collections::BTreeMap;

use kube::core::{GroupVersionKind, Object};
use kube::discovery::ApiResource;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Where InferencePools are served.
pub const POOL_GROUP: &str = "inference.networking.k8s.io";
/// Where objectives and rewrites are served, by preference: the second counts only where the first lacks them.
pub(super) const POLICY_GROUPS: [&str; 2] = ["llm-d.ai", "inference.networking.x-k8s.io"];
/// The version of both.
pub(super) const POLICY_VERSION: &str = "v1alpha2";
/// The largest weight of a target.
pub(super) const MOST_WEIGHT: u32 = 1_000_000;
/// What a reference to a pool is of, if it does not say.
const POOL_KIND: &str = "InferencePool";

pub(super) type Pod = Object<PodSpec, PodStatus>;
/// Of a custom type. It is read in two steps: a list of such objects must not fail for one that says nonsense.
pub(super) type Custom = Object<Option<Value>, Value>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    /// Of its node.
    #[serde(rename = "hostIP")]
    pub(super) host_ip: Option<String>,
    pub(super) conditions: Vec<PodCondition>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PodCondition {
    pub(super) r#type: String,
    pub(super) status: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PoolSpec {
    pub(super) selector: LabelSelector,
    pub(super) target_ports: Vec<TargetPort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LabelSelector {
    pub(super) match_labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct TargetPort {
    pub(super) number: u16,
}

/// Which pool an object is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct PoolRef {
    /// An empty one is the default too: no pool is in the core group.
    #[serde(default = "pool_group", deserialize_with = "group")]
    pub(super) group: String,
    #[serde(default = "pool_kind")]
    pub(super) kind: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectiveSpec {
    pub(super) priority: Option<i32>,
    pub(super) pool_ref: PoolRef,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RewriteSpec {
    pub(super) pool_ref: PoolRef,
    #[serde(default)]
    pub(super) rules: Vec<RewriteRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RewriteRule {
    /// None: any request.
    #[serde(default)]
    pub(super) matches: Vec<RewriteMatch>,
    #[serde(default)]
    pub(super) targets: Vec<RewriteTarget>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct RewriteMatch {
    pub(super) model: ModelMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct ModelMatch {
    #[serde(default)]
    pub(super) r#type: MatchType,
    pub(super) value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum MatchType {
    #[default]
    Exact,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RewriteTarget {
    pub(super) model_rewrite: String,
    /// 1 to [`MOST_WEIGHT`].
    pub(super) weight: Option<u32>,
}

/// Custom types that have conditions of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Objective,
    Rewrite,
}

/// What `object` says it should be; the error names the field.
pub(super) fn spec<S: DeserializeOwned>(object: &mut Custom) -> Result<S, String> {
    let spec = object.spec.take().unwrap_or_default();
    serde_path_to_error::deserialize(spec).map_err(|error| match error.path().iter().next() {
        Some(_) => format!("spec.{}: {}", error.path(), error.inner()),
        None => format!("spec: {}", error.inner()),
    })
}

// === impl PodStatus ===

impl PodStatus {
    pub(super) fn is_ready(&self) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.any(|c| c.r#type == "Ready" && c.status == "True")
    }
}

// === impl Kind ===

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Objective, Self::Rewrite];

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Objective => "inferenceobjectives",
            Self::Rewrite => "inferencemodelrewrites",
        }
    }

    /// As `group` serves it.
    pub(super) fn resource(self, group: &str) -> ApiResource {
        let kind = match self {
            Self::Objective => "InferenceObjective",
            Self::Rewrite => "InferenceModelRewrite",
        };
        resource(group, POLICY_VERSION, kind, self.plural())
    }
}

pub(super) fn pods() -> ApiResource {
    resource("", "v1", "Pod", "pods")
}

/// As `group` serves them.
pub(super) fn pools(group: &str) -> ApiResource {
    resource(group, "v1", POOL_KIND, "inferencepools")
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

fn pool_group() -> String {
    POOL_GROUP.to_owned()
}

fn group<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let group = String::deserialize(deserializer)?;
    Ok(if group.is_empty() {
        pool_group()
    } else {
        group
    })
}

fn pool_kind() -> String {
    POOL_KIND.to_owned()
}

// === impl PoolRef ===

impl PoolRef {
    /// Whether it can name a pool at all.
    pub(super) fn is_of_pools(&self) -> bool {
        self.kind == POOL_KIND
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Our definition of the type.
    fn definition(kind: Kind) -> Value {
        let crds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/crds");
        let text = std::fs::read_to_string(crds.join(format!("{}.yaml", kind.plural())));
        serde_saphyr::from_str(&text.unwrap()).unwrap()
    }

    fn fields(schema: &Value) -> Vec<&str> {
        let properties = schema["properties"].as_object().unwrap();
        let mut names: Vec<&str> = properties.keys().map(String::as_str).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_read_is_what_our_definitions_define() {
        for kind in Kind::ALL {
            let crd = definition(kind);
            let resource = kind.resource(POLICY_GROUPS[0]);
            let (spec, version) = (&crd["spec"], &crd["spec"]["versions"][0]);
            assert_eq!(spec["group"], resource.group);
            assert_eq!(
                (&spec["names"]["kind"], &spec["names"]["plural"]),
                (&json!(resource.kind), &json!(resource.plural))
            );
            assert_eq!(
                (&version["name"], &spec["scope"]),
                (&json!(POLICY_VERSION), &json!("Namespaced"))
            );
            assert_eq!(version["subresources"]["status"], json!({}));
            let schema = &version["schema"]["openAPIV3Schema"]["properties"];
            let conditions = &schema["status"]["properties"]["conditions"];
            assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
            let pool_ref = &schema["spec"]["properties"]["poolRef"];
            assert_eq!(fields(pool_ref), ["group", "kind", "name"]);
            let read: PoolRef = serde_json::from_value(json!({"name": "p"})).unwrap();
            assert_eq!(pool_ref["properties"]["group"]["default"], read.group);
            assert_eq!(pool_ref["properties"]["kind"]["default"], read.kind);
            let expected = match kind {
                Kind::Objective => ["poolRef", "priority"],
                Kind::Rewrite => ["poolRef", "rules"],
            };
            assert_eq!(fields(&schema["spec"]), expected);
        }
    }

    #[test]
    fn rules_are_read_as_our_definition_has_them() {
        let crd = definition(Kind::Rewrite);
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let rule = &spec["properties"]["rules"]["items"];
        assert_eq!(fields(rule), ["matches", "targets"]);
        let model = &rule["properties"]["matches"]["items"]["properties"]["model"];
        assert_eq!(
            (fields(model), &model["properties"]["type"]["enum"]),
            (vec!["type", "value"], &json!(["Exact"]))
        );
        let target = &rule["properties"]["targets"]["items"];
        assert_eq!(fields(target), ["modelRewrite", "weight"]);
        assert_eq!(target["properties"]["weight"]["maximum"], MOST_WEIGHT);
        let read: RewriteRule = serde_json::from_value(json!({
            "matches": [{"model": {"type": "Exact", "value": "m"}}],
            "targets": [{"modelRewrite": "x", "weight": 7}],
        }))
        .unwrap();
        assert_eq!(
            (read.matches[0].model.r#type, read.targets[0].weight),
            (MatchType::Exact, Some(7))
        );
    }
}
