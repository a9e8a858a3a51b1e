//! Two replicas of which one leads.

use pointsman::proto::health::health_check_response::ServingStatus;
use pointsman::sim::kube::Call;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::ask::ask;
use crate::support::cluster::{Cluster, NAMESPACE};
use crate::support::{machine, until};

const LEASE: &str = "epp-models-pool.llm-d.ai";

fn lease(cluster: &Cluster) -> Option<Value> {
    cluster
        .api
        .get("coordination.k8s.io", "leases", NAMESPACE, LEASE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_hands_over_at_once_when_it_is_asked_to_stop() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    let flags = ["--ha-enable-leader-election", "--drain-timeout=20s"];
    let mut first = cluster.picker(&flags).await;
    first.until_health("readiness", true).await;
    let held = lease(&cluster).unwrap()["spec"].clone();
    assert_eq!(
        (&held["leaseDurationSeconds"], &held["leaseTransitions"]),
        (&15.into(), &0.into())
    );

    // It is warm, and would answer; but it is not the one to ask.
    let second = cluster.picker(&flags).await;
    second.has(&["models/a-rank-0"]).await;
    assert_eq!(ask(second.grpc, &[]).await.as_deref(), Ok("10.1.0.1:8000"));
    for service in [
        "",
        "readiness",
        "envoy.service.ext_proc.v3.ExternalProcessor",
    ] {
        assert_eq!(first.health_of(service).await, Some(ServingStatus::Serving));
        assert_eq!(
            second.health_of(service).await,
            Some(ServingStatus::NotServing)
        );
    }
    assert_eq!(
        second.health_of("liveness").await,
        Some(ServingStatus::Serving)
    );
    assert_eq!(
        second.health_of("other").await,
        Some(ServingStatus::ServiceUnknown)
    );

    first.process.signal(Signal::TERM).unwrap();
    let released = until("the lease to be given back", async || {
        let now = lease(&cluster)?["spec"].clone();
        (now["holderIdentity"] != held["holderIdentity"]).then_some(now)
    });
    released.await;
    second.until_health("readiness", true).await;
    let now = lease(&cluster).unwrap()["spec"].clone();
    assert_eq!(now["leaseTransitions"], 1);
    assert_eq!(second.metric("kubernetes_leading").await, 1.0);
    first.process.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_nobody_renews_runs_out() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    // Its holder died; its clock was ahead by years, which must not matter.
    let dead = serde_json::json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": LEASE, "namespace": NAMESPACE},
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 3, "leaseTransitions": 4, "renewTime": "2099-01-01T00:00:00.000000Z"},
    });
    assert!(cluster.api.put(dead));
    let picker = cluster.picker(&["--ha-enable-leader-election"]).await;
    picker.until_health("liveness", true).await;
    assert_eq!(
        picker.health_of("readiness").await,
        Some(ServingStatus::NotServing)
    );
    picker.until_health("readiness", true).await;
    let held = lease(&cluster).unwrap()["spec"].clone();
    assert_eq!(held["leaseTransitions"], 5);
    assert_eq!(held["leaseDurationSeconds"], 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_write_conflicts_still_leads() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    let picker = cluster.picker(&["--ha-enable-leader-election"]).await;
    picker.until_health("readiness", true).await;
    // Somebody writes into the lease all the time, an annotation, say: one renewal meets it once, the next one thrice.
    let renewed = || lease(&cluster).unwrap()["spec"]["renewTime"].clone();
    for conflicts in [1, 3] {
        let update = Call {
            verb: "update".to_owned(),
            group: "coordination.k8s.io".to_owned(),
            resource: "leases".to_owned(),
        };
        cluster.api.refuse_object(update, LEASE, 409, conflicts);
        let before = renewed();
        until("the next renewal", async || {
            (renewed() != before).then_some(())
        })
        .await;
    }
    let printed = picker.process.printed();
    assert_eq!(printed.matches("Another leads").count(), 1, "{printed}");
    assert_eq!(picker.metric("kubernetes_leading").await, 1.0);

    // Whose it is counts: it was taken away.
    let mut taken = lease(&cluster).unwrap();
    taken["spec"]["holderIdentity"] = "another".into();
    assert!(cluster.api.put(taken));
    picker.until_health("readiness", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_alone_writes_status() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    let flags = ["--ha-enable-leader-election"];
    let first = cluster.picker(&flags).await;
    until("a leader", async || {
        (first.metric("kubernetes_leading").await == 1.0).then_some(())
    })
    .await;
    let second = cluster.picker(&flags).await;
    cluster.objective("llm-d.ai", "batch", "pool", -1);
    let known = "kubernetes_objects{resource=\"inferenceobjectives\",standing=\"accepted\"}";
    for picker in [&first, &second] {
        until("the objective", async || {
            (picker.metric(known).await == 1.0).then_some(())
        })
        .await;
    }
    until("its status", async || {
        cluster.conditions("inferenceobjectives", "batch")
    })
    .await;
    let written = "kubernetes_status_writes_total";
    assert_eq!(
        (first.metric(written).await, second.metric(written).await),
        (1.0, 0.0)
    );
}
