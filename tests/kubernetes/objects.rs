//! Objectives and rewrites: what they do to requests, and what they are told.

use pointsman::sim::kube::Call;
use serde_json::{Value, json};

use crate::support::ask::{Exchange, channel};
use crate::support::cluster::{Cluster, GROUP};
use crate::support::picker::Picker;
use crate::support::{machine, until};

const LEGACY: &str = "inference.networking.x-k8s.io";

fn exact(model: &str, to: &str) -> Value {
    json!({"matches": [{"model": {"value": model}}], "targets": [{"modelRewrite": to}]})
}

/// Asks for `model`, and tells for which model the request was sent on, by the picker's metrics.
async fn sent_on_for(picker: &Picker, model: &str, headers: &[(&str, &str)]) -> String {
    let body = json!({"model": model, "prompt": "Which way?"}).to_string();
    let mut exchange =
        Exchange::post(&channel(picker.grpc), "/v1/completions", headers, body).await;
    exchange.destination().await.unwrap();
    let page = picker.page("/metrics").await;
    let series = format!("llm_d_epp_request_total{{model_name=\"{model}\",target_model_name=\"");
    let target = page.lines().find_map(|line| line.strip_prefix(&series));
    target
        .unwrap_or_else(|| panic!("{page}"))
        .split('"')
        .next()
        .unwrap()
        .to_owned()
}

async fn conditions(
    cluster: &Cluster,
    picker: &Picker,
    plural: &str,
    name: &str,
    expected: [&str; 3],
) {
    let last = std::sync::Mutex::new(None);
    let told = until("conditions", async || {
        let told = cluster.conditions(plural, name);
        let done = told
            .as_ref()
            .is_some_and(|told| told[..2] == expected[..2] && told[2].contains(expected[2]));
        *last.lock().unwrap() = told;
        done.then_some(())
    });
    let waited = tokio::time::timeout(crate::support::PATIENCE / 3, told).await;
    assert!(
        waited.is_ok(),
        "{name}: {:?}\n{}",
        last.lock().unwrap(),
        picker.process.printed()
    );
}

