//! A cluster without nodes that is asked as any client asks it: a real `kube-apiserver` with its etcd where
//! `KUBEBUILDER_ASSETS` names their folder, the double of `src/sim/kube` elsewhere.

use std::path::PathBuf;

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use pointsman::cli::demo::apiserver::{self, Real};
use pointsman::sim::kube::Reader;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::cluster::{Cluster, GROUP, NAMESPACE, POOL_GROUP};
use super::picker::Picker;
use super::until;

/// As whom the picker comes.
const ACCOUNT: &str = "epp";

/// The API, and how it is reached.
pub(crate) struct Live {
    client: Client,
    /// The picker's.
    kubeconfig: PathBuf,
    server: Server,
    /// What a real one keeps, for as long as it runs.
    _folder: Option<TempDir>,
}

enum Server {
    Real(Box<Real>),
    Double(Cluster),
}

impl Live {
    /// With the kinds of objects and the rights that `role`, as the chart has it, gives the picker.
    pub(crate) async fn start(role: &Value) -> Self {
        let Some(assets) = apiserver::assets().unwrap() else {
            let cluster = Cluster::start().await;
            return Self {
                client: apiserver::client(&cluster.kubeconfig).await.unwrap(),
                kubeconfig: cluster.kubeconfig.clone(),
                server: Server::Double(cluster),
                _folder: None,
            };
        };
        let folder = tempfile::tempdir().unwrap();
        let real = Real::start(assets, folder.path().join("apiserver")).unwrap();
        let admin = real.administrator(NAMESPACE).unwrap();
        let mut live = Self {
            client: apiserver::client(&admin).await.unwrap(),
            kubeconfig: admin,
            server: Server::Real(Box::new(real)),
            _folder: Some(folder),
        };
        live.until_ready().await;
        for definition in apiserver::KINDS {
            live.install(definition).await;
        }
        let client = &live.client;
        apiserver::namespace(client, NAMESPACE).await.unwrap();
        let account = apiserver::account(client, NAMESPACE, ACCOUNT, &role["rules"]);
        account.await.unwrap();
        let token = live.token_of(ACCOUNT).await;
        if let Server::Real(real) = &live.server {
            live.kubeconfig = real.kubeconfig("picker", &token, NAMESPACE).unwrap();
        }
        live
    }

    /// Whether schemas, rights and the rest of what the double has not are there.
    pub(crate) fn is_real(&self) -> bool {
        matches!(self.server, Server::Real(_))
    }

    /// A picker of the pool `pool`.
    pub(crate) async fn picker(&self, flags: &[&str]) -> Picker {
        let config = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- {type: queue-scorer}\n";
        let of = [
            "--pool-name=pool",
            "--pool-namespace=models",
            "--metrics-endpoint-auth=false",
        ];
        let flags: Vec<&str> = of.iter().chain(flags).copied().collect();
        Picker::start_in(&self.kubeconfig, config, &flags).await
    }

    /// It is away, and comes back.
    pub(crate) async fn restart(&mut self, meanwhile: impl AsyncFnOnce()) {
        match &mut self.server {
            Server::Real(real) => {
                real.stop().await.unwrap();
                meanwhile().await;
                real.run().unwrap();
            }
            Server::Double(cluster) => {
                cluster.away();
                meanwhile().await;
                cluster.back().await;
            }
        }
        self.until_ready().await;
    }

    async fn until_ready(&mut self) {
        let Server::Real(real) = &mut self.server else {
            return;
        };
        let patience = super::PATIENCE / 2;
        let ready = tokio::time::timeout(patience, real.until_ready(&self.client));
        match ready.await {
            Ok(ready) => ready.unwrap(),
            Err(_) => panic!("waited in vain for the API server:\n{}", real.printed()),
        }
    }

    async fn install(&self, definition: &str) {
        let installing = apiserver::install(&self.client, definition);
        let installed = tokio::time::timeout(super::PATIENCE / 2, installing).await;
        installed.expect("the kind to be served").unwrap();
    }

    /// InferencePools are no kind of objects any more, and those that were are gone.
    pub(crate) async fn remove_pools(&self) {
        match &self.server {
            Server::Real(_) => {
                let kind = "CustomResourceDefinition";
                let name = format!("inferencepools.{POOL_GROUP}");
                self.delete("apiextensions.k8s.io/v1", kind, &name, None)
                    .await;
            }
            Server::Double(cluster) => {
                cluster.delete_pool();
                cluster.api.serve_groups(&[GROUP, "coordination.k8s.io"]);
            }
        }
    }

    /// They are again.
    pub(crate) async fn bring_pools_back(&self) {
        match &self.server {
            Server::Real(_) => self.install(apiserver::POOLS).await,
            Server::Double(cluster) => {
                let groups = [POOL_GROUP, GROUP, "coordination.k8s.io"];
                cluster.api.serve_groups(&groups);
            }
        }
    }

    /// The picker may ask who somebody is and what he may do, as `role` allows it.
    pub(crate) async fn may_ask_about_others(&self, role: &Value) {
        if self.is_real() {
            self.bind_everywhere(ACCOUNT, &role["rules"]).await;
        }
    }

