//! Where node agents are: pods that are found by their labels, of which the pool wants those on the nodes of its endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Client;
use kube::ResourceExt as _;
use kube::runtime::watcher::Config;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::api::{self, Pod};
use super::counts::Counts;
use super::events::follow;
use super::mirror::Mirror;
use crate::pool::gpu::agents::AgentAt;
use crate::pool::{Pool, Snapshot};

/// How long changes of pods and of the pool are collected.
const TICK: Duration = Duration::from_millis(250);

/// Which pods are node agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPods {
    /// Their labels: `k=v,…`.
    pub selector: String,
    /// Their namespace; `None`: that of the pool.
    pub namespace: Option<String>,
    /// Where they serve.
    pub port: u16,
}

/// Finds the agents of a pool.
pub(super) struct Search {
    pub(super) pool: Arc<Pool>,
    /// The pool's name.
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) pods: AgentPods,
    pub(super) counts: Counts,
    /// How long a watch lasts, in seconds.
    pub(super) watch: u32,
    pub(super) found: watch::Sender<Vec<AgentAt>>,
}

/// A pod that may be an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AgentPod {
    node: String,
    address: IpAddr,
    ready: bool,
}

/// The agent of each node that has endpoints.
#[derive(Debug, Default)]
struct Chosen(BTreeMap<String, IpAddr>);

// === impl Search ===

impl Search {
    /// For good.
    pub(super) async fn follow(self) {
        let config = Config::default().labels(&self.pods.selector);
        let config = config.timeout(self.watch);
        let mut events = follow(
            &self.client,
            &self.namespace,
            &api::pods(),
            ("gpu-agents", config),
            &self.counts,
            view,
        );
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pods, mut chosen) = (Mirror::default(), Chosen::default());
        let (mut dirty, mut version) = (false, 0);
        loop {
            tokio::select! {
                Some(event) = events.next() => dirty |= !pods.take(event).is_empty(),
                _ = ticker.tick() => {
                    let snapshot = self.pool.snapshot();
                    if !(dirty || snapshot.version != version) {
                        continue;
                    }
                    let nodes = nodes(&snapshot);
                    let count = nodes.len();
                    if !pods.synced() {
                        // Perhaps they cannot be: that is to be seen.
                        self.counts.without_agent(&self.name, count);
                        continue;
                    }
                    (dirty, version) = (false, snapshot.version);
                    chosen.choose(nodes, &pods);
                    let found = chosen.agents(self.pods.port);
                    self.counts.without_agent(&self.name, count - found.len());
                    self.found.send_if_modified(|before| {
                        let changed = *before != found;
                        *before = found;
                        changed
                    });
                }
            }
        }
    }
}

/// The pod's name, and what it is as an agent; `None`: it has no place yet, or is about to lose it.
fn view(pod: Pod) -> (String, Option<AgentPod>) {
    let name = pod.name_any();
    let going = pod.metadata.deletion_timestamp.is_some();
    let status = pod.status.unwrap_or_default();
    let ready = status.is_ready();
    let address = status.pod_ip.and_then(|ip| ip.parse().ok());
    let agent = pod.spec.node_name.zip(address).filter(|_| !going);
    let agent = agent.map(|(node, address)| AgentPod {
        node,
        address,
        ready,
    });
    (name, agent)
}

/// Those of the pool's endpoints.
fn nodes(snapshot: &Snapshot) -> BTreeSet<&str> {
    let members = snapshot.members().iter();
    members
        .filter_map(|member| member.endpoint.hardware.node.as_deref())
        .collect()
}

// === impl Chosen ===

