//! The whole agent: a source that follows a script, a kubelet behind a real socket, a watcher over real TCP.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gpu_probes::agent::{Agent, AgentOptions, Periods};
use gpu_probes::devices::Named;
use gpu_probes::kubelet::KubeletOptions;
use gpu_probes::probe::Class;
use gpu_probes::telemetry::gpu_telemetry_client::GpuTelemetryClient;
use gpu_probes::telemetry::gpu_telemetry_server::GpuTelemetryServer;
use gpu_probes::telemetry::report::Content;
use gpu_probes::telemetry::{Change, Event, Gpu, Owner, Report, Snapshot, WatchRequest};
use tonic::Streaming;
use tonic::transport::Channel;

mod kubelet;
mod owners;
mod source;
mod streams;

use source::Script;

/// Longer than anything takes; whoever waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that reads `script` as often as may be.
fn start(script: &Script, kubelet: Option<(&Path, KubeletOptions)>, proc: &Path) -> Agent {
    let fast = |periods: Periods, class| periods.with(class, Periods::SHORTEST);
    let options = AgentOptions {
        node: "node-1".into(),
        periods: [Class::Processes, Class::Clocks, Class::Errors, Class::Power]
            .into_iter()
            .fold(Periods::default(), fast),
        proc: proc.into(),
        kubelet: kubelet.map(|(socket, options)| (socket.into(), options)),
        names: Arc::new(|claimed| (claimed.device == "known").then(|| Named::Uuid("GPU-b".into()))),
    };
    Agent::start(options, script.open()).unwrap()
}

/// What is asked of a kubelet that keeps its logs in `pod_logs`.
fn ask(pod_logs: &Path, every: Duration) -> KubeletOptions {
    KubeletOptions {
        resources: vec!["example.com/shared-gpu".into()],
        pod_logs: pod_logs.into(),
        every,
    }
}

/// Serves `agent`'s streams over TCP.
async fn watch(agent: &Agent) -> Streaming<Report> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = GpuTelemetryServer::new(agent.telemetry());
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client: GpuTelemetryClient<Channel> =
        GpuTelemetryClient::connect(format!("http://{address}"))
            .await
            .unwrap();
    client.watch(WatchRequest {}).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<Report>) -> Report {
    let report = tokio::time::timeout(PATIENCE, stream.message()).await;
    report.expect("a report").unwrap().expect("a stream")
}

/// The next change that is one in the sense of `wanted`.
async fn change(stream: &mut Streaming<Report>, wanted: impl Fn(&Change) -> bool) -> Change {
    let search = async {
        loop {
            if let Some(Content::Change(change)) = next(stream).await.content
                && wanted(&change)
            {
                return change;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.expect("the change that was waited for")
}

async fn snapshot(stream: &mut Streaming<Report>) -> Snapshot {
    match next(stream).await.content {
        Some(Content::Snapshot(snapshot)) => snapshot,
        other => panic!("no snapshot: {other:?}"),
    }
}

/// Waits until what `agent` knows is what is `wanted`.
async fn until(agent: &Agent, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let search = async {
        loop {
            let snapshot = agent.snapshot();
            if wanted(&snapshot) {
                return snapshot;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, search).await {
        Ok(snapshot) => snapshot,
        Err(_) => panic!("{what}: {:#?}", agent.snapshot()),
    }
}

fn gpu(uuid: &str, index: u32) -> Gpu {
    Gpu {
        uuid: uuid.into(),
        index,
        ..Gpu::default()
    }
}

fn instance(uuid: &str, parent: &str, gpu_instance: u32) -> Gpu {
    Gpu {
        parent: parent.into(),
        gpu_instance: Some(gpu_instance),
        compute_instance: Some(0),
        mig_profile: "1g.10gb".into(),
        ..gpu(uuid, 1)
    }
}

fn owner(pod: &str, replica: Option<u32>) -> Owner {
    Owner {
        namespace: "default".into(),
        pod: pod.into(),
        container: "server".into(),
        replica,
    }
}

fn xid(uuid: &str, number: u64) -> Event {
    Event {
        uuid: uuid.into(),
        kind: gpu_probes::telemetry::EventKind::Xid.into(),
        value: number,
        source: "script".into(),
        ..Event::default()
    }
}
