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

/// The same by the names of the llm-d picker's predecessors, as far as those had them.
#[derive(Debug)]
pub struct OldPollCounters(pub Vec<Polled>);

/// One counter of all sources.
struct Counter {
    name: &'static str,
    help: &'static str,
    of: fn(&PollStats) -> &AtomicU64,
    /// It has the type of the extractor too.
    extractor: bool,
}

const POLLS: Counter = Counter {
    name: "datalayer_polls",
    help: "Pages of endpoints read",
    of: |stats| &stats.ok,
    extractor: false,
};
const POLL_ERRORS: Counter = Counter {
    name: "datalayer_poll_errors",
    help: "Pages of endpoints that could not be fetched",
    of: |stats| &stats.failed,
    extractor: false,
};
const EXTRACT_ERRORS: Counter = Counter {
    name: "datalayer_extract_errors",
    help: "Pages of endpoints that were fetched and told nothing",
    of: |stats| &stats.unread,
    extractor: true,
};

fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    prefix: &str,
    counter: &Counter,
    sources: &[Polled],
) -> fmt::Result {
    let name = format!("{prefix}{}", counter.name);
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(&name, counter.help, None, kind)?;
    for polled in sources {
        let count = ConstCounter::new((counter.of)(&polled.stats).load(Ordering::Relaxed));
        let source = ("source_type", polled.source_type);
        let extractor = ("extractor_type", polled.extractor_type);
        match counter.extractor {
            true => count.encode(family.encode_family(&[source, extractor])?)?,
            false => count.encode(family.encode_family(&[source])?)?,
        }
    }
    Ok(())
}

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
        for counter in [POLLS, POLL_ERRORS, EXTRACT_ERRORS] {
            encode(&mut encoder, "", &counter, &self.0)?;
        }
        Ok(())
    }
}

// === impl OldPollCounters ===

impl Collector for OldPollCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for counter in [POLL_ERRORS, EXTRACT_ERRORS] {
            encode(
                &mut encoder,
                "llm_d_inference_scheduler_",
                &counter,
                &self.0,
            )?;
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
        let mut old = Registry::default();
        old.register_collector(Box::new(OldPollCounters(counters.0.clone())));
        let mut registry = Registry::with_prefix("llm_d_epp");
        registry.register_collector(Box::new(counters));
        let mut page = String::new();
        for registry in [&old, &registry] {
            prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
        }
        for line in [
            "llm_d_inference_scheduler_datalayer_poll_errors_total{source_type=\"metrics-data-source\"} 2",
            "llm_d_epp_datalayer_polls_total{source_type=\"metrics-data-source\"} 1",
            "llm_d_epp_datalayer_poll_errors_total{source_type=\"models-data-source\"} 5",
            "llm_d_epp_datalayer_extract_errors_total{source_type=\"metrics-data-source\",extractor_type=\"core-metrics-extractor\"} 3",
            "llm_d_epp_datalayer_extract_errors_total{source_type=\"models-data-source\",extractor_type=\"models-data-extractor\"} 6",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
