//! Node agents, found by the nodes that have endpoints.

use std::collections::BTreeSet;

use gpu_probes::telemetry::Gpu;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::agent::{Agent, gpu, xid};
use crate::support::cluster::Cluster;
use crate::support::picker::Picker;
use crate::support::{machine, until};

/// The agents of so many nodes: each has an address of its own, and all have one port.
async fn listeners(count: u8) -> Vec<TcpListener> {
    'ports: loop {
        let first = TcpListener::bind("127.0.1.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for n in 2..=count {
            match TcpListener::bind((format!("127.0.1.{n}"), port)).await {
                Ok(listener) => all.push(listener),
                Err(_) => continue 'ports,
            }
        }
        return all;
    }
}

/// Flags of a picker that looks for agents that serve at `port`.
fn flags(port: u16) -> [String; 3] {
    [
        "--gpu-agents-selector=app=probe".to_owned(),
        "--gpu-agents-namespace=gpu".to_owned(),
        format!("--gpu-agents-port={port}"),
    ]
}

/// A GPU of the pod `name` of the cluster.
fn gpu_of(uuid: &str, name: &str) -> Gpu {
    let mut gpu = gpu(uuid, name, 0);
    gpu.owners[0].namespace = "models".to_owned();
    gpu
}

/// Waits until the picker hears exactly the agents at `127.0.1.<n>`.
async fn until_heard(picker: &Picker, agents: &[u8]) {
    let wanted: BTreeSet<String> = agents.iter().map(|n| format!("127.0.1.{n}")).collect();
    until(&format!("the agents {wanted:?}"), async || {
        let page: Value = serde_json::from_str(&picker.page("/debug/gpus").await).unwrap();
        let sources = page["sources"].as_array().unwrap().clone();
        let all_heard = sources.iter().all(|source| source["silent"] == false);
        let host = |source: &Value| {
            let (host, _) = source["address"].as_str()?.split_once(':')?;
            Some(host.to_owned())
        };
        let heard: BTreeSet<String> = sources.iter().filter_map(host).collect();
        (all_heard && heard == wanted).then_some(())
    })
    .await;
}

/// Waits until so many nodes are known to have no agent.
async fn until_lack(picker: &Picker, nodes: f64) {
    until(&format!("{nodes} nodes without an agent"), async || {
        let series = "gpu_nodes_without_agent{name=\"pool\"}";
        let page = picker.page("/metrics").await;
        let told = page.contains(&format!("llm_d_epp_{series}"));
        (told && picker.metric(series).await == nodes).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_of_nodes_with_endpoints_are_asked_and_no_others() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    let mut listeners = listeners(4).await.into_iter();
    let port = listeners.as_slice()[0].local_addr().unwrap().port();
    let mut agent = |node, gpus| Agent::serve(listeners.next().unwrap(), node, gpus);
    let first = agent("node-1", vec![gpu_of("GPU-a", "a")]);
    let _second = agent("node-2", vec![gpu_of("GPU-b", "b")]);
    let _third = agent("node-3", vec![gpu_of("GPU-c", "c")]);
    let _fourth = agent("node-1", vec![gpu_of("GPU-a", "a")]);
    for (name, n) in [("x", 1), ("y", 2), ("z", 3)] {
        cluster.agent_pod(name, &format!("node-{n}"), &format!("127.0.1.{n}"));
    }
    cluster.pool(&[8000]);
    cluster.pod_on("node-1", "a", "10.1.0.1", true, None);
    cluster.pod_on("node-2", "b", "10.1.0.2", true, None);
    let flags = flags(port);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let picker = cluster.picker(&flags).await;
    picker.until_health("readiness", true).await;
    until_heard(&picker, &[1, 2]).await;
    until_lack(&picker, 0.0).await;

    first.tell(vec![gpu_of("GPU-a", "a")], vec![xid(1, "GPU-a", 79)]);
    until("the GPU to be lost", async || {
        let series = "endpoint_unhealthy{name=\"pool\",model_server_endpoint=\"a-rank-0\"";
        (picker.metric(series).await > 0.0).then_some(())
    })
    .await;

    cluster.pod_on("node-3", "c", "10.1.0.3", true, None);
    until_heard(&picker, &[1, 2, 3]).await;
    cluster.delete_pod("b");
    until_heard(&picker, &[1, 3]).await;
    // The first is replaced.
    cluster.api.delete("", "pods", "gpu", "x");
    cluster.agent_pod("new", "node-1", "127.0.1.4");
    until_heard(&picker, &[3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_agent_is_not_found_are_counted() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod_on("node-1", "a", "10.1.0.1", true, None);
    cluster.pod_on("node-1", "b", "10.1.0.2", true, None);
    cluster.pod_on("node-2", "c", "10.1.0.3", true, None);
    let flags = flags(9401);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let picker = cluster.picker(&flags).await;
    // Wrong labels, or no DaemonSet: there is nothing that could be silent.
    until_lack(&picker, 2.0).await;
    cluster.agent_pod("x", "node-1", "127.0.1.1");
    until_lack(&picker, 1.0).await;
    cluster.agent_pod("y", "node-2", "127.0.1.2");
    until_lack(&picker, 0.0).await;
}
