//! `pointsman probe` in a process of its own, over the fake NVML library: what is written into its file is what pickers hear.

use std::net::SocketAddr;
use std::path::Path;

use fake_state::{Event, Gpu, Mig, Process, State};
use gpu_probes::telemetry::gpu_telemetry_client::GpuTelemetryClient;
use gpu_probes::telemetry::report::Content;
use gpu_probes::telemetry::{EventKind, Report, WatchRequest};
use pointsman::proto::health::HealthCheckRequest;
use pointsman::proto::health::health_client::HealthClient;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;
use tonic::Streaming;

use crate::support::{PATIENCE, Program, free_address, get, http, machine, pointsman, until};

mod claims;
mod tls;

/// An agent that serves.
struct Probe {
    grpc: SocketAddr,
    metrics: SocketAddr,
    process: Program,
    /// The state of the fake library, the map, the log.
    folder: TempDir,
}

impl Probe {
    async fn start(state: Option<&State>, map: &str) -> Self {
        Self::start_with(state, |folder, command| {
            let file = folder.join("map.yaml");
            std::fs::write(&file, map).unwrap();
            command.arg(format!("--gpu-map={}", file.display()));
        })
        .await
    }

    /// `how`: adds to its command what is wanted in this folder.
    async fn start_with(state: Option<&State>, how: impl FnOnce(&Path, &mut Command)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(state) = state {
            write(folder.path(), state);
        }
        let (grpc, metrics) = (free_address().unwrap(), free_address().unwrap());
        let mut command = command(folder.path());
        command
            .arg(format!("--listen={grpc}"))
            .arg(format!("--metrics={metrics}"))
            .args(["--node-name=node-1", "--processes-period=100ms"]);
        how(folder.path(), &mut command);
        let process = Program::start("probe", folder.path(), &mut command).unwrap();
        let mut probe = Self {
            grpc,
            metrics,
            process,
            folder,
        };
        let process = tokio::sync::Mutex::new(&mut probe.process);
        until("the agent", async || {
            process.lock().await.check().unwrap();
            tokio::net::TcpStream::connect(grpc).await.ok()
        })
        .await;
        probe
    }

    fn write(&self, state: &State) {
        write(self.folder.path(), state);
    }

    async fn watch(&self) -> Streaming<Report> {
        let client = GpuTelemetryClient::connect(format!("http://{}", self.grpc)).await;
        let stream = client.unwrap().watch(WatchRequest {}).await;
        stream.unwrap().into_inner()
    }
}

/// The agent, over the GPUs of `state.json` in `folder`.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = pointsman();
    command
        .arg("probe")
        .arg(format!(
            "--nvml-library={}",
            fake_state::library().unwrap().display()
        ))
        .env(fake_state::STATE_VARIABLE, folder.join("state.json"));
    command
}

fn write(folder: &Path, state: &State) {
    state.write(&folder.join("state.json")).unwrap();
}

fn node() -> State {
    let gpu = |uuid: &str| Gpu {
        uuid: uuid.to_owned(),
        memory_used: 60 << 30,
        power: 300_000,
        ..Gpu::default()
    };
    State {
        driver_version: "570.124.06".to_owned(),
        gpus: vec![gpu("GPU-aaaa"), gpu("GPU-bbbb")],
        ..State::default()
    }
}

/// Hears until a report is `wanted`.
async fn hear<T>(stream: &mut Streaming<Report>, wanted: impl Fn(Content) -> Option<T>) -> T {
    let hearing = async {
        loop {
            let report = stream.message().await.unwrap().expect("a stream");
            if let Some(found) = report.content.and_then(&wanted) {
                return found;
            }
        }
    };
    let heard = tokio::time::timeout(PATIENCE, hearing).await;
    heard.expect("the report that was waited for")
}

