//! Where `serve` has its endpoints from: a file, or Kubernetes.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use ::kube::Client;
use anyhow::Context as _;
use futures_util::future::select_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::options::Settings;
use super::plan::no_endpoints;
use crate::config::params::FileDiscoveryParams;
use crate::extproc::health::Readiness;
use crate::pool::Pool;
use crate::pool::discovery::kube::{Counts, Discovery, Options, Patience, Target};
use crate::pool::discovery::{file, kube};
use crate::pool::gpu::agents::AgentAt;
use crate::telemetry::metrics::Metrics;

/// Where the endpoints are from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A file.
    File(FileDiscoveryParams),
    /// Kubernetes.
    Kubernetes(Options),
}

/// Discovery at work.
pub(super) struct Started {
    /// Whether the pool is known, so that requests may come.
    pub(super) synced: watch::Receiver<bool>,
    /// Whether this replica leads; always, where there is no election.
    pub(super) leading: watch::Receiver<bool>,
    /// Ends this replica's time as a leader.
    resign: CancellationToken,
    /// Node agents that are found.
    pub(super) gpu_agents: watch::Receiver<Vec<AgentAt>>,
    /// What the receivers listen to.
    of: Option<Discovery>,
}

/// Once a pool is known, others are waited for so long before the process serves without.
const POOLS_PATIENCE: Duration = Duration::from_secs(10);

// === impl Source ===

impl Source {
    /// By what the configuration says of an endpoints file, and what flags say. A file goes before Kubernetes: the pool's
    /// name may be there for the metrics.
    pub(super) fn of(
        configured: Option<&FileDiscoveryParams>,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let file = |params| {
            if settings.gpu_agents.pods.is_some() {
                tracing::warn!("--gpu-agents-selector has no effect: the endpoints are in a file.");
            }
            Ok(Self::File(params))
        };
        match (configured, &settings.endpoints_file, &settings.kubernetes) {
            (Some(params), None, _) => file(params.clone()),
            (None, Some(path), _) => file(FileDiscoveryParams {
                path: path.to_string_lossy().into_owned(),
                watch_file: true,
            }),
            (Some(params), Some(path), _) => anyhow::bail!(
                "dataLayer.discovery has the endpoints in {}, --endpoints-file in {}; give one",
                params.path,
                path.display()
            ),
            (None, None, Some(target)) => Ok(Self::Kubernetes(options(target, settings))),
            (None, None, None) => anyhow::bail!("{}", no_endpoints()),
        }
    }

    /// Whether Kubernetes is asked, where a replica can be elected.
    pub(super) fn is_kubernetes(&self) -> bool {
        matches!(self, Self::Kubernetes(_))
    }

    /// Takes no part in an election: another pool of the process says whether this replica leads.
    pub(super) fn is_led(&mut self) {
        if let Self::Kubernetes(options) = self {
            options.identity = None;
        }
    }

    /// Whether it is that file.
    pub(super) fn is(&self, file: &FileDiscoveryParams) -> bool {
        matches!(self, Self::File(params) if params == file)
    }

    /// What will be told to load balancers, if this is the first of the process's pools.
    pub(super) fn readiness(&self) -> Readiness {
        match self {
            Self::Kubernetes(options) if options.identity.is_some() => Readiness::with_election(),
            _ => Readiness::default(),
        }
    }

