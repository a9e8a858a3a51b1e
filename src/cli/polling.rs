//! What a configuration has polled, and how another one takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{DcgmSource, MetricsSource, ModelsSource, units};
use crate::pool::Pool;
use crate::pool::engines::EngineSpec;
use crate::pool::failure::SourceType;
use crate::pool::gpu::Gpus;
use crate::pool::gpu::dcgm::{self, DcgmConfig};
use crate::pool::models::{self, ModelsConfig};
use crate::pool::polls::{PollStats, Polled};
use crate::pool::scrape::{self, ScrapeConfig};
use crate::pool::state;
use crate::pool::tls::ClientTls;
use crate::telemetry::state::States;

/// Connecting to a model server and reading its metrics page.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(1);
/// The same for its list of models, for which nobody waits.
const MODELS_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for an exporter, whose page is large.
const DCGM_TIMEOUT: Duration = Duration::from_secs(2);

/// All polling of a pool's endpoints.
pub(super) struct Polling {
    pool: Arc<Pool>,
    gpus: Arc<Gpus>,
    stop: CancellationToken,
    scraping: Polls<ScrapeConfig>,
    listing: Polls<ModelsConfig>,
    asking: Polls<DcgmConfig>,
}

/// The polling by one source.
struct Polls<C> {
    source: SourceType,
    extractor_type: &'static str,
    /// What polls, if anything does.
    task: Option<(CancellationToken, JoinHandle<()>)>,
    /// How it does; `None` = it does not.
    config: Arc<ArcSwapOption<C>>,
    stats: Arc<PollStats>,
}

/// How something is polled.
trait PollConfig: Clone + PartialEq {
    fn interval(&self) -> Duration;
    fn tls(&self) -> Option<&ClientTls>;
}

// === impl Polling ===

impl Polling {
    /// Nothing is polled yet; nothing is after `stop`.
    pub(super) fn new(pool: Arc<Pool>, gpus: Arc<Gpus>, stop: CancellationToken) -> Self {
        Self {
            pool,
            gpus,
            stop,
            scraping: Polls::new(SourceType::Metrics, "core-metrics-extractor"),
            listing: Polls::new(SourceType::Models, "models-data-extractor"),
            asking: Polls::new(SourceType::Dcgm, "dcgm-extractor"),
        }
    }

    /// The counts of all sources, whether or not they are polled now.
    pub(super) fn polled(&self) -> Vec<Polled> {
        vec![
            self.scraping.polled(),
            self.listing.polled(),
            self.asking.polled(),
        ]
    }

    /// What is polled and how that fares, and what is known of each endpoint, at any time.
    pub(super) fn show(&self, states: &States) {
        let sources = [
            self.scraping.state(),
            self.listing.state(),
            self.asking.state(),
        ];
        states.add("sources", move || {
            serde_json::Value::Object(sources.iter().map(|state| state()).collect())
        });
        let (pool, scrape) = (Arc::clone(&self.pool), Arc::clone(&self.scraping.config));
        states.add("pool", move || {
            state::state(&pool, scrape.load().as_deref())
        });
    }

    /// Scrapes metrics as `wanted` says from now on. Two scrapers never run beside each other: the first ends before the
    /// second begins.
    pub(super) async fn scrape(&mut self, wanted: Option<ScrapeConfig>) {
        let pool = &self.pool;
        let spawn = |config, stats, stop| scrape::spawn(Arc::clone(pool), config, stats, stop);
        self.scraping.go_by(wanted, &self.stop, spawn).await;
    }

    /// The same for lists of models.
    pub(super) async fn list_models(&mut self, wanted: Option<ModelsConfig>) {
        let pool = &self.pool;
        let spawn = |config, stats, stop| models::spawn(Arc::clone(pool), config, stats, stop);
        self.listing.go_by(wanted, &self.stop, spawn).await;
    }

    /// The same for dcgm-exporters.
    pub(super) async fn ask_exporters(&mut self, wanted: Option<DcgmConfig>) {
        let (pool, gpus) = (&self.pool, &self.gpus);
        let spawn = |config, stats, stop| {
            dcgm::spawn(Arc::clone(pool), Arc::clone(gpus), config, stats, stop)
        };
        self.asking.go_by(wanted, &self.stop, spawn).await;
    }
}

// === impl Polls ===

