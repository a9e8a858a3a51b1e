//! What is played: a case, by a client, on a rig.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use pointsman::proto::envoy::config::core::v3::{HeaderValue, Metadata};
use serde_json::Value;

use super::clients::Client;
use super::data::{self, At, Case, End, How};
use super::link;
use super::rig::Rig;

const SUBSET: &str = "x-gateway-destination-endpoint-subset";
const SUBSET_HINT: &str = "envoy.lb.subset_hint";

/// What a case is played with.
pub(crate) struct Stage<'a> {
    pub(crate) case: &'a Case,
    pub(crate) client: &'a Client,
    pub(crate) rig: &'a Rig,
    pub(crate) pods: &'a [SocketAddr],
    /// As sent, names as given.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Bytes>,
}

// === impl Stage ===

impl Stage<'_> {
    /// The headers sent, names in lower case.
    pub(crate) fn lower_headers(&self) -> Vec<(String, String)> {
        let lower = |(name, value): &(String, String)| (name.to_ascii_lowercase(), value.clone());
        self.headers.iter().map(lower).collect()
    }

    /// Dynamic metadata with a message of the request, if the client sends any.
    pub(crate) fn request_metadata(
        &self,
        namespaces: &BTreeMap<String, Value>,
    ) -> Option<Metadata> {
        let mut namespaces = namespaces.clone();
        if let Some(subset) = &self.case.request.subset {
            let hint = serde_json::json!({ SUBSET: subset });
            namespaces.insert(SUBSET_HINT.to_owned(), hint);
        }
        if namespaces.is_empty() || !self.client.metadata {
            return None;
        }
        let text = serde_json::to_string(&namespaces).unwrap();
        let filled: BTreeMap<String, Value> =
            serde_json::from_str(&data::fill(&text, self.pods)).unwrap();
        link::metadata(&filled)
    }

    pub(crate) fn both_values(&self) -> Vec<HeaderValue> {
        let both = self.case.request.both_values.iter();
        both.map(|(key, both)| HeaderValue {
            key: key.clone(),
            value: both.value.clone(),
            raw_value: both.raw_value.clone().into(),
        })
        .collect()
    }

    /// What to send of a body, and whether each message ends it.
    pub(crate) fn messages(
        &self,
        pieces: Vec<Bytes>,
        end: Option<End>,
        trailers: bool,
    ) -> Vec<(Bytes, bool)> {
        let mut messages: Vec<(Bytes, bool)> = pieces.into_iter().map(|p| (p, false)).collect();
        if trailers {
            return messages;
        }
        let end = end.unwrap_or(self.client.end);
        match (end, messages.last_mut()) {
            (End::LastChunk | End::Twice, Some(last)) => last.1 = true,
            _ => messages.push((Bytes::new(), true)),
        }
        if end == End::Twice {
            messages.push((Bytes::new(), true));
        }
        messages
    }

    pub(crate) fn interrupted(&self, at: At) -> Option<How> {
        let interrupt = self.case.interrupt.filter(|interrupt| interrupt.at == at)?;
        Some(interrupt.how)
    }
}
