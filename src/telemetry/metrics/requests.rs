//! The series of a request: one set of labels, resolved once.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds, for whole requests.
const DURATION: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0,
];
/// Tokens of a prompt. 32778 is the reference's own spelling of 32768; dashboards match on it.
const INPUT_TOKENS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
    32778.0, 65536.0, 131072.0, 262144.0, 524288.0, 1048576.0,
];
const OUTPUT_TOKENS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0,
];
const RESPONSE_BYTES: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
    32778.0, 65536.0,
];
const NTPOT: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];
const TPOT: &[f64] = &[
    0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.6, 0.8, 1.0, 2.0,
];

/// Whom a request is counted for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub(super) model_name: String,
    pub(super) target_model_name: String,
    pub(super) fairness_id: String,
    pub(super) priority: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamingLabels {
    model_name: String,
    target_model_name: String,
    fairness_id: String,
    priority: String,
    streaming: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    model_name: String,
    target_model_name: String,
    fairness_id: String,
    priority: String,
    error_code: String,
}

#[derive(Debug)]
pub(super) struct RequestFamilies {
    total: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    running: Family<RequestLabels, Gauge>,
    duration: Histograms<RequestLabels>,
    request_bytes: Histograms<RequestLabels>,
    response_bytes: Histograms<RequestLabels>,
    input: Histograms<RequestLabels>,
    output: Histograms<RequestLabels>,
    cached: Histograms<RequestLabels>,
    ntpot: Histograms<RequestLabels>,
    tpot: Histograms<RequestLabels>,
    ttft: Histograms<StreamingLabels>,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The series of one set of labels.
#[derive(Debug)]
pub struct RequestSeries {
    labels: RequestLabels,
    errors: Family<ErrorLabels, Counter>,
    /// Requests.
    pub total: Counter,
    /// Requests in flight.
    pub running: Gauge,
    /// Seconds from request to the end of the response.
    pub duration: Histogram,
    /// Bytes of the request body.
    pub request_bytes: Histogram,
    /// Bytes of the response body.
    pub response_bytes: Histogram,
    /// Prompt tokens.
    pub input: Histogram,
    /// Generated tokens.
    pub output: Histogram,
    /// Prompt tokens found in a cache.
    pub cached: Histogram,
    /// Seconds a generated token, over the whole request.
    pub ntpot: Histogram,
    /// Seconds a generated token after the first, streamed.
    pub tpot: Histogram,
    ttft: [Histogram; 2],
}

/// A request in flight: counted until the drop.
#[derive(Debug)]
pub struct Running(Gauge);

// === impl RequestFamilies ===

impl RequestFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let families = Self {
            total: Family::default(),
            errors: Family::default(),
            running: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION.iter().copied())),
            request_bytes: Family::new_with_constructor(|| {
                Histogram::new((6..=30).map(|power| f64::from(1u32 << power)))
            }),
            response_bytes: Family::new_with_constructor(|| {
                Histogram::new(RESPONSE_BYTES.iter().copied())
            }),
            input: Family::new_with_constructor(|| Histogram::new(INPUT_TOKENS.iter().copied())),
            output: Family::new_with_constructor(|| Histogram::new(OUTPUT_TOKENS.iter().copied())),
            cached: Family::new_with_constructor(|| Histogram::new(INPUT_TOKENS.iter().copied())),
            ntpot: Family::new_with_constructor(|| Histogram::new(NTPOT.iter().copied())),
            tpot: Family::new_with_constructor(|| Histogram::new(TPOT.iter().copied())),
            // Buckets of whole requests, up to two minutes.
            ttft: Family::new_with_constructor(|| {
                Histogram::new(DURATION.iter().copied().filter(|&s| s <= 120.0))
            }),
        };
        registry.register("request", "Requests", families.total.clone());
        registry.register(
            "request_error",
            "Requests that failed",
            families.errors.clone(),
        );
        registry.register(
            "request_running",
            "Requests in flight",
            families.running.clone(),
        );
        for (name, help, family) in [
            (
                "request_duration_seconds",
                "Request to end of response",
                &families.duration,
            ),
            (
                "request_size_bytes",
                "Request body",
                &families.request_bytes,
            ),
            (
                "response_size_bytes",
                "Response body",
                &families.response_bytes,
            ),
            ("request_input_tokens", "Prompt tokens", &families.input),
            (
                "request_output_tokens",
                "Generated tokens",
                &families.output,
            ),
            (
                "request_cached_tokens",
                "Prompt tokens found in a prefix cache",
                &families.cached,
            ),
            (
                "request_ntpot_seconds",
                "Request duration by generated tokens",
                &families.ntpot,
            ),
            (
                "request_streaming_tpot_seconds",
                "Time a token after the first",
                &families.tpot,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "request_ttft_seconds",
            "Request to first token",
            families.ttft.clone(),
        );
        families
    }

    pub(super) fn resolve(&self, labels: RequestLabels) -> RequestSeries {
        let ttft = ["false", "true"].map(|streaming| {
            self.ttft
                .get_or_create(&StreamingLabels {
                    model_name: labels.model_name.clone(),
                    target_model_name: labels.target_model_name.clone(),
                    fairness_id: labels.fairness_id.clone(),
                    priority: labels.priority.clone(),
                    streaming: streaming.to_owned(),
                })
                .clone()
        });
        RequestSeries {
            errors: self.errors.clone(),
            total: self.total.get_or_create(&labels).clone(),
            running: self.running.get_or_create(&labels).clone(),
            duration: self.duration.get_or_create(&labels).clone(),
            request_bytes: self.request_bytes.get_or_create(&labels).clone(),
            response_bytes: self.response_bytes.get_or_create(&labels).clone(),
            input: self.input.get_or_create(&labels).clone(),
            output: self.output.get_or_create(&labels).clone(),
            cached: self.cached.get_or_create(&labels).clone(),
            ntpot: self.ntpot.get_or_create(&labels).clone(),
            tpot: self.tpot.get_or_create(&labels).clone(),
            ttft,
            labels,
        }
    }
}

// === impl RequestSeries ===

impl RequestSeries {
    /// The flow and the priority that its request is counted under.
    pub(in crate::telemetry) fn flow(&self) -> (&str, &str) {
        (&self.labels.fairness_id, &self.labels.priority)
    }

    /// Counts a request in flight until the drop.
    pub fn run(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    /// Counts a failure under the reference's name for it.
    pub fn failed(&self, error_code: &str) {
        let labels = &self.labels;
        self.errors
            .get_or_create(&ErrorLabels {
                model_name: labels.model_name.clone(),
                target_model_name: labels.target_model_name.clone(),
                fairness_id: labels.fairness_id.clone(),
                priority: labels.priority.clone(),
                error_code: error_code.to_owned(),
            })
            .inc();
    }

    /// Seconds from request to first token.
    pub fn ttft(&self, streaming: bool) -> &Histogram {
        &self.ttft[usize::from(streaming)]
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
