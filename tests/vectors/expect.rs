//! What a case expects.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What must come of it. What is not named must stay as it was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// The pods, one of which is chosen.
    pub(crate) route: Option<Pods>,
    /// The pod that this earlier turn of the case went to, counted from 0.
    pub(crate) follow: Option<usize>,
    /// The whole ordered list of endpoints.
    pub(crate) order: Option<Vec<usize>>,
    pub(crate) refuse: Option<Refusal>,
    /// No reply of any kind.
    #[serde(default)]
    pub(crate) silence: bool,
    /// The stream ends with an error, not with OK.
    #[serde(default)]
    pub(crate) error: bool,
    /// Nothing is replied before the end of the body is sent.
    #[serde(default)]
    pub(crate) nothing_early: bool,
    /// The request as the model server sees it.
    #[serde(default)]
    pub(crate) at_server: Seen,
    /// The response as the client sees it.
    #[serde(default)]
    pub(crate) at_client: Seen,
    /// Pods that have a score in the metadata; not given = no scores at all.
    pub(crate) scores: Option<Vec<usize>>,
    /// Numbers in the metadata of the last reply to the response, by namespace and key; no namespace = no metadata at all.
    #[serde(default)]
    pub(crate) told: BTreeMap<String, BTreeMap<String, f64>>,
    /// By how much series on the picker's page change.
    #[serde(default)]
    pub(crate) metrics: Vec<Change>,
    /// Pods and their requests in flight while the response is on its way.
    #[serde(default)]
    pub(crate) in_flight: BTreeMap<usize, f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Pods {
    One(usize),
    AnyOf(Vec<usize>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// In the message.
    pub(crate) says: String,
    /// The dialect of the envelope.
    #[serde(default)]
    pub(crate) envelope: Envelope,
    /// `error.type` in it.
    pub(crate) kind: String,
    /// The header with the reason; not given = there is none.
    pub(crate) dropped: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Envelope {
    #[default]
    Openai,
    Anthropic,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    /// Instead of what was sent.
    pub(crate) body: Option<String>,
    /// `*` stands for anything, `$uuid` for a UUID.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) absent: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// Without the prefix `llm_d_epp_`.
    pub(crate) name: String,
    /// Those that the series must have.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) by: f64,
}

// === impl Pods ===

impl Pods {
    pub(crate) fn list(&self) -> &[usize] {
        match self {
            Self::One(pod) => std::slice::from_ref(pod),
            Self::AnyOf(pods) => pods,
        }
    }
}
