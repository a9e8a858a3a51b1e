//! What is told of GPUs, and what comes of it: agents and exporters on one side, live servers on the other.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::sync::watch;

use crate::support::agent::{Agent, gpu, xid};
use crate::support::ask::ask;
use crate::support::exporter::exporter;
use crate::support::picker::Picker;
use crate::support::sims::Sims;
use crate::support::{machine, pointsman, until};

/// Requests that tell whether both servers get some.
const ENOUGH: usize = 40;

/// A profile of these plugins, which are declared too.
fn profile(plugins: &[(&str, &str)]) -> String {
    let declared: String = plugins
        .iter()
        .map(|(name, parameters)| format!("- {{type: {name}, parameters: {parameters}}}\n"))
        .collect();
    let named: String = plugins
        .iter()
        .map(|(name, _)| format!("  - {{pluginRef: {name}}}\n"))
        .collect();
    format!(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n{declared}schedulingProfiles:\n- name: default\n  plugins:\n{named}"
    )
}

async fn picker(config: &str, sims: &Sims, agents: &[&Agent]) -> Picker {
    let endpoints = format!("--endpoints-file={}", sims.endpoints_file.display());
    let agents: Vec<_> = agents
        .iter()
        .map(|agent| agent.address.to_string())
        .collect();
    let agents = format!("--gpu-agents={}", agents.join(","));
    Picker::start(
        config,
        &[&endpoints, &agents, "--allow-experimental-plugins"],
    )
    .await
}

/// Where so many requests go.
async fn destinations(picker: &Picker) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for _ in 0..ENOUGH {
        all.insert(ask(picker.grpc, &[]).await.unwrap());
    }
    all
}

/// Waits until requests go to these of the servers, by number, and to no others.
async fn until_they_go_to(picker: &Picker, sims: &Sims, wanted: &[usize]) {
    let wanted: BTreeSet<_> = wanted
        .iter()
        .map(|&n| sims.addresses[n].to_string())
        .collect();
    until(&format!("requests to go to {wanted:?}"), async || {
        (destinations(picker).await == wanted).then_some(())
    })
    .await;
}

