//! `pointsman serve`: the endpoint picker, of one pool or of several.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::{BoxFuture, FutureExt as _, try_join_all};
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::discovery;
use super::metrics_port;
use super::options::Settings;
use super::pools;
use super::reviews::Reviews;
use crate::extproc::health as grpc_health;
use crate::extproc::health::Readiness;
use crate::extproc::listener::{self, Incoming};
use crate::extproc::server::{self, OpenStreams};
use crate::extproc::tls::Tls;
use crate::extproc::{BodyBudget, Limits, ServeError, StreamMetrics};
use crate::picker::Desk;
use crate::telemetry::access::Gate;
use crate::telemetry::admin::{self, Pages};
use crate::telemetry::decisions::Decisions;
use crate::telemetry::logs;
use crate::telemetry::metrics::Exposition;
use crate::telemetry::state::PoolStates;

mod pool;
mod switchboard;

use pool::{AtWork, Common, Prepared};
use switchboard::{Switchboard, Table};

/// Workers that are never given a decision: they read, write and keep time while plugins compute.
pub(super) const SPARE_WORKERS: usize = 1;
/// After SIGTERM, how long load balancers get to see that we are not ready, while we still take requests.
const NOTICE: Duration = Duration::from_secs(3);
/// For connections to close at all.
const LAST_CALL: Duration = Duration::from_millis(500);

/// The sockets of a process.
struct Sockets {
    /// ext_proc: that of all pools, and those of single ones with their places.
    grpc: std::net::TcpListener,
    of_pools: Vec<(usize, std::net::TcpListener)>,
    health: std::net::TcpListener,
    admin: std::net::TcpListener,
}

/// What serves ext_proc.
struct Server {
    tls: Option<Arc<Tls>>,
    limits: Limits,
    open: OpenStreams,
    health: Option<Arc<Readiness>>,
    streams: Option<StreamMetrics>,
    closing: CancellationToken,
}

