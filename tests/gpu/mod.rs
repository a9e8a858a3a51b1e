//! GPUs that fail under simulated servers, end to end: the fake NVML library, the node agent, a kubelet behind its socket,
//! the picker, a real Envoy.
//!
//! Deadlines are generous: how fast it is, `benches/gpu-reaction.sh` measures.

mod demo;
mod domains;
mod faults;
// One kubelet for the agent's own tests and for these.
#[path = "../../gpu-probes/tests/agent/kubelet.rs"]
#[allow(dead_code, reason = "claims and changes are the agent's own tests'")]
mod kubelet;
mod reaction;
mod storm;
mod telemetry;
mod tls;

use std::net::SocketAddr;
use std::path::Path;

use pointsman::cli::demo::bootstrap::Profile;
use serde_json::Value;
use tempfile::TempDir;

use crate::probe::command;
use crate::support::ground::Ground;
use crate::support::sims::Sims;
use crate::support::{Program, free_address, get, pointsman, until};
use kubelet::{Kubelet, Serving, plugged};

/// A node with GPUs, and all that goes by them.
struct Node {
    ground: Ground,
    /// Its agent, which tests kill.
    agent: Program,
    agent_at: [SocketAddr; 2],
    agent_flags: Vec<String>,
    _kubelet: Serving,
    folder: TempDir,
}

// === impl Node ===

impl Node {
    /// So many servers on GPUs, with more `sim_flags`.
    async fn start(profile: Profile, servers: usize, sim_flags: &[&str]) -> Self {
        Self::with(profile, servers, sim_flags, ["", ""]).await
    }

    /// The same, with more in the picker's configuration: see [`Ground::start`].
    async fn with(profile: Profile, servers: usize, sim_flags: &[&str], config: [&str; 2]) -> Self {
        let node = Self::unheard(profile, servers, sim_flags, config, [&[], &[]]).await;
        node.until_known(servers).await;
        node
    }

    /// The same, whether anything is heard of the GPUs or not; with more flags for the agent, and for the picker.
    async fn unheard(
        profile: Profile,
        servers: usize,
        sim_flags: &[&str],
        config: [&str; 2],
        [agent_flags, picker_flags]: [&[String]; 2],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        let state = format!("--gpu-state={}", state.display());
        let sims = Sims::start(servers, &[&[&*state], sim_flags].concat()).await;
        let kubelet = kubelet(&sims).await.serve(&socket(folder.path()));
        let agent_at = [free_address().unwrap(), free_address().unwrap()];
        let agent = agent(folder.path(), agent_at, agent_flags).await;
        let told_by = format!("--gpu-agents={}", agent_at[0]);
        let mut flags = vec![&*told_by, "--allow-experimental-plugins"];
        flags.extend(picker_flags.iter().map(String::as_str));
        let ground = Ground::start(profile, sims, config, &flags).await;
        Self {
            ground,
            agent,
            agent_at,
            agent_flags: agent_flags.to_vec(),
            _kubelet: kubelet,
            folder,
        }
    }

    /// Waits until something is known of the GPUs of so many servers.
    async fn until_known(&self, servers: usize) {
        until("all GPUs to be known", async || {
            let page = self.gpus().await;
            let owned = page.as_array().unwrap().iter();
            let owned = owned.flat_map(|gpu| gpu["endpoints"].as_array().unwrap());
            let names: std::collections::BTreeSet<_> = owned.map(|e| e["name"].as_str()).collect();
            (names.len() == servers).then_some(())
        })
        .await;
    }

    /// An agent again, where the last one was.
    async fn restart_agent(&mut self) {
        self.agent = agent(self.folder.path(), self.agent_at, &self.agent_flags).await;
    }

    /// The GPUs, as the picker tells of them.
    async fn gpus(&self) -> Value {
        let page = self.ground.picker.page("/debug/gpus").await;
        serde_json::from_str::<Value>(&page).unwrap()["gpus"].take()
    }

    /// What is known of the GPU of the server called `name`, for people.
    async fn line(&self, name: &str) -> String {
        let picker = format!("--picker={}", self.ground.picker.metrics);
        let output = pointsman().args(["gpus", &picker]).output().await.unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        let line = table.lines().find(|line| line.contains(name));
        line.unwrap_or_else(|| panic!("{name}: {table}")).to_owned()
    }

    /// How many causes stand at the server called `name`; of this name only, if there is one.
    async fn causes(&self, name: &str, cause: Option<&str>) -> f64 {
        let endpoint = ("model_server_endpoint".to_owned(), name.to_owned());
        let cause = ("cause".to_owned(), cause.unwrap_or_default().to_owned());
        let mut labels = vec![(&endpoint.0, &endpoint.1)];
        if !cause.1.is_empty() {
            labels.push((&cause.0, &cause.1));
        }
        self.ground.page().await.sum("endpoint_unhealthy", labels)
    }

    async fn until_stands(&self, name: &str, cause: &str) {
        until(&format!("{name} to be out: {cause}"), async || {
            (self.causes(name, Some(cause)).await == 1.0).then_some(())
        })
        .await;
    }

    async fn until_well(&self, name: &str) {
        until(&format!("{name} to be well"), async || {
            (self.causes(name, None).await == 0.0).then_some(())
        })
        .await;
    }
}

fn socket(folder: &Path) -> std::path::PathBuf {
    folder.join("kubelet.sock")
}

/// The kubelet that gave these servers their GPUs, by the names that NVIDIA's device plugin has for them.
async fn kubelet(sims: &Sims) -> Kubelet {
    let mut pods = Vec::new();
    for (server, address) in sims.addresses.iter().enumerate() {
        let told: Value = serde_json::from_str(&get(*address, "/admin/gpu").await).unwrap();
        let uuid = told["uuids"][0].as_str().unwrap();
        let (resource, id) = match uuid.starts_with("MIG-") {
            true => ("nvidia.com/mig-3g.40gb", uuid.to_owned()),
            // A share of a GPU that may be others' too.
            false => ("nvidia.com/gpu", format!("{uuid}::{server}")),
        };
        pods.push(plugged(&format!("sim-{server}"), resource, &[&id]));
    }
    Kubelet::of(pods)
}

/// The node's agent, once it serves.
async fn agent(folder: &Path, [grpc, metrics]: [SocketAddr; 2], flags: &[String]) -> Program {
    let mut command = command(folder);
    command
        .arg(format!("--listen={grpc}"))
        .arg(format!("--metrics={metrics}"))
        .arg(format!(
            "--pod-resources-socket={}",
            socket(folder).display()
        ))
        .arg("--node-name=node-1")
        .args(flags);
    let program = Program::start("probe", folder, &mut command).unwrap();
    let shared = tokio::sync::Mutex::new(program);
    until("the agent", async || {
        shared.lock().await.check().unwrap();
        tokio::net::TcpStream::connect(grpc).await.ok()
    })
    .await;
    shared.into_inner()
}
