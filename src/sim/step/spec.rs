//! How an engine is set up, and what is wrong with it or with a request.

use super::cost::Cost;
use super::mig::MigProfile;
use super::tables::{Shard, Tables};

/// An engine: one model on one or more GPUs. Names as vLLM's flags have them.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSpec {
    /// A GPU of [`Tables`].
    pub gpu: String,
    /// A model of [`Tables`].
    pub model: String,
    /// `--tensor-parallel-size`: GPUs; at least 1.
    pub tp: u32,
    /// The MIG instance that it runs on; absent: the whole GPU.
    pub mig: Option<MigProfile>,
    /// `--gpu-memory-utilization`: the share of the GPU's memory that it takes, more than 0 and at most 1.
    pub gpu_memory_utilization: f64,
    /// KV cache blocks; absent: as many as fit.
    pub kv_blocks: Option<u32>,
    /// Requests that run at once.
    pub max_num_seqs: u32,
    /// Tokens of one step; at least `max_num_seqs`, as vLLM demands.
    pub max_num_batched_tokens: u32,
    /// Tokens in a block.
    pub block_size: u32,
    /// Absent: no LoRA.
    pub loras: Option<Loras>,
    /// `--async-scheduling`, vLLM's default since 0.14: a step is put together while the one before it runs, so what
    /// arrives or ends meanwhile shows one step later.
    pub async_scheduling: bool,
    /// `scheduler_reserve_full_isl`, vLLM's default since 0.19: a request runs only when the blocks of its whole prompt
    /// are there, not just those of its first chunk.
    pub reserve_prompt: bool,
    /// Whether attention costs what kernel profiles show beyond the closed form of the reference, where there are any.
    pub refined: bool,
    /// Whether KV cache that several sequences of a batch share is read from HBM once and from L2 afterwards.
    pub shared_reads: bool,
}

/// LoRA adapters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loras {
    /// `--max-loras`: adapters in one batch, and in GPU memory.
    pub max: u32,
    /// Seconds that a step takes longer when an adapter must be loaded for it. 4.4 s is the median of cold loads in
    /// GenTD26 (p99 8.2 s): §2.2.
    pub load: f64,
}

/// What the step model refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StepError {
    /// `tables.yaml` cannot be read.
    #[error("the tables of GPUs and models: {0}")]
    Tables(String),
    /// A name that is not in the tables.
    #[error("no {kind} named {name:?}; there are {known}")]
    Unknown {
        /// GPU or model.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// An engine that vLLM would not start.
    #[error("{0}")]
    Spec(&'static str),
    /// A request that could never run.
    #[error("{tokens} tokens do not fit into the {held} of the KV cache")]
    TooLong {
        /// Prompt and answer.
        tokens: u64,
        /// What the cache holds.
        held: u64,
    },
    /// A request without prompt or answer.
    #[error("a request has at least one token of prompt and one of answer")]
    Empty,
    /// A request for an adapter, and no LoRA.
    #[error("this engine has no LoRA adapters")]
    NoLora,
    /// The engine process is gone.
    #[error("the engine is dead")]
    Dead,
}

// === impl EngineSpec ===

impl EngineSpec {
    /// vLLM 0.19's defaults on that hardware, with a budget of 2048 tokens.
    pub fn new(gpu: &str, model: &str, tp: u32) -> Self {
        Self {
            gpu: gpu.to_owned(),
            model: model.to_owned(),
            tp,
            mig: None,
            gpu_memory_utilization: 0.9,
            kv_blocks: None,
            max_num_seqs: 256,
            max_num_batched_tokens: 2048,
            block_size: 16,
            loras: None,
            async_scheduling: true,
            reserve_prompt: true,
            refined: true,
            shared_reads: true,
        }
    }

    /// The rates of such an engine, and its KV cache blocks.
    pub(super) fn resolve(&self) -> Result<(Cost, u32), StepError> {
        let tables = Tables::get()?;
        let (mut gpu, model) = (tables.gpu(&self.gpu)?.clone(), tables.model(&self.model)?);
        if self.tp == 0 || self.block_size == 0 || self.max_num_seqs == 0 {
            return Err(StepError::Spec(
                "tp, block_size and max_num_seqs are at least 1",
            ));
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            return Err(StepError::Spec(
                "max_num_batched_tokens is at least max_num_seqs",
            ));
        }
        if self
            .loras
            .is_some_and(|l| l.max == 0 || !(l.load >= 0.0 && l.load.is_finite()))
        {
            return Err(StepError::Spec(
                "max_loras is at least 1, the load time a number of seconds",
            ));
        }
        if !(self.gpu_memory_utilization > 0.0 && self.gpu_memory_utilization <= 1.0) {
            return Err(StepError::Spec(
                "gpu_memory_utilization is more than 0 and at most 1",
            ));
        }
        if let Some(mig) = self.mig {
            if self.tp > 1 {
                return Err(StepError::Spec(
                    "an engine on MIG instances has one: tp is 1 with mig",
                ));
            }
            mig.cut(&self.gpu, &mut gpu)?;
        }
        if !self.shared_reads {
            gpu.l2_bandwidth = None;
        }
        let shard = Shard::new(model, self.tp);
        let room = self.gpu_memory_utilization * gpu.hbm_bytes as f64;
        let fits = shard.blocks(room, self.max_num_batched_tokens, self.block_size);
        let blocks = self.kv_blocks.unwrap_or(fits);
        if blocks == 0 {
            return Err(StepError::Spec(
                "no memory is left for the KV cache: more GPUs, or a smaller model",
            ));
        }
        let slow = [1.0, 1.0];
        Ok((
            Cost {
                gpu,
                shard,
                slow,
                refined: self.refined,
            },
            blocks,
        ))
    }
}

// === impl StepError ===

impl StepError {
    pub(super) fn unknown<'a>(
        kind: &'static str,
        name: &str,
        known: impl Iterator<Item = &'a String>,
    ) -> Self {
        let known: Vec<_> = known.map(String::as_str).collect();
        Self::Unknown {
            kind,
            name: name.to_owned(),
            known: known.join(", "),
        }
    }
}
