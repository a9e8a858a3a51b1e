//! With an API server that falls silent: the double of `sim::kube`, which proves nothing of what only a real one does.

use std::future::pending;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::*;
use crate::pool::{Endpoint, EndpointId, Hardware};
use crate::sim::kube::ApiServer;

const PATIENCE: Duration = Duration::from_secs(60);
const SHORT: Patience = Patience {
    watch: 1,
    answer: Duration::from_secs(1),
};

/// A pool that follows the pods of `api`.
struct Following {
    api: Arc<ApiServer>,
    pool: Arc<Pool>,
    counts: Counts,
    discovery: Discovery,
}

impl Following {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let api = ApiServer::new(PATIENCE);
        tokio::spawn(Arc::clone(&api).serve(listener, pending()));
        let options = Options {
            namespace: Some("models".to_owned()),
            target: Target::Pods {
                selector: "app=vllm".to_owned(),
                ports: vec![8000],
            },
            pool_name: "pool".to_owned(),
            identity: None,
            leads: None,
            gpu_agents: Some(AgentPods {
                selector: "app=probe".to_owned(),
                namespace: None,
                port: 9401,
            }),
            patience: SHORT,
        };
        let (pool, counts) = (Arc::new(Pool::default()), Counts::default());
        let tokens = (CancellationToken::new(), CancellationToken::new());
        let config = Config::new(uri.parse().unwrap());
        let discovery = begin(config, Arc::clone(&pool), options, counts.clone(), tokens);
        let following = Self {
            api,
            pool,
            counts,
            discovery: discovery.unwrap(),
        };
        following.pod("a");
        following.until_there_are(1).await;
        following
    }

    /// A pod of the pool.
    fn pod(&self, name: &str) {
        self.pod_of("vllm", name, "10.0.0.1");
    }

    fn pod_of(&self, app: &str, name: &str, ip: &str) {
        assert!(self.api.put(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "models", "labels": {"app": app}},
            "spec": {"nodeName": "node-1"},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
        })));
    }

    async fn until_the_agent_is_at(&self, ip: &str) {
        self.until("the agent", |following| {
            let agents = following.discovery.gpu_agents.borrow();
            agents.iter().map(|at| &*at.name).eq([ip])
        })
        .await;
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("waited in vain for {what}"));
    }

    async fn until_there_are(&self, pods: usize) {
        let there = |following: &Self| following.pool.snapshot().len() == pods;
        self.until("the pods", there).await;
    }
}

#[tokio::test]
async fn connections_that_were_lost_are_noticed() {
    let following = Following::start().await;
    following.api.lose_connections();
    following.pod("b");
    following.until_there_are(2).await;
    assert!(following.counts.is_up());
}

#[tokio::test]
async fn a_server_that_says_nothing_is_away_and_may_come_back() {
    let following = Following::start().await;
    following.api.hush(true);
    following
        .until("it to be away", |f| !f.counts.is_up())
        .await;
    following.pod("b");
    assert_eq!(following.pool.snapshot().len(), 1);
    following.api.hush(false);
    following.until_there_are(2).await;
    assert!(following.counts.is_up());
}

#[tokio::test]
async fn watches_end_before_a_server_that_has_nothing_to_say_counts_as_away() {
    let following = Following::start().await;
    following.pod_of("probe", "x", "10.2.0.1");
    following.until_the_agent_is_at("10.2.0.1").await;
    // It was listed, and what follows is watched.
    following.api.delete("", "pods", "models", "x");
    following.pod_of("probe", "y", "10.2.0.2");
    following.until_the_agent_is_at("10.2.0.2").await;
    assert_eq!(following.api.longest_watch(), u64::from(SHORT.watch));
}

#[tokio::test]
async fn agents_that_may_not_be_looked_for_are_missed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let api = ApiServer::new(PATIENCE);
    api.refuse(403, u32::MAX);
    tokio::spawn(api.serve(listener, pending()));
    let (pool, counts) = (Arc::new(Pool::default()), Counts::default());
    let of_node = |(name, node): (&str, &str)| Endpoint {
        id: EndpointId {
            namespace: "models".to_owned(),
            name: name.to_owned(),
        },
        address: [127, 0, 0, 1].into(),
        port: 8000,
        labels: Default::default(),
        hardware: Hardware {
            node: Some(node.to_owned()),
            ..Hardware::default()
        },
    };
    pool.replace([("a", "n1"), ("b", "n2"), ("c", "n2")].map(of_node).into());
    let search = Search {
        pool,
        name: "pool".to_owned(),
        client: client(Config::new(uri.parse().unwrap()), &counts, SHORT).unwrap(),
        namespace: "gpu".to_owned(),
        pods: AgentPods {
            selector: "app=probe".to_owned(),
            namespace: None,
            port: 9401,
        },
        counts: counts.clone(),
        watch: SHORT.watch,
        found: watch::Sender::new(Vec::new()),
    };
    tokio::spawn(search.follow());
    let waiting = async {
        while counts.are_without_agent("pool") != 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
}

#[test]
fn silence_is_noticed_within_75_s() {
    let patience = Patience::default();
    // kube's watcher gives the server 5 s more to end a watch.
    let watch = Duration::from_secs(patience.watch.into()) + Duration::from_secs(5);
    assert!(watch + patience.answer < Duration::from_secs(75));
}
