//! What a node does: runs a simulated model server for each pod, says when it is ready, and lets it end when it is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::Command;

use super::super::super::children::Program;
use super::super::super::http::{self, Http};
use super::objects::{Objects, PODS, Written};

/// Pods that run at a time.
pub(super) const MOST_PODS: u8 = 16;
/// Where a pod listens that does not say it.
const PORT: u16 = 8000;
/// How long a pod that is deleted takes requests at least: whoever sends some may not know it yet.
const LEAVE: Duration = Duration::from_secs(1);
/// How long its answers may take then.
const GRACE: Duration = Duration::from_secs(30);

/// The pods of one node, all on this machine.
pub(super) struct Kubelet {
    objects: Objects,
    http: Http,
    this: PathBuf,
    folder: PathBuf,
    /// The first two numbers behind 127 of all addresses: demos beside each other have addresses of their own.
    net: [u8; 2],
    pods: BTreeMap<String, Pod>,
    /// The uids of pods that could not be run, by name.
    failed: BTreeMap<String, String>,
}

/// One that runs.
pub(super) struct Pod {
    /// Another pod may get its name.
    uid: String,
    pub(super) address: SocketAddr,
    pub(super) phase: Phase,
    pub(super) waiting: f64,
    pub(super) running: f64,
    program: Program,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Ready,
    Ending(Instant),
}

// === impl Kubelet ===

impl Kubelet {
    pub(super) fn new(objects: Objects, http: Http, folder: PathBuf) -> anyhow::Result<Self> {
        let numbers = std::array::from_fn(|_| rand::random_range(1..=254));
        Ok(Self {
            objects,
            http,
            this: std::env::current_exe().context("finding this program's own file")?,
            folder,
            net: numbers,
            pods: BTreeMap::new(),
            failed: BTreeMap::new(),
        })
    }

    /// Those that run.
    pub(super) fn pods(&self) -> &BTreeMap<String, Pod> {
        &self.pods
    }

    /// The addresses of all that run, whether or not they are ready: as a gateway knows them.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.pods.values().map(|pod| pod.address.ip()).collect()
    }

    /// Does what is to be done next for each pod; returns what happened, for people. `reachable` are the addresses that the
    /// gateway has: no pod is ready before.
    pub(super) async fn work(
        &mut self,
        reachable: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<Vec<String>> {
        let mut events = Vec::new();
        let pods = self.objects.list(&PODS).await?;
        let pods: BTreeMap<&str, &Value> = pods
            .iter()
            .filter_map(|pod| Some((pod["metadata"]["name"].as_str()?, pod)))
            .collect();
        self.failed
            .retain(|name, failed| pods.get(&**name).is_some_and(|pod| uid(pod) == failed));
        for (&name, pod) in &pods {
            match (self.pods.contains_key(name), leaves(pod)) {
                (false, true) => {
                    let removed = self.objects.remove(name, uid(pod)).await?;
                    events.extend(refused(name, removed));
                }
                (false, false) if !self.failed.contains_key(name) => match self.start(name, pod) {
                    Ok(started) => {
                        self.pods.insert(name.to_owned(), started);
                    }
                    Err(error) => {
                        let why = format!("{error:#}");
                        self.fail(name, uid(pod), why, &mut events).await?;
                    }
                },
                _ => {}
            }
        }
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            let pod = pods.get(&*name);
            self.attend(&name, pod.copied(), reachable, &mut events)
                .await?;
        }
        Ok(events)
    }

    /// One pod that runs; `listed` is what is known of that name.
    async fn attend(
        &mut self,
        name: &str,
        listed: Option<&Value>,
        reachable: &BTreeSet<IpAddr>,
        events: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get_mut(name) else {
            return Ok(());
        };
        if let Err(error) = pod.program.check() {
            let uid = std::mem::take(&mut pod.uid);
            self.pods.remove(name);
            let why = format!("{error:#}");
            return self.fail(name, &uid, why, events).await;
        }
        let page = self.http.page(pod.address, "/metrics").await.ok();
        if let Some(page) = &page {
            pod.waiting = http::sum(page, "vllm:num_requests_waiting", &[]);
            pod.running = http::sum(page, "vllm:num_requests_running", &[]);
        }
        let wanted = listed.filter(|listed| uid(listed) == pod.uid && !leaves(listed));
        match (pod.phase, wanted) {
            (Phase::Starting | Phase::Ready, None) => {
                pod.phase = Phase::Ending(Instant::now());
                events.push(format!("pod {name} ends: it gets no new requests"));
            }
            (Phase::Starting, Some(wanted))
                if page.is_some() && reachable.contains(&pod.address.ip()) =>
            {
                pod.phase = Phase::Ready;
                let status = running(wanted, pod.address.ip());
                let told = self.objects.tell(name, &pod.uid, status).await?;
                events.push(format!("pod {name} is ready at {}", pod.address));
                events.extend(refused(name, told));
            }
            (Phase::Ending(since), _) => {
                let idle = pod.waiting + pod.running == 0.0;
                if !(idle && since.elapsed() > LEAVE) && since.elapsed() <= GRACE {
                    return Ok(());
                }
                if let Some(pod) = self.pods.remove(name) {
                    if let Err(error) = pod.program.stop().await {
                        events.push(format!("pod {name}: {error:#}"));
                    }
                    let removed = self.objects.remove(name, &pod.uid).await?;
                    events.extend(refused(name, removed));
                }
                events.push(format!("pod {name} is gone"));
            }
            (Phase::Starting | Phase::Ready, Some(_)) => {}
        }
        Ok(())
    }

    /// Tells that the pod does not run, and does not try it again.
    async fn fail(
        &mut self,
        name: &str,
        uid: &str,
        why: String,
        events: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let status = json!({
            "phase": "Failed",
            "reason": "NotRun",
            "message": why,
            "conditions": [{"type": "Ready", "status": "False"}],
        });
        let told = self.objects.tell(name, uid, status).await?;
        events.push(format!("pod {name} does not run: {why}"));
        events.extend(refused(name, told));
        self.failed.insert(name.to_owned(), uid.to_owned());
        Ok(())
    }

    /// Starts what the pod's first container says, at an address of its own.
    fn start(&self, name: &str, pod: &Value) -> anyhow::Result<Pod> {
        let taken = self.addresses();
        let address = (1..=MOST_PODS)
            .map(|last| IpAddr::from(Ipv4Addr::new(127, self.net[0], self.net[1], last)))
            .find(|address| !taken.contains(address))
            .with_context(|| format!("{MOST_PODS} run already, which is all that the demo runs"))?;
        let container = &pod["spec"]["containers"][0];
        let port = match &container["ports"][0]["containerPort"] {
            Value::Null => PORT,
            port => port
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .filter(|&port| port > 0)
                .with_context(|| format!("spec.containers[0].ports[0].containerPort: {port}"))?,
        };
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        let mut command = Command::new(&self.this);
        command
            .args(arguments(container)?)
            .args(["--servers=1", &format!("--address={address}")])
            .arg(format!("--port={port}"))
            .env("POD_NAME", name);
        let program = Program::start("server", &folder, &mut command)?;
        Ok(Pod {
            uid: uid(pod).to_owned(),
            address: SocketAddr::from((address, port)),
            phase: Phase::Starting,
            waiting: 0.0,
            running: 0.0,
            program,
        })
    }

    /// Ends all of them.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        for (_, pod) in self.pods {
            pod.program.stop().await?;
        }
        Ok(())
    }
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

