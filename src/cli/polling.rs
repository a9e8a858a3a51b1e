//! What a configuration has polled, and how another one takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{MetricsSource, ModelsSource, units};
use crate::pool::Pool;
use crate::pool::engines::EngineSpec;
use crate::pool::failure::SourceType;
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

/// All polling of a pool's endpoints.
pub(super) struct Polling {
    pool: Arc<Pool>,
    stop: CancellationToken,
    scraping: Task,
    listing: Task,
    /// How metrics are scraped now; `None` = they are not.
    scrape: Arc<ArcSwapOption<ScrapeConfig>>,
    /// The same for models.
    models: Arc<ArcSwapOption<ModelsConfig>>,
    scrape_stats: Arc<PollStats>,
    models_stats: Arc<PollStats>,
}

/// What polls, if anything does.
type Task = Option<(CancellationToken, JoinHandle<()>)>;

// === impl Polling ===

impl Polling {
    /// Nothing is polled yet; nothing is after `stop`.
    pub(super) fn new(pool: Arc<Pool>, stop: CancellationToken) -> Self {
        Self {
            pool,
            stop,
            scraping: None,
            listing: None,
            scrape: Arc::default(),
            models: Arc::default(),
            scrape_stats: Arc::default(),
            models_stats: Arc::default(),
        }
    }

    /// The counts of all sources, whether or not they are polled now.
    pub(super) fn polled(&self) -> Vec<Polled> {
        let of = |source: SourceType, extractor_type, stats: &Arc<PollStats>| Polled {
            source_type: source.name(),
            extractor_type,
            stats: Arc::clone(stats),
        };
        vec![
            of(
                SourceType::Metrics,
                "core-metrics-extractor",
                &self.scrape_stats,
            ),
            of(
                SourceType::Models,
                "models-data-extractor",
                &self.models_stats,
            ),
        ]
    }

    /// What is polled and how that fares, and what is known of each endpoint, at any time.
    pub(super) fn show(&self, states: &States) {
        let (scrape, models) = (Arc::clone(&self.scrape), Arc::clone(&self.models));
        let polled = self.polled();
        states.add("sources", move || {
            let intervals = [
                scrape.load().as_ref().map(|config| config.interval),
                models.load().as_ref().map(|config| config.interval),
            ];
            let sources = polled.iter().zip(intervals);
            let sources = sources.map(|(polled, interval)| {
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
            });
            serde_json::Value::Object(sources.collect())
        });
        let (pool, scrape) = (Arc::clone(&self.pool), Arc::clone(&self.scrape));
        states.add("pool", move || {
            state::state(&pool, scrape.load().as_deref())
        });
    }

    /// Scrapes metrics as `wanted` says from now on. Two scrapers never run beside each other: the first ends before the
    /// second begins.
    pub(super) async fn scrape(&mut self, wanted: Option<ScrapeConfig>) {
        if self.scrape.load().as_deref() == wanted.as_ref() {
            return;
        }
        end(&mut self.scraping).await;
        let tls = wanted.as_ref().and_then(|config| config.tls.as_ref());
        tell(SourceType::Metrics, tls);
        self.scrape.store(wanted.clone().map(Arc::new));
        self.scraping = wanted.map(|config| {
            let stop = self.stop.child_token();
            let (pool, stats) = (Arc::clone(&self.pool), Arc::clone(&self.scrape_stats));
            (stop.clone(), scrape::spawn(pool, config, stats, stop))
        });
    }

    /// The same for lists of models.
    pub(super) async fn list_models(&mut self, wanted: Option<ModelsConfig>) {
        if self.models.load().as_deref() == wanted.as_ref() {
            return;
        }
        end(&mut self.listing).await;
        let tls = wanted.as_ref().and_then(|config| config.tls.as_ref());
        tell(SourceType::Models, tls);
        self.models.store(wanted.clone().map(Arc::new));
        self.listing = wanted.map(|config| {
            let stop = self.stop.child_token();
            let (pool, stats) = (Arc::clone(&self.pool), Arc::clone(&self.models_stats));
            (stop.clone(), models::spawn(pool, config, stats, stop))
        });
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

async fn end(task: &mut Task) {
    if let Some((stop, task)) = task.take() {
        stop.cancel();
        // It has nothing to tell.
        let _ = task.await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_starts_and_ends_with_its_configuration() {
        let mut polling = Polling::new(Arc::default(), CancellationToken::new());
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
                .as_ref()
                .map(|(stop, _)| stop.is_cancelled());
            (before.is_cancelled(), now)
        };
        polling.list_models(Some(config("/a"))).await;
        let first = polling.listing.as_ref().unwrap().0.clone();
        polling.list_models(Some(config("/a"))).await;
        assert_eq!(is_same(&first, &polling), (false, Some(false)));
        polling.list_models(Some(config("/b"))).await;
        assert_eq!(is_same(&first, &polling), (true, Some(false)));
        polling.list_models(None).await;
        assert_eq!(is_same(&first, &polling), (true, None));
    }
}
