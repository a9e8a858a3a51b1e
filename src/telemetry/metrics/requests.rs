//! The series of a request: one set of labels, resolved once.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::histogram::Histogram;
use super::twin::{Registries, Twin, Twins};

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
/// Seconds from request to first token: those of whole requests, up to two minutes.
const TTFT: &[f64] = DURATION.split_at(24).0;
const REQUEST_BYTES: &[f64] = &[
    64.0,
    128.0,
    256.0,
    512.0,
    1024.0,
    2048.0,
    4096.0,
    8192.0,
    16384.0,
    32768.0,
    65536.0,
    131072.0,
    262144.0,
    524288.0,
    1048576.0,
    2097152.0,
    4194304.0,
    8388608.0,
    16777216.0,
    33554432.0,
    67108864.0,
    134217728.0,
    268435456.0,
    536870912.0,
    1073741824.0,
];
const ITL: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0,
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
    streaming: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    model_name: String,
    target_model_name: String,
    fairness_id: String,
    priority: String,
    error_code: String,
}

/// Those of the old names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OldLabels {
    model_name: String,
    target_model_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OldTotalLabels {
    model_name: String,
    target_model_name: String,
    priority: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OldErrorLabels {
    model_name: String,
    target_model_name: String,
    error_code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OldRunningLabels {
    model_name: String,
}

#[derive(Debug)]
pub(super) struct RequestFamilies {
    total: Twins<RequestLabels, OldTotalLabels, Counter>,
    errors: Twins<ErrorLabels, OldErrorLabels, Counter>,
    running: Twins<RequestLabels, OldRunningLabels, Gauge>,
    duration: Histograms,
    request_bytes: Histograms,
    response_bytes: Histograms,
    input: Histograms,
    output: Histograms,
    cached: Histograms,
    ntpot: Histograms,
    tpot: Family<RequestLabels, Histogram, fn() -> Histogram>,
    itl: Family<RequestLabels, Histogram, fn() -> Histogram>,
    ttft: Family<StreamingLabels, Histogram, fn() -> Histogram>,
    response_processing: Histogram,
}

type Histograms = Twins<RequestLabels, OldLabels, Histogram>;

/// The series of one set of labels.
#[derive(Debug)]
pub struct RequestSeries {
    labels: RequestLabels,
    errors: Twins<ErrorLabels, OldErrorLabels, Counter>,
    /// Requests.
    pub total: Twin<Counter>,
    /// Requests in flight.
    pub running: Twin<Gauge>,
    /// Seconds from request to the end of the response.
    pub duration: Twin<Histogram>,
    /// Bytes of the request body.
    pub request_bytes: Twin<Histogram>,
    /// Bytes of the response body.
    pub response_bytes: Twin<Histogram>,
    /// Prompt tokens.
    pub input: Twin<Histogram>,
    /// Generated tokens.
    pub output: Twin<Histogram>,
    /// Prompt tokens found in a cache.
    pub cached: Twin<Histogram>,
    /// Seconds a generated token, over the whole request.
    pub ntpot: Twin<Histogram>,
    /// Seconds a generated token after the first, streamed.
    pub tpot: Histogram,
    /// Seconds between two pieces of a streamed body, from the first token on.
    pub itl: Histogram,
    ttft: [Histogram; 2],
    /// Seconds that we worked on one response. The same for all requests.
    pub response_processing: Histogram,
}

/// A request in flight: counted until the drop.
#[derive(Debug)]
pub struct Running(Twin<Gauge>);

// === impl RequestFamilies ===

impl RequestFamilies {
    pub(super) fn register(registries: &mut Registries<'_>, response: &Histogram) -> Self {
        let r = registries;
        let total = ("request", "Requests");
        let total = Twins::register(r, total, "inference_objective_request", Counter::default);
        let errors = ("request_error", "Requests that failed");
        let old = "inference_objective_request_error";
        let errors = Twins::register(r, errors, old, Counter::default);
        let running = ("request_running", "Requests in flight");
        let old = "inference_objective_running_requests";
        let running = Twins::register(r, running, old, Gauge::default);
        let twins = |r: &mut Registries<'_>, name, help, old: &str, new: fn() -> Histogram| {
            Twins::register(r, (name, help), &format!("inference_objective_{old}"), new)
        };
        Self {
            total,
            errors,
            running,
            duration: twins(
                r,
                "request_duration_seconds",
                "Request to end of response",
                "request_duration_seconds",
                || Histogram::new(DURATION),
            ),
            request_bytes: twins(
                r,
                "request_size_bytes",
                "Request body",
                "request_sizes",
                || Histogram::new(REQUEST_BYTES),
            ),
            response_bytes: twins(
                r,
                "response_size_bytes",
                "Response body",
                "response_sizes",
                || Histogram::new(RESPONSE_BYTES),
            ),
            input: twins(
                r,
                "request_input_tokens",
                "Prompt tokens",
                "input_tokens",
                || Histogram::new(INPUT_TOKENS),
            ),
            output: twins(
                r,
                "request_output_tokens",
                "Generated tokens",
                "output_tokens",
                || Histogram::new(OUTPUT_TOKENS),
            ),
            cached: twins(
                r,
                "request_cached_tokens",
                "Prompt tokens found in a prefix cache",
                "prompt_cached_tokens",
                || Histogram::new(INPUT_TOKENS),
            ),
            ntpot: twins(
                r,
                "request_ntpot_seconds",
                "Request duration by generated tokens",
                "normalized_time_per_output_token_seconds",
                || Histogram::new(NTPOT),
            ),
            tpot: {
                let family = Family::new_with_constructor((|| Histogram::new(TPOT)) as fn() -> _);
                let help = "Time a token after the first";
                r.ours
                    .register("request_streaming_tpot_seconds", help, family.clone());
                family
            },
            itl: {
                let family = Family::new_with_constructor((|| Histogram::new(ITL)) as fn() -> _);
                let help =
                    "Time between two pieces of a streamed response, from the first token on";
                r.ours
                    .register("request_streaming_itl_seconds", help, family.clone());
                family
            },
            ttft: {
                let family = Family::new_with_constructor((|| Histogram::new(TTFT)) as fn() -> _);
                let help = "Request to first token";
                r.ours
                    .register("request_ttft_seconds", help, family.clone());
                family
            },
            response_processing: response.clone(),
        }
    }

    pub(super) fn resolve(&self, labels: RequestLabels) -> RequestSeries {
        let ttft = ["false", "true"].map(|streaming| {
            self.ttft.get_or_create_owned(&StreamingLabels {
                model_name: labels.model_name.clone(),
                target_model_name: labels.target_model_name.clone(),
                fairness_id: labels.fairness_id.clone(),
                priority: labels.priority.clone(),
                streaming,
            })
        });
        let of = |twins: &Histograms| twins.resolve(&labels, || labels.old());
        RequestSeries {
            errors: self.errors.clone(),
            total: self.total.resolve(&labels, || OldTotalLabels {
                model_name: labels.model_name.clone(),
                target_model_name: labels.target_model_name.clone(),
                priority: labels.priority.clone(),
            }),
            running: self.running.resolve(&labels, || OldRunningLabels {
                model_name: labels.model_name.clone(),
            }),
            duration: of(&self.duration),
            request_bytes: of(&self.request_bytes),
            response_bytes: of(&self.response_bytes),
            input: of(&self.input),
            output: of(&self.output),
            cached: of(&self.cached),
            ntpot: of(&self.ntpot),
            tpot: self.tpot.get_or_create_owned(&labels),
            itl: self.itl.get_or_create_owned(&labels),
            ttft,
            response_processing: self.response_processing.clone(),
            labels,
        }
    }
}

// === impl RequestLabels ===

impl RequestLabels {
    fn old(&self) -> OldLabels {
        OldLabels {
            model_name: self.model_name.clone(),
            target_model_name: self.target_model_name.clone(),
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
        let errors = ErrorLabels {
            model_name: labels.model_name.clone(),
            target_model_name: labels.target_model_name.clone(),
            fairness_id: labels.fairness_id.clone(),
            priority: labels.priority.clone(),
            error_code: error_code.to_owned(),
        };
        let old = || OldErrorLabels {
            model_name: labels.model_name.clone(),
            target_model_name: labels.target_model_name.clone(),
            error_code: error_code.to_owned(),
        };
        self.errors.resolve(&errors, old).inc();
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