fn changes(content: Content) -> Vec<gpu_probes::telemetry::Gpu> {
    match content {
        Content::Snapshot(snapshot) => snapshot.gpus,
        Content::Change(change) => change.gpus,
        Content::Heartbeat(_) => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gpu_does_is_heard_from_load_to_loss() {
    let _machine = machine::shared().await;
    let mut state = node();
    let mut probe = Probe::start(
        Some(&state),
        "gpus: [{uuid: GPU-aaaa, pod: sim-0, commands: [vllm]}]",
    )
    .await;
    let mut stream = probe.watch().await;
    let both = hear(&mut stream, |content| {
        Some(changes(content)).filter(|gpus| gpus.len() == 2)
    })
    .await;
    assert_eq!(both[0].owners[0].pod, "sim-0");
    assert!(both[1].owners.is_empty());
    assert_eq!(both[0].power.unwrap().draw, Some(300.0));

    state.gpus[0].clock_event_reasons = 0x48;
    state.gpus[0].sm_clock = 600;
    // Ourselves: a process whose name can be seen, and which is no vllm.
    state.gpus[0].processes = vec![Process {
        pid: std::process::id(),
        memory: 1 << 30,
    }];
    probe.write(&state);
    let slow = |gpu: &gpu_probes::telemetry::Gpu| {
        let clocks = gpu
            .clocks
            .is_some_and(|clocks| clocks.event_reasons == Some(0x48) && clocks.sm == Some(600));
        clocks
            && gpu
                .processes
                .iter()
                .any(|process| process.foreign == Some(true))
    };
    hear(&mut stream, |content| {
        changes(content).into_iter().find(slow)
    })
    .await;

    state.events.push(Event {
        sequence: 1,
        gpu: 1,
        kind: 8,
        data: 79,
        ..Event::default()
    });
    state.gpus[1].lost = true;
    probe.write(&state);
    let xid = hear(&mut stream, |content| match content {
        Content::Change(change) => {
            let mut events = change.events.into_iter();
            events.find(|event| event.kind() == EventKind::Xid)
        }
        _ => None,
    })
    .await;
    assert_eq!((xid.uuid.as_str(), xid.value), ("GPU-bbbb", 79));
    let lost = |gpu: &gpu_probes::telemetry::Gpu| gpu.uuid == "GPU-bbbb" && gpu.lost;
    if !changes(Content::Snapshot(again(&probe).await))
        .iter()
        .any(lost)
    {
        hear(&mut stream, |content| {
            changes(content).into_iter().find(lost)
        })
        .await;
    }
    let page = get(probe.metrics, "/metrics").await;
    let read = gpu_probes::dcgm::parse(&page);
    assert_eq!((read.bad_lines, read.node.as_str()), (0, "node-1"));
    assert_eq!(read.gpus[0].clocks.unwrap().event_reasons, Some(0x48));
    assert_eq!(read.gpus[0].owners[0].pod, "sim-0");
    assert!(page.contains("xid=\"79\"} 1\n"), "{page}");

    probe.process.signal(Signal::TERM).unwrap();
    let ended = tokio::time::timeout(PATIENCE, probe.process.ended()).await;
    assert!(
        ended.unwrap().unwrap().success(),
        "{}",
        probe.process.printed()
    );
}

/// What a new watcher is told first.
async fn again(probe: &Probe) -> gpu_probes::telemetry::Snapshot {
    let mut stream = probe.watch().await;
    hear(&mut stream, |content| match content {
        Content::Snapshot(snapshot) => Some(snapshot),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_comes_later_and_a_map_that_changes_are_followed() {
    let _machine = machine::shared().await;
    let probe = Probe::start(None, "gpus: []").await;
    let mut stream = probe.watch().await;
    hear(&mut stream, |content| {
        match content {
            Content::Snapshot(snapshot) => Some(snapshot.problem),
            Content::Change(change) => Some(change.problem),
            Content::Heartbeat(_) => None,
        }
        .filter(|problem| problem.contains("driver"))
    })
    .await;
    // It is no less alive for that.
    let mut health = HealthClient::connect(format!("http://{}", probe.grpc))
        .await
        .unwrap();
    health.check(HealthCheckRequest::default()).await.unwrap();

    let mut state = node();
    state.gpus[0].mig = vec![Mig {
        uuid: "MIG-1111".to_owned(),
        gpu_instance: 1,
        profile: "1g.10gb".to_owned(),
        memory_total: 10 << 30,
        ..Mig::default()
    }];
    probe.write(&state);
    let instance = hear(&mut stream, |content| {
        changes(content)
            .into_iter()
            .find(|gpu| gpu.parent == "GPU-aaaa")
    })
    .await;
    assert!(instance.owners.is_empty());
    let map = probe.folder.path().join("map.yaml");
    std::fs::write(&map, "gpus: [{uuid: MIG-1111, pod: sim-7}]").unwrap();
    let owned =
        |gpu: &gpu_probes::telemetry::Gpu| gpu.owners.iter().any(|owner| owner.pod == "sim-7");
    hear(&mut stream, |content| {
        changes(content).into_iter().find(owned)
    })
    .await;
    // A bad one changes nothing.
    std::fs::write(&map, "gpus: [{uid: MIG-1111}]").unwrap();
    until("the complaint", async || {
        probe
            .process
            .printed()
            .contains("the last good version stays")
            .then_some(())
    })
    .await;
    assert!(again(&probe).await.gpus.iter().any(owned));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_once_what_is_there_or_why_nothing_is() {
    let _machine = machine::shared().await;
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.yaml");
    std::fs::write(&map, "gpus: [{uuid: GPU-bbbb, pod: sim-0}]").unwrap();
    let once = async || {
        let mut command = command(folder.path());
        command
            .arg("--once")
            .arg(format!("--gpu-map={}", map.display()));
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, _, stderr) = once().await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("no GPUs: no NVIDIA driver"), "{stderr}");
    write(folder.path(), &node());
    let (code, stdout, stderr) = once().await;
    assert_eq!(code, Some(0), "{stderr}");
    let line = stdout
        .lines()
        .find(|line| line.contains("GPU-bbbb"))
        .unwrap();
    assert!(
        line.contains("300/700") && line.contains("default/sim-0"),
        "{stdout}"
    );

    let mut command = command(folder.path());
    let output = command.arg("--self-test").output().await.unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("nvmlDeviceGetMemoryInfo"), "{told}");
}
