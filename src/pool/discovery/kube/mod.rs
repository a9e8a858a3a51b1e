//! Discovery in Kubernetes: the pool is an InferencePool, its endpoints are the pods that it selects; or pods by label alone.
//!
//! One task follows the InferencePool and its pods ([`members`], [`roster`], [`pods`]), one InferenceObjectives and
//! InferenceModelRewrites ([`policies`], [`policy`]). They follow by kube's watcher, which lists, watches and begins again
//! after whatever goes wrong; what was known last counts meanwhile. Each pod is an endpoint for each port of the pool that is
//! active in it, `<namespace>/<pod>-rank-<i>`, while it is ready and not being deleted. Changes are collected for 20 ms and
//! then change the pool's snapshot as one, in the endpoints that they are about.
//!
//! Labels are those of the pod. Its node's are not read: that needs rights on all nodes of the cluster, and since Kubernetes
//! 1.35 pods carry their node's `topology.kubernetes.io/zone` and `region` themselves; before, put them into the pod
//! template.
//!
//! Node agents, which tell of GPUs, are found by their pods' labels, and by the nodes that have endpoints ([`agents`]).
//!
//! What becomes of each objective and rewrite is told in its status ([`status`]), in the log and in [`Counts`]. All replicas
//! serve; with an election one of them leads ([`leader`]), and only that one is ready and writes.

use std::sync::Arc;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::timeout::TimeoutLayer;
use tower::util::MapResultLayer;

mod agents;
mod api;
mod counts;
mod events;
mod leader;
mod members;
mod mirror;
mod pods;
mod policies;
mod policy;
mod roster;
mod status;
#[cfg(test)]
mod tests;

pub use agents::AgentPods;
pub use api::POOL_GROUP;
pub use counts::Counts;

use crate::pool::Pool;
use crate::pool::gpu::agents::AgentAt;
use agents::Search;
use leader::Candidate;
use members::{Members, Standing};
use policies::Policies;
use policy::OurPool;
use status::{Report, Writer};

/// How long a pool whose endpoints are known waits for objectives and rewrites before it serves without: who may not read
/// them must not be kept from serving.
const POLICY_PATIENCE: Duration = Duration::from_secs(10);

/// Why Kubernetes cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// There is no way to it.
    #[error(
        "no Kubernetes API server to ask: run in a pod with a service account, or set KUBECONFIG"
    )]
    Config(#[from] kube::config::InferConfigError),
    /// Its address or credentials are wrong.
    #[error("the Kubernetes API server cannot be asked")]
    Client(#[from] kube::Error),
}

/// Which endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Those of an InferencePool.
    Pool {
        /// The API group that serves it.
        group: String,
        /// Its name.
        name: String,
    },
    /// Pods, without an InferencePool.
    Pods {
        /// Their labels: `k=v,…`.
        selector: String,
        /// Ports of each.
        ports: Vec<u16>,
    },
}

/// How long the API server may say nothing. A connection that went silent is noticed after both together, and 5 s.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a watch lasts, in seconds. Where nothing happens, nothing is heard; so it ends now and then, and is taken up
    /// again where it was.
    pub watch: u32,
    /// Until an answer begins.
    pub answer: Duration,
}

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of all objects; `None`: that of the credentials.
    pub namespace: Option<String>,
    /// Which endpoints.
    pub target: Target,
    /// The pool's name, as it is in the name of the lease.
    pub pool_name: String,
    /// The name of this replica in an election, unlike that of any other; `None`: all replicas serve.
    pub identity: Option<String>,
    /// With the API server.
    pub patience: Patience,
    /// Which pods are node agents, if they are to be found.
    pub gpu_agents: Option<AgentPods>,
    /// Whether this replica leads, where it takes part in an election for another pool.
    pub leads: Option<watch::Receiver<bool>>,
}

/// Discovery at work.
pub struct Discovery {
    /// Whether the pool is known, so that requests may come.
    pub synced: watch::Receiver<bool>,
    /// Whether this replica leads; always, where there is no election.
    pub leading: watch::Receiver<bool>,
    /// Asks the API server; its requests are counted.
    pub client: Client,
    /// The node agents of the pool; none, where they are not looked for.
    pub gpu_agents: watch::Receiver<Vec<AgentAt>>,
    /// Says that this replica leads, where there is no election.
    _leads: Option<watch::Sender<bool>>,
}

/// Begins to fill `pool`, until the first token is cancelled; with the second, another replica gets to lead at once.
pub async fn spawn(
    pool: Arc<Pool>,
    options: Options,
    counts: Counts,
    tokens: (CancellationToken, CancellationToken),
) -> Result<Discovery, KubeError> {
    let config = Config::infer().await?;
    begin(config, pool, options, counts, tokens)
}