fn refused(name: &str, written: Written) -> Option<String> {
    let why = written.refusal()?;
    Some(format!("pod {name}: {why}"))
}

fn leaves(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

/// The status of a pod that runs and is ready, at `ip`.
fn running(pod: &Value, ip: IpAddr) -> Value {
    let containers = pod["spec"]["containers"].as_array();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let containers: Vec<Value> = containers
        .into_iter()
        .flatten()
        .map(|container| {
            json!({
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "restartCount": 0,
                "ready": true,
                "started": true,
                "state": {"running": {"startedAt": now}},
            })
        })
        .collect();
    json!({
        "phase": "Running",
        "startTime": now,
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
        "containerStatuses": containers,
    })
}

/// The command line of a container, which must be that of `pointsman sim`, but for where it listens.
fn arguments(container: &Value) -> anyhow::Result<Vec<String>> {
    let given = container["args"].as_array().cloned().unwrap_or_default();
    let mut arguments: Vec<String> = given
        .iter()
        .map(|argument| match argument {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    if arguments.is_empty() {
        arguments.push("sim".to_owned());
    }
    anyhow::ensure!(
        arguments[0] == "sim",
        "spec.containers[0].args: the demo runs `sim`, not `{}`",
        arguments[0]
    );
    arguments.retain(|argument| {
        let flag = argument.split('=').next().unwrap_or_default();
        !["--servers", "--address", "--port"].contains(&flag)
    });
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_a_simulated_server() {
        let of = |args: Value| arguments(&json!({"args": args})).map_err(|error| error.to_string());
        assert_eq!(of(Value::Null), Ok(vec!["sim".to_owned()]));
        let got = of(json!(["sim", "--port=8000", "--address=0.0.0.0", "--tp=2"]));
        assert_eq!(got, Ok(vec!["sim".to_owned(), "--tp=2".to_owned()]));
        assert!(of(json!(["serve"])).unwrap_err().contains("not `serve`"));
    }
}
