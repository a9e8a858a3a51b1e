//! Parameters of profile handlers and of what they decide with.

use serde::{Deserialize, Serialize};

/// Of `header-profile-handler`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct HeaderProfileParams {
    /// The header that names the profile.
    pub header_name: String,
    /// The profile of requests without it.
    pub default_profile: String,
}

/// Of `disagg-profile-handler`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct DisaggParams {
    /// Which stage is scheduled first.
    pub stage_order: StageOrder,
    /// The stages' profiles.
    pub profiles: StageProfiles,
    /// What says whether a stage runs.
    pub deciders: StageDeciders,
}

/// Which stage a disaggregated request is scheduled for first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageOrder {
    /// Decode: deciders can look at what it has cached.
    #[default]
    #[serde(alias = "decode")]
    DecodeFirst,
    /// Prefill: decode can be near it.
    #[serde(alias = "prefill")]
    PrefillFirst,
}

/// The profile of each stage, by name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageProfiles {
    /// Always runs; its endpoint is the request's destination.
    pub decode: String,
    /// Runs if its decider says so.
    pub prefill: String,
    /// Runs if its decider says so.
    pub encode: String,
}

/// The deciders of the stages, by name; none = the stage never runs.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageDeciders {
    /// Of prefill.
    pub prefill: Option<String>,
    /// Of encode.
    pub encode: Option<String>,
}

/// Of `pd-profile-handler`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PdProfileParams {
    /// As [`StageProfiles::decode`].
    pub decode_profile: String,
    /// As [`StageProfiles::prefill`].
    pub prefill_profile: String,
    /// Never had an effect.
    pub prefix_plugin_type: Option<String>,
    /// Never had an effect.
    pub prefix_plugin_name: Option<String>,
    /// As [`DataParallelParams::primary_port`]; 0 = requests go to the picked port.
    pub primary_port: u16,
    /// As [`StageDeciders::prefill`].
    pub decider_plugin_name: String,
}

/// Of `data-parallel-profile-handler`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct DataParallelParams {
    /// Where requests go, whichever port was picked.
    pub primary_port: u16,
}

/// Of `disagg-headers-handler` and `prefill-header-handler`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct DisaggHeadersParams {
    /// The handler knows its own.
    pub prefill_profile: Option<String>,
    /// The handler knows its own.
    pub encode_profile: Option<String>,
}

/// Of `prefix-based-pd-decider`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PrefixBasedPdParams {
    /// Prompt tokens without a cache from which on prefill is worth its own endpoint; 0 = never.
    pub non_cached_tokens: u64,
    /// Shorter prompts stay where they are; 0 = any length.
    pub prompt_tokens: u64,
}

// === impl HeaderProfileParams ===

impl Default for HeaderProfileParams {
    fn default() -> Self {
        Self {
            header_name: "EPP-Profile".to_owned(),
            default_profile: "decode".to_owned(),
        }
    }
}

// === impl StageProfiles ===

impl Default for StageProfiles {
    fn default() -> Self {
        Self {
            decode: "decode".to_owned(),
            prefill: "prefill".to_owned(),
            encode: "encode".to_owned(),
        }
    }
}

// === impl PdProfileParams ===

impl Default for PdProfileParams {
    fn default() -> Self {
        let profiles = StageProfiles::default();
        Self {
            decode_profile: profiles.decode,
            prefill_profile: profiles.prefill,
            prefix_plugin_type: None,
            prefix_plugin_name: None,
            primary_port: 0,
            decider_plugin_name: "prefix-based-pd-decider".to_owned(),
        }
    }
}

// === impl DataParallelParams ===

impl Default for DataParallelParams {
    fn default() -> Self {
        Self { primary_port: 8000 }
    }
}
