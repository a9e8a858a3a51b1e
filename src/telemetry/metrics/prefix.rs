//! What the prefix index was found to hold, by the llm-d picker's names.

use prometheus_client::encoding::EncodeLabelSet;

use super::Metrics;
use super::histogram::Histogram;
use super::twin::{Registries, Twin, Twins};

const RATIO: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
const BYTES: &[f64] = &[
    0.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0,
    65536.0,
];

#[derive(Debug)]
pub(super) struct Prefix {
    ratio: Twins<PluginLabels, Unlabelled, Histogram>,
    bytes: Twins<PluginLabels, Unlabelled, Histogram>,
}

/// The old names have no labels.
type Unlabelled = [(&'static str, &'static str); 0];

/// Which plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin_name: String,
    plugin_type: &'static str,
}

/// The series of one producer.
#[derive(Clone, Debug)]
pub struct PrefixHits {
    ratio: Twin<Histogram>,
    bytes: Twin<Histogram>,
}

// === impl Prefix ===

impl Prefix {
    pub(super) fn register(registries: &mut Registries<'_>) -> Self {
        let mut twins = |name: &str, help: &str, new: fn() -> Histogram| {
            let old = format!("inference_extension_{name}");
            Twins::register(registries, (name, help), &old, new)
        };
        Self {
            ratio: twins(
                "prefix_indexer_hit_ratio",
                "Share of a prompt that its endpoint was taken to have cached",
                || Histogram::new(RATIO),
            ),
            bytes: twins(
                "prefix_indexer_hit_bytes",
                "Bytes of a prompt that its endpoint was taken to have cached",
                || Histogram::new(BYTES),
            ),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// The series of the producer called `name`.
    pub fn prefix_hits(&self, name: &str, r#type: &'static str) -> PrefixHits {
        let labels = PluginLabels {
            plugin_name: name.to_owned(),
            plugin_type: r#type,
        };
        PrefixHits {
            ratio: self.prefix.ratio.resolve(&labels, || []),
            bytes: self.prefix.bytes.resolve(&labels, || []),
        }
    }
}

// === impl PrefixHits ===

impl PrefixHits {
    /// An endpoint was chosen that has so many bytes of the prompt, which are this share of it.
    pub fn observe(&self, bytes: f64, ratio: f64) {
        self.bytes.observe(bytes);
        self.ratio.observe(ratio);
    }
}
