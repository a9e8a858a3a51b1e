//! The picker's own metrics, by the llm-d picker's names, labels and buckets.
//!
//! A request resolves its labels once, to a [`RequestSeries`] that is cached; after that each event is an atomic
//! add. What clients choose, and what changes as the picker runs, is bounded: values longer than [`LONGEST`] bytes, values past the first [`DISTINCT`] of their
//! kind, and sets of labels past the first [`SETS`] are counted as `other`.

use std::collections::HashSet;
use std::hash::Hasher;
use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use xxhash_rust::xxh3::Xxh3Default;

use super::inflight::InflightGauges;

mod decisions;
mod prefix;
mod requests;

pub use prefix::PrefixHits;
use requests::RequestFamilies;
pub use requests::{RequestLabels, RequestSeries, Running};

/// Distinct values of a label that clients can choose.
pub const DISTINCT: usize = 1000;
/// Bytes of a label value that clients can choose.
pub const LONGEST: usize = 256;
/// Sets of labels that a family of series may have.
pub const SETS: usize = 4 * DISTINCT;
/// The same for scheduling attempts, whose sets are models by endpoints; endpoints come and go.
const ATTEMPT_SETS: usize = 16 * DISTINCT;
/// What is counted past these bounds.
pub const OTHER: &str = "other";

/// Seconds, for the parts of a decision.
const DECISION: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
];
/// Seconds, from the first byte of a request to its decision.
const PROCESSING: &[f64] = &[
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];

/// Where all series live. One for a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: RequestFamilies,
    series: DashMap<u64, Arc<RequestSeries>>,
    models: Distinct,
    flows: Distinct,
    priorities: Distinct,
    /// From the first byte of a request to its decision, in seconds.
    pub processing: Histogram,
    /// Scheduling alone, in seconds.
    pub scheduling: Histogram,
    attempts: Family<AttemptLabels, Counter>,
    attempt_series: DashMap<u64, Counter>,
    decisions: decisions::Decisions,
    prefix: prefix::Prefix,
    /// Requests refused before a decision could be made, by reason.
    pub refused: Family<ReasonLabels, Counter>,
    /// Attributes of responses that could not be reported.
    pub unreported: Counter,
    /// What endpoints have in flight.
    pub inflight: InflightGauges,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    status: &'static str,
    target_model_name: String,
    endpoint_name: String,
    namespace: String,
    port: String,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// One of a fixed set of words.
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InfoLabels {
    commit: String,
    build_ref: String,
}

/// The first so many values of a label; what comes later is `other`.
#[derive(Debug, Default)]
struct Distinct(Mutex<HashSet<String>>);

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty set, registered under the picker's names.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("llm_d_epp");
        let requests = RequestFamilies::register(&mut registry);
        let processing = Histogram::new(PROCESSING.iter().copied());
        registry.register(
            "request_processing_duration_seconds",
            "From the first byte of a request to its decision",
            processing.clone(),
        );
        let scheduling = Histogram::new(DECISION.iter().copied());
        registry.register(
            "scheduler_e2e_duration_seconds",
            "Scheduling of one request",
            scheduling.clone(),
        );
        let attempts = Family::<AttemptLabels, Counter>::default();
        registry.register(
            "scheduler_attempts",
            "Scheduling attempts by outcome and endpoint",
            attempts.clone(),
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
        let inflight = InflightGauges::default();
        inflight.register(&mut registry);
        let decisions = decisions::Decisions::register(&mut registry);
        let prefix = prefix::Prefix::register(&mut registry);
        let info = Family::<InfoLabels, Gauge<i64, std::sync::atomic::AtomicI64>>::default();
        info.get_or_create(&InfoLabels {
            commit: option_env!("POINTSMAN_COMMIT")
                .unwrap_or("unknown")
                .to_owned(),
            build_ref: env!("CARGO_PKG_VERSION").to_owned(),
        })
        .set(1);
        registry.register("info", "What is running", info);
        Self {
            registry: Mutex::new(registry),
            requests,
            series: DashMap::new(),
            models: Distinct::default(),
            flows: Distinct::default(),
            priorities: Distinct::default(),
            processing,
            scheduling,
            attempts,
            attempt_series: DashMap::new(),
            decisions,
            prefix,
            refused,
            unreported,
            inflight,
        }
    }

    /// Adds what other rooms measure.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// All series as text, in the OpenMetrics format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry.lock())?;
        Ok(page)
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
        if self.series.len() >= SETS {
            let other = || OTHER.to_owned();
            return Arc::new(self.requests.resolve(RequestLabels {
                model_name: other(),
                target_model_name: other(),
                fairness_id: other(),
                priority: self.priorities.bounded(&priority.to_string()),
            }));
        }
        let series = Arc::new(self.requests.resolve(RequestLabels {
            model_name: self.models.bounded(model),
            target_model_name: self.models.bounded(target),
            fairness_id: self.flows.bounded(flow),
            priority: self.priorities.bounded(&priority.to_string()),
        }));
        self.series.insert(key, Arc::clone(&series));
        series
    }

    /// Counts a scheduling attempt that chose an endpoint.
    pub fn scheduled(&self, target: &str, namespace: &str, endpoint: &str, port: u16) {
        let mut hasher = Xxh3Default::new();
        for part in [target, namespace, endpoint] {
            hasher.write(part.as_bytes());
            hasher.write_u8(0xff);
        }
        hasher.write_u16(port);
        let key = hasher.finish();
        if let Some(counter) = self.attempt_series.get(&key) {
            counter.inc();
            return;
        }
        let full = self.attempt_series.len() >= ATTEMPT_SETS;
        let bounded = |value: &str| if full { OTHER } else { value }.to_owned();
        let counter = self
            .attempts
            .get_or_create(&AttemptLabels {
                status: "success",
                target_model_name: bounded(&self.models.bounded(target)),
                endpoint_name: bounded(endpoint),
                namespace: bounded(namespace),
                port: bounded(&port.to_string()),
            })
            .clone();
        counter.inc();
        if !full {
            self.attempt_series.insert(key, counter);
        }
    }

    /// Counts a scheduling attempt that found none.
    pub fn not_scheduled(&self, target: &str) {
        self.attempts
            .get_or_create(&AttemptLabels {
                status: "failure",
                target_model_name: self.models.bounded(target),
                endpoint_name: String::new(),
                namespace: String::new(),
                port: String::new(),
            })
            .inc();
    }
}

