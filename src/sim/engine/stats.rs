//! What an engine counts of its requests: what vLLM's metrics report, at the moments when vLLM does.

use std::sync::atomic::{AtomicU64, Ordering};

use super::EngineKind;
use super::bounds::{
    ANSWERS, CACHED, ITL, LATENCY, PREFILL, SGLANG_E2E, SGLANG_ITL, SGLANG_QUEUE, SGLANG_TOKENS,
    SGLANG_TTFT, STEP, TOKENS, TTFT,
};
use crate::sim::page::Histogram;

/// Counters and histograms of one engine.
#[derive(Debug)]
pub(in crate::sim) struct Stats {
    pub(in crate::sim) prompt_tokens: AtomicU64,
    /// Those of `prompt_tokens` that came from the prefix cache.
    pub(in crate::sim) cached_tokens: AtomicU64,
    pub(in crate::sim) generated_tokens: AtomicU64,
    /// Requests that ended, all tokens made.
    pub(in crate::sim) finished: AtomicU64,
    /// Requests that the engine gave up.
    pub(in crate::sim) aborted: AtomicU64,
    pub(in crate::sim) prompt: Histogram,
    pub(in crate::sim) generation: Histogram,
    pub(in crate::sim) max_generation: Histogram,
    pub(in crate::sim) computed: Histogram,
    pub(in crate::sim) answers: Histogram,
    pub(in crate::sim) max_tokens: Histogram,
    /// Empty where nothing runs in steps.
    pub(in crate::sim) step: Histogram,
    pub(in crate::sim) ttft: Histogram,
    pub(in crate::sim) itl: Histogram,
    pub(in crate::sim) tpot: Histogram,
    pub(in crate::sim) e2e: Histogram,
    pub(in crate::sim) queue: Histogram,
    pub(in crate::sim) inference: Histogram,
    pub(in crate::sim) prefill: Histogram,
    pub(in crate::sim) decode: Histogram,
    /// Cached prompt tokens of a request.
    pub(in crate::sim) cached: Histogram,
    /// SGLang tells requests that do not stream from those that do, in this order.
    pub(in crate::sim) by_streaming: [ByStreaming; 2],
}

/// Requests that stream, or that do not.
#[derive(Debug)]
pub(in crate::sim) struct ByStreaming {
    pub(in crate::sim) finished: AtomicU64,
    pub(in crate::sim) prompt_tokens: AtomicU64,
    pub(in crate::sim) generated_tokens: AtomicU64,
    pub(in crate::sim) ttft: Histogram,
    pub(in crate::sim) e2e: Histogram,
}

/// How a request went. Times in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub(super) streams: bool,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) generated: u64,
    pub(super) max_tokens: u64,
    /// Until it first ran.
    pub(super) queued: f64,
    /// From there to the first token.
    pub(super) prefill: f64,
    /// From the first token to the last.
    pub(super) decode: f64,
}

// === impl Stats ===

impl Stats {
    /// For requests of up to `longest` tokens.
    pub(super) fn new(kind: EngineKind, longest: u64) -> Self {
        let sglang = kind == EngineKind::Sglang;
        let of = |bounds, others| if sglang { others } else { bounds };
        let used = TOKENS.partition_point(|&bound| bound <= longest as f64);
        let tokens = || Histogram::new(of(&TOKENS[..used], SGLANG_TOKENS));
        let zero = || AtomicU64::new(0);
        let prefill = match kind {
            EngineKind::Trtllm => PREFILL,
            EngineKind::Vllm | EngineKind::Sglang => LATENCY,
        };
        let by_streaming = || ByStreaming {
            finished: zero(),
            prompt_tokens: zero(),
            generated_tokens: zero(),
            ttft: Histogram::new(SGLANG_TTFT),
            e2e: Histogram::new(SGLANG_E2E),
        };
        Self {
            prompt_tokens: zero(),
            cached_tokens: zero(),
            generated_tokens: zero(),
            finished: zero(),
            aborted: zero(),
            prompt: tokens(),
            generation: tokens(),
            max_generation: tokens(),
            computed: tokens(),
            answers: Histogram::new(ANSWERS),
            max_tokens: tokens(),
            step: Histogram::new(STEP),
            ttft: Histogram::new(TTFT),
            itl: Histogram::new(of(ITL, SGLANG_ITL)),
            tpot: Histogram::new(ITL),
            e2e: Histogram::new(LATENCY),
            queue: Histogram::new(of(LATENCY, SGLANG_QUEUE)),
            inference: Histogram::new(LATENCY),
            prefill: Histogram::new(prefill),
            decode: Histogram::new(LATENCY),
            cached: Histogram::new(CACHED),
            by_streaming: [by_streaming(), by_streaming()],
        }
    }

    /// A prompt was read, of which so many tokens were cached; `after` so many seconds since it arrived.
    pub(super) fn first_token(&self, prompt_tokens: u64, cached: u64, after: f64, streams: bool) {
        self.prompt_tokens
            .fetch_add(prompt_tokens, Ordering::Relaxed);
        self.cached_tokens.fetch_add(cached, Ordering::Relaxed);
        self.generated_tokens.fetch_add(1, Ordering::Relaxed);
        self.ttft.observe(after);
        self.by_streaming[usize::from(streams)].ttft.observe(after);
    }

    pub(super) fn next_token(&self, after: f64) {
        self.generated_tokens.fetch_add(1, Ordering::Relaxed);
        self.itl.observe(after);
    }

    /// A step is over, with so many tokens.
    pub(super) fn stepped(&self, tokens: u64) {
        self.step.observe(tokens as f64);
    }

    pub(super) fn finished(&self, request: Finished) {
        self.finished.fetch_add(1, Ordering::Relaxed);
        self.prompt.observe(request.prompt_tokens as f64);
        let computed = request.prompt_tokens - request.cached_tokens;
        self.computed.observe(computed as f64);
        self.generation.observe(request.generated as f64);
        self.max_generation.observe(request.generated as f64);
        self.answers.observe(1.0);
        self.max_tokens.observe(request.max_tokens as f64);
        let [queued, prefill, decode] = [request.queued, request.prefill, request.decode];
        self.queue.observe(queued);
        self.prefill.observe(prefill);
        self.decode.observe(decode);
        self.inference.observe(prefill + decode);
        let e2e = queued + prefill + decode;
        self.e2e.observe(e2e);
        self.cached.observe(request.cached_tokens as f64);
        let same = &self.by_streaming[usize::from(request.streams)];
        same.finished.fetch_add(1, Ordering::Relaxed);
        for (tokens, more) in [
            (&same.prompt_tokens, request.prompt_tokens),
            (&same.generated_tokens, request.generated),
        ] {
            tokens.fetch_add(more, Ordering::Relaxed);
        }
        same.e2e.observe(e2e);
        let gaps = request.generated.saturating_sub(1).max(1);
        self.tpot.observe(decode / gaps as f64);
    }
}
