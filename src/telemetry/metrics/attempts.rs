//! `scheduler_attempts_total`: what scheduling came to, by model and endpoint.

use std::hash::Hasher;

use dashmap::DashMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use xxhash_rust::xxh3::Xxh3Default;

use super::twin::{Registries, Twin, Twins};
use super::{DISTINCT, Metrics, OTHER};

/// Sets of labels: models by endpoints.
pub(super) const ATTEMPT_SETS: usize = 16 * DISTINCT;

#[derive(Debug)]
pub(super) struct Attempts {
    counts: Twins<AttemptLabels, OldLabels, Counter>,
    /// Those that chose an endpoint, at most [`ATTEMPT_SETS`].
    series: DashMap<u64, (AttemptLabels, Twin<Counter>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    status: &'static str,
    target_model_name: String,
    endpoint_name: String,
    namespace: String,
    port: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OldLabels {
    status: &'static str,
    target_model_name: String,
    pod_name: String,
    namespace: String,
    port: String,
}

// === impl Attempts ===

impl Attempts {
    pub(super) fn register(registries: &mut Registries<'_>) -> Self {
        let name = (
            "scheduler_attempts",
            "Scheduling attempts by outcome and endpoint",
        );
        let old = "inference_extension_scheduler_attempts";
        Self {
            counts: Twins::register(registries, name, old, Counter::default),
            series: DashMap::new(),
        }
    }

    fn resolve(&self, labels: &AttemptLabels) -> Twin<Counter> {
        self.counts.resolve(labels, || labels.old())
    }

    /// Forgets the endpoints that `stays`, by namespace and name, does not know.
    pub(super) fn retain(&self, stays: &dyn Fn(&str, &str) -> bool) {
        self.series.retain(|_, (labels, _)| {
            let stays = stays(&labels.namespace, &labels.endpoint_name);
            if !stays {
                self.counts.remove(labels, || labels.old());
            }
            stays
        });
    }
}

// === impl AttemptLabels ===

impl AttemptLabels {
    fn old(&self) -> OldLabels {
        OldLabels {
            status: self.status,
            target_model_name: self.target_model_name.clone(),
            pod_name: self.endpoint_name.clone(),
            namespace: self.namespace.clone(),
            port: self.port.clone(),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts a scheduling attempt that chose an endpoint.
    pub fn scheduled(&self, target: &str, namespace: &str, endpoint: &str, port: u16) {
        let attempts = &self.attempts;
        let mut hasher = Xxh3Default::new();
        for part in [target, namespace, endpoint] {
            hasher.write(part.as_bytes());
            hasher.write_u8(0xff);
        }
        hasher.write_u16(port);
        let key = hasher.finish();
        if let Some(known) = attempts.series.get(&key) {
            known.1.inc();
            return;
        }
        let full = attempts.series.len() >= ATTEMPT_SETS;
        let bounded = |value: &str| if full { OTHER } else { value }.to_owned();
        let labels = AttemptLabels {
            status: "success",
            target_model_name: match full {
                true => self.models.configured(target),
                false => self.models.bounded(target),
            },
            endpoint_name: bounded(endpoint),
            namespace: bounded(namespace),
            port: bounded(&port.to_string()),
        };
        if full {
            attempts.resolve(&labels).inc();
            return;
        }
        // Resolved under the entry's lock, as what leaves is removed under it.
        let entry = attempts.series.entry(key);
        let known = entry.or_insert_with(|| {
            let count = attempts.resolve(&labels);
            (labels, count)
        });
        known.1.inc();
    }

    /// Counts a scheduling attempt that found none.
    pub fn not_scheduled(&self, target: &str) {
        let labels = AttemptLabels {
            status: "failure",
            target_model_name: self.models.bounded(target),
            endpoint_name: String::new(),
            namespace: String::new(),
            port: String::new(),
        };
        self.attempts.resolve(&labels).inc();
    }
}
