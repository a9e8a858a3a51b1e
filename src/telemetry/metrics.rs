//! The picker's own metrics, by the llm-d picker's names, labels and buckets.
//!
//! A request resolves its labels once, to a [`RequestSeries`] that is cached; after that each event is an atomic
//! add. What clients choose is bounded: values longer than [`LONGEST`] bytes, values past the first [`DISTINCT`] of their
//! kind, and sets of labels past the first [`SETS`] are counted as `other`. Series of an endpoint end with the endpoint, if
//! [`Metrics::follow_endpoints`] says who is there.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hasher;
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use xxhash_rust::xxh3::Xxh3Default;

use super::inflight::InflightGauges;

mod attempts;
mod bounds;
mod decisions;
mod exposition;
mod histogram;
mod page;
mod prefix;
mod requests;
mod stages;
mod twin;

use bounds::Distinct;
pub use exposition::Exposition;
pub use histogram::Histogram;
pub use page::CONTENT_TYPE;
use page::Page;
pub use prefix::PrefixHits;
use requests::RequestFamilies;
pub use requests::{RequestLabels, RequestSeries, Running};
pub use stages::{PluginLabels, Stage};
use twin::Registries;
pub use twin::Twin;

/// Distinct values of a label that clients can choose.
pub const DISTINCT: usize = 1000;
/// Distinct priorities. Objectives say which there are, and there are many more numbers than anyone tells apart.
pub const PRIORITIES: usize = 64;
/// Bytes of a label value that clients can choose.
pub const LONGEST: usize = 256;
/// Sets of labels that a family of series may have.
pub const SETS: usize = 4 * DISTINCT;
/// What is counted past these bounds.
pub const OTHER: &str = "other";

/// How all our names begin.
const PREFIX: &str = "llm_d_epp";
/// How the help of our own metrics begins: their stability, in Kubernetes' words.
const STABILITY: &str = "[ALPHA] ";
/// Of the old names, those of the scheduler and of the picker as a whole.
const OLD_PREFIX: &str = "inference_extension_";

/// Seconds, from the first byte of a request to its decision.
const PROCESSING: &[f64] = &[
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];
/// Seconds that we work on a response.
const RESPONSE_PROCESSING: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// Where all series of a pool live.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Names of others: those of the llm-d picker's predecessors, if they are kept.
    old: Option<Mutex<Registry>>,
    requests: RequestFamilies,
    series: DashMap<u64, Arc<RequestSeries>>,
    models: Distinct,
    flows: Distinct,
    priorities: Distinct,
    endpoints: OnceLock<Endpoints>,
    /// From the first byte of a request to its decision or refusal, in seconds.
    pub processing: Histogram,
    /// Scheduling alone, in seconds.
    pub scheduling: Histogram,
    stages: [Histogram; Stage::ALL.len()],
    plugins: stages::Plugins,
    plugin_labels: Mutex<Vec<PluginLabels>>,
    attempts: attempts::Attempts,
    rewrites: Family<RewriteLabels, Counter>,
    decisions: decisions::Decisions,
    prefix: prefix::Prefix,
    /// Requests refused before a decision could be made, by reason.
    pub refused: Family<ReasonLabels, Counter>,
    /// Attributes of responses that could not be reported.
    pub unreported: Counter,
    /// What endpoints have in flight.
    pub inflight: InflightGauges,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// One of a fixed set of words.
    pub reason: &'static str,
}

/// A decision of a rewrite. `other` beyond the bounds of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RewriteLabels {
    model_rewrite_name: String,
    model_name: String,
    target_model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InfoLabels {
    commit: &'static str,
    build_ref: &'static str,
}

/// Names of endpoints by namespace.
pub type EndpointNames = HashMap<String, HashSet<String>>;

