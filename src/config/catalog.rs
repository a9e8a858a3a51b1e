//! Every plugin type that configurations of the field name, and what each is.

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
    /// In the parameters of a profile handler.
    Decider,
    /// In `plugins` alone: changes requests that were decided.
    PreRequest,
    /// In `plugins` alone: reads an endpoint's labels.
    EndpointExtractor,
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
}

const fn stable(name: &'static str, kind: Kind) -> Entry {
    Entry {
        name,
        kind,
        alpha: false,
    }
}

const fn alpha(name: &'static str, kind: Kind) -> Entry {
    Entry {
        alpha: true,
        ..stable(name, kind)
    }
}

/// What this version has.
pub const BUILT: &[Entry] = &[
    stable("header-based-testing-filter", Kind::Filter),
    stable("queue-scorer", Kind::Scorer),
    stable("running-requests-size-scorer", Kind::Scorer),
    stable("kv-cache-utilization-scorer", Kind::Scorer),
    stable("lora-affinity-scorer", Kind::Scorer),
    Entry {
        name: "blocking-testing-scorer",
        kind: Kind::Scorer,
        alpha: true,
    },
    stable("max-score-picker", Kind::Picker),
    stable("random-picker", Kind::Picker),
    stable("weighted-random-picker", Kind::Picker),
    stable("single-profile-handler", Kind::ProfileHandler),
    stable("openai-parser", Kind::Parser),
    stable("anthropic-parser", Kind::Parser),
    stable("vllmhttp-parser", Kind::Parser),
    stable("sglanghttp-parser", Kind::Parser),
    stable("passthrough-parser", Kind::Parser),
    stable("metrics-data-source", Kind::Source),
    stable("core-metrics-extractor", Kind::Extractor),
    stable("file-discovery", Kind::Discovery),
    alpha("header-profile-handler", Kind::ProfileHandler),
    stable("disagg-profile-handler", Kind::ProfileHandler),
    stable("pd-profile-handler", Kind::ProfileHandler),
    stable("data-parallel-profile-handler", Kind::ProfileHandler),
    stable("disagg-headers-handler", Kind::PreRequest),
    stable("prefill-header-handler", Kind::PreRequest),
    stable("always-disagg-pd-decider", Kind::Decider),
    stable("always-disagg-multimodal-decider", Kind::Decider),
    stable("prefix-based-pd-decider", Kind::Decider),
    alpha("topology-affinity-filter", Kind::Filter),
    alpha("topology-affinity-scorer", Kind::Scorer),
    alpha("topology-extractor", Kind::EndpointExtractor),
];

/// Deprecated types, and what to write instead.
pub const DEPRECATED: &[(&str, &str)] = &[
    (
        "pd-profile-handler",
        "write disagg-profile-handler, with deciders.prefill",
    ),
    (
        "data-parallel-profile-handler",
        "write single-profile-handler and list every rank's port as an endpoint of its own",
    ),
    (
        "disagg-headers-handler",
        "remove it: disagg-profile-handler sets these headers itself",
    ),
    (
        "prefill-header-handler",
        "remove it: disagg-profile-handler sets this header itself",
    ),
];

/// What the llm-d picker has and this version has not. A configuration that names one is right, and still cannot run.
pub const NOT_BUILT: &[&str] = &[
    "active-request-scorer",
    "agent-identity",
    "approx-prefix-cache-producer",
    "burst-prefix-cache-producer",
    "by-label",
    "by-label-selector",
    "concurrency-detector",
    "context-length-aware",
    "dcgm-data-source",
    "dcgm-extractor",
    "decode-filter",
    "destination-endpoint-served-verifier",
    "disaggregatedset-rollout-screener",
    "edf-ordering-policy",
    "encode-filter",
    "endpoint-attribute-filter",
    "endpoint-attribute-scorer",
    "endpoint-notification-source",
    "eviction-priority-then-time-ordering",
    "eviction-sheddable-filter",
    "fcfs-ordering-policy",
    "global-strict-fairness-policy",
    "header-label-affinity-scorer",
    "inflight-load-producer",
    "k8s-notification-source",
    "label-selector-filter",
    "latency-scorer",
    "latency-slo-admitter",
    "load-aware-scorer",
    "mm-embeddings-cache-producer",
    "mm-embeddings-cache-scorer",
    "models-data-extractor",
    "models-data-source",
    "multicluster-file-discovery",
    "multicluster-kv-cache-utilization-scorer",
    "multicluster-metrics-data-source",
    "multicluster-metrics-extractor",
    "multicluster-prefix-cache-scorer",
    "multicluster-queue-scorer",
    "multicluster-session-affinity-filter",
    "no-hit-lru-scorer",
    "p2p-source-producer",
    "precise-prefix-cache-producer",
    "precise-prefix-cache-scorer",
    "predicted-latency-producer",
    "prefill-filter",
    "prefix-cache-affinity-filter",
    "prefix-cache-scorer",
    "priority-holdback-policy",
    "probabilistic-admitter",
    "program-aware-fairness",
    "request-attribute-reporter",
    "round-robin-fairness-policy",
    "session-affinity-filter",
    "session-affinity-scorer",
    "session-id-producer",
    "slo-deadline-ordering-policy",
    "slo-headroom-tier-filter",
    "soft-reflective-ceiling-policy",
    "static-usage-limit-policy",
    "token-load-scorer",
    "token-producer",
    "tokenizer",
    "utilization-detector",
    "utilization-filter",
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
            Self::Decider => "decider",
            Self::PreRequest => "pre-request plugin",
            Self::EndpointExtractor => "endpoint extractor",
        }
    }
}
