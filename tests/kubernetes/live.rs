//! The same against a real API server, where `KUBEBUILDER_ASSETS` has one: what the double cannot prove (see its doc) is
//! proved here. Elsewhere the double answers, so that these cases are never left out.

use pointsman::proto::health::health_check_response::ServingStatus;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::access::read;
use super::rights;
use crate::support::ask::ask;
use crate::support::cluster::{GROUP, NAMESPACE, POOL_GROUP};
use crate::support::live::Live;
use crate::support::{machine, until};

const LEASE: &str = "epp-models-pool.llm-d.ai";

fn exact(model: &str, to: &str) -> Value {
    json!({"matches": [{"model": {"value": model}}], "targets": [{"modelRewrite": to}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_and_pool_are_followed() {
    let _machine = machine::shared().await;
    let mut live = Live::start(&rights::role()).await;
    live.pool(&[8000]).await;
    live.pod("a", "10.1.0.1", true).await;
    live.pod("b", "10.1.0.2", false).await;
    let picker = live.picker(&[]).await;
    picker.until_health("readiness", true).await;
    picker.has(&["models/a-rank-0"]).await;
    assert_eq!(ask(picker.grpc, &[]).await.as_deref(), Ok("10.1.0.1:8000"));

    live.pod_is("b", "10.1.0.2", true).await;
    picker.has(&["models/a-rank-0", "models/b-rank-0"]).await;
    // One that is told to end is no endpoint, though it is there until its node says that it has ended.
    live.delete("v1", "Pod", "a", None).await;
    picker.has(&["models/b-rank-0"]).await;
    let pod = live.get("v1", "Pod", "a").await.unwrap();
    assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{pod}");
    live.delete("v1", "Pod", "a", Some(0)).await;
    assert_eq!(live.get("v1", "Pod", "a").await, None);
    live.pod("a", "10.1.0.7", true).await;
    picker.has(&["models/a-rank-0", "models/b-rank-0"]).await;

    let pool = |ports: Value| json!({"apiVersion": format!("{POOL_GROUP}/v1"), "kind": "InferencePool", "metadata": {"name": "pool"}, "spec": {"targetPorts": ports}});
    let ports = json!([{"number": 8000}, {"number": 8001}]);
    live.change(pool(ports), false).await.unwrap();
    let annotated = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b", "annotations": {"llm-d.ai/active-ports": "8001"}}});
    live.change(annotated, false).await.unwrap();
    picker
        .has(&["models/a-rank-0", "models/a-rank-1", "models/b-rank-1"])
        .await;
    if live.is_real() {
        let refused = live.change(pool(json!([])), false).await;
        assert!(refused.is_err(), "the schema takes no pool without ports");
    }

    live.restart(async || {
        until("it to be told that the API server is away", async || {
            (picker.metric("kubernetes_api_up").await == 0.0).then_some(())
        })
        .await;
        assert_eq!(ask(picker.grpc, &[]).await.map(|_| ()), Ok(()));
    })
    .await;
    live.delete("v1", "Pod", "b", Some(0)).await;
    picker.has(&["models/a-rank-0", "models/a-rank-1"]).await;

    let kind = format!("{POOL_GROUP}/v1");
    live.delete(&kind, "InferencePool", "pool", None).await;
    picker.until_health("readiness", false).await;
    assert_eq!(ask(picker.grpc, &[]).await, Err(503));
    live.pool(&[9000]).await;
    picker.until_health("readiness", true).await;
    assert_eq!(ask(picker.grpc, &[]).await.as_deref(), Ok("10.1.0.7:9000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_goes_is_followed_again_when_it_is_back() {
    let _machine = machine::shared().await;
    let live = Live::start(&rights::role()).await;
    live.pool(&[8000]).await;
    live.pod("a", "10.1.0.1", true).await;
    let picker = live.picker(&[]).await;
    picker.until_health("readiness", true).await;
    live.remove_pools().await;
    picker.until_health("readiness", false).await;
    live.bring_pools_back().await;
    live.pool(&[8000]).await;
    picker.until_health("readiness", true).await;
    assert_eq!(ask(picker.grpc, &[]).await.as_deref(), Ok("10.1.0.1:8000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_pods_than_a_page_of_a_list_are_there_when_it_is_ready() {
    const PODS: usize = 600;
    let _machine = machine::shared().await;
    let live = std::sync::Arc::new(Live::start(&rights::role()).await);
    live.pool(&[8000]).await;
    let mut creating = JoinSet::new();
    for part in 0..8 {
        let live = std::sync::Arc::clone(&live);
        creating.spawn(async move {
            for n in (part..PODS).step_by(8) {
                let ip = format!("10.1.{}.{}", n / 250, n % 250 + 1);
                live.pod(&format!("p{n}"), &ip, true).await;
            }
        });
    }
    creating.join_all().await;
    let picker = live.picker(&[]).await;
    picker.until_health("readiness", true).await;
    assert_eq!(picker.metric("ready_endpoints{").await, PODS as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_told_what_becomes_of_them_and_keep_what_others_told_them() {
    let _machine = machine::shared().await;
    let live = Live::start(&rights::role()).await;
    let (objective, rewrite) = ("InferenceObjective", "InferenceModelRewrite");
    live.pool(&[8000]).await;
    live.objective("batch", "pool").await;
    live.objective("lost", "nowhere").await;
    live.rewrite("good", json!([exact("m", "x")]))
        .await
        .unwrap();
    live.rewrite("same", json!([exact("m", "y")]))
        .await
        .unwrap();
    let empty = live.rewrite("empty", json!([{"targets": []}])).await;
    assert_eq!(
        empty.is_err(),
        live.is_real(),
        "the schema asks for targets"
    );
    let seen = json!({
        "apiVersion": format!("{GROUP}/v1alpha2"),
        "kind": objective,
        "metadata": {"name": "batch"},
        "status": {"conditions": [{"type": "Seen", "status": "True", "reason": "Seen", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    });
    live.change(seen, true).await.unwrap();

    let picker = live.picker(&["--ha-enable-leader-election"]).await;
    picker.until_health("readiness", true).await;
    live.told(objective, "batch", "Accepted", "True/Accepted")
        .await;
    live.told(objective, "batch", "Seen", "True/Seen").await;
    live.told(objective, "lost", "Accepted", "False/PoolNotFound")
        .await;
    live.told(rewrite, "good", "ResolvedRefs", "True/ResolvedRefs")
        .await;
    live.told(rewrite, "same", "Accepted", "False/Conflicted")
        .await;

    // An object that changes is told of what it is now.
    let patch = json!({
        "apiVersion": format!("{GROUP}/v1alpha2"),
        "kind": rewrite,
        "metadata": {"name": "same"},
        "spec": {"rules": [exact("n", "y")]},
    });
    live.change(patch, false).await.unwrap();
    live.told(rewrite, "same", "Accepted", "True/Accepted")
        .await;

    // All of it with the rights that the chart gives, and each once.
    let refused = picker.metric("kubernetes_requests_total{code=\"403\"}");
    assert_eq!(refused.await, 0.0, "{}", picker.process.printed());
    let written = "kubernetes_status_writes_total{result=\"written\"}";
    let expected = if live.is_real() { 5.0 } else { 6.0 };
    until("all to be written", async || {
        (picker.metric(written).await == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_leads_and_hands_over() {
    let _machine = machine::shared().await;
    let live = Live::start(&rights::role()).await;
    live.pool(&[8000]).await;
    live.pod("a", "10.1.0.1", true).await;
    let flags = ["--ha-enable-leader-election", "--drain-timeout=20s"];
    let mut first = live.picker(&flags).await;
    first.until_health("readiness", true).await;
    let second = live.picker(&flags).await;
    second.has(&["models/a-rank-0"]).await;
    let standby = second.health_of("readiness").await;
    assert_eq!(standby, Some(ServingStatus::NotServing));
    first.process.signal(Signal::TERM).unwrap();
    second.until_health("readiness", true).await;
    let lease = live.get("coordination.k8s.io/v1", "Lease", LEASE).await;
    let lease = lease.unwrap();
    assert_eq!(lease["metadata"]["namespace"], NAMESPACE);
    assert_eq!(lease["spec"]["leaseTransitions"], 1, "{lease}");
    first.process.ended().await.unwrap();
    let refused = second.metric("kubernetes_requests_total{code=\"403\"}");
    assert_eq!(refused.await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_objects_of_the_demo_are_what_a_cluster_takes() {
    let _machine = machine::shared().await;
    let live = Live::start(&rights::role()).await;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo");
    let mut taken = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for object in objects {
            let created = live.create(&object).await;
            let bad = object["metadata"]["name"] == "without-targets";
            assert_eq!(
                created.is_err(),
                bad && live.is_real(),
                "{object}: {created:?}"
            );
            taken += 1;
        }
    }
    assert_eq!(taken, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_port_is_for_those_with_the_right_token() {
    let _machine = machine::shared().await;
    let live = Live::start(&rights::role()).await;
    live.pool(&[8000]).await;
    live.pod("a", "10.1.0.1", true).await;
    live.may_ask_about_others(&rights::reviews()).await;
    let prometheus = live.reader("prometheus", &["/metrics"]).await;
    let operator = live
        .reader("operator", &["/metrics", "/debug/plugins/state"])
        .await;
    let picker = live.picker(&["--metrics-endpoint-auth"]).await;
    picker.until_health("readiness", true).await;
    for (path, token, expected) in [
        ("/metrics", None, 401),
        ("/metrics", Some("made-up"), 401),
        ("/metrics", Some(&*prometheus), 200),
        ("/debug/plugins/state", Some(&*prometheus), 403),
        ("/debug/plugins/state", Some(&*operator), 200),
    ] {
        let (status, body) = read(&picker, path, token).await;
        assert_eq!(status, expected, "{path}: {body}");
    }
}
