//! What a pod is as endpoints: one for each port of the pool that is active in it.

use std::net::IpAddr;

use kube::ResourceExt as _;

use super::api::Pod;
use crate::pool::{Endpoint, EndpointId, Hardware};

/// The annotation that says which ports of the pool a pod serves, comma separated; the second is its older name.
const ACTIVE_PORTS: [&str; 2] = [
    "llm-d.ai/active-ports",
    "inference.networking.k8s.io/active-ports",
];

/// A pod that takes requests, trimmed to what is used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// The pod as an endpoint, but for what tells its endpoints apart: the end of the name, and the port.
    pod: Endpoint,
    /// `None`: all ports of the pool.
    active: Option<Vec<u16>>,
}

/// `None`: it takes no requests now.
pub(super) type View = Option<Server>;

/// The pod's name, and what it is.
pub(super) fn view(mut pod: Pod) -> (String, View) {
    let name = pod.name_any();
    let active = ACTIVE_PORTS
        .iter()
        .find_map(|&key| pod.annotations().get(key));
    let active = active.map(|text| ports(text));
    let labels = std::mem::take(pod.labels_mut());
    let host_ip = pod.status.as_ref().and_then(|s| s.host_ip.as_deref());
    let node_address = host_ip.and_then(|ip| ip.parse().ok());
    let server = address(&pod).map(|address| Server {
        pod: Endpoint {
            id: EndpointId {
                namespace: pod.namespace().unwrap_or_default(),
                name: name.clone(),
            },
            address,
            port: 0,
            labels,
            hardware: Hardware {
                node: pod.spec.node_name,
                node_address,
                // Those that it was given, and no others of its node.
                gpus: Vec::new(),
                whole_node: false,
            },
        },
        active,
    });
    (name, server)
}

/// Where requests go, if the pod takes any: it is ready, and nobody deletes it.
fn address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    if !status.is_ready() || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    status.pod_ip.as_deref()?.parse().ok()
}

/// What is no port does not count.
fn ports(text: &str) -> Vec<u16> {
    let numbers = text.split(',').filter_map(|port| port.trim().parse().ok());
    numbers.filter(|&port| port > 0).collect()
}

// === impl Server ===

impl Server {
    /// Its endpoints in a pool with `ports`. A port keeps its rank whichever of them are active.
    pub(super) fn endpoints(&self, ports: &[u16]) -> impl Iterator<Item = Endpoint> {
        let active = |port| self.active.as_ref().is_none_or(|a| a.contains(port));
        let ranks = ports.iter().enumerate();
        ranks
            .filter(move |(_, port)| active(port))
            .map(|(rank, &port)| {
                let mut endpoint = self.pod.clone();
                endpoint.id.name = format!("{}-rank-{rank}", endpoint.id.name);
                endpoint.port = port;
                endpoint
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(change: impl FnOnce(&mut serde_json::Value)) -> View {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "vllm-0", "namespace": "models", "labels": {"app": "vllm"}, "annotations": {"a": "b"},
                "managedFields": [{"manager": "kubelet", "operation": "Update"}],
            },
            "spec": {"nodeName": "node-3", "containers": [{"name": "vllm", "image": "vllm"}]},
            "status": {
                "podIP": "10.0.0.7", "hostIP": "192.168.0.3", "phase": "Running",
                "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
            },
        });
        change(&mut pod);
        view(serde_json::from_value(pod).unwrap()).1
    }

    /// Names and addresses in a pool with the ports 8000 to 8002.
    fn endpoints(view: View) -> Vec<String> {
        let server = view.unwrap();
        let endpoints = server.endpoints(&[8000, 8001, 8002]);
        endpoints
            .map(|e| format!("{} {}", e.id, e.socket_addr()))
            .collect()
    }

    #[test]
    fn a_pod_is_an_endpoint_for_each_port() {
        let server = pod(|_| {}).unwrap();
        let first = server.endpoints(&[8000]).next().unwrap();
        assert_eq!(first.id.to_string(), "models/vllm-0-rank-0");
        assert_eq!(first.labels["app"], "vllm");
        assert_eq!(first.hardware.node.as_deref(), Some("node-3"));
        let node_address = |view: View| view.unwrap().pod.hardware.node_address;
        assert_eq!(node_address(pod(|_| {})), Some([192, 168, 0, 3].into()));
        assert_eq!(
            node_address(pod(|pod| pod["status"]["hostIP"] = json!(""))),
            None
        );
        assert_eq!(
            endpoints(pod(|pod| pod["status"]["podIP"] = json!("fd00::7")))[1..],
            [
                "models/vllm-0-rank-1 [fd00::7]:8001",
                "models/vllm-0-rank-2 [fd00::7]:8002"
            ]
        );
    }

    #[test]
    fn who_is_not_ready_takes_no_requests() {
        assert!(pod(|pod| pod["status"]["conditions"][1]["status"] = json!("False")).is_none());
        assert!(pod(|pod| pod["status"]["conditions"] = json!([])).is_none());
        assert!(
            pod(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"))
                .is_none()
        );
        assert!(pod(|pod| pod["status"]["podIP"] = json!("")).is_none());
        assert!(pod(|pod| pod["status"] = json!(null)).is_none());
    }

    #[test]
    fn active_ports_restrict_and_keep_their_ranks() {
        let active = |key: &str, text: &str| {
            pod(|pod| pod["metadata"]["annotations"] = json!({key: text}))
                .unwrap()
                .endpoints(&[8000, 8001, 8002])
                .map(|e| e.id.name)
                .collect::<Vec<_>>()
        };
        for key in ACTIVE_PORTS {
            assert_eq!(
                active(key, "8002, 8000,8000"),
                ["vllm-0-rank-0", "vllm-0-rank-2"]
            );
            assert_eq!(active(key, "x,0,70000,9000,8001"), ["vllm-0-rank-1"]);
            assert_eq!(active(key, ""), [""; 0]);
        }
        let both = json!({ACTIVE_PORTS[0]: "8000", ACTIVE_PORTS[1]: "8001"});
        let both = pod(|pod| pod["metadata"]["annotations"] = both);
        assert_eq!(endpoints(both), ["models/vllm-0-rank-0 10.0.0.7:8000"]);
    }
}
