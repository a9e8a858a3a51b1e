//! Several pools of several namespaces, and one picker.

use serde_json::{Value, json};
use tonic::transport::Endpoint;

use crate::support::ask::Exchange;
use crate::support::cluster::{Cluster, GROUP, NAMESPACE, POOL_GROUP};
use crate::support::picker::Picker;
use crate::support::{machine, until};

const LAB: &str = "lab";

/// An object of the namespace [`LAB`].
fn in_lab(cluster: &Cluster, version: &str, kind: &str, name: &str, rest: &Value) {
    let mut object = rest.clone();
    object["apiVersion"] = json!(version);
    object["kind"] = json!(kind);
    object["metadata"]["name"] = json!(name);
    object["metadata"]["namespace"] = json!(LAB);
    assert!(cluster.api.put(object), "{kind} {name}");
}

/// Where a request goes that comes to the picker by this name of it.
async fn ask_as(picker: &Picker, authority: &str) -> Result<String, i32> {
    let origin = format!("http://{authority}").parse().unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", picker.grpc));
    let channel = channel.unwrap().origin(origin).connect_lazy();
    let headers = [(":method", "GET"), (":path", "/v1/models")];
    let mut exchange = Exchange::begin(&channel, &headers, true).await;
    exchange.destination().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_pool_is_followed_in_its_own_namespace() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    cluster.objective(GROUP, "lost", "nowhere", -1);
    let pool = json!({"spec": {"selector": {"matchLabels": {"app": "qwen"}}, "targetPorts": [{"number": 9000}]}});
    let pools = format!("{POOL_GROUP}/v1");
    let file = cluster.kubeconfig.with_file_name("pools.yaml");
    let listed = json!({"pools": [
        {"name": "pool"},
        {"name": "qwen", "namespace": LAB, "service": "picker"},
    ]});
    std::fs::write(&file, listed.to_string()).unwrap();
    let flags = [
        &*format!("--pools-file={}", file.display()),
        "--pool-namespace=models",
        "--ha-enable-leader-election",
    ];
    let picker = cluster.picker_of(&flags).await;

    // One of two is not there yet: it is waited for.
    until("the first pool", async || {
        let page = picker.page("/metrics").await;
        let ready = "llm_d_epp_ready_endpoints{pool=\"models/pool\",name=\"pool\"} 1";
        page.lines().any(|l| l.starts_with(ready)).then_some(())
    })
    .await;
    picker.until_health("readiness", false).await;
    in_lab(&cluster, &pools, "InferencePool", "qwen", &pool);
    in_lab(
        &cluster,
        "v1",
        "Pod",
        "b",
        &json!({
            "metadata": {"labels": {"app": "qwen"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "vllm", "image": "vllm"}]},
            "status": {"podIP": "10.2.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        }),
    );
    let objective = json!({"spec": {"poolRef": {"name": "nowhere"}, "priority": 1}});
    let objectives = format!("{GROUP}/v1alpha2");
    in_lab(
        &cluster,
        &objectives,
        "InferenceObjective",
        "lost",
        &objective,
    );
    picker.until_health("readiness", true).await;

    let (first, second) = ("pool-epp.models.svc:9002", "picker.lab.svc.cluster.local");
    assert_eq!(ask_as(&picker, first).await.as_deref(), Ok("10.1.0.1:8000"));
    assert_eq!(
        ask_as(&picker, second).await.as_deref(),
        Ok("10.2.0.1:9000")
    );

    // The Lease is that of the first pool, and who has it writes for all.
    let lease = |namespace: &str, name: &str| {
        let leases = "coordination.k8s.io";
        cluster.api.get(leases, "leases", namespace, name)
    };
    assert!(lease(NAMESPACE, "epp-models-pool.llm-d.ai").is_some());
    assert!(lease(LAB, "epp-lab-qwen.llm-d.ai").is_none());
    for namespace in [NAMESPACE, LAB] {
        until("what is wrong to be told", async || {
            let objective = cluster
                .api
                .get(GROUP, "inferenceobjectives", namespace, "lost")?;
            objective["status"]["conditions"].as_array().map(|_| ())
        })
        .await;
    }

    // A pool that goes takes no other with it.
    cluster
        .api
        .delete(POOL_GROUP, "inferencepools", LAB, "qwen");
    until("the second pool to go", async || {
        (ask_as(&picker, second).await == Err(503)).then_some(())
    })
    .await;
    picker.until_health("readiness", true).await;
    assert_eq!(ask_as(&picker, first).await.as_deref(), Ok("10.1.0.1:8000"));
    cluster.delete_pool();
    picker.until_health("readiness", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_in_a_file_keeps_none_from_being_elected() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    let folder = cluster.kubeconfig.parent().unwrap();
    let (file, endpoints) = (folder.join("pools.yaml"), folder.join("lab.yaml"));
    std::fs::write(&endpoints, "endpoints: []\n").unwrap();
    let listed = json!({"pools": [
        {"name": "lab", "endpointsFile": endpoints},
        {"name": "pool", "namespace": NAMESPACE},
    ]});
    std::fs::write(&file, listed.to_string()).unwrap();
    let flags = [
        &*format!("--pools-file={}", file.display()),
        "--ha-enable-leader-election",
    ];
    let first = cluster.picker_of(&flags).await;
    first.until_health("readiness", true).await;
    let second = cluster.picker_of(&flags).await;
    until("the second to know the pool", async || {
        let asked = ask_as(&second, "pool-epp.models.svc:9002").await;
        (asked.as_deref() == Ok("10.1.0.1:8000")).then_some(())
    })
    .await;
    second.until_health("readiness", false).await;
    let leases = "coordination.k8s.io";
    let lease = |name: &str| cluster.api.get(leases, "leases", NAMESPACE, name);
    assert!(lease("epp-models-pool.llm-d.ai").is_some());
    drop(first);
}
