//! `pointsman serve`: the endpoint picker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::discovery::{self, Source};
use super::options::{ConfigSource, Settings};
use super::plan::Plan;
use super::polling::Polling;
use super::reload::{ReloadCounts, Reloader, Running};
use crate::config::{self, LoadOptions};
use crate::extproc::health as grpc_health;
use crate::extproc::listener::{self, Incoming};
use crate::extproc::server::{self, OpenStreams};
use crate::extproc::tls::Tls;
use crate::extproc::{BodyBudget, Limits, StreamMetrics};
use crate::picker::{Desk, OldPrefixGauges, Picker, PickerOptions, PrefixGauges};
use crate::pool::gauges::{OldPoolGauges, PoolGauges};
use crate::pool::gpu::agents::{self, Agents};
use crate::pool::gpu::gauges::GpuGauges;
use crate::pool::gpu::{Gpus, page};
use crate::pool::polls::{OldPollCounters, PollCounters};
use crate::pool::{Health, Pool, Snapshot, clock_ms, health};
use crate::prefix::{PrefixCache, Who};
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::{EndpointNames, Metrics};
use crate::telemetry::record::Recorder;
use crate::telemetry::state::States;
use crate::telemetry::{admin, logs};

/// Workers that are never given a decision: they read, write and keep time while plugins compute.
pub(super) const SPARE_WORKERS: usize = 1;
/// After SIGTERM, how long load balancers get to see that we are not ready, while we still take requests.
const NOTICE: Duration = Duration::from_secs(3);
/// For connections to close at all.
const LAST_CALL: Duration = Duration::from_millis(500);
/// How often a draining server looks whether it is empty.
const DRAIN_CHECK: Duration = Duration::from_millis(50);
/// How often the prefix index forgets endpoints that are gone.
const FORGET: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT, then drains.
pub async fn run(mut settings: Settings) -> anyhow::Result<()> {
    logs::init(settings.log_level, settings.log_format);
    discovery::name_pool(&mut settings);
    for flag in &settings.without_effect {
        tracing::warn!("{flag} has no effect in this version.");
    }
    let settings = Arc::new(settings);
    let (name, text) = configuration(&settings.config)?;
    let options = LoadOptions {
        allow_experimental: settings.allow_experimental,
    };
    let plan = Plan::of(&text, options).inspect_err(|_| eprintln!("In {name}:"))?;
    plan.tell(&name);
    let endpoints = Source::of(plan.endpoints.as_ref(), &settings).with_context(|| name.clone())?;
    let handler = plan.config.handler.name.clone();
    let stop = CancellationToken::new();
    let readiness = Arc::new(endpoints.readiness());
    let metrics = Arc::new(match settings.legacy_metrics {
        false => Metrics::new(),
        true => Metrics::with_old_names(),
    });

    let agent_tls = settings.gpu_agents.tls()?;

    // Sockets first: a port that is taken should be told before anything runs.
    let bind = |port: u16, what: &str| {
        let address = SocketAddr::new(settings.bind, port);
        listener::bind(address).with_context(|| format!("binding the {what} port, {address}"))
    };
    let grpc = bind(settings.grpc_port, "ext_proc (--grpc-port)")?;
    let health_socket = bind(settings.health_port, "health (--grpc-health-port)")?;
    let admin_socket = bind(settings.metrics_port, "metrics (--metrics-port)")?;
    let grpc_address = grpc.local_addr()?;

    let pool = Arc::new(Pool::default());
    pool.limit_ejections(settings.max_ejected_share);
    let discovery = endpoints
        .start(&pool, &metrics, &readiness, stop.clone())
        .await?;
    let gpus = Arc::new(Gpus::new(Arc::clone(&pool)));
    let joining = Arc::clone(&gpus);
    let joining = async move { joining.follow().await };
    tokio::spawn(stop.clone().run_until_cancelled_owned(joining));
    if settings.gpu_agents.any() {
        let agents = Agents::new(Arc::clone(&gpus), agent_tls);
        let following = agents::follow_all(
            agents,
            settings.gpu_agents.listed.clone(),
            discovery.gpu_agents.clone(),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(following));
    }
    let mut running = Running {
        settings: Arc::clone(&settings),
        polling: Polling::new(Arc::clone(&pool), Arc::clone(&gpus), stop.clone()),
        staleness_ms: Arc::default(),
    };
    let policy = running.take(plan).await;
    let bodies = Arc::new(BodyBudget::new(settings.max_body, settings.max_buffered));
    metrics.register(|registry| {
        let name = settings.pool_name.clone();
        let staleness_ms = Arc::clone(&running.staleness_ms);
        let gauges = PoolGauges::new(name, Arc::clone(&pool), staleness_ms);
        metrics.register_old(|old| {
            old.register_collector(Box::new(OldPoolGauges(gauges.clone())));
            old.register_collector(Box::new(OldPollCounters(running.polling.polled())));
        });
        registry.register_collector(Box::new(gauges));
        registry.register_collector(Box::new(PollCounters(running.polling.polled())));
        registry.register_collector(Box::new(GpuGauges {
            name: settings.pool_name.clone(),
            gpus: Arc::clone(&gpus),
        }));
        registry.register_collector(Box::new(BodyGauge(Arc::clone(&bodies))));
    });

    let snapshots = Arc::clone(&pool);
    metrics.follow_endpoints(move || endpoint_names(&snapshots.snapshot()));
    let mut streams = None;
    if settings.stream_metrics {
        metrics.register(|registry| streams = Some(StreamMetrics::register(registry)));
    }

    grpc_health::spawn(health_socket, Arc::clone(&readiness), stop.clone())?;
    let decisions = match settings.decision_records {
        0 => None,
        records => Some(Arc::new(Decisions::new(records))),
    };
    let states = Arc::new(States::default());
    running.polling.show(&states);
    let all = Arc::clone(&gpus);
    let shown = move || serde_json::to_value(page::page(&all)).unwrap_or_default();
    states.add(admin::GPUS, shown);
    let admin_listener = TcpListener::from_std(admin_socket)?;
    tokio::spawn(admin::serve(
        admin_listener,
        Arc::clone(&metrics),
        decisions.clone(),
        Arc::clone(&states),
        stop.clone().cancelled_owned(),
    ));

    let prefix = Arc::new(PrefixCache::new(settings.prefix_index_bytes));
    let recorder = match &settings.record {
        None => None,
        Some(path) => {
            let most = settings.record_max_bytes;
            let recorder = Recorder::create(path, most).context("--record")?;
            metrics.register(|registry| recorder.register(registry));
            tracing::info!(file = %recorder.file().display(), "Recording arrivals.");
            Some(recorder)
        }
    };
    let picker = Picker::new(
        Arc::clone(&pool),
        policy,
        PickerOptions {
            subset_filter: settings.subset_filter,
            emit_scores: settings.emit_scores,
            max_body: settings.max_body,
            tenant_header: settings.tenant_header.clone(),
        },
        Arc::clone(&metrics),
        Desk::new(cores(), settings.parse_timeout, settings.pick_timeout),
        decisions,
        Arc::clone(&prefix),
    );
    let picker = Arc::new(picker.recorded(recorder.clone()));
    metrics.register(|registry| {
        let gauges = PrefixGauges::new(settings.pool_name.clone(), Arc::clone(&picker));
        registry.register_collector(Box::new(gauges));
    });
    metrics.register_old(|registry| {
        registry.register_collector(Box::new(OldPrefixGauges(Arc::clone(&picker))));
    });
    let deciding = Arc::clone(&picker);
    states.add("scheduling", move || deciding.state());
    let predicting = Arc::clone(&picker);
    states.add("prefix_index", move || predicting.prefix_state());
    let watching = watch_health(Arc::clone(&pool));
    tokio::spawn(stop.clone().run_until_cancelled_owned(watching));
    let forgetting = forget_the_gone(Arc::clone(&pool), prefix);
    tokio::spawn(stop.clone().run_until_cancelled_owned(forgetting));
    if let ConfigSource::File(path) = &settings.config {
        let mut counts = ReloadCounts::default();
        metrics.register(|registry| counts = ReloadCounts::register(registry));
        let reloader = Reloader {
            path: path.clone(),
            options,
            seen: Ok(text),
            endpoints,
            running,
            picker: Arc::clone(&picker),
            counts,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(reloader.follow()));
    }
    let limits = Limits {
        receive: settings.max_receive,
        send: settings.max_send,
        bodies,
    };
    let listener = TcpListener::from_std(grpc)?;
    let incoming = match &settings.tls {
        None => Incoming::plain(listener),
        Some(options) => {
            let tls = Tls::new(options.clone())?;
            if settings.reload_certs {
                tls.watch();
            }
            Incoming::tls(listener, tls)
        }
    };
    tracing::info!(
        address = %grpc_address,
        tls = settings.tls.is_some(),
        endpoints = pool.snapshot().len(),
        handler,
        "Serving.",
    );
    let open = OpenStreams::default();
    let closing = CancellationToken::new();
    let health = settings.health_checking.then(|| Arc::clone(&readiness));
    let serving = server::serve(
        incoming,
        picker,
        limits,
        open.clone(),
        health,
        streams,
        closing.clone().cancelled_owned(),
    );
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = &mut serving => return Ok(served?),
        stopped = asked_to_stop() => stopped?,
    }
    readiness.set_draining();
    discovery.resign();
    tracing::info!(streams = open.count(), "Draining.");
    let deadline = tokio::time::Instant::now() + settings.drain_timeout;
    let drain = async {
        drained(&open, deadline).await;
        closing.cancel();
        // What is left gets what remains of the time, then the connections are cut.
        tokio::time::sleep_until(deadline.max(tokio::time::Instant::now() + LAST_CALL)).await;
    };
    tokio::select! {
        served = &mut serving => served?,
        () = drain => tracing::warn!(streams = open.count(), "Some streams did not end in time."),
    }
    stop.cancel();
    if let Some(recorder) = recorder {
        // It waits for a disk.
        tokio::task::spawn_blocking(move || recorder.close()).await?;
    }
    tracing::info!("Stopped.");
    Ok(())
}

