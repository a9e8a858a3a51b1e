//! Hardware and models as data, and what the step model derives from a pair of them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::StepError;

/// Bytes a GPU that are neither weights nor KV cache, with a budget of 2048 tokens: measured on an RTX 4090 with vLLM
/// 0.19 (2,588 blocks of Llama-3.1-8B).
const OVERHEAD: f64 = 1.24e9;

/// Bytes a GPU more for each token of budget above 2048: activations. 2 to 2.5 GB are seen at 8192.
const OVERHEAD_PER_TOKEN: f64 = 1.64e5;

/// A GPU. Units and sources are in `tables.yaml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// HBM bytes/s that kernels achieve.
    pub hbm_bandwidth: f64,
    /// FLOP/s that GEMMs achieve.
    pub linear_flops: f64,
    /// FLOP/s that prefill attention achieves.
    pub attention_flops: f64,
    /// Bytes/s of an all-reduce.
    pub allreduce_bandwidth: f64,
    /// Seconds an all-reduce takes at least.
    pub allreduce_latency: f64,
    /// Bytes/s of reads that L2 serves; absent where nobody measured it.
    pub l2_bandwidth: Option<f64>,
    /// How many times as long the KV reads of decoding sequences take in a step that reads prompts too.
    #[serde(default = "one")]
    pub mixed_reads: f64,
    /// How many times as long prefill attention takes as at `attention_flops`, in kernel profiles.
    #[serde(default = "one")]
    pub prefill_attention: f64,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Memory, in bytes.
    pub hbm_bytes: u64,
    /// HBM bytes/s of the data sheet.
    pub peak_bandwidth: f64,
    /// Dense bf16 FLOP/s of the data sheet.
    pub peak_flops: f64,
    /// Power limit, in W.
    pub tdp: f64,
    /// Power when idle, in W.
    pub idle: f64,
    /// Boost clock, in MHz.
    pub sm_clock: f64,
    /// Memory clock, in MHz.
    pub memory_clock: u32,
    /// What NVML calls it.
    pub nvml_name: String,
    /// NVML's nvmlDeviceArchitecture_t.
    pub architecture: u32,
    /// NVLinks; 0 = none.
    #[serde(default)]
    pub nvlinks: u32,
    /// Where the figures come from.
    pub source: String,
}

/// A dense transformer in bf16.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Width of the MLP.
    pub ffn: u32,
    /// Tokens in the vocabulary.
    pub vocab: u32,
    /// Where the figures come from.
    pub source: String,
}

/// Everything in `tables.yaml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// By the name that [`EngineSpec::gpu`](super::EngineSpec::gpu) uses.
    pub gpus: BTreeMap<String, Gpu>,
    /// By the name that [`EngineSpec::model`](super::EngineSpec::model) uses.
    pub models: BTreeMap<String, Model>,
}

/// What one GPU of a tensor-parallel group holds and computes. gpu-and-simulation.md §2.2.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shard {
    /// Parameters of the layers.
    pub(super) params: f64,
    /// Parameters of the output head.
    pub(super) head: f64,
    /// Bytes of KV cache a token.
    pub(super) kv_bytes: f64,
    /// layers × heads × head_dim: attention FLOPs are 4 × this a (query, key) pair.
    pub(super) attention: f64,
    /// Bytes of weights; the embedding is as large as the head.
    pub(super) weights: f64,
    pub(super) kv_heads: u32,
    pub(super) layers: f64,
    pub(super) hidden: f64,
    pub(super) tp: f64,
}

static TABLES: LazyLock<Result<Tables, String>> = LazyLock::new(|| {
    serde_saphyr::from_str(include_str!("tables.yaml")).map_err(|e| e.to_string())
});

fn one() -> f64 {
    1.0
}

// === impl Tables ===

impl Tables {
    /// The tables that are part of the binary, read once.
    pub fn get() -> Result<&'static Self, StepError> {
        let tables = TABLES.as_ref();
        tables.map_err(|error| StepError::Tables(error.clone()))
    }

    /// The GPU of that name.
    pub fn gpu(&self, name: &str) -> Result<&Gpu, StepError> {
        let gpu = self.gpus.get(name);
        gpu.ok_or_else(|| StepError::unknown("GPU", name, self.gpus.keys()))
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Result<&Model, StepError> {
        let model = self.models.get(name);
        model.ok_or_else(|| StepError::unknown("model", name, self.models.keys()))
    }
}

// === impl Shard ===

impl Shard {
    pub(super) fn new(model: &Model, tp: u32) -> Self {
        let [layers, hidden, heads] = [model.layers, model.hidden, model.heads].map(f64::from);
        let [kv_heads, head_dim] = [model.kv_heads, model.head_dim].map(f64::from);
        let [ffn, vocab, tp_] = [model.ffn, model.vocab, tp].map(f64::from);
        let attention_params = hidden * head_dim * (2.0 * heads + 2.0 * kv_heads);
        let params = layers * (attention_params + 3.0 * hidden * ffn) / tp_;
        let head = vocab * hidden / tp_;
        Self {
            params,
            head,
            // Keys and values, two bytes each.
            kv_bytes: 4.0 * layers * kv_heads * head_dim / tp_,
            attention: layers * heads * head_dim / tp_,
            weights: 2.0 * (params + 2.0 * head),
            kv_heads: model.kv_heads.div_ceil(tp).max(1),
            layers,
            hidden,
            tp: tp_,
        }
    }

    /// Bytes a GPU beside weights and KV cache.
    pub(super) fn overhead(budget: u32) -> f64 {
        OVERHEAD + OVERHEAD_PER_TOKEN * f64::from(budget.saturating_sub(2048))
    }

    /// KV cache blocks that fit into so many bytes a GPU beside weights and overhead. 0 where the weights do not fit.
    pub(super) fn blocks(&self, bytes: f64, budget: u32, block_size: u32) -> u32 {
        let room = bytes - self.weights - Self::overhead(budget);
        (room.max(0.0) / self.kv_bytes / f64::from(block_size)) as u32
    }
}
