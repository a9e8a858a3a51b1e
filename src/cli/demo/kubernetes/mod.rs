//! `pointsman demo --kubernetes`: the walk of docs/kubernetes.md without a cluster.
//!
//! Objects are YAML files in a folder, ours or the user's, and are followed as they change. The API server is a real one or the
//! double of `sim::kube` ([`server`]), and is asked over HTTP either way; this process plays the other parts of a cluster: a
//! node that runs pods ([`kubelet`]), a gateway's control plane ([`gateway`]), and for our own files somebody who edits them
//! ([`script`]). The picker is `pointsman serve` as in a pod, the pods are `pointsman sim`, the gateway is a real Envoy.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod gateway;
mod kubelet;
mod manifests;
mod objects;
mod script;
mod server;
mod view;

use super::super::children::{Program, free_address};
use super::super::http::Http;
use super::super::serve::asked_to_stop;
use super::bootstrap::Addresses;
use super::table::Screen;
use super::traffic::{self, Results, Target};
use super::{DemoArgs, FINISH, LOOK, MODEL, START, addresses, start_envoy, start_picker, until};
use gateway::Gateway;
use kubelet::{Kubelet, Phase};
use manifests::Manifests;
use objects::{Objects, POOLS};
use script::Script;
use server::Server;
use view::{Told, View};

/// Of all objects.
const NAMESPACE: &str = "models";
/// How often files, pods and Envoy are looked at.
const STEP: Duration = Duration::from_millis(100);

/// The cluster: objects, and who acts on them.
struct Cluster {
    objects: Objects,
    manifests: Manifests,
    kubelet: Kubelet,
    gateway: Gateway,
    pool: String,
    http: Http,
    admin: SocketAddr,
}

/// What runs beside it.
struct Stage {
    server: Server,
    addresses: Addresses,
    picker_metrics: SocketAddr,
    picker: Program,
    envoy: Program,
}

