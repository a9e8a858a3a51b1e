//! `extproc_streams_*`: the life of streams, for `--enable-grpc-stream-metrics`.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::telemetry::metrics::Histogram;

/// Seconds.
const DURATION: &[f64] = &[
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Counts streams.
#[derive(Clone, Debug)]
pub struct StreamMetrics {
    inflight: Gauge,
    duration: Histogram,
    total: Family<CodeLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: String,
}

/// A stream, until the drop.
#[derive(Debug)]
pub(crate) struct CountedStream {
    metrics: StreamMetrics,
    opened: Instant,
    code: Code,
}

// === impl StreamMetrics ===

impl StreamMetrics {
    /// Under the llm-d picker's names.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            inflight: Gauge::default(),
            duration: Histogram::new(DURATION),
            total: Family::default(),
        };
        let (inflight, duration) = (metrics.inflight.clone(), metrics.duration.clone());
        let help = "ext_proc streams that are open";
        registry.register("extproc_streams_inflight", help, inflight);
        let help = "How long ext_proc streams stay open";
        registry.register("extproc_stream_duration_seconds", help, duration);
        let help = "ext_proc streams that ended, by gRPC status";
        registry.register("extproc_streams", help, metrics.total.clone());
        metrics
    }

    /// A stream was opened.
    pub(crate) fn open(&self) -> CountedStream {
        self.inflight.inc();
        CountedStream {
            metrics: self.clone(),
            opened: Instant::now(),
            code: Code::Cancelled,
        }
    }
}

// === impl CountedStream ===

impl CountedStream {
    /// It ends with `code`. A stream of which this is never said was cancelled by its client.
    pub(super) fn ends(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        let metrics = &self.metrics;
        metrics.inflight.dec();
        let seconds = self.opened.elapsed().as_secs_f64();
        metrics.duration.observe(seconds);
        // As Go spells them.
        let code = match self.code {
            Code::Ok => "OK".to_owned(),
            Code::Cancelled => "Canceled".to_owned(),
            other => format!("{other:?}"),
        };
        metrics.total.get_or_create(&CodeLabels { code }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_by_how_they_end() {
        let mut registry = Registry::default();
        let metrics = StreamMetrics::register(&mut registry);
        let page = || {
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
            page
        };
        let mut streams = [(); 4].map(|()| metrics.open());
        assert!(page().contains("extproc_streams_inflight 4"));
        streams[0].ends(Code::Ok);
        streams[1].ends(Code::ResourceExhausted);
        drop(streams);
        for line in [
            "extproc_streams_inflight 0",
            "extproc_stream_duration_seconds_count 4",
            "extproc_streams_total{code=\"OK\"} 1",
            "extproc_streams_total{code=\"Canceled\"} 2",
            "extproc_streams_total{code=\"ResourceExhausted\"} 1",
        ] {
            assert!(page().contains(line), "{line} is not in\n{}", page());
        }
    }
}
