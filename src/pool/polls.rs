//! How the polling of endpoints fares, in numbers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;

/// Counts of one kind of page since the start.
#[derive(Debug, Default)]
pub struct PollStats {
    /// Pages read.
    pub ok: AtomicU64,
    /// Pages that could not be fetched: no connection, no answer in time, another status than 2xx, too large.
    pub failed: AtomicU64,
    /// Pages that were fetched and told nothing: not what they should be.
    pub unread: AtomicU64,
}

/// What is polled, by plugin types, and how that fares.
#[derive(Clone, Debug)]
pub struct Polled {
    /// The type of the source.
    pub source_type: &'static str,
    /// The type of what reads its pages.
    pub extractor_type: &'static str,
    /// The counts.
    pub stats: Arc<PollStats>,
}

/// Collects the counts of all sources.
#[derive(Debug)]
pub struct PollCounters(pub Vec<Polled>);

// === impl PollStats ===

impl PollStats {
    /// One more of `count`.
    pub(super) fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl PollCounters ===

impl Collector for PollCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        type Count = fn(&PollStats) -> &AtomicU64;
        let counters: [(&str, &str, Count); 3] = [
            ("datalayer_polls", "Pages of endpoints read", |s| &s.ok),
            (
                "datalayer_poll_errors",
                "Pages of endpoints that could not be fetched",
                |s| &s.failed,
            ),
            (
                "datalayer_extract_errors",
                "Pages of endpoints that were fetched and told nothing",
                |s| &s.unread,
            ),
        ];
        for (name, help, count) in counters {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for polled in &self.0 {
                let value = ConstCounter::new(count(&polled.stats).load(Ordering::Relaxed));
                let source = ("source_type", polled.source_type);
                let extractor = ("extractor_type", polled.extractor_type);
                match name {
                    "datalayer_extract_errors" => {
                        value.encode(family.encode_family(&[source, extractor])?)?;
                    }
                    _ => value.encode(family.encode_family(&[source])?)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;

    #[test]
    fn names_and_labels_are_the_references() {
        let of = |source_type, extractor_type, [ok, failed, unread]: [u64; 3]| Polled {
            source_type,
            extractor_type,
            stats: Arc::new(PollStats {
                ok: ok.into(),
                failed: failed.into(),
                unread: unread.into(),
            }),
        };
        let counters = PollCounters(vec![
            of("metrics-data-source", "core-metrics-extractor", [1, 2, 3]),
            of("models-data-source", "models-data-extractor", [4, 5, 6]),
        ]);
        let mut registry = Registry::with_prefix("llm_d_epp");
        registry.register_collector(Box::new(counters));
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            "llm_d_epp_datalayer_polls_total{source_type=\"metrics-data-source\"} 1",
            "llm_d_epp_datalayer_poll_errors_total{source_type=\"models-data-source\"} 5",
            "llm_d_epp_datalayer_extract_errors_total{source_type=\"metrics-data-source\",extractor_type=\"core-metrics-extractor\"} 3",
            "llm_d_epp_datalayer_extract_errors_total{source_type=\"models-data-source\",extractor_type=\"models-data-extractor\"} 6",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