/// Runs until Ctrl-C, or for `--for`; ends with a summary. An error if requests to our own objects failed or went astray.
pub(super) async fn run(args: &DemoArgs, envoy: &Path, folder: &Path) -> anyhow::Result<()> {
    let mut interrupted = std::pin::pin!(asked_to_stop());
    let (manifests, mut script) = match &args.manifests {
        Some(manifests) => (manifests.clone(), None),
        None => {
            let manifests = folder.join("manifests");
            let script = Script::write(&manifests)?;
            (manifests, Some(script))
        }
    };
    let built = async {
        let (mut stage, mut cluster) = build(args, envoy, folder, &manifests).await?;
        let ready = async || {
            for event in cluster.step().await? {
                println!("{event}");
            }
            stage.check()?;
            anyhow::Ok(
                cluster
                    .kubelet
                    .pods()
                    .values()
                    .any(|pod| pod.phase == Phase::Ready),
            )
        };
        wait(ready, &manifests).await?;
        stage.until_ready().await?;
        anyhow::Ok((stage, cluster))
    };
    let (mut stage, mut cluster) = tokio::select! {
        built = tokio::time::timeout(START, built) => built.context("not everything started in 30 s")??,
        asked = &mut interrupted => return Ok(asked?),
    };
    stage.explain(args, &manifests);

    let results = Arc::new(Mutex::new(Results::new()?));
    let enough = CancellationToken::new();
    let sending = stage.send(args, &cluster, &results, &enough).await?;
    let begun = Instant::now();
    let mut view = View::default();
    let mut screen = Screen::new();
    let mut stepping = tokio::time::interval(STEP);
    let mut looking = tokio::time::interval(LOOK);
    let pause = Script::pause(args.run_for);
    let mut editing = tokio::time::interval_at(tokio::time::Instant::now() + pause, pause);
    let end = async {
        match args.run_for {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            _ = stepping.tick() => {
                let seconds = begun.elapsed().as_secs_f64();
                let stepped = cluster.step().await;
                // A program that has ended says more than who cannot reach it.
                stage.check()?;
                for event in stepped? {
                    view.happened(seconds, &event);
                }
            }
            _ = looking.tick() => {
                stage.check()?;
                let page = cluster.http.page(stage.picker_metrics, "/metrics").await?;
                let told = cluster.told(&page).await?;
                let results = results.lock();
                view.look(&cluster.kubelet, told, &page, &results);
                screen.show(|| view.live(&results, begun.elapsed().as_secs_f64()));
            }
            _ = editing.tick(), if script.is_some() => {
                script.as_mut().map_or(Ok(()), Script::step)?;
            }
            () = &mut end => break,
            asked = &mut interrupted => {
                asked?;
                break;
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    enough.cancel();
    if tokio::time::timeout(FINISH, sending.join_all())
        .await
        .is_err()
    {
        eprintln!("Some answers did not end in {} s.", FINISH.as_secs());
    }
    cluster.step().await?;
    let page = cluster.http.page(stage.picker_metrics, "/metrics").await?;
    let told = cluster.told(&page).await?;
    let results = results.lock().clone();
    view.look(&cluster.kubelet, told, &page, &results);
    println!("{}", view.summary(&results, seconds));
    stage.envoy.stop().await?;
    stage.picker.stop().await?;
    cluster.kubelet.end().await?;
    stage.server.end().await?;
    // Who edits the objects may well have meant it.
    let answered = results.complete + results.shed;
    if script.is_some() && answered < results.sent {
        bail!(
            "{} of {} requests failed",
            results.sent - answered,
            results.sent
        );
    }
    if script.is_some() && results.astray > 0 {
        bail!(
            "{} answers came from a pod that was not chosen",
            results.astray
        );
    }
    Ok(())
}

/// Starts the API server, the picker and Envoy.
async fn build(
    args: &DemoArgs,
    envoy: &Path,
    folder: &Path,
    manifests: &Path,
) -> anyhow::Result<(Stage, Cluster)> {
    let http = Http::new();
    let server = Server::start(folder).await?;
    let objects = Objects::new(server.client.clone());
    let mut manifests = Manifests::of(manifests);
    for event in manifests.apply(&objects).await? {
        println!("{event}");
    }
    let pools = objects.list(&POOLS).await?;
    let pool = pools
        .first()
        .and_then(|pool| pool["metadata"]["name"].as_str());
    let pool = pool
        .context("--manifests: no file has an InferencePool that the API server takes; deploy/demo has examples of all")?
        .to_owned();

    let addresses = addresses(args, Vec::new())?;
    let picker_metrics = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env("KUBECONFIG", &server.kubeconfig)
        .arg("serve")
        .arg(format!("--pool-name={pool}"))
        .arg(format!("--pool-namespace={NAMESPACE}"))
        // Who watches the demo has no token that the API server knows.
        .arg("--metrics-endpoint-auth=false");
    let picker = start_picker(&http, folder, command, &addresses, picker_metrics).await?;
    let gateway = Gateway::new(folder)?;
    let mut document = args.profile.bootstrap(&addresses)?;
    gateway.plug_into(&mut document)?;
    let envoy = start_envoy(&http, envoy, folder, &document, addresses.admin).await?;
    let cluster = Cluster {
        kubelet: Kubelet::new(objects.clone(), http.clone(), folder.to_owned())?,
        objects,
        manifests,
        gateway,
        pool,
        http,
        admin: addresses.admin,
    };
    let stage = Stage {
        server,
        addresses,
        picker_metrics,
        picker,
        envoy,
    };
    Ok((stage, cluster))
}

/// Asks until the first pod is ready.
async fn wait(
    mut ready: impl AsyncFnMut() -> anyhow::Result<bool>,
    manifests: &Path,
) -> anyhow::Result<()> {
    while !ready()
        .await
        .with_context(|| format!("{}", manifests.display()))?
    {
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}

// === impl Cluster ===

impl Cluster {
    /// What is next for all of them; returns what happened, for people.
    async fn step(&mut self) -> anyhow::Result<Vec<String>> {
        let mut events = self.manifests.apply(&self.objects).await?;
        let page = self.http.page(self.admin, "/clusters").await?;
        let reachable = gateway::known(&page);
        events.extend(self.kubelet.work(&reachable).await?);
        let pool = self.objects.get(&POOLS, &self.pool).await?;
        self.gateway
            .tell(pool.as_ref(), &self.kubelet.addresses())?;
        Ok(events)
    }

    /// What each object is told, where `page` is the picker's metrics.
    async fn told(&self, page: &str) -> anyhow::Result<Vec<Told>> {
        view::told(&self.objects, &self.manifests, page).await
    }
}

// === impl Stage ===

impl Stage {
    fn check(&mut self) -> anyhow::Result<()> {
        self.server.check()?;
        self.picker.check()?;
        self.envoy.check()
    }

    fn entrance(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.addresses.listen.port()))
    }

    /// Waits until the picker has the first pod, and Envoy the picker.
    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let http = Http::new();
        let metrics = self.picker_metrics;
        until(&mut self.picker, async || {
            let page = http.page(metrics, "/metrics").await.ok()?;
            let ready = super::super::http::sum(&page, "llm_d_epp_ready_endpoints", &[]);
            (ready > 0.0).then_some(())
        })
        .await?;
        let admin = self.addresses.admin;
        until(&mut self.envoy, async || {
            let page = http.page(admin, "/clusters").await.ok()?;
            let mut lines = page.lines();
            lines
                .any(|line| {
                    line.starts_with("picker::") && line.ends_with("::health_flags::healthy")
                })
                .then_some(())
        })
        .await
    }

    /// Half of the requests ask for a model that is rewritten, half name an objective, if there are such objects.
    async fn send(
        &self,
        args: &DemoArgs,
        cluster: &Cluster,
        results: &Arc<Mutex<Results>>,
        enough: &CancellationToken,
    ) -> anyhow::Result<JoinSet<()>> {
        let (model, objective) = view::asked(&cluster.objects, &cluster.pool, MODEL).await?;
        let sheds = objective.as_ref().is_some_and(|(_, sheddable)| *sheddable);
        let named = objective.map(|(name, _)| ("x-llm-d-inference-objective", name));
        let mut sending = JoinSet::new();
        for (model, headers, sheddable) in [
            (model, Vec::new(), false),
            (MODEL.to_owned(), Vec::from_iter(named), sheds),
        ] {
            let target = Target {
                http: cluster.http.clone(),
                uri: format!("http://{}/v1/chat/completions", self.entrance()),
                model,
                headers,
                sheddable,
            };
            let (results, enough) = (Arc::clone(results), enough.clone());
            sending.spawn(traffic::send(target, args.rate / 2.0, results, enough));
        }
        Ok(sending)
    }

    fn explain(&self, args: &DemoArgs, manifests: &Path) {
        println!(
            "{} requests a second go through Envoy to the pods of an InferencePool, which are simulated model servers on this machine.\nThe objects are in {}: edit a file, add one, remove one.{}\n{}\nThe picker's metrics: http://{}/metrics. A request to try:\n\n  curl -i http://{}/v1/chat/completions -H 'content-type: application/json' \\\n    -d '{{\"model\": \"{MODEL}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}], \"max_tokens\": 8}}'\n",
            args.rate,
            manifests.display(),
            match args.manifests {
                Some(_) => "",
                None => " Meanwhile pods come and go by themselves.",
            },
            self.server.told,
            self.picker_metrics,
            self.entrance(),
        );
    }
}