impl Chosen {
    /// One for each of `nodes`: one that is ready, of several the one that was. A node whose agent is gone keeps it until
    /// another is ready: it is being replaced, and what it told is not to be forgotten before somebody tells it anew.
    fn choose(&mut self, nodes: BTreeSet<&str>, pods: &Mirror<Option<AgentPod>>) {
        let mut before = std::mem::take(&mut self.0);
        let mut best: BTreeMap<&str, (bool, bool, IpAddr)> = BTreeMap::new();
        for pod in pods.iter().filter_map(|(_, pod)| pod.as_ref()) {
            let was = before.get(&pod.node) == Some(&pod.address);
            let rank = (pod.ready, was, pod.address);
            let known = best.entry(&pod.node).or_insert(rank);
            *known = rank.max(*known);
        }
        for node in nodes {
            let best = best.get(node);
            let ready = best.filter(|(ready, ..)| *ready).map(|best| best.2);
            let known = ready.or_else(|| before.remove(node));
            // What is not ready may be soon, or serve all the same.
            if let Some(address) = known.or_else(|| best.map(|best| best.2)) {
                self.0.insert(node.to_owned(), address);
            }
        }
    }

    fn agents(&self, port: u16) -> Vec<AgentAt> {
        let at = |address: &IpAddr| AgentAt {
            address: SocketAddr::new(*address, port).to_string().into(),
            name: address.to_string().into(),
        };
        self.0.values().map(at).collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, ip: &str, ready: bool) -> (String, Option<AgentPod>) {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name, "namespace": "gpu"},
            "spec": {"nodeName": node},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
        });
        view(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn each_node_with_endpoints_has_its_agent_and_keeps_it_until_there_is_another() {
        let mut pods = Mirror::default();
        let mut chosen = Chosen::default();
        let mut agents = |pods: &Mirror<_>, nodes: &[&str]| {
            chosen.choose(nodes.iter().copied().collect(), pods);
            let agents = chosen.agents(9401);
            let all = agents.iter().map(|at| at.address.to_string());
            all.collect::<Vec<_>>()
        };
        for (name, node, ip) in [("a", "n1", "10.2.0.1"), ("b", "n2", "fd00::2")] {
            pods.take(Event::Apply(pod(name, node, ip, true)));
        }
        assert_eq!(agents(&pods, &["n1"]), ["10.2.0.1:9401"]);
        assert_eq!(
            agents(&pods, &["n1", "n2", "n3"]),
            ["10.2.0.1:9401", "[fd00::2]:9401"]
        );
        // It is replaced: by the time that the new one is ready, be the old one gone or not.
        pods.take(Event::Apply(pod("c", "n1", "10.2.0.9", false)));
        assert_eq!(agents(&pods, &["n1"]), ["10.2.0.1:9401"]);
        pods.take(Event::Delete(pod("a", "n1", "10.2.0.1", true)));
        assert_eq!(agents(&pods, &["n1"]), ["10.2.0.1:9401"]);
        pods.take(Event::Apply(pod("c", "n1", "10.2.0.9", true)));
        assert_eq!(agents(&pods, &["n1"]), ["10.2.0.9:9401"]);
        pods.take(Event::Delete(pod("c", "n1", "10.2.0.9", false)));
        assert_eq!(agents(&pods, &["n1"]), ["10.2.0.9:9401"]);
        // Of two that are ready, the one that was.
        for (name, ip) in [("d", "10.2.0.8"), ("e", "10.2.0.9")] {
            pods.take(Event::Apply(pod(name, "n1", ip, true)));
        }
        assert_eq!(agents(&pods, &["n1"]), ["10.2.0.9:9401"]);
        // The node has no endpoints any more.
        assert_eq!(agents(&pods, &[]), [""; 0]);
        // Better one that is not ready than none.
        pods.take(Event::Apply(pod("f", "n4", "10.2.0.4", false)));
        assert_eq!(agents(&pods, &["n4"]), ["10.2.0.4:9401"]);
        assert_eq!(agents(&Mirror::default(), &["n1"]), [""; 0]);
    }

    #[test]
    fn what_has_no_place_is_no_agent() {
        assert!(pod("a", "n1", "", true).1.is_none());
        let going = json!({
            "metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1"},
            "status": {"podIP": "10.2.0.1"},
        });
        assert!(view(serde_json::from_value(going).unwrap()).1.is_none());
        let pending = json!({"metadata": {"name": "a"}, "spec": {}});
        assert!(view(serde_json::from_value(pending).unwrap()).1.is_none());
    }
}
