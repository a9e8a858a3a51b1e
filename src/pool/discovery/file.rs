//! `file-discovery`: the endpoints are in a file.
//!
//! ```yaml
//! endpoints:
//! - name: vllm-0            # unique within its namespace
//!   namespace: default      # the default
//!   address: 10.0.0.7       # IPv4 or IPv6
//!   port: "8000"
//!   labels: {llm-d.ai/engine-type: vllm}
//!   node: gpu-node-3        # need not be given: what `gpus` and the GPUs' agents are about
//!   gpus: [GPU-5b3c…]       # as nvidia-smi -L has them; none = those of its pod, or all of the node
//! objectives:               # none need be given
//! - name: batch             # what a request's x-llm-d-inference-objective header says
//!   priority: -1            # 0 if not given; what is negative may be shed
//! ```
//!
//! YAML or JSON, 1 MiB at most. A bad entry fails the start; on a later edit the last good version stays.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::objectives::{DEFAULT_PRIORITY, MOST_OBJECTIVES};
use super::super::{Endpoint, EndpointId, Hardware, Pool};
use crate::config::file::{self, Follower, Pace};
use crate::config::read_yaml;

/// Endpoints come and go at any time: their file is followed closely.
const PACE: Pace = Pace {
    quiet: Duration::from_millis(50),
    longest: Duration::from_millis(500),
    poll: Duration::from_secs(5),
};

/// GPUs of one endpoint.
const MOST_GPUS: usize = 64;
/// Bytes of a node's name, as of any name in the DNS.
const LONGEST_NODE: usize = 253;

/// Why an endpoints file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct DiscoveryError {
    path: PathBuf,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    endpoints: Vec<Entry>,
    #[serde(default)]
    objectives: Vec<Objective>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Objective {
    name: String,
    #[serde(default)]
    priority: Option<i64>,
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents {
    /// The endpoints, in their order.
    pub endpoints: Vec<Endpoint>,
    /// Priorities by objective.
    pub objectives: HashMap<String, i32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    address: String,
    port: Port,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    node: Option<String>,
    #[serde(default)]
    gpus: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u64),
    Text(String),
}

/// Reads the file at `path`.
pub fn load(path: &Path) -> Result<Contents, DiscoveryError> {
    let failed = |reason: String| DiscoveryError {
        path: path.to_owned(),
        reason,
    };
    let text = file::read(path).map_err(failed)?;
    parse(&text).map_err(failed)
}

/// Fills `pool` from the file, and again whenever it changes if `watch`. The first read is done on return.
pub fn spawn(
    pool: Arc<Pool>,
    path: PathBuf,
    watch: bool,
    stop: CancellationToken,
) -> Result<Option<JoinHandle<()>>, DiscoveryError> {
    let Contents {
        endpoints,
        objectives,
    } = load(&path)?;
    pool.objectives.replace(objectives);
    pool.replace(endpoints);
    if !watch {
        return Ok(None);
    }
    let follower = Follower::of_file(&path, PACE);
    Ok(Some(tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow(pool, &path, follower) => {}
        }
    })))
}

async fn follow(pool: Arc<Pool>, path: &Path, mut follower: Follower) {
    let mut last_error = String::new();
    loop {
        follower.changed().await;
        match load(path) {
            Ok(Contents {
                endpoints,
                objectives,
            }) => {
                last_error.clear();
                let count = objectives.len();
                // First, so that whoever sees the new endpoints sees these too.
                if pool.objectives.replace(objectives) {
                    tracing::info!(objectives = count, "The endpoints file changed.");
                }
                let snapshot = pool.snapshot();
                let current = snapshot.members().iter().map(|m| &m.endpoint);
                if !current.eq(endpoints.iter()) {
                    tracing::info!(endpoints = endpoints.len(), "The endpoints file changed.");
                    pool.replace(endpoints);
                }
            }
            Err(error) => {
                let error = error.to_string();
                if error != last_error {
                    tracing::error!(%error, "The endpoints file cannot be used; the last good version stays.");
                    last_error = error;
                }
            }
        }
    }
}

fn parse(text: &str) -> Result<Contents, String> {
    let document: Document = read_yaml(text).map_err(|problem| problem.to_string())?;
    Ok(Contents {
        endpoints: endpoints(document.endpoints)?,
        objectives: objectives(document.objectives)?,
    })
}

