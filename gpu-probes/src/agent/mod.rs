//! The node agent: reads a source of readings, joins what it says with who has which GPU, and tells it.
//!
//! One thread reads, each class of signals at its own period; a second waits for events, which are told at once. A task asks
//! the kubelet. What they find is joined in [`state`], from where the gRPC streams ([`Telemetry`]) and the metrics page
//! ([`Agent::page`]) take it. A source, driver or permission that is missing is told as the reason why there are no GPUs, and
//! tried again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

mod change;
mod exporter;
mod listener;
mod node;
mod periods;
mod sampler;
mod state;
mod watch;

pub use periods::Periods;
pub use sampler::Open;
pub use watch::Telemetry;

use crate::devices::DeviceNames;
use crate::kubelet::{Kubelet, KubeletError, KubeletOptions};
use crate::owners::Holding;
use crate::telemetry::Snapshot;
use sampler::{Sampler, Waker};
use state::Shared;

/// When a GPU's processes change it is asked at once, but no sooner after the last time than this.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether all is known that will be.
const LOOK: Duration = Duration::from_millis(20);

/// What an agent is to do.
pub struct AgentOptions {
    /// The node's name.
    pub node: String,
    /// How often each class is read.
    pub periods: Periods,
    /// Where /proc is.
    pub proc: PathBuf,
    /// The kubelet's socket, and what to ask there; none = it is not asked.
    pub kubelet: Option<(PathBuf, KubeletOptions)>,
    /// Who knows the devices of ResourceSlices.
    pub names: DeviceNames,
}

/// A running agent; it ends when this is dropped.
#[derive(Debug)]
pub struct Agent {
    node: String,
    shared: Arc<Shared>,
    telemetry: Telemetry,
    waker: Arc<Waker>,
    /// Whether there is a kubelet to wait for.
    asks: bool,
    stop: CancellationToken,
}

/// Where a map of who has which GPU is put.
#[derive(Clone, Debug)]
pub struct OwnerMap(Arc<Shared>);

// === impl Agent ===

impl Agent {
    /// Starts to read what `open` makes. Must be called within a runtime.
    pub fn start(options: AgentOptions, open: Open) -> io::Result<Self> {
        let AgentOptions {
            node,
            periods,
            proc,
            kubelet,
            names,
        } = options;
        let shared = Arc::new(Shared::new(names, periods));
        let (waker, bell) = Waker::new();
        let sampler = Sampler {
            shared: Arc::clone(&shared),
            periods,
            proc,
            waker: Arc::clone(&waker),
            bell,
        };
        // Nobody waits for its end: a call into a driver may never return.
        std::thread::Builder::new()
            .name("gpu-sampler".to_owned())
            .spawn(move || sampler.run(open))?;
        let stop = CancellationToken::new();
        let asks = kubelet.is_some();
        if let Some((socket, options)) = kubelet {
            let kubelet = Kubelet::new(&socket, options).map_err(io::Error::other)?;
            let asking = ask(kubelet, Arc::clone(&shared));
            tokio::spawn(stop.clone().run_until_cancelled_owned(asking));
        }
        let agent = uuid::Uuid::new_v4().to_string();
        let telemetry = Telemetry::new(Arc::clone(&shared), node.clone(), agent, stop.clone());
        Ok(Self {
            node,
            shared,
            telemetry,
            waker,
            asks,
            stop,
        })
    }

    /// The gRPC service, for a [`crate::telemetry::gpu_telemetry_server::GpuTelemetryServer`].
    pub fn telemetry(&self) -> Telemetry {
        self.telemetry.clone()
    }

    /// Where a map of who has which GPU is put.
    pub fn owners(&self) -> OwnerMap {
        OwnerMap(Arc::clone(&self.shared))
    }

    /// What is known now.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.read(|state| state.snapshot(Instant::now()))
    }

    /// The metrics page, in Prometheus' text format.
    pub fn page(&self) -> String {
        let watchers = self.telemetry.watchers();
        self.shared
            .read(|state| exporter::page(state, &self.node, watchers, Instant::now()))
    }

    /// Returns when the source was read once, or found not to be there, and the kubelet, if it is asked, was heard or found
    /// not to be there.
    pub async fn settled(&self) {
        while !self
            .shared
            .read(|state| state.settled && (!self.asks || state.kubelet_settled()))
        {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the streams and the threads, as soon as these return from the driver.
    pub fn stop(&self) {
        self.stop.cancel();
        self.waker.stop();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl OwnerMap ===

impl OwnerMap {
    /// Asks again what device names mean.
    pub fn renamed(&self) {
        self.0.update(|state| state.set_owners(|_| {}));
    }

    /// Takes another map; none = it tells nothing. What device names mean is asked again.
    pub fn set(&self, map: Option<Vec<Holding>>) {
        self.0
            .update(|state| state.set_owners(|owners| owners.map = map));
    }
}

/// Asks the kubelet, again and again. Its last answer stands while it is away: nobody else starts or ends pods.
async fn ask(mut kubelet: Kubelet, shared: Arc<Shared>) {
    let mut last: Option<KubeletError> = None;
    loop {
        let asked = tokio::time::Instant::now();
        let answer = kubelet.holdings().await;
        let failed = answer.as_ref().err().cloned();
        if failed != last {
            match &failed {
                Some(error) => tracing::warn!(%error, "Who has which GPU is not known."),
                None => tracing::info!("The kubelet answers."),
            }
            last = failed;
        }
        shared.update(|state| {
            state.set_owners(|owners| match answer {
                Ok(holdings) => {
                    owners.kubelet = Some(holdings);
                    owners.asked = Some(asked.into_std());
                    owners.kubelet_problem = None;
                }
                Err(error) => owners.kubelet_problem = Some(error.to_string()),
            });
        });
        let _ = tokio::time::timeout_at(asked + kubelet.every(), shared.processes.notified()).await;
        tokio::time::sleep_until(asked + ASK_AGAIN).await;
    }
}
