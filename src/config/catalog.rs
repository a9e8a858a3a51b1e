//! Every plugin type that configurations of the field name, and what each is.

use std::fmt;

/// What a plugin does, and so where it may be referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In a scheduling profile; takes candidates away.
    Filter,
    /// In a scheduling profile, with a weight.
    Scorer,
    /// In a scheduling profile, once.
    Picker,
    /// Once, in `plugins` alone.
    ProfileHandler,
    /// In `requestHandler.parsers`.
    Parser,
    /// In `dataLayer.sources`.
    Source,
    /// In `dataLayer.sources[].extractors`.
    Extractor,
    /// In `dataLayer.discovery`.
    Discovery,
    /// In `plugins` alone; finds out what other plugins need to know of a request or an endpoint.
    Producer,
    /// In the parameters of a profile handler.
    Decider,
    /// In `plugins` alone: changes requests that were decided.
    PreRequest,
    /// In `plugins` alone: reads an endpoint's labels.
    EndpointExtractor,
    /// In `flowControl.saturationDetector`: says how full the pool is. In a scheduling profile, a filter.
    Detector,
    /// In `plugins` alone: may turn away requests that may be shed.
    Admitter,
    /// In `plugins` alone: tells the gateway, or the client, what a response came to.
    Reporter,
}

/// One plugin type.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// As configurations write it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Needs `--allow-experimental-plugins`.
    pub alpha: bool,
    /// A scorer that is a filter too.
    pub filters: bool,
    /// It is deprecated, and this is to be done instead.
    pub deprecated: Option<Instead>,
}

