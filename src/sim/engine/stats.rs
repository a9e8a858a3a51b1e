//! What an engine counts of its requests: what vLLM's metrics report, at the moments when vLLM does.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sim::page::Histogram;

/// Bounds as vLLM has them, in seconds.
const TTFT: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const ITL: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// In tokens; those up to the longest request are used.
const TOKENS: &[f64] = &[
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10_000.0,
    20_000.0,
    50_000.0,
    100_000.0,
    200_000.0,
    500_000.0,
    1_000_000.0,
    2_000_000.0,
    5_000_000.0,
    10_000_000.0,
];
/// In tokens of one engine step.
const STEP: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
/// Answers to one request.
const ANSWERS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

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
}

/// How a request went. Times in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
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
    pub(super) fn new(longest: u64) -> Self {
        let used = TOKENS.partition_point(|&bound| bound <= longest as f64);
        let tokens = || Histogram::new(&TOKENS[..used]);
        let zero = || AtomicU64::new(0);
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
            itl: Histogram::new(ITL),
            tpot: Histogram::new(ITL),
            e2e: Histogram::new(LATENCY),
            queue: Histogram::new(LATENCY),
            inference: Histogram::new(LATENCY),
            prefill: Histogram::new(LATENCY),
            decode: Histogram::new(LATENCY),
        }
    }

    /// A prompt was read, of which so many tokens were cached; `after` so many seconds since it arrived.
    pub(super) fn first_token(&self, prompt_tokens: u64, cached: u64, after: f64) {
        self.prompt_tokens
            .fetch_add(prompt_tokens, Ordering::Relaxed);
        self.cached_tokens.fetch_add(cached, Ordering::Relaxed);
        self.generated_tokens.fetch_add(1, Ordering::Relaxed);
        self.ttft.observe(after);
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
        self.e2e.observe(queued + prefill + decode);
        let gaps = request.generated.saturating_sub(1).max(1);
        self.tpot.observe(decode / gaps as f64);
    }
}