fn objectives(entries: Vec<Objective>) -> Result<HashMap<String, i32>, String> {
    if entries.len() > MOST_OBJECTIVES {
        let count = entries.len();
        return Err(format!(
            "objectives: there are {count}; keep to {MOST_OBJECTIVES}"
        ));
    }
    let mut known = HashMap::with_capacity(entries.len());
    for Objective { name, priority } in entries {
        if name.is_empty() {
            return Err("objectives: `name` is empty; give each objective one".to_owned());
        }
        let priority = priority.unwrap_or(DEFAULT_PRIORITY.into());
        let Ok(fits) = i32::try_from(priority) else {
            let (least, most) = (i32::MIN, i32::MAX);
            return Err(format!(
                "objective `{name}`: priority {priority} is not from {least} to {most}"
            ));
        };
        if known.insert(name.clone(), fits).is_some() {
            return Err(format!(
                "objective `{name}` is there twice; give each its own name"
            ));
        }
    }
    Ok(known)
}

fn endpoints(entries: Vec<Entry>) -> Result<Vec<Endpoint>, String> {
    let mut names = HashSet::new();
    let mut addresses: HashMap<SocketAddr, EndpointId> = HashMap::new();
    entries
        .into_iter()
        .map(|entry| {
            let endpoint = entry.check()?;
            if !names.insert(endpoint.id.clone()) {
                return Err(format!(
                    "endpoint `{}` is there twice; give each its own name",
                    endpoint.id
                ));
            }
            if let Some(other) = addresses.insert(endpoint.socket_addr(), endpoint.id.clone()) {
                return Err(format!(
                    "endpoints `{other}` and `{}` have one address, {}; a server is one endpoint",
                    endpoint.id,
                    endpoint.socket_addr()
                ));
            }
            Ok(endpoint)
        })
        .collect()
}

// === impl Entry ===

impl Entry {
    fn check(self) -> Result<Endpoint, String> {
        let name = &self.name;
        if name.is_empty() {
            return Err("endpoints: `name` is empty; give each endpoint one".to_owned());
        }
        let bare = self.address.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = bare.parse().map_err(|_| {
            format!(
                "endpoint `{name}`: address `{}` is not an IPv4 or IPv6 address",
                self.address
            )
        })?;
        let port = match &self.port {
            Port::Number(number) => u16::try_from(*number).ok(),
            Port::Text(text) => text.parse().ok(),
        };
        let port = port.filter(|&port| port > 0).ok_or_else(|| {
            format!(
                "endpoint `{name}`: port {:?} is not a number from 1 to 65535",
                self.port
            )
        })?;
        let hardware = hardware(name, self.node, self.gpus)?;
        Ok(Endpoint {
            id: EndpointId {
                namespace: self.namespace.unwrap_or_else(|| "default".to_owned()),
                name: self.name,
            },
            address,
            port,
            labels: self.labels,
            hardware,
        })
    }
}

fn hardware(name: &str, node: Option<String>, gpus: Vec<String>) -> Result<Hardware, String> {
    if node
        .as_ref()
        .is_some_and(|node| !(1..=LONGEST_NODE).contains(&node.len()))
    {
        return Err(format!(
            "endpoint `{name}`: node: write the node's name, of 1 to {LONGEST_NODE} bytes, or leave it out"
        ));
    }
    if gpus.len() > MOST_GPUS {
        let count = gpus.len();
        return Err(format!(
            "endpoint `{name}`: gpus: there are {count}; keep to {MOST_GPUS}"
        ));
    }
    for (n, gpu) in gpus.iter().enumerate() {
        if !(gpu.starts_with("GPU-") || gpu.starts_with("MIG-")) {
            return Err(format!(
                "endpoint `{name}`: gpus[{n}]: `{gpu}` is not the UUID of a GPU; write GPU-… or MIG-…, as nvidia-smi -L has it"
            ));
        }
        if gpus[..n].contains(gpu) {
            return Err(format!(
                "endpoint `{name}`: gpus[{n}]: {gpu} is there twice"
            ));
        }
    }
    Ok(Hardware {
        whole_node: node.is_some() && gpus.is_empty(),
        node,
        node_address: None,
        gpus,
    })
}

#[cfg(test)]
mod tests;
