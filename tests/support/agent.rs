//! A node's agent, which tells what it is told to.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use gpu_probes::telemetry::gpu_telemetry_server::{GpuTelemetry, GpuTelemetryServer};
use gpu_probes::telemetry::report::Content;
use gpu_probes::telemetry::{
    Event, EventKind, Gpu, Heartbeat, Memory, Owner, Process, Report, Snapshot, WatchRequest,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// Serves the telemetry of one node.
pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
    told: watch::Sender<Option<Snapshot>>,
}

#[derive(Clone)]
struct Service {
    node: &'static str,
    told: watch::Receiver<Option<Snapshot>>,
}

type Said = Pin<Box<dyn Stream<Item = Result<Report, Status>> + Send>>;

// === impl Agent ===

impl Agent {
    /// The agent of `node`, which tells of these `gpus` until it is told otherwise.
    pub(crate) async fn start(node: &'static str, gpus: Vec<Gpu>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, node, gpus)
    }

    /// The same, behind `listener`.
    pub(crate) fn serve(listener: TcpListener, node: &'static str, gpus: Vec<Gpu>) -> Self {
        let address = listener.local_addr().unwrap();
        let (told, receiver) = watch::channel(None);
        let mut ended = receiver.clone();
        let service = Service {
            node,
            told: receiver,
        };
        let agent = Self { address, told };
        agent.tell(gpus, Vec::new());
        let serving = tonic::transport::Server::builder()
            .add_service(GpuTelemetryServer::new(service))
            .serve_with_incoming_shutdown(listener_stream(listener), async move {
                while ended.changed().await.is_ok() {}
            });
        tokio::spawn(serving);
        agent
    }

    /// From now on this is how it is, and this is what happened.
    pub(crate) fn tell(&self, gpus: Vec<Gpu>, events: Vec<Event>) {
        self.told.send_replace(Some(Snapshot {
            gpus,
            events,
            problem: String::new(),
        }));
    }
}

fn listener_stream(
    listener: TcpListener,
) -> impl Stream<Item = std::io::Result<tokio::net::TcpStream>> {
    stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}

#[tonic::async_trait]
impl GpuTelemetry for Service {
    type WatchStream = Said;

    /// All there is, whenever it changes, and a heartbeat meanwhile; it ends when the agent is gone.
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Said>, Status> {
        let mut told = self.told.clone();
        told.mark_changed();
        let node = self.node;
        let said = stream::unfold((told, 0), move |(mut told, sequence)| async move {
            let changed = tokio::time::timeout(Duration::from_millis(500), told.changed()).await;
            let content = match changed {
                Ok(Err(_)) => return None,
                Ok(Ok(())) => told.borrow_and_update().clone().map(Content::Snapshot)?,
                Err(_) => Content::Heartbeat(Heartbeat {}),
            };
            let report = Report {
                node: node.to_owned(),
                agent: format!("of {node}"),
                sequence: sequence + 1,
                content: Some(content),
            };
            Some((Ok(report), (told, sequence + 1)))
        });
        Ok(Response::new(Box::pin(said)))
    }
}

/// A GPU of 80 GiB that was given to `pod`, with so many processes of nobody here.
pub(crate) fn gpu(uuid: &str, pod: &str, foreign: usize) -> Gpu {
    let process = Process {
        pid: 1,
        memory: Some(4 << 30),
        foreign: Some(true),
        ..Default::default()
    };
    Gpu {
        uuid: uuid.to_owned(),
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        owners: vec![Owner {
            namespace: "default".to_owned(),
            pod: pod.to_owned(),
            ..Default::default()
        }],
        memory: Some(Memory {
            total: 80 << 30,
            used: 70 << 30,
            free: 10 << 30,
            ..Default::default()
        }),
        processes: vec![process; foreign],
        ..Default::default()
    }
}

/// An XID, just now.
pub(crate) fn xid(number: u64, uuid: &str, value: u64) -> Event {
    Event {
        number,
        uuid: uuid.to_owned(),
        kind: EventKind::Xid.into(),
        value,
        source: "nvml".to_owned(),
        ..Default::default()
    }
}
