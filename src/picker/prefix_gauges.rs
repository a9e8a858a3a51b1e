//! The prefix index as gauges and for people, computed when they are read.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Picker;
use crate::prefix::{PrefixCache, Who};
use crate::telemetry::state::MOST_SHOWN;

const SIZE: &str = "Blocks in the prefix index, counted for each endpoint that has them";

/// Collects the gauges of one picker's index.
#[derive(Debug)]
pub struct PrefixGauges {
    name: String,
    picker: Arc<Picker>,
}

/// The size of the index by the name that the llm-d picker's predecessors have for it.
#[derive(Debug)]
pub struct OldPrefixGauges(pub Arc<Picker>);

// === impl Picker ===

impl Picker {
    /// How large the prefix index is, what the first [`MOST_SHOWN`] endpoints are taken to hold, and how far that is believed,
    /// for people.
    pub fn prefix_state(&self) -> serde_json::Value {
        let policy = self.policy.load();
        let producer = policy.scheduler.producers.prefix.as_ref();
        let size = self.prefix.size();
        let snapshot = self.pool.snapshot();
        let shown = snapshot.members().iter().take(MOST_SHOWN);
        let shown: Vec<_> = shown
            .map(|member| {
                let who = Who::of(&member.slot);
                serde_json::json!({
                    "name": member.endpoint.id.to_string(),
                    "blocks": self.prefix.blocks(who),
                    "trust": digits(self.prefix.trust(who)),
                    "error": self.prefix.error(who).map(digits),
                })
            })
            .collect();
        serde_json::json!({
            "producer": producer.map(|producer| &*producer.name),
            "bytes": size.bytes,
            "blocks": size.blocks,
            "runs": size.runs,
            "evicted_blocks": size.evicted,
            "not_shown": snapshot.len() - shown.len(),
            "endpoints": shown,
        })
    }
}

/// As many as anyone reads.
fn digits(share: f32) -> f64 {
    (f64::from(share) * 1e4).round() / 1e4
}

impl Collector for OldPrefixGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.0.policy.load().scheduler.producers.prefix.is_none() {
            return Ok(());
        }
        let name = "inference_extension_prefix_indexer_size";
        let gauge = ConstGauge::new(self.0.prefix.size().blocks as f64);
        let kind = gauge.metric_type();
        gauge.encode(encoder.encode_descriptor(name, SIZE, None, kind)?)
    }
}

// === impl PrefixGauges ===

impl PrefixGauges {
    /// `name` is the pool's.
    pub fn new(name: String, picker: Arc<Picker>) -> Self {
        Self { name, picker }
    }

    fn of_endpoints(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        value: impl Fn(&PrefixCache, Who) -> Option<f32>,
    ) -> fmt::Result {
        let snapshot = self.picker.pool.snapshot();
        let kind = ConstGauge::new(0.0).metric_type();
        let endpoints = snapshot.members().iter().filter_map(|member| {
            let value = value(&self.picker.prefix, Who::of(&member.slot))?;
            Some((member.endpoint.id.name.as_str(), f64::from(value)))
        });
        let mut endpoints = endpoints.peekable();
        if endpoints.peek().is_none() {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (endpoint, value) in endpoints {
            let labels = [
                ("name", self.name.as_str()),
                ("model_server_endpoint", endpoint),
            ];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for PrefixGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let policy = self.picker.policy.load();
        let Some(approx) = &policy.scheduler.producers.prefix else {
            return Ok(());
        };
        let size = self.picker.prefix.size();
        let labels = [
            ("plugin_name", &*approx.name),
            ("plugin_type", "approx-prefix-cache-producer"),
        ];
        for (name, help, value) in [
            ("prefix_indexer_size", SIZE, size.blocks as f64),
            (
                "prefix_indexer_bytes",
                "Memory of the prefix index",
                size.bytes as f64,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(family.encode_family(&labels)?)?;
        }
        let evicted = ConstCounter::new(size.evicted);
        let help = "Blocks that left the prefix index";
        let kind = evicted.metric_type();
        let mut family =
            encoder.encode_descriptor("prefix_indexer_evicted_blocks", help, None, kind)?;
        evicted.encode(family.encode_family(&labels)?)?;
        let trust = (
            "prefix_trust",
            "How far predictions of cached tokens came true, 0 to 1; all are believed until one fails",
        );
        self.of_endpoints(&mut encoder, trust, |cache, who| Some(cache.trust(who)))?;
        let error = (
            "prefix_prediction_error",
            "By how much predictions of cached tokens miss, as a share of the prompt: a moving mean",
        );
        self.of_endpoints(&mut encoder, error, PrefixCache::error)
    }
}
