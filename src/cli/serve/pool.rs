//! One pool at work: where its endpoints are from, what is known of them, and its picker.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::super::discovery::{Source, Started};
use super::super::options::{ConfigSource, Settings};
use super::super::plan::Plan;
use super::super::polling::Polling;
use super::super::pools::{PoolAddress, PoolSettings};
use super::super::reload::{ReloadCounts, Reloader, Running};
use crate::config::{self, LoadOptions};
use crate::picker::{Desk, OldPrefixGauges, Picker, PickerOptions, PrefixGauges};
use crate::pool::gauges::{OldPoolGauges, PoolGauges};
use crate::pool::gpu::agents::tls::AgentTls;
use crate::pool::gpu::agents::{self, AgentAt, Agents};
use crate::pool::gpu::gauges::GpuGauges;
use crate::pool::gpu::{Gpus, page};
use crate::pool::polls::{OldPollCounters, PollCounters};
use crate::pool::{Health, Pool, Snapshot, clock_ms, health};
use crate::prefix::{PrefixCache, Who};
use crate::telemetry::admin;
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::{EndpointNames, Metrics};
use crate::telemetry::record::Recorder;
use crate::telemetry::state::States;

/// How often the prefix index forgets endpoints that are gone.
const FORGET: Duration = Duration::from_secs(10);

/// A pool of which all that can be known before anything runs is known to be right.
pub(super) struct Prepared {
    pub(super) address: Option<PoolAddress>,
    pub(super) endpoints: Source,
    settings: Arc<Settings>,
    options: LoadOptions,
    text: String,
    plan: Plan,
    agent_tls: Option<Arc<AgentTls>>,
}

/// What the pools of a process have in common.
pub(super) struct Common {
    pub(super) decisions: Option<Decisions>,
    pub(super) desk: Desk,
    pub(super) stop: CancellationToken,
}

/// A pool that is served.
pub(super) struct AtWork {
    pub(super) address: Option<PoolAddress>,
    pub(super) pool: Arc<Pool>,
    pub(super) picker: Arc<Picker>,
    pub(super) discovery: Started,
    pub(super) metrics: Arc<Metrics>,
    pub(super) states: Arc<States>,
    pub(super) recorder: Option<Arc<Recorder>>,
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
                .map_err(|error| anyhow::anyhow!("the configuration {name}: {error}"))?;
            (name, text)
        }
    })
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

// === impl Prepared ===

impl Prepared {
    /// Reads the configuration of a pool.
    pub(super) fn of(pool: PoolSettings) -> anyhow::Result<Self> {
        let PoolSettings { address, settings } = pool;
        let (name, text) = configuration(&settings.config)?;
        let options = LoadOptions {
            allow_experimental: settings.allow_experimental,
        };
        let plan = Plan::of(&text, options).inspect_err(|_| eprintln!("In {name}:"))?;
        plan.tell(&name);
        let endpoints = Source::of(plan.endpoints.as_ref(), &settings).context(name)?;
        let agent_tls = settings.gpu_agents.tls()?;
        Ok(Self {
            agent_tls,
            address,
            endpoints,
            settings,
            options,
            text,
            plan,
        })
    }

    /// The name of what handles profiles.
    pub(super) fn handler(&self) -> &str {
        &self.plan.config.handler.name
    }