    /// Begins to fill `pool`, until `stop`. A file is read on return. `leads`: whether this replica leads, where another
    /// pool says so.
    pub(super) async fn start(
        &self,
        pool: &Arc<Pool>,
        metrics: &Metrics,
        leads: Option<watch::Receiver<bool>>,
        stop: CancellationToken,
    ) -> anyhow::Result<Started> {
        let pool = Arc::clone(pool);
        let resign = stop.child_token();
        match self {
            Self::File(params) => {
                let path = params.path.clone().into();
                file::spawn(pool, path, params.watch_file, stop).context("file-discovery")?;
                let (_, always) = watch::channel(true);
                // None is found in a file.
                let (_, gpu_agents) = watch::channel(Vec::new());
                Ok(Started {
                    synced: always.clone(),
                    leading: leads.unwrap_or(always),
                    resign,
                    gpu_agents,
                    of: None,
                })
            }
            Self::Kubernetes(options) => {
                let mut counts = Counts::default();
                let election = options.identity.is_some();
                metrics.register(|registry| counts = Counts::register(registry, election));
                let options = Options {
                    leads,
                    ..options.clone()
                };
                let discovery = kube::spawn(pool, options, counts, (stop, resign.clone())).await?;
                Ok(Started {
                    synced: discovery.synced.clone(),
                    leading: discovery.leading.clone(),
                    resign,
                    gpu_agents: discovery.gpu_agents.clone(),
                    of: Some(discovery),
                })
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(params) => write!(f, "{}", params.path),
            Self::Kubernetes(_) => write!(f, "Kubernetes"),
        }
    }
}

/// Tells load balancers of the process, for good: it is ready while any of its pools is known, and first when all are, or when
/// those that are not were waited for long enough.
pub(super) async fn tell(
    readiness: Arc<Readiness>,
    mut synced: Vec<watch::Receiver<bool>>,
    mut leading: watch::Receiver<bool>,
) {
    let mut began = false;
    let mut patience: Option<Instant> = None;
    loop {
        let known = synced.iter_mut().map(|pool| *pool.borrow_and_update());
        let known = known.filter(|known| *known).count();
        began |= known == synced.len();
        if known > 0 && !began {
            let until = *patience.get_or_insert_with(|| Instant::now() + POOLS_PATIENCE);
            if Instant::now() >= until {
                let missing = synced.len() - known;
                tracing::warn!(missing, "Some pools are not known; serving the others.");
                began = true;
            }
        }
        readiness.set_synced(began && known > 0);
        readiness.set_leading(*leading.borrow_and_update());
        let changes = synced.iter_mut().map(|pool| Box::pin(changed(pool)));
        let waited = async {
            match patience.filter(|_| !began) {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = select_all(changes) => {}
            () = changed(&mut leading) => {}
            () = waited => {}
        }
    }
}

/// Waits until it tells something else, for good if that cannot be.
async fn changed(receiver: &mut watch::Receiver<bool>) {
    if receiver.changed().await.is_err() {
        pending().await
    }
}

/// Pods without an InferencePool are a pool that is called as the Deployment of this process, if `POD_NAME` tells it.
pub(super) fn name_pool(settings: &mut Settings) {
    if let Some(Target::Pods { .. }) = settings.kubernetes
        && let Some(deployment) = of_environment("POD_NAME").as_deref().and_then(deployment)
    {
        settings.pool_name = deployment.to_owned();
    }
}

/// That of a pod called `<deployment>-<replica set>-<pod>`.
fn deployment(pod: &str) -> Option<&str> {
    let mut parts = pod.rsplitn(3, '-');
    let (pod, set, deployment) = (parts.next()?, parts.next()?, parts.next()?);
    (![pod, set, deployment].contains(&"")).then_some(deployment)
}

pub(super) fn of_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn options(target: &Target, settings: &Settings) -> Options {
    let namespace = settings.namespace.clone();
    let pod = of_environment("POD_NAME");
    Options {
        namespace: namespace.or_else(|| of_environment("NAMESPACE")),
        target: target.clone(),
        pool_name: settings.pool_name.clone(),
        gpu_agents: settings.gpu_agents.pods.clone(),
        identity: settings.election.then(|| {
            let pod = pod.unwrap_or_else(|| "pointsman".to_owned());
            format!("{pod}_{}", uuid::Uuid::new_v4())
        }),
        leads: None,
        patience: Patience::default(),
    }
}

// === impl Started ===

impl Started {
    /// Lets another replica lead, at once.
    pub(super) fn resign(&self) {
        self.resign.cancel();
    }

    /// Asks the API server; `None` = there is none.
    pub(super) fn client(&self) -> Option<&Client> {
        self.of.as_ref().map(|discovery| &discovery.client)
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::settings;
    use super::*;

    fn source(configured: Option<&str>, flags: &[&str]) -> Result<String, String> {
        let configured = configured.map(|path| FileDiscoveryParams {
            path: path.to_owned(),
            watch_file: false,
        });
        let source = Source::of(configured.as_ref(), &settings(flags).unwrap());
        let told = source.map(|source| format!("{source:?}"));
        told.map_err(|error| error.to_string())
    }

    #[test]
    fn endpoints_are_said_once() {
        let file = |path: &str, watch| {
            format!("File(FileDiscoveryParams {{ path: \"{path}\", watch_file: {watch} }})")
        };
        assert_eq!(source(Some("a"), &[]), Ok(file("a", false)));
        assert_eq!(source(None, &["--endpoints-file=b"]), Ok(file("b", true)));
        let both = source(Some("a"), &["--endpoints-file=b"]).unwrap_err();
        assert!(both.contains("give one"), "{both}");
        let none = source(None, &[]).unwrap_err();
        assert!(
            none.contains("--endpoints-file") && none.contains("--pool-name"),
            "{none}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_ready_when_its_pools_are_known_or_were_waited_for() {
        let settled = async || {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        let (_leads, leading) = watch::channel(true);
        let (first, of_first) = watch::channel(false);
        let (second, of_second) = watch::channel(false);
        let readiness = Arc::new(Readiness::default());
        let telling = tell(Arc::clone(&readiness), vec![of_first, of_second], leading);
        let telling = tokio::spawn(telling);
        let mut seen = Vec::new();
        first.send_replace(true);
        settled().await;
        seen.push(readiness.is_ready());
        second.send_replace(true);
        settled().await;
        seen.push(readiness.is_ready());
        first.send_replace(false);
        settled().await;
        seen.push(readiness.is_ready());
        second.send_replace(false);
        settled().await;
        seen.push(readiness.is_ready());
        assert_eq!(seen, [false, true, true, false]);
        telling.abort();

        let (_leads, leading) = watch::channel(true);
        let (_first, of_first) = watch::channel(true);
        let (_second, of_second) = watch::channel(false);
        let readiness = Arc::new(Readiness::default());
        let telling = tell(Arc::clone(&readiness), vec![of_first, of_second], leading);
        tokio::spawn(telling);
        settled().await;
        assert!(!readiness.is_ready());
        tokio::time::sleep(POOLS_PATIENCE).await;
        settled().await;
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_pod_tells_its_deployment() {
        let expected = [
            ("my-epp-7d9c-x2x4z", Some("my-epp")),
            ("epp-0", None),
            ("-a-b", None),
        ];
        for (pod, name) in expected {
            assert_eq!(deployment(pod), name, "{pod}");
        }
    }

    #[test]
    fn a_file_goes_before_kubernetes() {
        let pool = ["--pool-name=p", "--pool-namespace=n"];
        assert!(source(Some("a"), &pool).unwrap().starts_with("File"));
        let got = source(None, &pool).unwrap();
        assert!(
            got.contains("inference.networking.k8s.io") && got.contains("Some(\"n\")"),
            "{got}"
        );
        assert!(got.contains("identity: None"), "{got}");
        let pods = [
            "--endpoint-selector=a=b, c=d",
            "--endpoint-target-ports=8001,8000",
        ];
        let got = source(None, &pods).unwrap();
        assert!(
            got.contains("a=b,c=d") && got.contains("[8001, 8000]"),
            "{got}"
        );
        let election = source(None, &["--pool-name=p", "--ha-enable-leader-election"]).unwrap();
        assert!(election.contains("identity: Some("), "{election}");
    }
}
