//! `file-discovery`: the endpoints are in a file.
//!
//! ```yaml
//! endpoints:
//! - name: vllm-0            # unique within its namespace
//!   namespace: default      # the default
//!   address: 10.0.0.7       # IPv4 or IPv6
//!   port: "8000"
//!   labels: {llm-d.ai/engine-type: vllm}
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
use super::super::{Endpoint, EndpointId, Pool};
use crate::config::file::{self, Follower, Pace};
use crate::config::read_yaml;

/// Endpoints come and go at any time: their file is followed closely.
const PACE: Pace = Pace {
    quiet: Duration::from_millis(50),
    longest: Duration::from_millis(500),
    poll: Duration::from_secs(5),
};

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
        Ok(Endpoint {
            id: EndpointId {
                namespace: self.namespace.unwrap_or_else(|| "default".to_owned()),
                name: self.name,
            },
            address,
            port,
            labels: self.labels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json() {
        let yaml = "endpoints:\n- {name: a, address: 10.0.0.1, port: \"8000\", labels: {k: v}}\n- {name: a, namespace: n, address: \"[fd00::1]\", port: 8001}\n";
        let json = r#"{"endpoints":[{"name":"a","address":"10.0.0.1","port":"8000","labels":{"k":"v"}},{"name":"a","namespace":"n","address":"fd00::1","port":8001}]}"#;
        let contents = parse(yaml).unwrap();
        assert_eq!(contents, parse(json).unwrap());
        let endpoints = contents.endpoints;
        assert_eq!(endpoints[0].id.to_string(), "default/a");
        assert_eq!(endpoints[0].labels["k"], "v");
        assert_eq!(endpoints[1].socket_addr().to_string(), "[fd00::1]:8001");
        let empty = parse("endpoints: []").unwrap();
        assert!(empty.endpoints.is_empty() && empty.objectives.is_empty());
    }

    #[test]
    fn objectives_have_priorities() {
        let text = "endpoints: []\nobjectives:\n- {name: batch, priority: -2147483648}\n- {name: chat, priority: 2147483647}\n- name: plain\n";
        let got = parse(text).unwrap().objectives;
        let expected = [("batch", i32::MIN), ("chat", i32::MAX), ("plain", 0)];
        assert_eq!(got, expected.map(|(name, p)| (name.to_owned(), p)).into());
    }

    #[test]
    fn there_are_only_so_many_objectives() {
        let entries: String = (0..=MOST_OBJECTIVES)
            .map(|n| format!("- {{name: o{n}}}\n"))
            .collect();
        let error = parse(&format!("endpoints: []\nobjectives:\n{entries}")).unwrap_err();
        assert_eq!(error, "objectives: there are 1001; keep to 1000");
    }

    #[test]
    fn errors_name_the_entry_and_the_field() {
        for (text, expected) in [
            (
                "endpoints:\n- {name: a, address: host, port: 1}",
                "endpoint `a`: address `host`",
            ),
            (
                "endpoints:\n- {name: a, address: 1.2.3.4, port: 0}",
                "endpoint `a`: port",
            ),
            (
                "endpoints:\n- {name: a, address: 1.2.3.4, port: x}",
                "endpoint `a`: port",
            ),
            (
                "endpoints:\n- {name: a, address: 1.2.3.4, port: 1}\n- {name: a, address: 1.2.3.5, port: 1}",
                "is there twice",
            ),
            (
                "endpoints:\n- {name: a, address: 1.2.3.4, port: 1}\n- {name: b, namespace: n, address: 1.2.3.4, port: \"1\"}",
                "endpoints `default/a` and `n/b` have one address, 1.2.3.4:1",
            ),
            (
                "endpoints:\n- {name: a, adress: 1.2.3.4, port: 1}",
                "line 2: endpoints[0]: unknown field `adress`; did you mean `address`?",
            ),
            ("endpoints:\n- {name: a, port: 1}", "address"),
            (
                "endpoints: []\nobjectives:\n- {name: a, priorty: 1}",
                "line 3: objectives[0]: unknown field `priorty`; did you mean `priority`?",
            ),
            (
                "endpoints: []\nobjectives:\n- {name: a, priority: 1}\n- {name: a, priority: 1}",
                "objective `a` is there twice; give each its own name",
            ),
            (
                "endpoints: []\nobjectives:\n- {name: a, priority: 2147483648}",
                "objective `a`: priority 2147483648 is not from -2147483648 to 2147483647",
            ),
            (
                "endpoints: []\nobjectives:\n- {name: a, priority: high}",
                "line 3: objectives[0].priority",
            ),
            (
                "endpoints: []\nobjectives:\n- {name: \"\"}",
                "objectives: `name` is empty",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// An endpoint for each character of `names`.
    fn document(names: &str) -> String {
        let entry = |(n, name)| format!("- {{name: {name}, address: 10.0.0.{n}, port: 1}}\n");
        let entries: String = names.chars().enumerate().map(entry).collect();
        format!("endpoints:\n{entries}")
    }

    #[tokio::test]
    async fn edits_are_followed_and_bad_ones_are_not() {
        let dir =
            std::env::temp_dir().join(format!("pointsman-discovery-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("endpoints.yaml");
        let put = |names: &str| {
            let next = dir.join("next");
            std::fs::write(&next, document(names)).unwrap();
            std::fs::rename(next, &path).unwrap();
        };
        put("a");
        let pool = Arc::new(Pool::default());
        let stop = CancellationToken::new();
        let task = spawn(Arc::clone(&pool), path.clone(), true, stop.clone()).unwrap();
        assert_eq!(pool.snapshot().len(), 1);
        std::fs::write(&path, "endpoints: nonsense").unwrap();
        tokio::time::sleep(PACE.quiet * 4).await;
        assert_eq!(pool.snapshot().len(), 1);
        put("abc");
        while pool.snapshot().len() != 3 {
            tokio::time::sleep(PACE.quiet / 5).await;
        }
        // Objectives alone are a change too, and stay as they are while the file is bad.
        let next = dir.join("next");
        let with_objective = document("abc") + "objectives: [{name: batch, priority: -1}]\n";
        std::fs::write(&next, with_objective).unwrap();
        std::fs::rename(next, &path).unwrap();
        while pool.objectives.priority("batch") != -1 {
            tokio::time::sleep(PACE.quiet / 5).await;
        }
        std::fs::write(&path, "endpoints: []\nobjectives: nonsense").unwrap();
        tokio::time::sleep(PACE.quiet * 4).await;
        let kept = (pool.objectives.priority("batch"), pool.snapshot().len());
        assert_eq!(kept, (-1, 3));
        stop.cancel();
        task.unwrap().await.unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