async fn gpus(picker: &Picker) -> Value {
    serde_json::from_str(&picker.page("/debug/gpus").await).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_a_gpu_moves_requests_and_is_told() {
    let _machine = machine::shared().await;
    let sims = Sims::start(2, &[]).await;
    let both = || vec![gpu("GPU-a", "sim-0", 0), gpu("GPU-b", "sim-1", 0)];
    let agent = Agent::start("n1", both()).await;
    let picker = picker(pointsman::config::DEFAULT, &sims, &[&agent]).await;
    until_they_go_to(&picker, &sims, &[0, 1]).await;

    agent.tell(both(), vec![xid(1, "GPU-a", 79)]);
    until_they_go_to(&picker, &sims, &[1]).await;
    let page = gpus(&picker).await;
    let first = &page["gpus"][0];
    assert_eq!(
        (&first["uuid"], &first["node"]),
        (&"GPU-a".into(), &"n1".into())
    );
    assert_eq!(first["endpoints"][0]["name"], "default/sim-0");
    assert_eq!(first["endpoints"][0]["health"], "ejected");
    let what = first["events"][0]["what"].as_str().unwrap();
    assert!(what.starts_with("XID 79: "), "{what}");
    let decision = ask(picker.grpc, &[("x-request-id", "told")]).await.unwrap();
    let record: Value = serde_json::from_str(&picker.page("/debug/decisions/told").await).unwrap();
    let seen = record["profiles"][0]["endpoints"].as_array().unwrap();
    let seen = seen.iter().find(|e| e["address"] == decision).unwrap();
    assert_eq!(seen["gpu"]["held"], 70_u64 << 30);
    assert!(seen["gpu"]["ageMs"].as_u64().unwrap() < 3_000, "{seen}");

    // For people, of the picker and of the agent itself.
    for (flag, address, expected) in [
        ("--picker", picker.metrics, "ejected (gpu-"),
        ("--agent", agent.address, "XID 79: "),
    ] {
        let asked = pointsman()
            .args(["gpus", flag, &address.to_string()])
            .output();
        let asked = asked.await.unwrap();
        let said = String::from_utf8([asked.stdout, asked.stderr].concat()).unwrap();
        let line = said.lines().find(|line| line.contains("GPU-a"));
        assert!(line.is_some_and(|line| line.contains(expected)), "{said}");
    }
    let nobody = pointsman().args(["gpus", "--picker=127.0.0.1:1"]).output();
    assert!(!nobody.await.unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_is_neutral_and_one_that_comes_back_is_heard() {
    let _machine = machine::shared().await;
    let sims = Sims::start(2, &[]).await;
    let with = |foreign| vec![gpu("GPU-a", "sim-0", foreign), gpu("GPU-b", "sim-1", 0)];
    let agent = Agent::start("n1", with(0)).await;
    let config = profile(&[("gpu-cotenant-scorer", "{maxAge: 2s}")]);
    let picker = picker(&config, &sims, &[&agent]).await;
    until_they_go_to(&picker, &sims, &[0, 1]).await;
    agent.tell(with(1), vec![]);
    until_they_go_to(&picker, &sims, &[1]).await;
    drop(agent);
    until_they_go_to(&picker, &sims, &[0, 1]).await;
    let silent = "llm_d_epp_gpu_sources{name=\"default\",kind=\"agent\",state=\"silent\"} 1";
    until("the agent to be silent", async || {
        picker.page("/metrics").await.contains(silent).then_some(())
    })
    .await;
    // What it told is still there, and as old as it is.
    let page = gpus(&picker).await;
    assert_eq!(page["gpus"][0]["foreign_processes"], 1);
    assert_eq!(page["sources"][0]["silent"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_agents_that_claim_a_gpu_one_counts_and_the_conflict_is_told() {
    let _machine = machine::shared().await;
    let sims = Sims::start(2, &[]).await;
    let first = Agent::start(
        "n1",
        vec![gpu("GPU-a", "sim-0", 0), gpu("GPU-b", "sim-1", 0)],
    )
    .await;
    let second = Agent::start("n2", vec![]).await;
    let config = profile(&[("gpu-cotenant-scorer", "{}")]);
    let picker = picker(&config, &sims, &[&first, &second]).await;
    until("both agents", async || {
        let page = gpus(&picker).await;
        let heard = page["sources"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|s| s["silent"] == false);
        (heard.count() == 2 && page["gpus"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    second.tell(vec![gpu("GPU-a", "sim-1", 3)], vec![]);
    let conflict = "llm_d_epp_gpu_claim_conflicts_total{name=\"default\"} 1\n";
    until("the conflict", async || {
        picker
            .page("/metrics")
            .await
            .contains(conflict)
            .then_some(())
    })
    .await;
    assert_eq!(gpus(&picker).await["gpus"][0]["foreign_processes"], 0);
    assert_eq!(destinations(&picker).await.len(), 2);
    // Its other GPU is nobody else's to tell of, and stays.
    drop(first);
    until("the second to count", async || {
        let page = gpus(&picker).await;
        let (a, b) = (&page["gpus"][1], &page["gpus"][0]);
        let taken_over = a["foreign_processes"] == 3 && a["node"] == "n2";
        (taken_over && b["uuid"] == "GPU-b").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_an_exporter_are_gone_by_for_as_long_as_they_are_pages() {
    let _machine = machine::shared().await;
    let sims = Sims::start(2, &[]).await;
    let page = |first: u32| {
        let line = |gpu: u32, pod: &str, busy: u32| {
            format!(
                "DCGM_FI_DEV_GPU_UTIL{{gpu=\"{gpu}\",UUID=\"GPU-{gpu}\",pod=\"{pod}\",namespace=\"default\"}} {busy}\n"
            )
        };
        line(0, "sim-0", first) + &line(1, "sim-1", 40)
    };
    let (shown, receiver) = watch::channel(page(10));
    let port = exporter(receiver).await;
    // As the llm-d picker's sample has it.
    let config = format!(
        "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {{type: dcgm-data-source, name: dcgm-source, parameters: {{port: {port}, interval: 100ms}}}}
- {{type: dcgm-extractor}}
- type: endpoint-attribute-filter
  name: gpu-utilization-filter
  parameters:
    attribute: GPUUtilization
    producer: dcgm-extractor
    onMissing: Pass
    fallbackOnEmpty: true
    algorithm: {{type: threshold, threshold: {{operator: LessThanOrEqual, value: 0.90}}}}
- {{type: random-picker}}
dataLayer:
  sources:
  - {{pluginRef: dcgm-source, extractors: [{{pluginRef: dcgm-extractor}}]}}
schedulingProfiles:
- {{name: default, plugins: [{{pluginRef: gpu-utilization-filter}}]}}
"
    );
    let picker = picker(&config, &sims, &[]).await;
    until_they_go_to(&picker, &sims, &[0, 1]).await;
    shown.send_replace(page(95));
    until_they_go_to(&picker, &sims, &[1]).await;
    assert_eq!(gpus(&picker).await["gpus"][0]["utilization"], 0.95);
    for garbage in [
        "<html>",
        "",
        "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",UUID=",
        "\u{0}\u{7f}",
    ] {
        shown.send_replace(garbage.repeat(1_000));
        until_they_go_to(&picker, &sims, &[0, 1]).await;
        let metrics = picker.page("/metrics").await;
        let failed = "source_type=\"dcgm-data-source\",cause=";
        assert!(metrics.contains(failed), "{garbage}\n{metrics}");
        shown.send_replace(page(95));
        until_they_go_to(&picker, &sims, &[1]).await;
    }
}
