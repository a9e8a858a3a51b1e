//! The API server fails: what was known last serves, and what changed meanwhile is seen when it is back.

use std::time::{Duration, Instant};

use pointsman::cli::demo::bootstrap::Profile;
use pointsman::sim::kube::Call;

use crate::chaos::Load;
use crate::support::ask::ask;
use crate::support::cluster::{Cluster, GROUP};
use crate::support::envoy::Envoy;
use crate::support::picker::Picker;
use crate::support::sims::Sims;
use crate::support::{machine, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_breaks_is_taken_up_where_it_was() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;
    let lists = cluster.api.lists();

    cluster.api.break_watches();
    cluster.delete_pod("a");
    cluster.pod("b", "10.1.0.2", true, None);
    picker.has(&["models/b-rank-0"]).await;
    assert_eq!(cluster.api.lists(), lists, "what is missed is replayed");

    // The past is forgotten: who asks for it has to list.
    cluster.api.break_watches();
    cluster.pod("c", "10.1.0.3", true, None);
    cluster.delete_pod("b");
    cluster.api.forget();
    picker.has(&["models/c-rank-0"]).await;
    assert!(cluster.api.lists() > lists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_spares_a_list() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;
    let lists = cluster.api.lists();
    // Changes that no pod's or pool's watch sees, and the history without them.
    cluster.objective("llm-d.ai", "o", "other", 1);
    until("a bookmark, and the objective", async || {
        let known = picker
            .metric("kubernetes_objects{resource=\"inferenceobjectives\",standing=\"other_pool\"}");
        (known.await == 1.0).then_some(())
    })
    .await;
    // Pool, pods, objectives and rewrites are watched, and all in one rhythm: after three rounds each had one.
    let enough = cluster.api.bookmarked() + 3 * 4;
    until("bookmarks", async || {
        (cluster.api.bookmarked() >= enough).then_some(())
    })
    .await;
    cluster.api.forget();
    cluster.api.break_watches();
    cluster.pod("b", "10.1.0.2", true, None);
    picker.has(&["models/a-rank-0", "models/b-rank-0"]).await;
    assert_eq!(cluster.api.lists(), lists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_asks_again() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    cluster.api.refuse(429, 5);
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;
    assert!(
        picker
            .metric("kubernetes_requests_total{code=\"429\"}")
            .await
            > 0.0
    );
    assert_eq!(ask(picker.grpc, &[]).await.as_deref(), Ok("10.1.0.1:8000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_objectives_it_serves_all_the_same() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    cluster.api.forbid(Call {
        verb: "list".to_owned(),
        group: "llm-d.ai".to_owned(),
        resource: "inferenceobjectives".to_owned(),
    });
    let picker = cluster.picker(&[]).await;
    picker.until_health("readiness", true).await;
    assert_eq!(ask(picker.grpc, &[]).await.as_deref(), Ok("10.1.0.1:8000"));
    assert!(
        picker
            .process
            .printed()
            .contains("inferenceobjectives cannot be followed")
    );
}

/// Simulated servers as pods of one node, each with a port of its own; a picker and an Envoy before them.
struct Served {
    cluster: Cluster,
    sims: Sims,
    picker: Picker,
    load: Load,
}

impl Served {
    async fn start() -> Self {
        let sims = Sims::start(3, &["--ttft=1ms", "--itl=5ms"]).await;
        let cluster = Cluster::start().await;
        let ports: Vec<u16> = sims
            .addresses
            .iter()
            .map(|address| address.port())
            .collect();
        cluster.pool(&ports);
        for n in 0..3 {
            pod(&cluster, &sims, n, true);
        }
        let flags = ["--secure-serving=true", "--health-checking"];
        let picker = cluster.picker(&flags).await;
        picker.until_health("readiness", true).await;
        picker
            .has(&["models/p0-rank-0", "models/p1-rank-1", "models/p2-rank-2"])
            .await;
        let pickers = [picker.grpc];
        let envoy = Envoy::start(Profile::FullDuplex, &pickers, &sims.addresses, |_| {});
        Self {
            load: Load::start(envoy.await),
            cluster,
            sims,
            picker,
        }
    }

    fn pod(&self, n: usize, ready: bool) {
        pod(&self.cluster, &self.sims, n, ready);
    }

    /// The load ends: every answer was as it should be, and nothing is in flight.
    async fn end(self) {
        assert_eq!(self.load.stop().await, Vec::<String>::new());
        let picker = &self.picker;
        until("nothing to be in flight", async || {
            let running = picker.metric("request_running{").await;
            let flying = picker.metric("endpoint_in_flight{").await;
            (running == 0.0 && flying == 0.0).then_some(())
        })
        .await;
    }
}

/// Another pod at the place of server `n`.
fn pod_at(cluster: &Cluster, name: &str, sims: &Sims, n: usize) {
    let port = sims.addresses[n].port().to_string();
    cluster.pod(name, "127.0.0.1", true, Some(&port));
}

fn pod(cluster: &Cluster, sims: &Sims, n: usize, ready: bool) {
    let port = sims.addresses[n].port().to_string();
    cluster.pod(&format!("p{n}"), "127.0.0.1", ready, Some(&port));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_flap_fail_no_request_and_leave_nothing_in_flight() {
    let _machine = machine::alone().await;
    let served = Served::start().await;
    for n in 0..30 {
        served.pod(n % 3, false);
        served.load.answers(3).await;
        served.pod(n % 3, true);
        served.load.answers(3).await;
    }
    // One is gone for good, with requests in it.
    served.cluster.delete_pod("p2");
    served
        .picker
        .has(&["models/p0-rank-0", "models/p1-rank-1"])
        .await;
    served.load.answers(20).await;
    served.end().await;
}

/// Longer than kube's watcher waits between two tries (30 s), and than the picker waits for an answer.
const AWAY: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_api_server_is_away_for_a_minute_traffic_flows_and_changes_come_after() {
    // Under load, but nothing is killed that others need: no reason to have them wait for a minute.
    let _machine = machine::shared().await;
    let mut served = Served::start().await;
    served.cluster.objective(GROUP, "early", "pool", 1);
    let objectives = "kubernetes_objects{resource=\"inferenceobjectives\",standing=\"accepted\"}";
    let accepted = async |picker: &Picker, count: f64| {
        until("the objectives", async || {
            (picker.metric(objectives).await == count).then_some(())
        })
        .await;
    };
    accepted(&served.picker, 1.0).await;

    served.cluster.away();
    let gone = Instant::now();
    let picker = &served.picker;
    until("it to be told that the API server is away", async || {
        (picker.metric("kubernetes_api_up").await == 0.0).then_some(())
    })
    .await;
    // One pod is not ready any more, one is gone, one is new; and all of it is only to be heard of later.
    served.pod(0, false);
    served.cluster.delete_pod("p1");
    pod_at(&served.cluster, "p3", &served.sims, 1);
    served.cluster.objective(GROUP, "late", "pool", 2);
    while gone.elapsed() < AWAY {
        served.load.answers(50).await;
        assert_eq!(picker.endpoints().await.len(), 3);
        assert_eq!(picker.metric(objectives).await, 1.0);
        picker.until_health("readiness", true).await;
    }
    served.cluster.back().await;
    // As long may pass until it is asked again.
    let expected = ["models/p2-rank-2", "models/p3-rank-1"];
    until("the pods as they are now", async || {
        (served.picker.endpoints().await == expected).then_some(())
    })
    .await;
    accepted(&served.picker, 2.0).await;
    assert_eq!(served.picker.metric("kubernetes_api_up").await, 1.0);
    served.load.answers(50).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_api_server_is_away_the_last_known_pool_serves() {
    let _machine = machine::alone().await;
    let mut served = Served::start().await;
    served.load.answers(50).await;
    served.cluster.away();
    let picker = &served.picker;
    until("it to be told that the API server is away", async || {
        (picker.metric("kubernetes_api_up").await == 0.0).then_some(())
    })
    .await;
    served.pod(0, false);
    served.cluster.delete_pod("p1");
    served.load.answers(150).await;
    assert_eq!(picker.endpoints().await.len(), 3);
    picker.until_health("readiness", true).await;
    served.cluster.back().await;
    served.picker.has(&["models/p2-rank-2"]).await;
    assert_eq!(served.picker.metric("kubernetes_api_up").await, 1.0);
    served.load.answers(20).await;
    served.end().await;
}