/// What to do instead of using a deprecated type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// Write this type, with the same parameters.
    Write(&'static str),
    /// In words.
    Do(&'static str),
}

const fn stable(name: &'static str, kind: Kind) -> Entry {
    Entry {
        name,
        kind,
        alpha: false,
        filters: false,
        deprecated: None,
    }
}

const fn alpha(name: &'static str, kind: Kind) -> Entry {
    Entry {
        alpha: true,
        ..stable(name, kind)
    }
}

const fn deprecated(name: &'static str, kind: Kind, instead: Instead) -> Entry {
    Entry {
        deprecated: Some(instead),
        ..stable(name, kind)
    }
}

/// What this version has.
pub const BUILT: &[Entry] = &[
    stable("header-based-testing-filter", Kind::Filter),
    stable("label-selector-filter", Kind::Filter),
    deprecated(
        "by-label-selector",
        Kind::Filter,
        Instead::Write("label-selector-filter"),
    ),
    deprecated(
        "by-label",
        Kind::Filter,
        Instead::Write("label-selector-filter"),
    ),
    stable("prefill-filter", Kind::Filter),
    stable("decode-filter", Kind::Filter),
    stable("encode-filter", Kind::Filter),
    stable("gpu-health-filter", Kind::Filter),
    alpha("utilization-filter", Kind::Filter),
    alpha("session-affinity-filter", Kind::Filter),
    alpha("endpoint-attribute-filter", Kind::Filter),
    stable("gpu-memory-filter", Kind::Filter),
    stable("queue-scorer", Kind::Scorer),
    stable("running-requests-size-scorer", Kind::Scorer),
    stable("kv-cache-utilization-scorer", Kind::Scorer),
    stable("lora-affinity-scorer", Kind::Scorer),
    stable("load-aware-scorer", Kind::Scorer),
    stable("active-request-scorer", Kind::Scorer),
    stable("token-load-scorer", Kind::Scorer),
    alpha("header-label-affinity-scorer", Kind::Scorer),
    alpha("session-affinity-scorer", Kind::Scorer),
    alpha("endpoint-attribute-scorer", Kind::Scorer),
    stable("latency-scorer", Kind::Scorer),
    Entry {
        filters: true,
        ..stable("context-length-aware", Kind::Scorer)
    },
    alpha("blocking-testing-scorer", Kind::Scorer),
    stable("max-score-picker", Kind::Picker),
    stable("random-picker", Kind::Picker),
    stable("weighted-random-picker", Kind::Picker),
    stable("single-profile-handler", Kind::ProfileHandler),
    stable("prefix-cache-affinity-filter", Kind::Filter),
    stable("slo-headroom-tier-filter", Kind::Filter),
    stable("prefix-cache-scorer", Kind::Scorer),
    stable("work-scorer", Kind::Scorer),
    stable("speed-scorer", Kind::Scorer),
    stable("gpu-memory-scorer", Kind::Scorer),
    stable("gpu-cotenant-scorer", Kind::Scorer),
    stable("no-hit-lru-scorer", Kind::Scorer),
    stable("approx-prefix-cache-producer", Kind::Producer),
    stable("inflight-load-producer", Kind::Producer),
    stable("token-producer", Kind::Producer),
    deprecated(
        "tokenizer",
        Kind::Producer,
        Instead::Write("token-producer"),
    ),
    stable("session-id-producer", Kind::Producer),
    alpha("agent-identity", Kind::Producer),
    stable("openai-parser", Kind::Parser),
    stable("anthropic-parser", Kind::Parser),
    stable("vllmhttp-parser", Kind::Parser),
    stable("sglanghttp-parser", Kind::Parser),
    stable("passthrough-parser", Kind::Parser),
    stable("metrics-data-source", Kind::Source),
    stable("core-metrics-extractor", Kind::Extractor),
    stable("models-data-source", Kind::Source),
    stable("models-data-extractor", Kind::Extractor),
    alpha("dcgm-data-source", Kind::Source),
    alpha("dcgm-extractor", Kind::Extractor),
    stable("request-attribute-reporter", Kind::Reporter),
    stable("destination-endpoint-served-verifier", Kind::Reporter),
    stable("file-discovery", Kind::Discovery),
    alpha("header-profile-handler", Kind::ProfileHandler),
    stable("disagg-profile-handler", Kind::ProfileHandler),
    deprecated(
        "pd-profile-handler",
        Kind::ProfileHandler,
        Instead::Do("write disagg-profile-handler, with deciders.prefill"),
    ),
    deprecated(
        "data-parallel-profile-handler",
        Kind::ProfileHandler,
        Instead::Do(
            "write single-profile-handler and list every rank's port as an endpoint of its own",
        ),
    ),
    deprecated(
        "disagg-headers-handler",
        Kind::PreRequest,
        Instead::Do("remove it: disagg-profile-handler sets these headers itself"),
    ),
    deprecated(
        "prefill-header-handler",
        Kind::PreRequest,
        Instead::Do("remove it: disagg-profile-handler sets this header itself"),
    ),
    stable("always-disagg-pd-decider", Kind::Decider),
    stable("always-disagg-multimodal-decider", Kind::Decider),
    stable("prefix-based-pd-decider", Kind::Decider),
    alpha("topology-affinity-filter", Kind::Filter),
    alpha("topology-affinity-scorer", Kind::Scorer),
    alpha("topology-extractor", Kind::EndpointExtractor),
    stable("utilization-detector", Kind::Detector),
    stable("concurrency-detector", Kind::Detector),
    stable("probabilistic-admitter", Kind::Admitter),
    stable("latency-slo-admitter", Kind::Admitter),
];

/// What the llm-d picker has and this version has not. A configuration that names one is right, and still cannot run.
pub const NOT_BUILT: &[&str] = &[
    "burst-prefix-cache-producer",
    "disaggregatedset-rollout-screener",
    "edf-ordering-policy",
    "endpoint-notification-source",
    "eviction-priority-then-time-ordering",
    "eviction-sheddable-filter",
    "fcfs-ordering-policy",
    "global-strict-fairness-policy",
    "k8s-notification-source",
    "mm-embeddings-cache-producer",
    "mm-embeddings-cache-scorer",
    "multicluster-file-discovery",
    "multicluster-kv-cache-utilization-scorer",
    "multicluster-metrics-data-source",
    "multicluster-metrics-extractor",
    "multicluster-prefix-cache-scorer",
    "multicluster-queue-scorer",
    "multicluster-session-affinity-filter",
    "p2p-source-producer",
    "precise-prefix-cache-producer",
    "precise-prefix-cache-scorer",
    "predicted-latency-producer",
    "priority-holdback-policy",
    "program-aware-fairness",
    "round-robin-fairness-policy",
    "slo-deadline-ordering-policy",
    "soft-reflective-ceiling-policy",
    "static-usage-limit-policy",
    "vertexai-parser",
    "vllmgrpc-parser",
];

/// The type `name`, if this version has it.
pub fn find(name: &str) -> Option<&'static Entry> {
    BUILT.iter().find(|entry| entry.name == name)
}

/// All names, built or not.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT
        .iter()
        .map(|entry| entry.name)
        .chain(NOT_BUILT.iter().copied())
}

// === impl Instead ===

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(name) => write!(f, "write `{name}`"),
            Self::Do(words) => f.write_str(words),
        }
    }
}

// === impl Kind ===

impl Kind {
    /// For messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Scorer => "scorer",
            Self::Picker => "picker",
            Self::ProfileHandler => "profile handler",
            Self::Parser => "parser",
            Self::Source => "data source",
            Self::Extractor => "extractor",
            Self::Discovery => "discovery",
            Self::Producer => "producer",
            Self::Decider => "decider",
            Self::PreRequest => "pre-request plugin",
            Self::EndpointExtractor => "endpoint extractor",
            Self::Detector => "saturation detector",
            Self::Admitter => "admitter",
            Self::Reporter => "reporter",
        }
    }
}
