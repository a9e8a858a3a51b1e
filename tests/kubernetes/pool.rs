//! The InferencePool and its pods.

use serde_json::json;

use crate::support::ask::ask;
use crate::support::cluster::Cluster;
use crate::support::{machine, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_and_its_pods_are_picked_from_as_they_come_and_go() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    let picker = cluster.picker(&[]).await;
    assert_eq!(ask(picker.grpc, &[]).await, Err(503));
    picker.until_health("readiness", false).await;

    cluster.pod("a", "10.1.0.1", true, None);
    cluster.pod("b", "10.1.0.2", false, None);
    cluster.pool(&[8000]);
    picker.until_health("readiness", true).await;
    picker.has(&["models/a-rank-0"]).await;
    assert_eq!(ask(picker.grpc, &[]).await.as_deref(), Ok("10.1.0.1:8000"));

    cluster.pod("b", "10.1.0.2", true, None);
    cluster.pod("c", "10.1.0.3", true, None);
    picker
        .has(&["models/a-rank-0", "models/b-rank-0", "models/c-rank-0"])
        .await;
    cluster.delete_pod("a");
    cluster.pod("b", "10.1.0.2", false, None);
    picker.has(&["models/c-rank-0"]).await;
    assert_eq!(ask(picker.grpc, &[]).await.as_deref(), Ok("10.1.0.3:8000"));

    // A second port, and pods that say which they serve.
    cluster.pool(&[8000, 8001]);
    picker.has(&["models/c-rank-0", "models/c-rank-1"]).await;
    cluster.pod("c", "10.1.0.3", true, Some("8001"));
    picker.has(&["models/c-rank-1"]).await;
    assert_eq!(ask(picker.grpc, &[]).await.as_deref(), Ok("10.1.0.3:8001"));
    cluster.pod("c", "10.1.0.3", true, Some(""));
    picker.has(&[]).await;
    assert_eq!(ask(picker.grpc, &[]).await, Err(503));
    cluster.pod("c", "10.1.0.3", true, None);
    picker.has(&["models/c-rank-0", "models/c-rank-1"]).await;

    // Another selector, then one that cannot be used.
    cluster.pod("b", "10.1.0.2", true, None);
    cluster.pool_of(json!({"app": "vllm", "pod": "b"}), &[8000]);
    picker.has(&["models/b-rank-0"]).await;
    cluster.pool_of(json!({"app": "vllm"}), &[]);
    until("the bad pool", async || {
        let bad =
            picker.metric("kubernetes_objects{resource=\"inferencepools\",standing=\"invalid\"}");
        (bad.await == 1.0).then_some(())
    })
    .await;
    assert_eq!(picker.endpoints().await, ["models/b-rank-0"]);
    assert!(
        picker
            .process
            .printed()
            .contains("spec.targetPorts: there are 0")
    );
    picker.until_health("readiness", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_deleted_is_served_again_when_it_is_back() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    let picker = cluster.picker(&[]).await;
    picker.until_health("", true).await;
    cluster.delete_pool();
    picker.until_health("", false).await;
    picker.has(&[]).await;
    assert_eq!(ask(picker.grpc, &[]).await, Err(503));
    cluster.pool(&[9000]);
    picker.until_health("", true).await;
    picker.has(&["models/a-rank-0"]).await;
    assert_eq!(ask(picker.grpc, &[]).await.as_deref(), Ok("10.1.0.1:9000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pods_are_there_when_it_is_ready() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    for n in 0..1000 {
        cluster.pod(
            &format!("p{n}"),
            &format!("10.1.{}.{}", n / 250, n % 250 + 1),
            true,
            None,
        );
    }
    cluster.pool(&[8000]);
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;
    assert_eq!(picker.metric("ready_endpoints{").await, 1000.0);
    assert!(ask(picker.grpc, &[]).await.unwrap().starts_with("10.1."));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_alone_will_do() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.api.serve_groups(&[]);
    cluster.pod("a", "10.1.0.1", true, None);
    let flags = [
        "--endpoint-selector=app=vllm",
        "--endpoint-target-ports=8001,8000",
    ];
    let picker = cluster.picker_of(&flags).await;
    picker.until_health("readiness", true).await;
    assert_eq!(
        picker.endpoints().await,
        ["models/a-rank-0", "models/a-rank-1"]
    );
    cluster.pod("b", "10.1.0.2", true, Some("8000"));
    picker
        .has(&["models/a-rank-0", "models/a-rank-1", "models/b-rank-1"])
        .await;
    let asked = cluster.api.calls();
    let resources: Vec<&str> = asked.iter().map(|call| call.resource.as_str()).collect();
    assert_eq!(resources, ["pods", "pods"]);
}
