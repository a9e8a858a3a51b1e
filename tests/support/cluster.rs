//! A cluster without nodes: the API server double in this process, and pickers that are told where it is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pointsman::cli::demo::apiserver;
use pointsman::proto::health::HealthCheckRequest;
use pointsman::proto::health::health_check_response::ServingStatus;
use pointsman::proto::health::health_client::HealthClient;
use pointsman::sim::kube::ApiServer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::picker::Picker;
use super::until;

pub(crate) const NAMESPACE: &str = "models";
pub(crate) const POOL_GROUP: &str = "inference.networking.k8s.io";
pub(crate) const GROUP: &str = "llm-d.ai";
const BOOKMARKS: Duration = Duration::from_millis(200);

/// A configuration that leaves endpoints to flags.
const CONFIG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: queue-scorer}
";

/// The API server, and how it is reached.
pub(crate) struct Cluster {
    pub(crate) api: Arc<ApiServer>,
    pub(crate) kubeconfig: PathBuf,
    address: SocketAddr,
    serving: CancellationToken,
    _folder: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let url = format!("http://{address}");
        apiserver::kubeconfig(&kubeconfig, &url, None, NAMESPACE).unwrap();
        let mut cluster = Self {
            api: ApiServer::new(BOOKMARKS),
            kubeconfig,
            address,
            serving: CancellationToken::new(),
            _folder: folder,
        };
        cluster.serve(listener);
        cluster
    }

    fn serve(&mut self, listener: TcpListener) {
        self.serving = CancellationToken::new();
        let stop = self.serving.clone().cancelled_owned();
        tokio::spawn(Arc::clone(&self.api).serve(listener, stop));
    }

    /// Nothing answers any more, and connections are cut.
    pub(crate) fn away(&self) {
        self.serving.cancel();
    }

    pub(crate) async fn back(&mut self) {
        let address = self.address;
        let bind = async || TcpListener::bind(address).await.ok();
        let listener = until("the port of the API server", bind).await;
        self.serve(listener);
    }

    /// A picker of the pool `pool`; everybody may read its metrics unless `flags` say otherwise.
    pub(crate) async fn picker(&self, flags: &[&str]) -> Picker {
        let flags: Vec<&str> = ["--pool-name=pool"].iter().chain(flags).copied().collect();
        self.picker_of(&flags).await
    }

    pub(crate) async fn picker_of(&self, flags: &[&str]) -> Picker {
        let open = ["--metrics-endpoint-auth=false"];
        let flags: Vec<&str> = open.iter().chain(flags).copied().collect();
        Picker::start_in(&self.kubeconfig, CONFIG, &flags).await
    }

    /// The pool `pool`: pods with the label `app: vllm`.
    pub(crate) fn pool(&self, ports: &[u16]) {
        self.pool_of(json!({"app": "vllm"}), ports);
    }

    pub(crate) fn pool_of(&self, labels: Value, ports: &[u16]) {
        let ports: Vec<Value> = ports.iter().map(|port| json!({"number": port})).collect();
        self.put(
            POOL_GROUP,
            "v1",
            "InferencePool",
            "pool",
            json!({
                "spec": {"selector": {"matchLabels": labels}, "targetPorts": ports},
            }),
        );
    }

    /// A pool that is none of the picker's.
    pub(crate) fn pool_named(&self, name: &str) {
        let labels = json!({"matchLabels": {"app": name}});
        let spec = json!({"selector": labels, "targetPorts": [{"number": 1}]});
        let body = json!({"spec": spec});
        self.put(POOL_GROUP, "v1", "InferencePool", name, body);
    }

    pub(crate) fn delete_pool(&self) {
        self.api
            .delete(POOL_GROUP, "inferencepools", NAMESPACE, "pool");
    }

    /// A pod `name` at `ip` with the label `app: vllm`; `active`: its ports, if it says which.
    pub(crate) fn pod(&self, name: &str, ip: &str, ready: bool, active: Option<&str>) {
        self.pod_on("node-1", name, ip, ready, active);
    }

    /// The same, on another node than `node-1`. Whatever it is called, its address is this machine's.
    pub(crate) fn pod_on(
        &self,
        node: &str,
        name: &str,
        ip: &str,
        ready: bool,
        active: Option<&str>,
    ) {
        let annotations = active.map(|ports| json!({"llm-d.ai/active-ports": ports}));
        self.put("", "v1", "Pod", name, json!({
            "metadata": {"labels": {"app": "vllm", "pod": name}, "annotations": annotations},
            "spec": {"nodeName": node, "containers": [{"name": "vllm", "image": "vllm"}]},
            "status": {"podIP": ip, "hostIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }));
    }

    /// A node agent's pod in the namespace `gpu`, with the label `app: probe`.
    pub(crate) fn agent_pod(&self, name: &str, node: &str, ip: &str) {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "gpu", "labels": {"app": "probe"}},
            "spec": {"nodeName": node, "containers": [{"name": "probe", "image": "pointsman"}]},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert!(self.api.put(pod));
    }

    pub(crate) fn delete_pod(&self, name: &str) {
        self.api.delete("", "pods", NAMESPACE, name);
    }

    /// An objective of `pool`.
    pub(crate) fn objective(&self, group: &str, name: &str, pool: &str, priority: i32) {
        let spec = json!({"poolRef": {"name": pool}, "priority": priority});
        self.put(
            group,
            "v1alpha2",
            "InferenceObjective",
            name,
            json!({"spec": spec}),
        );
    }

    /// A rewrite of `pool`.
    pub(crate) fn rewrite(&self, group: &str, name: &str, rules: Value) {
        let spec = json!({"poolRef": {"name": "pool"}, "rules": rules});
        self.put(
            group,
            "v1alpha2",
            "InferenceModelRewrite",
            name,
            json!({"spec": spec}),
        );
    }

    fn put(&self, group: &str, version: &str, kind: &str, name: &str, mut object: Value) {
        let slash = if group.is_empty() { "" } else { "/" };
        object["apiVersion"] = json!(format!("{group}{slash}{version}"));
        object["kind"] = json!(kind);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!(NAMESPACE);
        assert!(self.api.put(object), "{group} {kind}");
    }

    /// `status/reason` of the conditions Accepted and ResolvedRefs, and the message of the first.
    pub(crate) fn conditions(&self, plural: &str, name: &str) -> Option<[String; 3]> {
        let object = self.api.get(GROUP, plural, NAMESPACE, name)?;
        let conditions = object["status"]["conditions"].as_array()?.clone();
        let of = |kind: &str| conditions.iter().find(|c| c["type"] == kind).cloned();
        let (accepted, resolved) = (of("Accepted")?, of("ResolvedRefs")?);
        let told = |c: &Value| {
            format!(
                "{}/{}",
                c["status"].as_str().unwrap(),
                c["reason"].as_str().unwrap()
            )
        };
        let message = accepted["message"].as_str().unwrap().to_owned();
        Some([told(&accepted), told(&resolved), message])
    }
}

impl Picker {
    /// Waits until it has exactly these endpoints, by name.
    pub(crate) async fn has(&self, names: &[&str]) {
        self.until("the endpoints", async || {
            (self.endpoints().await == names).then_some(())
        })
        .await;
    }

    /// The names of its endpoints.
    pub(crate) async fn endpoints(&self) -> Vec<String> {
        let page = self.page("/debug/plugins/state").await;
        let page: Value = serde_json::from_str(&page).unwrap();
        let shown = page
            .pointer("/pool/endpoints")
            .unwrap_or_else(|| panic!("{page}"));
        let names = shown.as_array().unwrap().iter();
        let mut names: Vec<String> = names
            .map(|e| e["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// The sum of a metric's series that begin with `series`.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        crate::chaos::gauge(self.metrics, &format!("llm_d_epp_{series}")).await
    }

    /// Waits until a health check by that name says `serving`.
    pub(crate) async fn until_health(&self, service: &str, serving: bool) {
        let wanted = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.until("health", async || {
            (self.health_of(service).await == Some(wanted)).then_some(())
        })
        .await;
    }

    pub(crate) async fn health_of(&self, service: &str) -> Option<ServingStatus> {
        let mut client = HealthClient::connect(format!("http://{}", self.health))
            .await
            .ok()?;
        let service = service.to_owned();
        let answer = client.check(HealthCheckRequest { service }).await;
        Some(answer.ok()?.into_inner().status())
    }

    /// As [`until`], and shows the picker's log where it waits in vain.
    async fn until<T>(&self, what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
        let waiting = tokio::time::timeout(super::PATIENCE / 2, until(what, ask));
        waiting
            .await
            .unwrap_or_else(|_| panic!("waited in vain for {what}:\n{}", self.process.printed()))
    }
}
