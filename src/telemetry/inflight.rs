//! `inflight_requests` and `inflight_tokens`: what was sent to each endpoint and has not ended, by flow and priority.

use std::hash::Hasher;
use std::sync::Arc;

use dashmap::DashMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use xxhash_rust::xxh3::Xxh3Default;

use super::metrics::{OTHER, RequestSeries, SETS};

/// The gauges. Past [`SETS`] sets of labels, endpoints are counted as `other`.
#[derive(Clone, Debug, Default)]
pub struct InflightGauges(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requests: Family<Labels, Gauge>,
    tokens: Family<Labels, Gauge>,
    /// At most [`SETS`].
    series: DashMap<u64, (Labels, Series)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    endpoint_name: String,
    namespace: String,
    producer_name: String,
    fairness_id: String,
    priority: String,
}

#[derive(Clone, Debug)]
struct Series {
    requests: Gauge,
    tokens: Gauge,
}

/// A request in flight: counted until the drop.
#[derive(Debug)]
pub struct Counted {
    gauges: InflightGauges,
    /// The plugin that has it counted.
    producer: Arc<str>,
    request: Arc<RequestSeries>,
    series: Series,
    tokens: i64,
}

// === impl InflightGauges ===

impl InflightGauges {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "inflight_requests",
            "Requests sent to an endpoint that have not ended",
            self.0.requests.clone(),
        );
        registry.register(
            "inflight_tokens",
            "Estimated tokens that an endpoint still has to work through",
            self.0.tokens.clone(),
        );
    }

    /// Counts a request with so many tokens at an endpoint; `producer` is the plugin's name.
    pub fn count(
        &self,
        producer: &Arc<str>,
        request: &Arc<RequestSeries>,
        (namespace, endpoint): (&str, &str),
        tokens: u32,
    ) -> Counted {
        let series = self.series(producer, request, namespace, endpoint);
        series.add(1, i64::from(tokens));
        Counted {
            gauges: self.clone(),
            producer: Arc::clone(producer),
            request: Arc::clone(request),
            series,
            tokens: i64::from(tokens),
        }
    }

    fn series(
        &self,
        producer: &str,
        request: &RequestSeries,
        namespace: &str,
        endpoint: &str,
    ) -> Series {
        let (flow, priority) = request.flow();
        let mut hasher = Xxh3Default::new();
        for part in [producer, namespace, endpoint, flow, priority] {
            hasher.write(part.as_bytes());
            hasher.write_u8(0xff);
        }
        let key = hasher.finish();
        if let Some(known) = self.0.series.get(&key) {
            return known.1.clone();
        }
        let full = self.0.series.len() >= SETS;
        let bounded = |value: &str| if full { OTHER } else { value }.to_owned();
        let labels = Labels {
            endpoint_name: bounded(endpoint),
            namespace: bounded(namespace),
            producer_name: producer.to_owned(),
            fairness_id: bounded(flow),
            priority: priority.to_owned(),
        };
        let resolve = || Series {
            requests: self.0.requests.get_or_create_owned(&labels),
            tokens: self.0.tokens.get_or_create_owned(&labels),
        };
        if full {
            return resolve();
        }
        // Resolved under the entry's lock, as what leaves is removed under it.
        let entry = self.0.series.entry(key);
        entry
            .or_insert_with(|| (labels.clone(), resolve()))
            .1
            .clone()
    }

    /// Forgets the endpoints that `stays`, by namespace and name, does not know. What they have in flight is no longer
    /// shown; should one come back, it starts from zero.
    pub(super) fn retain(&self, stays: &dyn Fn(&str, &str) -> bool) {
        self.0.series.retain(|_, (labels, _)| {
            let stays = stays(&labels.namespace, &labels.endpoint_name);
            if !stays {
                self.0.requests.remove(labels);
                self.0.tokens.remove(labels);
            }
            stays
        });
    }
}

// === impl Series ===

impl Series {
    fn add(&self, requests: i64, tokens: i64) {
        self.requests.inc_by(requests);
        self.tokens.inc_by(tokens);
    }
}

// === impl Counted ===

impl Counted {
    /// Some of its tokens are worked through: so many are left.
    pub fn left(&mut self, tokens: u32) {
        let tokens = i64::from(tokens);
        self.series.add(0, tokens - self.tokens);
        self.tokens = tokens;
    }

    /// It is served elsewhere.
    pub fn move_to(&mut self, namespace: &str, endpoint: &str) {
        let there = self
            .gauges
            .series(&self.producer, &self.request, namespace, endpoint);
        there.add(1, self.tokens);
        std::mem::replace(&mut self.series, there).add(-1, -self.tokens);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.series.add(-1, -self.tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Metrics;
    use super::*;

    fn page(metrics: &Metrics, name: &str) -> Vec<String> {
        let page = metrics.encode().unwrap();
        let lines = page.lines().filter(|line| line.starts_with(name));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn a_request_is_counted_where_it_is_until_it_ends() {
        let metrics = Metrics::new();
        let request = metrics.series("m", "m", "flow", -1);
        let producer: Arc<str> = "p".into();
        let mut counted = metrics.inflight.count(&producer, &request, ("ns", "a"), 7);
        counted.left(4);
        counted.move_to("ns", "b");
        let labels = |endpoint| {
            format!(
                r#"{{endpoint_name="{endpoint}",namespace="ns",producer_name="p",fairness_id="flow",priority="-1"}}"#
            )
        };
        for (name, a, b) in [("requests", 0, 1), ("tokens", 0, 4)] {
            let lines = page(&metrics, &format!("llm_d_epp_inflight_{name}{{"));
            for (endpoint, value) in [("a", a), ("b", b)] {
                let line = format!("llm_d_epp_inflight_{name}{} {value}", labels(endpoint));
                assert!(lines.contains(&line), "{line} not in {lines:?}");
            }
        }
        drop(counted);
        let lines = page(&metrics, "llm_d_epp_inflight_");
        assert!(lines.iter().all(|line| line.ends_with(" 0")), "{lines:?}");
    }

    #[test]
    fn labels_are_bounded() {
        let metrics = Metrics::new();
        let request = metrics.series("m", "m", "flow", 0);
        let producer: Arc<str> = "p".into();
        for n in 0..SETS + 10 {
            let name = format!("e{n}");
            metrics
                .inflight
                .count(&producer, &request, ("ns", &name), 1);
        }
        let lines = page(&metrics, "llm_d_epp_inflight_requests{");
        assert_eq!(lines.len(), SETS + 1);
    }
}
