//! Who plays the cases, and how the picker is set up for them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::data::End;

/// A proxy, as the picker sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) request_body: BodyMode,
    pub(crate) response_body: BodyMode,
    /// The response is not shown at all.
    #[serde(default)]
    pub(crate) skips_response: bool,
    /// The response is shown to a second filter, in observability mode.
    #[serde(default)]
    pub(crate) observer: bool,
    /// All of it is in observability mode.
    #[serde(default)]
    pub(crate) observes: bool,
    /// The first message says the body modes.
    pub(crate) says_modes: bool,
    #[serde(default)]
    pub(crate) sends_body_without_waiting: bool,
    /// Pseudo-headers come in `value`, others in `raw_value`.
    #[serde(default)]
    pub(crate) pseudo_in_value: bool,
    /// Metadata is forwarded.
    pub(crate) metadata: bool,
    pub(crate) end: End,
    /// Bytes of a piece of a body that is not buffered.
    pub(crate) piece_bytes: usize,
    /// gRPC messages are compressed.
    #[serde(default)]
    pub(crate) gzip: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum BodyMode {
    None,
    Streamed,
    Buffered,
    BufferedPartial,
    FullDuplexStreamed,
}

/// A picker's configuration: an EndpointPickerConfig, or another one's, and flags.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) name: String,
    like: Option<String>,
    document: Option<String>,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
}

// === impl Config ===

impl Config {
    /// The EndpointPickerConfig that it comes to among `all`, with the endpoints in `file`.
    pub(crate) fn text(&self, all: &BTreeMap<String, Config>, file: &str) -> String {
        match (&self.document, &self.like) {
            (Some(document), None) => {
                document.replace("$endpoints", &serde_json::json!(file).to_string())
            }
            (None, Some(like)) => all[like].text(all, file),
            _ => panic!("config {}: give either like or document", self.name),
        }
    }
}