/// Serves until SIGTERM or SIGINT, then drains.
pub async fn run(mut settings: Settings) -> anyhow::Result<()> {
    logs::init(settings.log_level, settings.log_format);
    discovery::name_pool(&mut settings);
    let pools = pools::of(settings.clone())?;
    let prepared = pools.into_iter().map(|pool| {
        let id = pool.address.as_ref().map(pools::PoolAddress::id);
        let prepared = Prepared::of(pool);
        // A configuration's own errors say which file they are in.
        prepared.inspect_err(|_| id.iter().for_each(|id| eprintln!("Of the pool {id}:")))
    });
    let mut prepared = prepared.collect::<anyhow::Result<Vec<_>>>()?;
    put_leader_first(&mut prepared, settings.election);
    // Sockets first: a port that is taken should be told before anything runs.
    let sockets = Sockets::bind(&settings, &prepared)?;
    let readiness = Arc::new(prepared[0].endpoints.readiness());
    let handlers: Vec<_> = prepared.iter().map(Prepared::handler).collect();
    let handlers = handlers.join(", ");
    let stop = CancellationToken::new();
    let common = Common {
        decisions: match settings.decision_records {
            0 => None,
            records => Some(Decisions::new(records)),
        },
        desk: Desk::new(cores(), settings.parse_timeout, settings.pick_timeout),
        stop: stop.clone(),
    };
    let mut pools: Vec<AtWork> = Vec::with_capacity(prepared.len());
    for pool in prepared {
        // One lease says who leads, whatever the pools: that of the first one.
        let leads = pools.first().map(|first| first.discovery.leading.clone());
        pools.push(pool.start(&common, leads).await?);
    }
    let synced = pools.iter().map(|pool| pool.discovery.synced.clone());
    let leading = pools[0].discovery.leading.clone();
    let telling = discovery::tell(Arc::clone(&readiness), synced.collect(), leading);
    tokio::spawn(stop.clone().run_until_cancelled_owned(telling));
    grpc_health::spawn(sockets.health, Arc::clone(&readiness), stop.clone())?;

    let bodies = Arc::new(BodyBudget::new(settings.max_body, settings.max_buffered));
    let exposition = Arc::new(exposition(&pools));
    let (mut streams, astray) = (None, Counter::default());
    exposition.register(|registry| {
        registry.register_collector(Box::new(BodyGauge(Arc::clone(&bodies))));
        if settings.stream_metrics {
            streams = Some(StreamMetrics::register(registry));
        }
        if pools[0].address.is_some() {
            let help = "Streams that are addressed to the picker of no pool";
            registry.register("streams_without_pool", help, astray.clone());
        }
    });
    // All pools are of one API server.
    let authority = pools.iter().find_map(|pool| pool.discovery.client());
    let authority = authority.filter(|_| settings.metrics_auth);
    let pages = admin::router(Pages {
        metrics: exposition,
        decisions: common.decisions.clone(),
        states: states(&pools),
        gate: authority.map(|client| Gate::new(Reviews(client.clone()))),
    });
    let tls_of_pages = settings.metrics_tls.clone();
    metrics_port::spawn(sockets.admin, tls_of_pages, pages, stop.clone())
        .context("the metrics port")?;

    let server = Server {
        tls: tls(&settings)?,
        limits: Limits {
            receive: settings.max_receive,
            send: settings.max_send,
            bodies,
        },
        open: OpenStreams::default(),
        health: settings.health_checking.then(|| Arc::clone(&readiness)),
        streams,
        closing: CancellationToken::new(),
    };
    tracing::info!(
        address = %sockets.grpc.local_addr()?,
        tls = server.tls.is_some(),
        pools = pools.len(),
        endpoints = pools.iter().map(|pool| pool.pool.snapshot().len()).sum::<usize>(),
        handler = handlers,
        "Serving.",
    );
    let serving = server.serve(&pools, sockets.grpc, sockets.of_pools, astray)?;
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = &mut serving => return Ok(served?),
        stopped = asked_to_stop() => stopped?,
    }
    readiness.set_draining();
    pools[0].discovery.resign();
    let (open, closing) = (&server.open, &server.closing);
    tracing::info!(streams = open.count(), "Draining.");
    let deadline = tokio::time::Instant::now() + settings.drain_timeout;
    let drain = async {
        tokio::time::sleep_until(deadline.min(tokio::time::Instant::now() + NOTICE)).await;
        // Streams that are open go on; who would open another on a connection that he has is told to do it elsewhere. When
        // the last has ended the server has.
        closing.cancel();
        // What is left gets what remains of the time, then the connections are cut.
        tokio::time::sleep_until(deadline.max(tokio::time::Instant::now() + LAST_CALL)).await;
    };
    tokio::select! {
        served = &mut serving => served?,
        () = drain => tracing::warn!(streams = open.count(), "Some streams did not end in time."),
    }
    stop.cancel();
    for recorder in pools.into_iter().filter_map(|pool| pool.recorder) {
        // It waits for a disk.
        tokio::task::spawn_blocking(move || recorder.close()).await?;
    }
    tracing::info!("Stopped.");
    Ok(())
}

/// Puts the pool first that has the lease, if there is an `election`: the first one that is in Kubernetes. The others are led.
fn put_leader_first(pools: &mut [Prepared], election: bool) {
    if !election {
        return;
    }
    match pools.iter().position(|pool| pool.endpoints.is_kubernetes()) {
        Some(first) => pools[..=first].rotate_right(1),
        None => tracing::warn!(
            "--ha-enable-leader-election has no effect: the endpoints are in a file."
        ),
    }
    let others = pools.iter_mut().skip(1);
    others.for_each(|pool| pool.endpoints.is_led());
}

/// Processors that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// SIGTERM or SIGINT.
pub(super) async fn asked_to_stop() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn tls(settings: &Settings) -> anyhow::Result<Option<Arc<Tls>>> {
    let Some(options) = &settings.tls else {
        return Ok(None);
    };
    let tls = Tls::new(options.clone())?;
    if settings.reload_certs {
        tls.watch();
    }
    Ok(Some(tls))
}