async fn count(picker: &Picker, resource: &str, standing: &str, expected: f64) {
    let series = format!("kubernetes_objects{{resource=\"{resource}\",standing=\"{standing}\"}}");
    until(&series, async || {
        (picker.metric(&series).await == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rewrites_send_requests_on_for_other_models() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    cluster.rewrite(GROUP, "alias", json!([exact("alias", "real")]));
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;

    assert_eq!(sent_on_for(&picker, "alias", &[]).await, "real");
    let header = [("x-llm-d-model-name-rewrite", "asked")];
    assert_eq!(sent_on_for(&picker, "plain", &[]).await, "plain");
    assert_eq!(sent_on_for(&picker, "headed", &header).await, "asked");
    let counted = "model_rewrite_decisions_total{model_rewrite_name=\"alias\",model_name=\"alias\",target_model=\"real\"}";
    assert_eq!(picker.metric(counted).await, 1.0);

    let any = json!([exact("exact", "x"), {"targets": [{"modelRewrite": "any"}]}]);
    cluster.rewrite(GROUP, "generic", any);
    count(&picker, "inferencemodelrewrites", "accepted", 2.0).await;
    assert_eq!(sent_on_for(&picker, "exact", &[]).await, "x");
    assert_eq!(sent_on_for(&picker, "whatever", &header).await, "any");
    // Without a model there is one for any.
    assert_eq!(sent_on_for(&picker, "", &[]).await, "any");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_is_told_what_becomes_of_it() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.objective(GROUP, "batch", "pool", -1);
    cluster.objective(GROUP, "lost", "nowhere", 1);
    cluster.rewrite(GROUP, "good", json!([exact("m", "x")]));
    cluster.rewrite(GROUP, "same", json!([exact("m", "y")]));
    cluster.rewrite(GROUP, "empty", json!([{"targets": []}]));
    cluster.rewrite(GROUP, "half", json!([exact("h", "x"), {"targets": []}]));
    let long = "m".repeat(40_000);
    cluster.rewrite(GROUP, "long", json!([exact(&long, "x")]));
    cluster.rewrite(GROUP, "longer", json!([exact(&long, "y")]));
    let odd = json!([{"targets": [{"modelRewrite": "x", "weight": 1}, {"modelRewrite": "y"}]}]);
    cluster.rewrite(GROUP, "odd", odd);
    let picker = cluster.picker(&[]).await;
    let (objectives, rewrites) = ("inferenceobjectives", "inferencemodelrewrites");
    let accepted = ["True/Accepted", "True/ResolvedRefs", ""];
    conditions(&cluster, &picker, objectives, "batch", accepted).await;
    conditions(&cluster, &picker, rewrites, "good", accepted).await;
    let lost = ["False/PoolNotFound", "False/PoolNotFound", "`nowhere`"];
    conditions(&cluster, &picker, objectives, "lost", lost).await;
    let same = [
        "False/Conflicted",
        "True/ResolvedRefs",
        "`good` has a rule for `m` already",
    ];
    conditions(&cluster, &picker, rewrites, "same", same).await;
    let half = [
        "True/PartiallyInvalid",
        "True/ResolvedRefs",
        "spec.rules[1].targets: there are none",
    ];
    conditions(&cluster, &picker, rewrites, "half", half).await;
    let empty = [
        "False/Invalid",
        "True/ResolvedRefs",
        "spec.rules[0].targets: there are none",
    ];
    conditions(&cluster, &picker, rewrites, "empty", empty).await;
    let longer = ["False/Conflicted", "True/ResolvedRefs", "mmm…"];
    conditions(&cluster, &picker, rewrites, "longer", longer).await;
    let [.., message] = cluster.conditions(rewrites, "longer").unwrap();
    assert_eq!(message.chars().count(), 32_768);
    let odd = ["True/Accepted", "True/ResolvedRefs", "it is never drawn"];
    conditions(&cluster, &picker, rewrites, "odd", odd).await;
    count(&picker, objectives, "other_pool", 1.0).await;
    count(&picker, rewrites, "partially_invalid", 1.0).await;
    count(&picker, rewrites, "conflicted", 2.0).await;
    count(&picker, rewrites, "invalid", 1.0).await;
    count(&picker, "inferencepools", "accepted", 1.0).await;
    assert_eq!(picker.metric("objectives{").await, 1.0);
    for told in [
        "inferencemodelrewrites/empty",
        "inferencemodelrewrites/same",
        "inferenceobjectives/lost",
        "inferencemodelrewrites/odd: spec.rules[0].targets[1]: it has no weight",
    ] {
        assert!(picker.process.printed().contains(told), "{told}");
    }

    // What is as it should be is not written again.
    let written = picker
        .metric("kubernetes_status_writes_total{result=\"written\"}")
        .await;
    cluster.objective(GROUP, "other", "pool", 2);
    conditions(&cluster, &picker, objectives, "other", accepted).await;
    let series = "kubernetes_status_writes_total{result=\"written\"}";
    until("one more", async || {
        (picker.metric(series).await == written + 1.0).then_some(())
    })
    .await;

    // The older one goes: the younger one counts. The pool goes: nothing refers to anything.
    cluster.api.delete(GROUP, rewrites, "models", "good");
    conditions(&cluster, &picker, rewrites, "same", accepted).await;
    cluster.delete_pool();
    let unresolved = ["False/PoolNotFound", "False/PoolNotFound", "does not exist"];
    conditions(&cluster, &picker, objectives, "batch", unresolved).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_another_pool_is_its_pickers_to_tell() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    cluster.pool_named("second");
    cluster.objective(GROUP, "theirs", "second", 7);
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;
    count(&picker, "inferenceobjectives", "other_pool", 1.0).await;
    // What comes after it is told, and nothing was said of the other.
    cluster.objective(GROUP, "zz", "pool", 1);
    let accepted = ["True/Accepted", "True/ResolvedRefs", ""];
    conditions(&cluster, &picker, "inferenceobjectives", "zz", accepted).await;
    assert_eq!(cluster.conditions("inferenceobjectives", "theirs"), None);
    assert_eq!(picker.metric("objectives{").await, 1.0);
    let printed = picker.process.printed();
    let told = "inferenceobjectives/theirs: It is for the pool `second`";
    assert!(printed.contains(told), "{printed}");
    assert_eq!(sent_on_for(&picker, "m", &[]).await, "m");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_missing_is_not_asked_for_by_each_object() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    let names: Vec<String> = (0..100).map(|n| format!("lost{n:02}")).collect();
    for name in &names {
        cluster.objective(GROUP, name, "nowhere", 1);
    }
    let picker = cluster.picker(&[]).await;
    let lost = ["False/PoolNotFound", "False/PoolNotFound", "`nowhere`"];
    for name in &names {
        conditions(&cluster, &picker, "inferenceobjectives", name, lost).await;
    }
    // Once in each pass in which something is to be written, and passes are as slow as their writes.
    let asked = picker
        .metric("kubernetes_requests_total{code=\"404\"}")
        .await;
    assert!((1.0..30.0).contains(&asked), "{asked}");

    // It comes, and its own picker tells what is for it.
    cluster.pool_named("nowhere");
    cluster.objective(GROUP, "late", "nowhere", 1);
    cluster.objective(GROUP, "ours", "pool", 1);
    let accepted = ["True/Accepted", "True/ResolvedRefs", ""];
    conditions(&cluster, &picker, "inferenceobjectives", "ours", accepted).await;
    assert_eq!(cluster.conditions("inferenceobjectives", "late"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_whose_status_is_refused_keep_no_other_from_being_told() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    let patch = Call {
        verb: "patch".to_owned(),
        group: GROUP.to_owned(),
        resource: "inferenceobjectives/status".to_owned(),
    };
    // For good: by what the object says, by a webhook that fails.
    for (name, status) in ["a", "b", "c", "d", "e"]
        .into_iter()
        .zip([422, 422, 422, 500, 500])
    {
        cluster.objective(GROUP, name, "pool", 1);
        cluster
            .api
            .refuse_object(patch.clone(), name, status, u32::MAX);
    }
    cluster.objective(GROUP, "good", "pool", 1);
    let picker = cluster.picker(&[]).await;
    let accepted = ["True/Accepted", "True/ResolvedRefs", ""];
    conditions(&cluster, &picker, "inferenceobjectives", "good", accepted).await;
    // A third one makes that too many for one pass; the next one begins after it.
    cluster.objective(GROUP, "f", "pool", 1);
    cluster.api.refuse_object(patch, "f", 500, u32::MAX);
    count(&picker, "inferenceobjectives", "accepted", 7.0).await;
    cluster.objective(GROUP, "later", "pool", 1);
    conditions(&cluster, &picker, "inferenceobjectives", "later", accepted).await;
    assert_eq!(cluster.conditions("inferenceobjectives", "a"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_legacy_group_counts_where_it_alone_is_served() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    let pools = "inference.networking.k8s.io";
    cluster.api.serve_groups(&[pools, LEGACY]);
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    cluster.objective(LEGACY, "batch", "pool", -1);
    cluster.rewrite(LEGACY, "old", json!([exact("m", "legacy")]));
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;
    assert_eq!(sent_on_for(&picker, "m", &[]).await, "legacy");
    assert_eq!(picker.metric("objectives{").await, 1.0);

    cluster.api.serve_groups(&[pools, LEGACY, GROUP]);
    cluster.rewrite(GROUP, "new", json!([exact("n", "new")]));
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;
    assert_eq!(sent_on_for(&picker, "n", &[]).await, "new");
    assert_eq!(sent_on_for(&picker, "m", &[]).await, "m");
    assert_eq!(picker.metric("objectives{").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_write_status_nothing_else_is_missing() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    let call = |resource: &str| Call {
        verb: "patch".to_owned(),
        group: GROUP.to_owned(),
        resource: format!("{resource}/status"),
    };
    cluster.api.forbid(call("inferencemodelrewrites"));
    for n in 0..20 {
        cluster.rewrite(
            GROUP,
            &format!("r{n}"),
            json!([exact(&format!("m{n}"), "x")]),
        );
    }
    cluster.objective(GROUP, "batch", "pool", -1);
    let picker = cluster.picker(&[]).await;
    let accepted = ["True/Accepted", "True/ResolvedRefs", ""];
    conditions(&cluster, &picker, "inferenceobjectives", "batch", accepted).await;
    cluster.rewrite(GROUP, "late", json!([exact("late", "x")]));
    count(&picker, "inferencemodelrewrites", "accepted", 21.0).await;
    assert_eq!(sent_on_for(&picker, "late", &[]).await, "x");
    assert_eq!(
        picker
            .metric("kubernetes_status_writes_total{result=\"forbidden\"}")
            .await,
        1.0
    );
    let printed = picker.process.printed();
    assert_eq!(
        printed.matches("inferencemodelrewrites/status").count(),
        1,
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_rewrites_count() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    for n in 0..1000 {
        cluster.rewrite(
            GROUP,
            &format!("r{n}"),
            json!([exact(&format!("m{n}"), &format!("x{n}"))]),
        );
    }
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;
    count(&picker, "inferencemodelrewrites", "accepted", 1000.0).await;
    assert_eq!(sent_on_for(&picker, "m777", &[]).await, "x777");
    cluster
        .api
        .delete(GROUP, "inferencemodelrewrites", "models", "r777");
    count(&picker, "inferencemodelrewrites", "accepted", 999.0).await;
    let last = sent_on_for(&picker, "m999", &[]).await;
    assert_eq!(last, "x999");
}