// === impl Distinct ===

impl Distinct {
    fn bounded(&self, value: &str) -> String {
        if value.len() > LONGEST {
            return OTHER.to_owned();
        }
        let mut known = self.0.lock();
        if known.contains(value) {
            return value.to_owned();
        }
        if known.len() >= DISTINCT {
            return OTHER.to_owned();
        }
        known.insert(value.to_owned());
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_references() {
        let metrics = Metrics::new();
        let series = metrics.series("m", "t", "default-flow", -1);
        series.total.inc();
        series.failed("BadRequest");
        let running = series.run();
        metrics.scheduled("t", "default", "a", 8000);
        let page = metrics.encode().unwrap();
        let labels =
            r#"model_name="m",target_model_name="t",fairness_id="default-flow",priority="-1""#;
        for line in [
            format!("llm_d_epp_request_total{{{labels}}} 1"),
            format!("llm_d_epp_request_error_total{{{labels},error_code=\"BadRequest\"}} 1"),
            format!("llm_d_epp_request_running{{{labels}}} 1"),
            "llm_d_epp_scheduler_attempts_total{status=\"success\",target_model_name=\"t\",endpoint_name=\"a\",namespace=\"default\",port=\"8000\"} 1".to_owned(),
        ] {
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
        drop(running);
        assert!(
            metrics
                .encode()
                .unwrap()
                .contains(&format!("llm_d_epp_request_running{{{labels}}} 0"))
        );
    }

    #[test]
    fn made_up_model_names_do_not_grow_the_page() {
        let metrics = Metrics::new();
        for i in 0..3 * DISTINCT {
            metrics
                .series(&format!("model-{i}"), "t", "f", 0)
                .total
                .inc();
        }
        let page = metrics.encode().unwrap();
        let lines = page
            .lines()
            .filter(|l| l.starts_with("llm_d_epp_request_total"))
            .count();
        assert!(lines <= DISTINCT + 1, "{lines}");
        assert!(page.contains(r#"llm_d_epp_request_total{model_name="other""#));
    }

    #[test]
    fn neither_long_names_nor_many_pairs_of_names_grow_the_page() {
        let metrics = Metrics::new();
        let long = "x".repeat(LONGEST + 1);
        metrics.series(&long, &long, &long, 0).total.inc();
        assert!(!metrics.encode().unwrap().contains(&long));
        for priority in 0..2 * DISTINCT {
            metrics.series("m", "m", "f", priority as i32).total.inc();
        }
        let known = r#"fairness_id="f",priority="other"} 1000"#;
        assert!(metrics.encode().unwrap().contains(known));
        for i in 0..2 * SETS {
            let (model, flow) = (format!("m{}", i % 100), format!("f{}", i / 100));
            metrics.series(&model, &model, &flow, 0).total.inc();
        }
        let count = |page: &str, name: &str| page.lines().filter(|l| l.starts_with(name)).count();
        let page = metrics.encode().unwrap();
        let sets = count(&page, "llm_d_epp_request_total{");
        assert!(sets <= SETS + 1, "{sets}");
        for i in 0..ATTEMPT_SETS + 100 {
            metrics.scheduled("m", "default", &format!("pod-{i}"), 8000);
        }
        let page = metrics.encode().unwrap();
        assert_eq!(
            count(&page, "llm_d_epp_scheduler_attempts_total{"),
            ATTEMPT_SETS + 1
        );
        assert!(page.contains(r#"endpoint_name="other",namespace="other",port="other"} 100"#));
    }
}
