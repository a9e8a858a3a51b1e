//! What is read of the file.

use serde::Deserialize;
use serde_json::Value;

use super::lengths::Length;
use super::{Wrong, wrong};

#[derive(Deserialize)]
pub(super) struct Document {
    pub(super) load: Load,
    pub(super) data: Data,
}

#[derive(Deserialize)]
pub(super) struct Load {
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    #[serde(default)]
    pub(super) stages: Vec<StageSpec>,
    sweep: Option<Value>,
    trace: Option<Value>,
    #[serde(default)]
    pub(super) lora_traffic_split: Vec<Split>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Constant,
    Poisson,
    Concurrent,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StageSpec {
    pub(super) rate: Option<f64>,
    pub(super) duration: Option<f64>,
    pub(super) num_requests: Option<u32>,
    pub(super) concurrency_level: Option<u32>,
}

/// A share of all requests, for an adapter.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Split {
    pub(super) name: String,
    pub(super) split: f64,
}

#[derive(Deserialize)]
pub(super) struct Data {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) shared_prefix: Option<SharedPrefix>,
    pub(super) conversation_replay: Option<Conversations>,
    pub(super) input_distribution: Option<Length>,
    pub(super) output_distribution: Option<Length>,
    multimodal: Option<Value>,
    trace: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SharedPrefix {
    #[serde(alias = "num_unique_system_prompts")]
    pub(super) num_groups: u32,
    #[serde(alias = "num_users_per_system_prompt")]
    pub(super) num_prompts_per_group: u32,
    pub(super) system_prompt_len: Length,
    pub(super) question_len: Length,
    pub(super) output_len: Length,
    /// The older way to say the same of the two lengths.
    pub(super) question_distribution: Option<Length>,
    pub(super) output_distribution: Option<Length>,
    pub(super) enable_multi_turn_chat: bool,
    /// `--seed` is ours.
    #[serde(rename = "seed")]
    _seed: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Conversations {
    pub(super) num_conversations: u32,
    pub(super) shared_system_prompt_len: u32,
    pub(super) dynamic_system_prompt_len: Length,
    pub(super) turns_per_conversation: Length,
    pub(super) input_tokens_per_turn: Length,
    pub(super) output_tokens_per_turn: Length,
    /// In seconds, between an answer and the turn after it.
    pub(super) tool_call_latency_sec: Length,
    /// Prompts are cut there; here they have what room they need.
    #[serde(rename = "max_model_len")]
    _max_model_len: Option<u32>,
    #[serde(rename = "seed")]
    _seed: Option<u64>,
}

impl Default for SharedPrefix {
    fn default() -> Self {
        Self {
            num_groups: 10,
            num_prompts_per_group: 10,
            system_prompt_len: Length::Fixed(100),
            question_len: Length::Fixed(50),
            output_len: Length::Fixed(50),
            question_distribution: None,
            output_distribution: None,
            enable_multi_turn_chat: false,
            _seed: None,
        }
    }
}

impl Default for Conversations {
    fn default() -> Self {
        Self {
            num_conversations: 200,
            shared_system_prompt_len: 8359,
            dynamic_system_prompt_len: Length::Fixed(0),
            turns_per_conversation: Length::Fixed(10),
            input_tokens_per_turn: Length::Fixed(512),
            output_tokens_per_turn: Length::Fixed(256),
            tool_call_latency_sec: Length::Fixed(0),
            _max_model_len: None,
            _seed: None,
        }
    }
}

// === impl Document ===

impl Document {
    /// Refuses what changes the traffic and is not understood.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let (load, data) = (&self.load, &self.data);
        for (field, is_there, remedy) in [
            (
                "load.sweep",
                load.sweep.is_some(),
                "write load.stages; replay --load finds the saturation rate itself",
            ),
            (
                "load.trace",
                load.trace.is_some(),
                "replay the trace itself",
            ),
            (
                "data.trace",
                data.trace.is_some(),
                "replay the trace itself",
            ),
            (
                "data.multimodal",
                data.multimodal.is_some(),
                "leave it out: prompts are text here",
            ),
        ] {
            if is_there {
                return wrong(format!("{field} is not understood"), remedy);
            }
        }
        let splits = &load.lora_traffic_split;
        let sum: f64 = splits.iter().map(|split| split.split).sum();
        let fine = splits.iter().all(|split| split.split >= 0.0) && (sum - 1.0).abs() < 1e-9;
        if !splits.is_empty() && !fine {
            let problem = format!("load.lora_traffic_split adds up to {sum}");
            return wrong(problem, "write splits of 0 or more that add up to 1");
        }
        Ok(())
    }
}