    /// Sets it to work. `leads`: whether this replica leads, where another pool says so.
    pub(super) async fn start(
        self,
        common: &Common,
        leads: Option<watch::Receiver<bool>>,
    ) -> anyhow::Result<AtWork> {
        let Self {
            address,
            endpoints,
            settings,
            options,
            text,
            plan,
            agent_tls,
        } = self;
        let stop = &common.stop;
        let metrics = Arc::new(match settings.legacy_metrics {
            false => Metrics::new(),
            true => Metrics::with_old_names(),
        });
        let pool = Arc::new(Pool::default());
        pool.limit_ejections(settings.max_ejected_share);
        let discovery = endpoints
            .start(&pool, &metrics, leads, stop.clone())
            .await?;
        let gpus = follow_gpus(
            &pool,
            &settings,
            discovery.gpu_agents.clone(),
            agent_tls,
            stop,
        );
        let mut running = Running {
            settings: Arc::clone(&settings),
            polling: Polling::new(Arc::clone(&pool), Arc::clone(&gpus), stop.clone()),
            staleness_ms: Arc::default(),
        };
        let policy = running.take(plan).await;
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
        let prefix = Arc::new(PrefixCache::new(settings.prefix_index_bytes));
        let picker = Picker::new(
            Arc::clone(&pool),
            policy,
            PickerOptions {
                pool_id: address.as_ref().map(|address| address.id().into()),
                subset_filter: settings.subset_filter,
                emit_scores: settings.emit_scores,
                max_body: settings.max_body,
                tenant_header: settings.tenant_header.clone(),
                strict_headers: settings.strict_client_headers,
            },
            Arc::clone(&metrics),
            common.desk.clone(),
            common.decisions.clone(),
            Arc::clone(&prefix),
        );
        let picker = Arc::new(picker.recorded(recorder.clone()));
        register(
            &metrics,
            &settings.pool_name,
            &pool,
            &gpus,
            &picker,
            &running,
        );
        let states = show(&picker, &gpus, &running);
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
        Ok(AtWork {
            address,
            pool,
            picker,
            discovery,
            metrics,
            states,
            recorder,
        })
    }
}

/// What is known of the GPUs of `pool`, from now on: node agents that are listed or `found` are asked, by `tls` if it is
/// there.
fn follow_gpus(
    pool: &Arc<Pool>,
    settings: &Settings,
    found: watch::Receiver<Vec<AgentAt>>,
    tls: Option<Arc<AgentTls>>,
    stop: &CancellationToken,
) -> Arc<Gpus> {
    let gpus = Arc::new(Gpus::new(Arc::clone(pool)));
    let joining = Arc::clone(&gpus);
    let joining = async move { joining.follow().await };
    tokio::spawn(stop.clone().run_until_cancelled_owned(joining));
    if settings.gpu_agents.any() {
        let agents = Agents::new(Arc::clone(&gpus), tls);
        let following = agents::follow_all(agents, settings.gpu_agents.listed.clone(), found);
        tokio::spawn(stop.clone().run_until_cancelled_owned(following));
    }
    gpus
}

/// Has `metrics` tell of the pool called `name`.
fn register(
    metrics: &Metrics,
    name: &str,
    pool: &Arc<Pool>,
    gpus: &Arc<Gpus>,
    picker: &Arc<Picker>,
    running: &Running,
) {
    let staleness_ms = Arc::clone(&running.staleness_ms);
    let gauges = PoolGauges::new(name.to_owned(), Arc::clone(pool), staleness_ms);
    metrics.register_old(|old| {
        old.register_collector(Box::new(OldPoolGauges(gauges.clone())));
        old.register_collector(Box::new(OldPollCounters(running.polling.polled())));
        old.register_collector(Box::new(OldPrefixGauges(Arc::clone(picker))));
    });
    metrics.register(|registry| {
        registry.register_collector(Box::new(gauges));
        registry.register_collector(Box::new(PollCounters(running.polling.polled())));
        registry.register_collector(Box::new(GpuGauges {
            name: name.to_owned(),
            gpus: Arc::clone(gpus),
        }));
        let prefix = PrefixGauges::new(name.to_owned(), Arc::clone(picker));
        registry.register_collector(Box::new(prefix));
    });
    let named = Arc::clone(pool);
    metrics.follow_models(move |name| named.rewrites.is_named(name));
    let snapshots = Arc::clone(pool);
    metrics.follow_endpoints(move || endpoint_names(&snapshots.snapshot()));
}

/// What is shown of the pool to people.
fn show(picker: &Arc<Picker>, gpus: &Arc<Gpus>, running: &Running) -> Arc<States> {
    let states = Arc::new(States::default());
    running.polling.show(&states);
    let all = Arc::clone(gpus);
    let shown = move || serde_json::to_value(page::page(&all)).unwrap_or_default();
    states.add(admin::GPUS, shown);
    let deciding = Arc::clone(picker);
    states.add("scheduling", move || deciding.state());
    let predicting = Arc::clone(picker);
    states.add("prefix_index", move || predicting.prefix_state());
    states
}
