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
    /// In `plugins` alone; finds out what other plugins need to know of a request or an endpoint.
    Producer,
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
    /// The type to write instead.
    pub deprecated: Option<&'static str>,
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

const fn deprecated(name: &'static str, kind: Kind, successor: &'static str) -> Entry {
    Entry {
        deprecated: Some(successor),
        ..stable(name, kind)
    }
}

/// What this version has.
pub const BUILT: &[Entry] = &[
    stable("header-based-testing-filter", Kind::Filter),
    stable("label-selector-filter", Kind::Filter),
    deprecated("by-label-selector", Kind::Filter, "label-selector-filter"),
    deprecated("by-label", Kind::Filter, "label-selector-filter"),
    stable("prefill-filter", Kind::Filter),
    stable("decode-filter", Kind::Filter),
    stable("encode-filter", Kind::Filter),
    alpha("utilization-filter", Kind::Filter),
    alpha("session-affinity-filter", Kind::Filter),
    alpha("endpoint-attribute-filter", Kind::Filter),
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
    stable("inflight-load-producer", Kind::Producer),
    stable("token-producer", Kind::Producer),
    deprecated("tokenizer", Kind::Producer, "token-producer"),
    stable("session-id-producer", Kind::Producer),
    alpha("agent-identity", Kind::Producer),
    stable("openai-parser", Kind::Parser),
    stable("anthropic-parser", Kind::Parser),
    stable("vllmhttp-parser", Kind::Parser),
    stable("sglanghttp-parser", Kind::Parser),
    stable("passthrough-parser", Kind::Parser),
    stable("metrics-data-source", Kind::Source),
    stable("core-metrics-extractor", Kind::Extractor),
    stable("file-discovery", Kind::Discovery),
];

/// What the llm-d picker has and this version has not. A configuration that names one is right, and still cannot run.
pub const NOT_BUILT: &[&str] = &[
    "always-disagg-multimodal-decider",
    "always-disagg-pd-decider",
    "approx-prefix-cache-producer",
    "burst-prefix-cache-producer",
    "concurrency-detector",
    "data-parallel-profile-handler",
    "dcgm-data-source",
    "dcgm-extractor",
    "destination-endpoint-served-verifier",
    "disagg-headers-handler",
    "disagg-profile-handler",
    "disaggregatedset-rollout-screener",
    "edf-ordering-policy",
    "endpoint-notification-source",
    "eviction-priority-then-time-ordering",
    "eviction-sheddable-filter",
    "fcfs-ordering-policy",
    "global-strict-fairness-policy",
    "header-profile-handler",
    "k8s-notification-source",
    "latency-slo-admitter",
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
    "pd-profile-handler",
    "precise-prefix-cache-producer",
    "precise-prefix-cache-scorer",
    "predicted-latency-producer",
    "prefill-header-handler",
    "prefix-based-pd-decider",
    "prefix-cache-affinity-filter",
    "prefix-cache-scorer",
    "priority-holdback-policy",
    "probabilistic-admitter",
    "program-aware-fairness",
    "request-attribute-reporter",
    "round-robin-fairness-policy",
    "slo-deadline-ordering-policy",
    "slo-headroom-tier-filter",
    "soft-reflective-ceiling-policy",
    "static-usage-limit-policy",
    "topology-affinity-filter",
    "topology-affinity-scorer",
    "topology-extractor",
    "utilization-detector",
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
            Self::Producer => "producer",
        }
    }
}
