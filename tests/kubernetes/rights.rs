//! What is really asked of the API server is what the chart's roles allow.

use std::collections::BTreeSet;
use std::path::Path;

use pointsman::cli::demo::apiserver;
use pointsman::sim::kube::Reader;
use serde::Deserialize;

use super::access::read;
use crate::support::cluster::{Cluster, GROUP};
use crate::support::machine;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Role {
    rules: Vec<Rule>,
}

/// The roles of the chart, each as the document that it is.
fn template() -> String {
    let template =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/pointsman/templates/rbac.yaml");
    std::fs::read_to_string(template).unwrap()
}

/// The rules of `document`, for any values of the chart: without what only Helm reads, the lease that of the pool `pool`.
/// Whether the name of the lease that the chart renders is the one that the picker asks for, `.ci/chart` looks at.
fn rules(document: &str) -> Option<serde_json::Value> {
    let (_, rules) = document.split_once("\nrules:\n")?;
    let named = rules.lines().map(|line| match line.trim_start() {
        text if text.starts_with("resourceNames:") => "  resourceNames: [epp-models-pool.llm-d.ai]",
        _ => line,
    });
    let lines = named.filter(|line| !line.contains("{{"));
    let text = format!("rules:\n{}", lines.collect::<Vec<_>>().join("\n"));
    Some(serde_saphyr::from_str(&text).unwrap())
}

/// The chart's role, with all that it has for any values.
pub(super) fn role() -> serde_json::Value {
    let template = template();
    let mut documents = template.split("\n---\n");
    let role = documents.find(|document| document.contains("kind: Role\n"));
    rules(role.unwrap()).unwrap()
}

/// The chart's role that lets the picker ask who reads its metrics.
pub(super) fn reviews() -> serde_json::Value {
    let template = template();
    let mut documents = template.split("\n---\n");
    let role = documents.find(|document| document.contains("  resources: [tokenreviews]"));
    rules(role.unwrap()).unwrap()
}

#[test]
fn the_demo_gives_its_picker_the_rights_of_the_chart() {
    let role = role();
    let all = role["rules"].as_array().unwrap().iter();
    let elected = |rule: &&serde_json::Value| rule["resources"][0] == "leases";
    let without: Vec<_> = all.filter(|rule| !elected(rule)).cloned().collect();
    assert_eq!(apiserver::rules(), serde_json::Value::from(without));
}

/// Verb, group and resource of all that the picker's roles allow, whatever the values of the chart.
fn allowed() -> BTreeSet<(String, String, String)> {
    // Readers of its metrics have a role too, which is none of the picker's.
    let names = ["\n  name: {{ $name }}\n", "-metrics-auth\n"];
    let template = template();
    let roles = template.split("\n---\n").filter_map(|document| {
        let own = names.iter().any(|name| document.contains(name));
        rules(document).filter(|_| own)
    });
    let mut allowed = BTreeSet::new();
    let rules = roles.flat_map(|rules| serde_json::from_value::<Role>(rules).unwrap().rules);
    for rule in rules {
        for (group, (resource, verb)) in rule.api_groups.iter().flat_map(|group| {
            let pairs = rule
                .resources
                .iter()
                .flat_map(|r| rule.verbs.iter().map(move |v| (r, v)));
            pairs.map(move |pair| (group, pair))
        }) {
            allowed.insert((verb.clone(), group.clone(), resource.clone()));
        }
    }
    allowed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_asked_for_that_the_chart_does_not_allow() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    cluster.objective(GROUP, "batch", "pool", -1);
    cluster.objective(GROUP, "lost", "nowhere", -1);
    cluster.rewrite(GROUP, "bad", serde_json::json!([]));
    cluster.api.admit(Reader {
        token: "token".to_owned(),
        user: "prometheus".to_owned(),
        paths: vec!["/metrics".to_owned()],
    });
    let flags = ["--ha-enable-leader-election", "--metrics-endpoint-auth"];
    let picker = cluster.picker(&flags).await;
    picker.until_health("readiness", true).await;
    let (status, page) = read(&picker, "/metrics", Some("token")).await;
    assert_eq!(status, 200, "{page}");
    for (plural, name) in [
        ("inferenceobjectives", "lost"),
        ("inferencemodelrewrites", "bad"),
    ] {
        crate::support::until("its status", async || cluster.conditions(plural, name)).await;
    }
    drop(picker);
    let allowed = allowed();
    let calls = cluster.api.calls();
    assert!(calls.len() > 12, "{calls:?}");
    for call in calls {
        let call = (call.verb, call.group, call.resource);
        assert!(allowed.contains(&call), "{call:?} is not in {allowed:?}");
    }
}
