//! What an API server must have before a picker comes: kinds, a namespace, and an account with rights.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Error};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::TICK;

/// InferencePools' definition, as YAML.
pub const POOLS: &str = include_str!("inferencepools.yaml");
/// The definitions of all custom kinds that a picker reads, as YAML.
pub const KINDS: [&str; 3] = [
    POOLS,
    include_str!("../../../../deploy/crds/inferenceobjectives.yaml"),
    include_str!("../../../../deploy/crds/inferencemodelrewrites.yaml"),
];
/// How long a token is good for: longer than anybody looks on.
const TOKEN: Duration = Duration::from_secs(30 * 24 * 3600);

/// Installs a kind by its `definition`, which is YAML, and waits until its objects are served. One of that name that is on its way
/// out is waited for.
pub async fn install(client: &Client, definition: &str) -> anyhow::Result<()> {
    let definition: Value = serde_saphyr::from_str(definition)?;
    let definition: CustomResourceDefinition = serde_json::from_value(definition)?;
    let name = definition.metadata.name.clone().unwrap_or_default();
    let (group, kind) = (&definition.spec.group, &definition.spec.names);
    let all = Api::<CustomResourceDefinition>::all(client.clone());
    let created = async {
        while taken(&all.create(&PostParams::default(), &definition).await) {
            tokio::time::sleep(TICK).await;
        }
        let established = conditions::is_crd_established();
        await_condition(all.clone(), &name, established).await?;
        for version in &definition.spec.versions {
            let of = GroupVersionKind::gvk(group, &version.name, &kind.kind);
            let resource = ApiResource::from_gvk_with_plural(&of, &kind.plural);
            let objects = Api::<DynamicObject>::all_with(client.clone(), &resource);
            // Whoever answers may hear of it later than we do.
            while missing(&objects.list(&ListParams::default().limit(1)).await) {
                tokio::time::sleep(TICK).await;
            }
        }
        anyhow::Ok(())
    };
    created.await.with_context(|| format!("installing {name}"))
}

/// Makes the namespace.
pub async fn namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    let all = Api::<Namespace>::all(client.clone());
    create(&all, json!({"metadata": {"name": name}})).await
}

/// Makes the ServiceAccount `name`, which may do what `rules` say in its namespace.
pub async fn account(
    client: &Client,
    namespace: &str,
    name: &str,
    rules: &Value,
) -> anyhow::Result<()> {
    let metadata = json!({"name": name});
    let account = json!({"kind": "ServiceAccount", "name": name, "namespace": namespace});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
    create(
        &Api::<ServiceAccount>::namespaced(client.clone(), namespace),
        json!({"metadata": metadata}),
    )
    .await?;
    create(
        &Api::<Role>::namespaced(client.clone(), namespace),
        json!({"metadata": metadata, "rules": rules}),
    )
    .await?;
    create(
        &Api::<RoleBinding>::namespaced(client.clone(), namespace),
        json!({"metadata": metadata, "roleRef": role, "subjects": [account]}),
    )
    .await
}

/// A token of the ServiceAccount `account`.
pub async fn token(client: &Client, namespace: &str, account: &str) -> anyhow::Result<String> {
    let all = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN.as_secs().try_into()?),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let params = PostParams::default();
    let answer = all.create_token_request(account, &params, &request).await;
    let answer = answer.with_context(|| format!("a token of {account}"))?;
    let status = answer.status.context("a token request without an answer")?;
    Ok(status.token)
}

/// What the chart's role allows a picker of one pool that elects no leader.
pub fn rules() -> Value {
    let groups = ["llm-d.ai", "inference.networking.x-k8s.io"];
    let read = ["get", "list", "watch"];
    json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": read},
        {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": read},
        {"apiGroups": groups, "resources": ["inferenceobjectives", "inferencemodelrewrites"], "verbs": read},
        {"apiGroups": groups, "resources": ["inferenceobjectives/status", "inferencemodelrewrites/status"], "verbs": ["patch"]},
    ])
}

async fn create<K>(all: &Api<K>, object: Value) -> anyhow::Result<()>
where
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned + k8s_openapi::Resource,
{
    let object: K = serde_json::from_value(object)?;
    let created = all.create(&PostParams::default(), &object).await;
    created.with_context(|| format!("creating a {}", K::KIND))?;
    Ok(())
}

fn taken<T>(answer: &kube::Result<T>) -> bool {
    matches!(answer, Err(Error::Api(status)) if status.code == 409)
}

fn missing<T>(answer: &kube::Result<T>) -> bool {
    matches!(answer, Err(Error::Api(status)) if status.code == 404)
}
