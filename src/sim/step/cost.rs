//! How long a step takes, and what it asks of the GPU. gpu-and-simulation.md §2.2.

use super::tables::{Gpu, Shard};

/// Seconds of a step that do not depend on its batch: scheduling, launches, the way back of the tokens. Fitted on two
/// measured vLLM 0.19 runs (bf16, CUDA graphs), RTX 4090 and RTX PRO 6000: §2.2.
const STEP: f64 = 1.5e-3;

/// Seconds a sequence of the batch: input preparation, sampling, output. Fitted on the same two runs.
const SEQUENCE: f64 = 20e-6;

/// The same, where the cost of mixed steps comes from kernel profiles ([`Gpu::mixed_reads`]): [`SEQUENCE`] had stood in
/// for it. Fitted on the RTX 4090 run alone, with [`STEP`] as it is; sampler kernels take 1 us of it.
const REFINED_SEQUENCE: f64 = 12e-6;

/// How much of a token's compute shows while the weights stream: the slope below the ridge. Fitted on the same two runs;
/// the dense kernels of both profiles, summed, are within 6 % of it from 1 to 256 tokens, on average within 2 %.
const BELOW_RIDGE: f64 = 0.4;

/// Prompt tokens of one request in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chunk {
    pub(super) tokens: u32,
    /// Tokens of that request that the KV cache already holds.
    pub(super) context: u32,
}

/// What the decoding sequences of a step read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Decode {
    pub(super) sequences: u32,
    /// Tokens of KV cache, over all sequences.
    pub(super) context: u64,
    /// Those of `context` that more than one sequence reads.
    pub(super) shared: u64,
    /// Those tokens, each counted once.
    pub(super) shared_once: u64,
}

/// One step on one GPU of the group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    pub(super) seconds: f64,
    /// Seconds that the next step takes longer when nothing but the contexts of the decoding sequences grows.
    pub(super) growth: f64,
    /// Read from HBM.
    pub(super) bytes: f64,
    pub(super) flops: f64,
}

/// The rates of one engine.
#[derive(Clone, Debug)]
pub(super) struct Cost {
    pub(super) gpu: Gpu,
    pub(super) shard: Shard,
    /// Factors ≥ 1 on what computes and on what reads memory.
    pub(super) slow: [f64; 2],
    /// Whether what kernel profiles show beyond the reference's closed form counts.
    pub(super) refined: bool,
}

// === impl Cost ===

impl Cost {
    /// The time of a step and what it does.
    pub(super) fn step(&self, chunks: &[Chunk], decode: Decode) -> Work {
        let (gpu, shard) = (&self.gpu, &self.shard);
        let [compute, memory] = self.slow;
        let bandwidth = gpu.hbm_bandwidth / memory;
        let (linear, attention) = (gpu.linear_flops / compute, gpu.attention_flops / compute);

        let sequences = f64::from(decode.sequences);
        let prompt: u64 = chunks.iter().map(|c| u64::from(c.tokens)).sum();
        let tokens = prompt as f64 + sequences;
        let rows = sequences + chunks.len() as f64;

        let token = 2.0 * shard.params / linear;
        let stream = 2.0 * shard.params / bandwidth + BELOW_RIDGE * token * tokens;
        let head = 2.0 * shard.head;
        // A step that reads prompts too runs the varlen kernel, which handles decoding sequences worse.
        let mixed = if chunks.is_empty() {
            1.0
        } else {
            self.refined(gpu.mixed_reads, 1.0)
        };
        let attention = attention / self.refined(gpu.prefill_attention, 1.0);
        let mut seconds = STEP + self.refined(REFINED_SEQUENCE, SEQUENCE) * rows;
        seconds += stream.max(token * tokens);
        seconds += (head / bandwidth).max(head * rows / linear);

        let (from_hbm, from_l2) = self.decode_reads(decode);
        seconds += mixed * shard.kv_bytes * from_hbm / bandwidth;
        if let Some(l2) = gpu.l2_bandwidth {
            // L2 runs with the clock of the SMs, so what slows compute slows it.
            seconds += shard.kv_bytes * from_l2 * compute / l2;
        }

        let mut bytes = 2.0 * shard.params + head + shard.kv_bytes * from_hbm;
        let mut flops = 2.0 * shard.params * tokens + head * rows;
        flops += 4.0 * shard.attention * decode.context as f64;
        for chunk in chunks {
            let (new, before) = (f64::from(chunk.tokens), f64::from(chunk.context));
            let work = 4.0 * shard.attention * (new * before + new * new / 2.0);
            let read = shard.kv_bytes * before;
            seconds += (work / attention).max(read / bandwidth);
            flops += work;
            bytes += read;
        }
        if shard.tp > 1.0 {
            // Two all-reduces a layer; each moves a bf16 row a token, twice over the ring.
            let moved = 4.0 * tokens * shard.hidden * (shard.tp - 1.0) / shard.tp;
            let allreduce = gpu.allreduce_latency + moved / gpu.allreduce_bandwidth;
            seconds += 2.0 * shard.layers * allreduce;
        }
        Work {
            seconds,
            growth: shard.kv_bytes * sequences / bandwidth,
            bytes,
            flops,
        }
    }

    fn refined(&self, value: f64, plain: f64) -> f64 {
        if self.refined { value } else { plain }
    }

    /// Tokens of KV cache that a step's decode attention reads from HBM, and from L2.
    ///
    /// A paged attention kernel runs one thread block a sequence and KV head, as many at once as there are SMs. Those
    /// that run at once and read the same prefix walk through it together: the first read comes from HBM, the others
    /// find it in L2. A batch with more thread blocks than SMs runs in waves, and each wave reads the prefix again.
    fn decode_reads(&self, decode: Decode) -> (f64, f64) {
        let context = decode.context as f64;
        if self.gpu.l2_bandwidth.is_none() {
            return (context, 0.0);
        }
        let thread_blocks = u64::from(decode.sequences) * u64::from(self.shard.kv_heads);
        let waves = thread_blocks.div_ceil(u64::from(self.gpu.sms.max(1)));
        let again = decode.shared.saturating_sub(waves * decode.shared_once);
        (context - again as f64, again as f64)
    }
}
