//! The headers and metadata by which gateways, clients and pickers steer requests.

/// Where the request goes: header, and key in the metadata namespace [`LB`].
pub(super) const DESTINATION: &str = "x-gateway-destination-endpoint";
/// Where it was served, as the gateway reports.
pub(super) const SERVED: &str = "x-gateway-destination-endpoint-served";
/// The same for a client, in the conformance tests of the Gateway API Inference Extension.
pub(super) const CONFORMANCE_SERVED: &str = "x-conformance-test-served-endpoint";
/// Scores of all candidates, in the metadata namespace [`LB`].
pub(super) const SCORES: &str = "x-gateway-destination-endpoint-scores";
/// The endpoints that the gateway allows, in the metadata namespace [`SUBSET_HINT`].
pub(super) const SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// The metadata namespace of load balancing.
pub(super) const LB: &str = "envoy.lb";
/// The metadata namespace of the subset.
pub(super) const SUBSET_HINT: &str = "envoy.lb.subset_hint";
/// Why the picker answered in the model server's place.
pub(super) const DROPPED_REASON: &str = "x-llm-d-request-dropped-reason";
/// One id for a request, through all hops.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// Where the proxy of a decode endpoint has the prompt worked on first.
pub(super) const PREFILL: &str = "x-prefiller-host-port";
/// Where it has images, sound and videos encoded first, with commas.
pub(super) const ENCODE: &str = "x-encoder-hosts-ports";
/// The data-parallel rank that a pod's first rank passes the request on to.
pub(super) const DATA_PARALLEL: &str = "x-data-parallel-host-port";
/// What the client would like (RFC 7240).
pub(super) const PREFER: &str = "prefer";
/// The preference for an answer only if the prompt is cached.
pub(super) const IF_AVAILABLE: &str = "if-available";

/// Flow id, current name first.
pub(super) const FAIRNESS: [&str; 2] = [
    "x-llm-d-inference-fairness-id",
    "x-gateway-inference-fairness-id",
];
/// The model to ask for instead, current name first.
pub(super) const MODEL_REWRITE: [&str; 2] =
    ["x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"];

/// The name of the objective, current name first.
pub(super) const OBJECTIVE: [&str; 2] = [
    "x-llm-d-inference-objective",
    "x-gateway-inference-objective",
];

/// Meant for pickers and proxies: a model server never sees a client's. [`DESTINATION`] is not among them because it is
/// always overwritten.
pub(super) const CONTROL: [&str; 21] = [
    FAIRNESS[0],
    FAIRNESS[1],
    MODEL_REWRITE[0],
    MODEL_REWRITE[1],
    OBJECTIVE[0],
    OBJECTIVE[1],
    "x-llm-d-slo-ttft-ms",
    "x-slo-ttft-ms",
    "x-llm-d-slo-tpot-ms",
    "x-slo-tpot-ms",
    SUBSET,
    SERVED,
    DROPPED_REASON,
    "x-llm-d-video-fps",
    "x-llm-d-video-duration-seconds",
    "x-llm-d-video-resolution",
    PREFILL,
    // What the header above was called first; sidecars of that time still obey it.
    "x-prefiller-url",
    ENCODE,
    DATA_PARALLEL,
    "x-kv-cache-source-host-port",
];