fn begin(
    config: Config,
    pool: Arc<Pool>,
    options: Options,
    counts: Counts,
    (stop, resign): (CancellationToken, CancellationToken),
) -> Result<Discovery, KubeError> {
    let patience = options.patience;
    let default_namespace = config.default_namespace.clone();
    let client = client(config, &counts, patience)?;
    let asking = client.clone();
    let namespace = options.namespace.unwrap_or(default_namespace);
    let (leading_tx, leading) = watch::channel(options.identity.is_none());
    let leading = options.leads.unwrap_or(leading);
    let mut leads = Some(leading_tx);
    if let Some(identity) = options.identity
        && let Some(leading) = leads.take()
    {
        let pool = &options.pool_name;
        let candidate = Candidate::new(client.clone(), &namespace, pool, identity, counts.clone());
        tokio::spawn(candidate.run(leading, resign));
    }
    let (standing_tx, standing) = watch::channel(Standing::default());
    let (policies_tx, policies_synced) = watch::channel(false);
    if let Target::Pool { group, name } = &options.target {
        let (reports_tx, reports) = watch::channel(Report::default());
        let policies = Policies {
            pool: Arc::clone(&pool),
            client: client.clone(),
            namespace: namespace.clone(),
            ours: OurPool {
                group: group.clone(),
                name: name.clone(),
            },
            counts: counts.clone(),
            watch: patience.watch,
            reports: reports_tx,
            synced: policies_tx,
        };
        let (ours, group) = (namespace.clone(), group.clone());
        let writer = Writer::new(client.clone(), ours, group, counts.clone());
        let following = policies.follow(standing.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(following));
        let writing = writer.follow(reports, leading.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(writing));
    } else {
        policies_tx.send_replace(true);
    }
    let (found, gpu_agents) = watch::channel(Vec::new());
    if let Some(pods) = options.gpu_agents {
        let search = Search {
            pool: Arc::clone(&pool),
            client: client.clone(),
            namespace: pods.namespace.clone().unwrap_or(namespace.clone()),
            pods,
            name: options.pool_name,
            counts: counts.clone(),
            watch: patience.watch,
            found,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(search.follow()));
    }
    let members = Members {
        pool,
        client,
        namespace,
        counts,
        watch: patience.watch,
        standing: standing_tx,
    };
    tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(members.follow(options.target)),
    );
    let (synced_tx, synced) = watch::channel(false);
    let syncing = tell_synced(standing, policies_synced, synced_tx);
    tokio::spawn(stop.run_until_cancelled_owned(syncing));
    Ok(Discovery {
        synced,
        leading,
        client: asking,
        gpu_agents,
        _leads: leads,
    })
}

/// A client that counts its requests.
fn client(mut config: Config, counts: &Counts, patience: Patience) -> Result<Client, KubeError> {
    // Whoever asks asks again, and each refusal is to be counted.
    config.default_retry = false;
    // Within an answer nobody is silent for longer than a watch in which nothing happens.
    config.read_timeout = Some(Duration::from_secs(patience.watch.into()) + patience.answer);
    config.reset_reader_on_write = true;
    let answering = TimeoutLayer::new(patience.answer);
    let counts = counts.clone();
    let counting = MapResultLayer::new(move |answer: Result<http::Response<_>, _>| {
        let code = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        counts.answered(code);
        answer
    });
    let client = ClientBuilder::try_from(config)?.with_layer(&answering);
    Ok(client.with_layer(&counting).build())
}

/// The pool can serve once its pods are known and, with some patience, objectives and rewrites.
async fn tell_synced(
    mut standing: watch::Receiver<Standing>,
    mut policies: watch::Receiver<bool>,
    synced: watch::Sender<bool>,
) {
    while standing.wait_for(|standing| standing.synced).await.is_ok() {
        if timeout(POLICY_PATIENCE, policies.wait_for(|&read| read))
            .await
            .is_err()
        {
            tracing::warn!("Objectives and rewrites cannot be read; serving without.");
        }
        synced.send_replace(true);
        if standing
            .wait_for(|standing| !standing.synced)
            .await
            .is_err()
        {
            return;
        }
        synced.send_replace(false);
    }
}

// === impl Patience ===

impl Default for Patience {
    /// 70 s in all.
    fn default() -> Self {
        Self {
            watch: 40,
            answer: Duration::from_secs(25),
        }
    }
}
