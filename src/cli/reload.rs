//! The configuration while it serves: what it set in motion, and how a new version of its file takes over.
//!
//! A new version is made whole before anything of it counts; one that cannot be used changes nothing. Requests that are under
//! way end as they began.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};

use super::discovery::Source;
use super::options::Settings;
use super::plan::{Parts, Plan};
use super::polling::Polling;
use crate::config::file::{self, Follower, Pace};
use crate::config::{ConfigErrors, LoadOptions, Problem};
use crate::picker::{Picker, Policy};

/// A configuration is edited by people and tools, and seldom.
const PACE: Pace = Pace {
    quiet: Duration::from_millis(100),
    longest: Duration::from_secs(1),
    poll: Duration::from_secs(5),
};
/// Problems of one version that are logged.
const TOLD: usize = 20;

/// What a configuration set in motion, beside the decisions.
pub(super) struct Running {
    pub(super) settings: Arc<Settings>,
    pub(super) polling: Polling,
    /// How old a scrape may be, in milliseconds.
    pub(super) staleness_ms: Arc<AtomicU64>,
}

/// Follows the file of a configuration.
pub(super) struct Reloader {
    pub(super) path: PathBuf,
    pub(super) options: LoadOptions,
    /// The file as it was last seen.
    pub(super) seen: Result<String, String>,
    pub(super) endpoints: Source,
    pub(super) running: Running,
    pub(super) picker: Arc<Picker>,
    pub(super) counts: ReloadCounts,
}

/// How new versions fared.
#[derive(Clone, Debug, Default)]
pub(super) struct ReloadCounts {
    results: Family<ResultLabels, Counter>,
    last: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

// === impl Running ===

impl Running {
    /// Goes over to `plan`: polls as it says, and returns the policy by which to decide.
    pub(super) async fn take(&mut self, plan: Plan) -> Policy {
        let asked = self.settings.metrics_staleness;
        let Parts {
            policy,
            scrape,
            models,
            dcgm,
        } = plan.parts(self.settings.refresh_metrics, asked);
        let staleness = policy.metrics_staleness;
        if staleness != asked {
            tracing::info!(
                ?staleness,
                "Scrapes are so rare that --metrics-staleness-threshold is raised: no number would be believed for long.",
            );
        }
        self.staleness_ms
            .store(staleness.as_millis() as u64, Ordering::Relaxed);
        self.polling.scrape(scrape).await;
        self.polling.list_models(models).await;
        self.polling.ask_exporters(dcgm).await;
        policy
    }
}

// === impl Reloader ===

impl Reloader {
    /// Follows the file for good; SIGHUP has it read at once, whether or not it seems to have changed.
    pub(super) async fn follow(mut self) -> std::io::Result<()> {
        let mut follower = Follower::of_file(&self.path, PACE);
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            let asked = tokio::select! {
                () = follower.changed() => false,
                _ = hangup.recv() => true,
            };
            let seen = file::read(&self.path);
            if asked || seen != self.seen {
                self.reload(&seen).await;
                self.seen = seen;
            }
        }
    }

    async fn reload(&mut self, seen: &Result<String, String>) {
        let name = self.path.display();
        let plan = match seen {
            Ok(text) => Plan::of(text, self.options),
            Err(error) => Err(Problem::new(0, error.as_str()).into()),
        };
        match plan {
            Ok(plan) => {
                plan.tell(&name);
                if plan
                    .endpoints
                    .as_ref()
                    .is_some_and(|new| !self.endpoints.is(new))
                {
                    tracing::warn!(
                        "{name}: dataLayer.discovery: another endpoints file takes effect with a restart; {} is still the one.",
                        self.endpoints
                    );
                }
                let handler = plan.config.handler.name.clone();
                let policy = self.running.take(plan).await;
                self.picker.replace(policy);
                tracing::info!(handler, "{name}: the new version counts from now on.");
                self.counts.good();
            }
            Err(ConfigErrors(problems)) => {
                for problem in problems.iter().take(TOLD) {
                    tracing::error!("{name}: {problem}");
                }
                tracing::error!(
                    problems = problems.len(),
                    "{name}: this version cannot be used; the last good one stays."
                );
                self.counts.bad();
            }
        }
    }
}

// === impl ReloadCounts ===

impl ReloadCounts {
    /// The version that the process starts with is good.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let counts = Self::default();
        for result in ["success", "failure"] {
            counts.of(result);
        }
        counts.last.set(1);
        let (results, last) = (counts.results.clone(), counts.last.clone());
        let help = "New versions of the configuration file, by whether they could be used";
        registry.register("config_reloads", help, results);
        let help = "1 if the configuration file, as it was last read, could be used";
        registry.register("config_last_reload_success", help, last);
        counts
    }

    fn good(&self) {
        self.of("success").inc();
        self.last.set(1);
    }

    fn bad(&self) {
        self.of("failure").inc();
        self.last.set(0);
    }

    fn of(&self, result: &'static str) -> Counter {
        self.results.get_or_create(&ResultLabels { result }).clone()
    }
}