/// Processors that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Where the configuration is from, and its text.
fn configuration(source: &ConfigSource) -> anyhow::Result<(String, String)> {
    Ok(match source {
        ConfigSource::Default => (
            "the default configuration".to_owned(),
            config::DEFAULT.to_owned(),
        ),
        ConfigSource::Text(text) => ("--config-text".to_owned(), text.clone()),
        ConfigSource::File(path) => {
            let name = path.display().to_string();
            let text = config::file::read(path)
                .map_err(|error| anyhow::anyhow!("--config-file: {name}: {error}"))?;
            (name, text)
        }
    })
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

/// Looks at how the endpoints of `pool` are, again and again.
async fn watch_health(pool: Arc<Pool>) {
    let mut ticker = tokio::time::interval(Duration::from_millis(health::TICK_MS));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut health = Health::default();
    loop {
        ticker.tick().await;
        health.tick(&pool.snapshot(), clock_ms());
    }
}

/// Keeps the prefix index from filling up with endpoints that left `pool`.
async fn forget_the_gone(pool: Arc<Pool>, prefix: Arc<PrefixCache>) {
    let mut seen = 0;
    loop {
        tokio::time::sleep(FORGET).await;
        let snapshot = pool.snapshot();
        if snapshot.version != seen {
            seen = snapshot.version;
            prefix.retain(
                snapshot
                    .members()
                    .iter()
                    .map(|member| Who::of(&member.slot)),
            );
        }
    }
}

/// Waits until no stream is left and load balancers had their notice, but no longer than `deadline`.
async fn drained(open: &OpenStreams, deadline: tokio::time::Instant) {
    let notice = deadline.min(tokio::time::Instant::now() + NOTICE);
    tokio::time::sleep_until(notice).await;
    while open.count() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(DRAIN_CHECK).await;
    }
}

/// Who is in the pool.
fn endpoint_names(snapshot: &Snapshot) -> EndpointNames {
    let mut names = EndpointNames::new();
    for member in snapshot.members() {
        let id = &member.endpoint.id;
        let known = names.entry(id.namespace.clone()).or_default();
        known.insert(id.name.clone());
    }
    names
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
