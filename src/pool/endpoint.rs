//! Who an endpoint is. What it is doing is in [`super::slab`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The name that an endpoint keeps for life: `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    /// Kubernetes namespace, or `default` where there is none.
    pub namespace: String,
    /// Unique within the namespace; in Kubernetes `<pod>-rank-<i>`.
    pub name: String,
}

/// One model server address, as discovery described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name for life.
    pub id: EndpointId,
    /// Where requests go.
    pub address: IpAddr,
    /// The port that requests go to.
    pub port: u16,
    /// Labels of the pod, or those of the endpoints file.
    pub labels: BTreeMap<String, String>,
    /// What it runs on, as far as discovery knows.
    pub hardware: Hardware,
}

/// What an endpoint runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// The node, as Kubernetes and the node's agent name it.
    pub node: Option<String>,
    /// The node's own address, where Kubernetes tells it.
    pub node_address: Option<IpAddr>,
    /// UUIDs of its GPUs, or of its MIG instances. None: those that its pod was given.
    pub gpus: Vec<String>,
    /// All GPUs of its node are its.
    pub whole_node: bool,
}

impl Endpoint {
    /// `ip:port`, an IPv6 address in brackets.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

// === impl EndpointId ===

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
