//! `pointsman probe`: the node agent. Reads the node's GPUs and tells pickers and Prometheus.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::http::header;
use axum::routing::get;
use gpu_probes::agent::{Agent, AgentOptions, Open};
use gpu_probes::nvml::{self, Answer, NvmlProbe};
use gpu_probes::telemetry::gpu_telemetry_server::GpuTelemetryServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use super::metrics_port;
use super::serve::asked_to_stop;
use crate::extproc::health::{self, Readiness};
use crate::extproc::listener::{self, Incoming};
use crate::extproc::tls::Tls;
use crate::telemetry::logs::{self, LogFormat};

mod args;
mod map;
mod slices;
mod table;

pub use args::ProbeArgs;
use map::GpuMap;
use slices::Slices;

/// Prometheus' text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A watcher whose connection is gone without a word is noticed after twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// After SIGTERM, for streams and connections to close.
const LAST_CALL: Duration = Duration::from_secs(2);
/// For the first reading and the kubelet's first answer.
const FIRST: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT; with `--self-test` or `--once` prints what it sees.
pub async fn run(args: ProbeArgs) -> anyhow::Result<()> {
    if args.self_test {
        return self_test(args.nvml_library.as_deref());
    }
    logs::init(LevelFilter::INFO, LogFormat::Text);
    let map = match &args.gpu_map {
        Some(path) => Some(GpuMap::open(path).context("--gpu-map")?),
        None => None,
    };
    if args.once {
        return once(start(&args, map)?.0).await;
    }
    // Sockets first: a port that is taken should be told before anything runs.
    let grpc = listener::bind(args.listen)
        .with_context(|| format!("binding the gRPC port, {} (--listen)", args.listen))?;
    let metrics = listener::bind(args.metrics)
        .with_context(|| format!("binding the metrics port, {} (--metrics)", args.metrics))?;
    let incoming = incoming(&args, TcpListener::from_std(grpc)?)?;
    let (agent, slices) = start(&args, map)?;
    let agent = Arc::new(agent);
    let stop = CancellationToken::new();

    let pages = pages(
        Arc::clone(&agent),
        slices.map(|slices| (slices, args.node_name())),
    );
    let pages_tls = args.pages_tls().map_err(anyhow::Error::msg)?;
    metrics_port::spawn(metrics, pages_tls, pages, stop.clone()).context("--metrics-cert-dir")?;
    let readiness = Arc::new(Readiness::default());
    // Having no GPUs to tell of is an answer too.
    readiness.set_synced(true);
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(GpuTelemetryServer::new(agent.telemetry()))
        .add_service(health::service(Arc::clone(&readiness)))
        .serve_with_incoming_shutdown(incoming.into_stream(), stop.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving);
    tracing::info!(
        grpc = %args.listen,
        metrics = %args.metrics,
        tls = args.secure_serving,
        node = args.node_name(),
        "Serving.",
    );
    tokio::select! {
        served = &mut serving => return Ok(served?),
        stopped = asked_to_stop() => stopped?,
    }
    readiness.set_draining();
    agent.stop();
    stop.cancel();
    match tokio::time::timeout(LAST_CALL, serving).await {
        Ok(served) => served?,
        Err(_) => tracing::warn!("Some connections did not end in time."),
    }
    tracing::info!("Stopped.");
    Ok(())
}

/// Starts the agent, and follows the map and ResourceSlices, if they are asked for.
fn start(args: &ProbeArgs, map: Option<GpuMap>) -> anyhow::Result<(Agent, Option<Arc<Slices>>)> {
    let mut names = map.as_ref().map_or_else(map::nobody, GpuMap::names);
    let slices = args.resource_slices.then(Arc::<Slices>::default);
    if let Some(slices) = &slices {
        names = slices.names(names);
    }
    let options = AgentOptions {
        node: args.node_name(),
        periods: args.periods(),
        proc: args.proc.clone(),
        kubelet: args.kubelet(),
        names,
    };
    let agent = Agent::start(options, open(args)).context("starting the agent")?;
    if let Some(map) = map {
        map.follow(agent.owners());
    }
    if let Some(slices) = &slices {
        tokio::spawn(Arc::clone(slices).follow(args.node_name(), agent.owners()));
    }
    Ok((agent, slices))
}

/// Opens the library anew each time: a driver may be installed, or updated, while this runs.
fn open(args: &ProbeArgs) -> Open {
    let settings = nvml::Settings {
        library: args.nvml_library.clone(),
        kmsg: Some(args.kernel_log.clone()),
    };
    Box::new(move || Ok(Box::new(NvmlProbe::new(settings.clone()))))
}

fn incoming(args: &ProbeArgs, listener: TcpListener) -> anyhow::Result<Incoming> {
    Ok(match args.tls() {
        None => Incoming::plain(listener),
        Some(options) => {
            let tls = Tls::new(options).context("--cert-path")?;
            tls.watch();
            Incoming::tls(listener, tls)
        }
    })
}

/// With the node's name, slices have a series there too.
fn pages(agent: Arc<Agent>, slices: Option<(Arc<Slices>, String)>) -> Router {
    let page = move || {
        let slices = slices.as_ref().map(|(slices, node)| slices.page(node));
        let page = agent.page() + &slices.unwrap_or_default();
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], page) }
    };
    Router::new()
        .route("/metrics", get(page))
        .route("/healthz", get(|| async { "ok\n" }))
}

/// Prints what is known after the first reading.
async fn once(agent: Agent) -> anyhow::Result<()> {
    if tokio::time::timeout(FIRST, agent.settled()).await.is_err() {
        eprintln!("pointsman: not all was read within {} s", FIRST.as_secs());
    }
    let snapshot = agent.snapshot();
    print!("{}", table::table(&snapshot));
    if snapshot.gpus.is_empty() && !snapshot.problem.is_empty() {
        bail!("no GPUs: {}", snapshot.problem);
    }
    Ok(())
}

/// Prints what every call into the driver answered.
fn self_test(library: Option<&Path>) -> anyhow::Result<()> {
    for Answer {
        call,
        device,
        answer,
    } in nvml::self_test(library)?
    {
        println!("{call} {device} {answer}");
    }
    Ok(())
}
