//! What is really asked of the API server is what the chart's role allows.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

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

/// The chart's role, with all that it has for any values.
pub(super) fn role() -> serde_json::Value {
    let template =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/pointsman/templates/rbac.yaml");
    let template = std::fs::read_to_string(template).unwrap();
    let role = template
        .split("\n---\n")
        .find(|document| document.contains("kind: Role\n"));
    // The rules without what only Helm reads; the lease is that of the pool `pool`.
    let rules = role.unwrap().split_once("\nrules:\n").unwrap().1;
    let named = rules.lines().map(|line| match line.trim_start() {
        text if text.starts_with("resourceNames:") => "  resourceNames: [epp-models-pool.llm-d.ai]",
        _ => line,
    });
    let lines = named.filter(|line| !line.contains("{{"));
    let text = format!("rules:\n{}", lines.collect::<Vec<_>>().join("\n"));
    serde_saphyr::from_str(&text).unwrap()
}

/// Verb, group and resource of all that the role allows, whatever the values of the chart.
fn allowed() -> BTreeSet<(String, String, String)> {
    let role: Role = serde_json::from_value(role()).unwrap();
    let mut allowed = BTreeSet::new();
    for rule in &role.rules {
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
    let picker = cluster.picker(&["--ha-enable-leader-election"]).await;
    picker.until_health("readiness", true).await;
    for (plural, name) in [
        ("inferenceobjectives", "lost"),
        ("inferencemodelrewrites", "bad"),
    ] {
        crate::support::until("its status", async || cluster.conditions(plural, name)).await;
    }
    drop(picker);
    let allowed = allowed();
    let calls = cluster.api.calls();
    assert!(calls.len() > 10, "{calls:?}");
    for call in calls {
        let call = (call.verb, call.group, call.resource);
        assert!(allowed.contains(&call), "{call:?} is not in {allowed:?}");
    }
}