impl<C: PollConfig + Send + Sync + 'static> Polls<C> {
    fn new(source: SourceType, extractor_type: &'static str) -> Self {
        Self {
            source,
            extractor_type,
            task: None,
            config: Arc::default(),
            stats: Arc::default(),
        }
    }

    fn polled(&self) -> Polled {
        Polled {
            source_type: self.source.name(),
            extractor_type: self.extractor_type,
            stats: Arc::clone(&self.stats),
        }
    }

    /// For people, under the source's name.
    fn state(&self) -> Box<dyn Fn() -> (String, serde_json::Value) + Send + Sync> {
        let (config, polled) = (Arc::clone(&self.config), self.polled());
        Box::new(move || {
            let interval = config.load().as_ref().map(|config| config.interval());
            let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let stats = &polled.stats;
            let state = serde_json::json!({
                "extractor": polled.extractor_type,
                "interval_ms": interval.map(|interval| interval.as_millis() as u64),
                "pages_read": count(&stats.ok),
                "poll_errors": count(&stats.failed),
                "extract_errors": count(&stats.unread),
            });
            (polled.source_type.to_owned(), state)
        })
    }

    /// Polls as `wanted` says from now on, by what `spawn` starts, until `stop`.
    async fn go_by(
        &mut self,
        wanted: Option<C>,
        stop: &CancellationToken,
        spawn: impl FnOnce(C, Arc<PollStats>, CancellationToken) -> JoinHandle<()>,
    ) {
        if self.config.load().as_deref() == wanted.as_ref() {
            return;
        }
        if let Some((stop, task)) = self.task.take() {
            stop.cancel();
            // It has nothing to tell.
            let _ = task.await;
        }
        tell(self.source, wanted.as_ref().and_then(C::tls));
        self.config.store(wanted.clone().map(Arc::new));
        self.task = wanted.map(|config| {
            let stop = stop.child_token();
            (stop.clone(), spawn(config, Arc::clone(&self.stats), stop))
        });
    }
}

impl PollConfig for ScrapeConfig {
    fn interval(&self) -> Duration {
        self.interval
    }

    fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }
}

impl PollConfig for ModelsConfig {
    fn interval(&self) -> Duration {
        self.interval
    }

    fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }
}

impl PollConfig for DcgmConfig {
    fn interval(&self) -> Duration {
        self.interval
    }

    fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }
}

/// Says so where nobody is verified: that is the default, which is the llm-d picker's.
fn tell(source: SourceType, tls: Option<&ClientTls>) {
    if tls.is_some_and(|tls| !tls.verifies()) {
        tracing::info!(
            source = source.name(),
            "Servers are polled over TLS without being verified: insecureSkipVerify is true.",
        );
    }
}

/// How to scrape by `metrics`; `least` is the interval where none is given, and the shortest.
pub(super) fn scrape_config(
    metrics: &MetricsSource,
    engines: Vec<EngineSpec>,
    tls: Option<ClientTls>,
    least: Duration,
) -> ScrapeConfig {
    let source = &metrics.source;
    let interval = match &source.interval {
        // Checked when the configuration was read.
        Some(text) => units::duration(text).unwrap_or(least),
        None => least,
    };
    ScrapeConfig {
        interval: interval.max(least),
        timeout: SCRAPE_TIMEOUT,
        path: source.path.clone(),
        port: source.port,
        tls,
        engine_label: metrics.extractor.engine_label_key.clone(),
        default_engine: metrics.extractor.default_engine.clone(),
        engines,
    }
}

/// How to ask for models by `models`.
pub(super) fn models_config(models: &ModelsSource, tls: Option<ClientTls>) -> ModelsConfig {
    let source = &models.source;
    ModelsConfig {
        // Checked when the configuration was read.
        interval: units::duration(&source.interval).unwrap_or(Duration::from_secs(60)),
        timeout: MODELS_TIMEOUT,
        path: source.path.clone(),
        port: source.port,
        tls,
    }
}

/// How to ask exporters by `dcgm`.
pub(super) fn dcgm_config(dcgm: &DcgmSource, tls: Option<ClientTls>) -> DcgmConfig {
    let source = &dcgm.source;
    DcgmConfig {
        // Checked when the configuration was read.
        interval: units::duration(&source.interval).unwrap_or(Duration::from_secs(1)),
        silence: source.staleness(),
        timeout: DCGM_TIMEOUT,
        path: source.path.clone(),
        port: source.port,
        of_node: source.use_node_address,
        tls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_starts_and_ends_with_its_configuration() {
        let (pool, stop) = (Arc::<Pool>::default(), CancellationToken::new());
        let gpus = Arc::new(Gpus::new(Arc::clone(&pool)));
        let mut polling = Polling::new(pool, gpus, stop);
        let config = |path: &str| ModelsConfig {
            interval: Duration::from_secs(60),
            timeout: MODELS_TIMEOUT,
            path: path.to_owned(),
            port: None,
            tls: None,
        };
        let is_same = |before: &CancellationToken, polling: &Polling| {
            let now = polling
                .listing
                .task
                .as_ref()
                .map(|(stop, _)| stop.is_cancelled());
            (before.is_cancelled(), now)
        };
        polling.list_models(Some(config("/a"))).await;
        let first = polling.listing.task.as_ref().unwrap().0.clone();
        polling.list_models(Some(config("/a"))).await;
        assert_eq!(is_same(&first, &polling), (false, Some(false)));
        polling.list_models(Some(config("/b"))).await;
        assert_eq!(is_same(&first, &polling), (true, Some(false)));
        polling.list_models(None).await;
        assert_eq!(is_same(&first, &polling), (true, None));
    }
}