struct Endpoints(Box<dyn Fn() -> EndpointNames + Send + Sync>);

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty set, registered under the picker's names.
    pub fn new() -> Self {
        Self::registered(None)
    }

    /// The same, and the names of the llm-d picker's predecessors beside them.
    pub fn with_old_names() -> Self {
        Self::registered(Some(Registry::default()))
    }

    fn registered(mut old: Option<Registry>) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let mut registries = Registries {
            ours: &mut registry,
            old: old.as_mut(),
        };
        let response = Histogram::new(RESPONSE_PROCESSING);
        let requests = RequestFamilies::register(&mut registries, &response);
        let attempts = attempts::Attempts::register(&mut registries);
        let plugins = stages::register_plugins(&mut registries);
        let decisions = decisions::Decisions::register(&mut registries);
        let prefix = prefix::Prefix::register(&mut registries);
        let scheduling = Histogram::new(stages::DECISION);
        let info = Family::<InfoLabels, Gauge>::default();
        info.get_or_create(&InfoLabels {
            commit: option_env!("POINTSMAN_COMMIT").unwrap_or("unknown"),
            build_ref: env!("CARGO_PKG_VERSION"),
        })
        .set(1);
        // The labels are the same under both names, and so are the series.
        for (registry, prefix) in [(Some(registries.ours), ""), (registries.old, OLD_PREFIX)] {
            let Some(registry) = registry else { continue };
            registry.register(
                format!("{prefix}scheduler_e2e_duration_seconds"),
                "Scheduling of one request",
                scheduling.clone(),
            );
            registry.register(format!("{prefix}info"), "What is running", info.clone());
        }
        let processing = Histogram::new(PROCESSING);
        registry.register(
            "request_processing_duration_seconds",
            "From the first byte of a request to its decision or refusal",
            processing.clone(),
        );
        registry.register(
            "response_processing_duration_seconds",
            "Time that the picker worked on a response, over all its pieces",
            response,
        );
        let refused = Family::<ReasonLabels, Counter>::default();
        registry.register(
            "requests_refused",
            "Requests answered by the picker itself, by reason",
            refused.clone(),
        );
        let unreported = Counter::default();
        registry.register(
            "response_attribute_errors",
            "Attributes of responses that a request-attribute-reporter could not evaluate",
            unreported.clone(),
        );
        let rewrites = Family::<RewriteLabels, Counter>::default();
        registry.register(
            "model_rewrite_decisions",
            "Requests that a rewrite sends on for another model",
            rewrites.clone(),
        );
        let inflight = InflightGauges::default();
        inflight.register(&mut registry);
        Self {
            requests,
            series: DashMap::new(),
            models: Distinct::new(DISTINCT),
            flows: Distinct::new(DISTINCT),
            priorities: Distinct::new(PRIORITIES),
            endpoints: OnceLock::new(),
            processing,
            scheduling,
            stages: stages::register_stages(&mut registry),
            plugins,
            plugin_labels: Mutex::default(),
            attempts,
            rewrites,
            decisions,
            prefix,
            refused,
            unreported,
            inflight,
            registry: Mutex::new(registry),
            old: old.map(Mutex::new),
        }
    }

    /// Adds what other rooms measure.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// Adds what other rooms measure under names that are kept for those who still read them: whole names, without a
    /// prefix of ours. Not called if there are none.
    pub fn register_old(&self, add: impl FnOnce(&mut Registry)) {
        if let Some(registry) = &self.old {
            add(&mut registry.lock());
        }
    }

    /// From now on the series of endpoints that are not among those that `present` returns are dropped when a page was
    /// written: each is shown once more with all that it counted.
    pub fn follow_endpoints(&self, present: impl Fn() -> EndpointNames + Send + Sync + 'static) {
        // Whoever is asked first is asked for good: there is one pool.
        let _ = self.endpoints.set(Endpoints(Box::new(present)));
    }

    /// The rewrite called `name` had a request for `model` sent on for `target`.
    pub fn rewritten(&self, name: &str, model: &str, target: &str) {
        let labels = RewriteLabels {
            model_rewrite_name: self.models.bounded(name),
            model_name: self.models.bounded(model),
            target_model: self.models.bounded(target),
        };
        self.rewrites.get_or_create(&labels).inc();
    }

    /// All series as text of [`CONTENT_TYPE`].
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = Page::default();
        self.add_to(&mut page, "")?;
        Ok(page.text())
    }

    /// Adds all series to `page`, each with `label`, if it is not empty.
    fn add_to(&self, page: &mut Page, label: &str) -> fmt::Result {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry.lock())?;
        if let Some(registry) = &self.old {
            encode_registry(&mut text, &registry.lock())?;
        }
        page.add(&text, STABILITY, label);
        if let Some(endpoints) = self.endpoints.get() {
            let present = (endpoints.0)();
            let stays = |namespace: &str, name: &str| {
                present
                    .get(namespace)
                    .is_some_and(|names| names.contains(name))
            };
            self.attempts.retain(&stays);
            self.inflight.retain(&stays);
        }
        Ok(())
    }

    /// The series of a request.
    pub fn series(
        &self,
        model: &str,
        target: &str,
        flow: &str,
        priority: i32,
    ) -> Arc<RequestSeries> {
        let mut hasher = Xxh3Default::new();
        for part in [model, target, flow] {
            hasher.write(part.as_bytes());
            hasher.write_u8(0xff);
        }
        hasher.write_i32(priority);
        let key = hasher.finish();
        if let Some(series) = self.series.get(&key) {
            return Arc::clone(&series);
        }
        let priority = self.priorities.bounded(&priority.to_string());
        if self.series.len() >= SETS {
            let other = || OTHER.to_owned();
            return Arc::new(self.requests.resolve(RequestLabels {
                model_name: other(),
                target_model_name: other(),
                fairness_id: other(),
                priority,
            }));
        }
        let series = Arc::new(self.requests.resolve(RequestLabels {
            model_name: self.models.bounded(model),
            target_model_name: self.models.bounded(target),
            fairness_id: self.flows.bounded(flow),
            priority,
        }));
        self.series.insert(key, Arc::clone(&series));
        series
    }
}

// === impl Endpoints ===

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endpoints")
    }
}

#[cfg(test)]
mod tests;