    /// A token of somebody who may get these paths.
    pub(crate) async fn reader(&self, name: &str, paths: &[&str]) -> String {
        if let Server::Double(cluster) = &self.server {
            let token = format!("{name}s-token");
            cluster.api.admit(Reader {
                token: token.clone(),
                user: format!("system:serviceaccount:{NAMESPACE}:{name}"),
                paths: paths.iter().map(|&path| path.to_owned()).collect(),
            });
            return token;
        }
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}});
        self.create(&account).await.unwrap();
        let rules = json!([{"nonResourceURLs": paths, "verbs": ["get"]}]);
        self.bind_everywhere(name, &rules).await;
        self.token_of(name).await
    }

    /// What `rules` allow in no namespace, for the ServiceAccount `name`.
    async fn bind_everywhere(&self, name: &str, rules: &Value) {
        let rbac = "rbac.authorization.k8s.io";
        let account = json!({"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE});
        for object in [
            json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}),
            json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name}, "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name}, "subjects": [account]}),
        ] {
            self.create(&object).await.unwrap();
        }
    }

    /// One of the ServiceAccount `account`.
    async fn token_of(&self, account: &str) -> String {
        let token = apiserver::token(&self.client, NAMESPACE, account);
        token.await.unwrap()
    }

    fn objects(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match kind {
            "CustomResourceDefinition" | "Namespace" | "ClusterRole" | "ClusterRoleBinding" => {
                Api::all_with(self.client.clone(), &resource)
            }
            _ => Api::namespaced_with(self.client.clone(), NAMESPACE, &resource),
        }
    }

    pub(crate) async fn create(&self, object: &Value) -> kube::Result<()> {
        let text = |field: &str| object[field].as_str().unwrap();
        let objects = self.objects(text("apiVersion"), text("kind"));
        let object = serde_json::from_value(object.clone()).unwrap();
        let created = objects.create(&PostParams::default(), &object).await;
        created.map(|_| ())
    }

    /// Changes the object as `patch` says, which names it; with `status` that alone.
    pub(crate) async fn change(&self, patch: Value, status: bool) -> kube::Result<()> {
        let text = |field: &str| patch[field].as_str().unwrap().to_owned();
        let objects = self.objects(&text("apiVersion"), &text("kind"));
        let name = patch["metadata"]["name"].as_str().unwrap().to_owned();
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let changed = match status {
            true => objects.patch_status(&name, &params, &patch).await,
            false => objects.patch(&name, &params, &patch).await,
        };
        changed.map(|_| ())
    }

    /// Deletes it; `None`: as long as the object itself asks for.
    pub(crate) async fn delete(&self, version: &str, kind: &str, name: &str, grace: Option<u32>) {
        let params = DeleteParams {
            grace_period_seconds: grace,
            ..DeleteParams::default()
        };
        let deleted = self.objects(version, kind).delete(name, &params).await;
        deleted.unwrap();
    }

    pub(crate) async fn get(&self, version: &str, kind: &str, name: &str) -> Option<Value> {
        let got = self.objects(version, kind).get_opt(name).await.unwrap();
        got.map(|object| serde_json::to_value(object).unwrap())
    }

    /// The pool `pool`: pods with the label `app: vllm`.
    pub(crate) async fn pool(&self, ports: &[u16]) {
        let ports: Vec<Value> = ports.iter().map(|port| json!({"number": port})).collect();
        let pool = json!({
            "apiVersion": format!("{POOL_GROUP}/v1"),
            "kind": "InferencePool",
            "metadata": {"name": "pool", "namespace": NAMESPACE},
            "spec": {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": ports},
        });
        self.create(&pool).await.unwrap();
    }

    /// A pod on a node that is not there, with the label `app: vllm`.
    pub(crate) async fn pod(&self, name: &str, ip: &str, ready: bool) {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "vllm"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "vllm", "image": "vllm"}]},
        });
        self.create(&pod).await.unwrap();
        self.pod_is(name, ip, ready).await;
    }

    /// What a kubelet would say.
    pub(crate) async fn pod_is(&self, name: &str, ip: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        let status = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]},
        });
        self.change(status, true).await.unwrap();
    }

    /// An objective of `pool`.
    pub(crate) async fn objective(&self, name: &str, pool: &str) {
        let objective = json!({
            "apiVersion": format!("{GROUP}/v1alpha2"),
            "kind": "InferenceObjective",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"poolRef": {"name": pool}, "priority": -1},
        });
        self.create(&objective).await.unwrap();
    }

    /// A rewrite of `pool`.
    pub(crate) async fn rewrite(&self, name: &str, rules: Value) -> kube::Result<()> {
        let rewrite = json!({
            "apiVersion": format!("{GROUP}/v1alpha2"),
            "kind": "InferenceModelRewrite",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"poolRef": {"name": "pool"}, "rules": rules},
        });
        self.create(&rewrite).await
    }

    /// Waits until the object has a condition of that type, with this `status/reason`.
    pub(crate) async fn told(&self, kind: &str, name: &str, condition: &str, expected: &str) {
        let last = std::sync::Mutex::new(Value::Null);
        let told = until("a condition", async || {
            let object = self.get(&format!("{GROUP}/v1alpha2"), kind, name).await?;
            let conditions = object["status"]["conditions"].clone();
            let told = conditions.as_array().into_iter().flatten().any(|c| {
                let told = format!("{}/{}", text(&c["status"]), text(&c["reason"]));
                c["type"] == condition && told == expected
            });
            *last.lock().unwrap() = conditions;
            told.then_some(())
        });
        let waited = tokio::time::timeout(super::PATIENCE / 2, told).await;
        assert!(
            waited.is_ok(),
            "{name}: {expected}: {}",
            last.lock().unwrap()
        );
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
