//! Where `serve` has its endpoints from: a file, or Kubernetes.

use std::fmt;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::options::Settings;
use super::plan::no_endpoints;
use crate::config::params::FileDiscoveryParams;
use crate::extproc::health::Readiness;
use crate::pool::Pool;
use crate::pool::discovery::kube::{Counts, Options, Target};
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
    /// Ends this replica's time as a leader.
    resign: CancellationToken,
    /// Node agents that are found.
    pub(super) gpu_agents: watch::Receiver<Vec<AgentAt>>,
}

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
            if settings.election {
                tracing::warn!(
                    "--ha-enable-leader-election has no effect: the endpoints are in a file."
                );
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

    /// Whether it is that file.
    pub(super) fn is(&self, file: &FileDiscoveryParams) -> bool {
        matches!(self, Self::File(params) if params == file)
    }

    /// What will be told to load balancers.
    pub(super) fn readiness(&self) -> Readiness {
        match self {
            Self::Kubernetes(options) if options.identity.is_some() => Readiness::with_election(),
            _ => Readiness::default(),
        }
    }

    /// Begins to fill `pool`, until `stop`. A file is read on return.
    pub(super) async fn start(
        &self,
        pool: &Arc<Pool>,
        metrics: &Metrics,
        readiness: &Arc<Readiness>,
        stop: CancellationToken,
    ) -> anyhow::Result<Started> {
        let pool = Arc::clone(pool);
        let resign = stop.child_token();
        // None is found in a file.
        let (_, mut gpu_agents) = watch::channel(Vec::new());
        match self {
            Self::File(params) => {
                let path = params.path.clone().into();
                file::spawn(pool, path, params.watch_file, stop).context("file-discovery")?;
                readiness.set_synced(true);
            }
            Self::Kubernetes(options) => {
                let mut counts = Counts::default();
                let election = options.identity.is_some();
                metrics.register(|registry| counts = Counts::register(registry, election));
                let options = options.clone();
                let tokens = (stop.clone(), resign.clone());
                let mut discovery = kube::spawn(pool, options, counts, tokens).await?;
                gpu_agents = discovery.gpu_agents.clone();
                let readiness = Arc::clone(readiness);
                let telling = async move {
                    loop {
                        readiness.set_synced(*discovery.synced.borrow_and_update());
                        readiness.set_leading(*discovery.leading.borrow_and_update());
                        discovery.changed().await;
                    }
                };
                tokio::spawn(stop.run_until_cancelled_owned(telling));
            }
        }
        Ok(Started { resign, gpu_agents })
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

fn of_environment(name: &str) -> Option<String> {
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
    }
}

// === impl Started ===

impl Started {
    /// Lets another replica lead, at once.
    pub(super) fn resign(&self) {
        self.resign.cancel();
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