/// The metrics of the process.
fn exposition(pools: &[AtWork]) -> Exposition {
    let named = pools.iter().map(|pool| {
        let address = pool.address.as_ref()?;
        Some((address.id(), Arc::clone(&pool.metrics)))
    });
    match named.collect::<Option<Vec<_>>>() {
        Some(pools) => Exposition::of_pools(pools),
        None => Exposition::of_one(Arc::clone(&pools[0].metrics)),
    }
}

/// What is shown of its pools to people.
fn states(pools: &[AtWork]) -> PoolStates {
    let named = pools.iter().map(|pool| {
        let address = pool.address.as_ref()?;
        Some((address.id(), Arc::clone(&pool.states)))
    });
    match named.collect() {
        Some(pools) => PoolStates::Several(pools),
        None => PoolStates::One(Arc::clone(&pools[0].states)),
    }
}

// === impl Sockets ===

impl Sockets {
    fn bind(settings: &Settings, pools: &[Prepared]) -> anyhow::Result<Self> {
        let bind = |port: u16, what: &str| {
            let address = SocketAddr::new(settings.bind, port);
            listener::bind(address).with_context(|| format!("binding the {what} port, {address}"))
        };
        // Those of ext_proc last: whoever finds one of them open finds the others open too.
        let health = bind(settings.health_port, "health (--grpc-health-port)")?;
        let admin = bind(settings.metrics_port, "metrics (--metrics-port)")?;
        let mut of_pools = Vec::new();
        for (at, pool) in pools.iter().enumerate() {
            if let Some(address) = &pool.address
                && let Some(port) = address.port
            {
                let what = format!("ext_proc (of the pool {})", address.id());
                of_pools.push((at, bind(port, &what)?));
            }
        }
        Ok(Self {
            grpc: bind(settings.grpc_port, "ext_proc (--grpc-port)")?,
            of_pools,
            health,
            admin,
        })
    }
}

// === impl Server ===

impl Server {
    /// Serves `pools` at `all`, and single ones at sockets of their own, until it is closing. `astray` counts streams that are
    /// for none.
    fn serve(
        &self,
        pools: &[AtWork],
        all: std::net::TcpListener,
        of_pools: Vec<(usize, std::net::TcpListener)>,
        astray: Counter,
    ) -> std::io::Result<BoxFuture<'static, Result<(), ServeError>>> {
        let pickers = pools.iter().map(|pool| {
            let address = pool.address.clone()?;
            Some((address, Arc::clone(&pool.picker)))
        });
        let Some(pickers) = pickers.collect() else {
            let one = Switchboard::One(Arc::clone(&pools[0].picker));
            return self.listen(all, one);
        };
        let table = Arc::new(Table::new(pickers, astray));
        let several = |of_port| Switchboard::Several(Arc::clone(&table), of_port);
        let mut serving = vec![self.listen(all, several(None))?];
        for (at, socket) in of_pools {
            let of_port = Arc::clone(&pools[at].picker);
            serving.push(self.listen(socket, several(Some(of_port)))?);
        }
        Ok(try_join_all(serving)
            .map(|served| served.map(|_| ()))
            .boxed())
    }

    fn listen(
        &self,
        socket: std::net::TcpListener,
        switch: Switchboard,
    ) -> std::io::Result<BoxFuture<'static, Result<(), ServeError>>> {
        let listener = TcpListener::from_std(socket)?;
        let incoming = match &self.tls {
            None => Incoming::plain(listener),
            Some(tls) => Incoming::tls(listener, Arc::clone(tls)),
        };
        let serving = server::serve(
            incoming,
            switch,
            self.limits.clone(),
            self.open.clone(),
            self.health.clone(),
            self.streams.clone(),
            self.closing.clone().cancelled_owned(),
        );
        Ok(serving.boxed())
    }
}

/// What the bodies of all streams take.
#[derive(Debug)]
struct BodyGauge(Arc<BodyBudget>);

impl prometheus_client::collector::Collector for BodyGauge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeMetric as _;
        use prometheus_client::metrics::gauge::ConstGauge;
        let held = ConstGauge::new(self.0.held() as f64);
        let help = "Request bodies that are held now";
        let metric = encoder.encode_descriptor(
            "request_body_buffered_bytes",
            help,
            None,
            held.metric_type(),
        )?;
        held.encode(metric)
    }
}
