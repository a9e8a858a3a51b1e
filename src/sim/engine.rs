//! When tokens come, and what the engine's gauges read meanwhile.
//!
//! A request waits, in order, for one of `max_num_seqs` running slots. Its first token comes after `ttft` plus the time
//! of its prompt at `prefill_rate`; the others follow at intervals of `itl`. While it runs, it holds the KV cache blocks
//! of its prompt and of what it generated. Large batches do not slow anything down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::histogram::Histogram;

/// Bounds as vLLM has them, in seconds.
const TTFT: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const ITL: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
pub(super) const LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
pub(super) const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0,
    50000.0, 100000.0,
];

/// How fast and how large.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// To the first token, with an empty prompt and a free slot.
    pub ttft: Duration,
    /// Prompt tokens a second.
    pub prefill_rate: f64,
    /// Between two tokens.
    pub itl: Duration,
    /// Requests that run at once.
    pub max_num_seqs: usize,
    /// KV cache blocks.
    pub kv_blocks: u64,
    /// Tokens in a block.
    pub block_size: u64,
}

/// One engine.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    slots: Arc<Semaphore>,
    stats: Arc<Stats>,
}

/// What the engine counts.
#[derive(Debug)]
pub struct Stats {
    /// Requests without a slot.
    pub(super) waiting: AtomicU64,
    /// Requests with one.
    pub(super) running: AtomicU64,
    /// KV cache blocks in use.
    pub(super) blocks: AtomicU64,
    /// Requests that ended, all tokens made.
    pub(super) succeeded: AtomicU64,
    /// Prompt tokens read.
    pub(super) prompt_tokens: AtomicU64,
    /// Tokens generated.
    pub(super) generated_tokens: AtomicU64,
    /// For each adapter in use: requests waiting, requests running.
    pub(super) adapters: Mutex<BTreeMap<String, (u64, u64)>>,
    pub(super) ttft: Histogram,
    pub(super) itl: Histogram,
    pub(super) e2e: Histogram,
    pub(super) queue: Histogram,
    pub(super) prompt: Histogram,
    pub(super) generation: Histogram,
}

/// One request on its slot, until it is dropped.
#[derive(Debug)]
pub struct Generation {
    queued: Queued,
    _slot: OwnedSemaphorePermit,
    arrived: Instant,
    last: Instant,
    next: Instant,
    itl: Duration,
    block_size: u64,
    prompt_tokens: u64,
    generated: u64,
    limit: u64,
    blocks: u64,
}

/// A request's place in the gauges: waiting, then running.
#[derive(Debug)]
struct Queued {
    stats: Arc<Stats>,
    adapter: Option<String>,
    running: bool,
}

// === impl Engine ===

impl Engine {
    /// An idle engine.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(config.max_num_seqs)),
            stats: Arc::new(Stats::new()),
            config,
        }
    }

    /// How it was set up.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// What it counts.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Queues a request of `prompt_tokens` for `limit` tokens, and returns when it has a slot.
    pub async fn start(&self, prompt_tokens: u64, limit: u64, adapter: Option<&str>) -> Generation {
        let arrived = Instant::now();
        let mut queued = Queued::new(&self.stats, adapter);
        // The semaphore is never closed: it lives as long as the engine.
        let slot = loop {
            if let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await {
                break slot;
            }
        };
        queued.runs();
        let now = Instant::now();
        let stats = &self.stats;
        stats.queue.observe((now - arrived).as_secs_f64());
        stats.prompt.observe(prompt_tokens as f64);
        stats
            .prompt_tokens
            .fetch_add(prompt_tokens, Ordering::Relaxed);
        let prefill = Duration::from_secs_f64(prompt_tokens as f64 / self.config.prefill_rate);
        let mut generation = Generation {
            queued,
            _slot: slot,
            arrived,
            last: now,
            next: now + self.config.ttft + prefill,
            itl: self.config.itl,
            block_size: self.config.block_size,
            prompt_tokens,
            generated: 0,
            limit,
            blocks: 0,
        };
        generation.hold_blocks();
        generation
    }
}

// === impl Generation ===

impl Generation {
    /// Waits for the next token. `false`: there are no more.
    pub async fn token(&mut self) -> bool {
        if self.generated == self.limit {
            return false;
        }
        tokio::time::sleep_until(self.next).await;
        let now = Instant::now();
        let stats = &self.queued.stats;
        if self.generated == 0 {
            stats.ttft.observe((now - self.arrived).as_secs_f64());
        } else {
            stats.itl.observe((now - self.last).as_secs_f64());
        }
        self.last = now;
        self.next += self.itl;
        self.generated += 1;
        stats.generated_tokens.fetch_add(1, Ordering::Relaxed);
        self.hold_blocks();
        if self.generated == self.limit {
            let stats = &self.queued.stats;
            stats.succeeded.fetch_add(1, Ordering::Relaxed);
            stats.e2e.observe((now - self.arrived).as_secs_f64());
            stats.generation.observe(self.generated as f64);
        }
        true
    }

    /// Whether the last token was the last one.
    pub fn is_done(&self) -> bool {
        self.generated == self.limit
    }

    /// Tokens so far: of the prompt, and generated.
    pub fn tokens(&self) -> (u64, u64) {
        (self.prompt_tokens, self.generated)
    }

    fn hold_blocks(&mut self) {
        let needed = (self.prompt_tokens + self.generated).div_ceil(self.block_size);
        let stats = &self.queued.stats;
        stats
            .blocks
            .fetch_add(needed - self.blocks, Ordering::Relaxed);
        self.blocks = needed;
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let stats = &self.queued.stats;
        stats.blocks.fetch_sub(self.blocks, Ordering::Relaxed);
    }
}

// === impl Queued ===

impl Queued {
    fn new(stats: &Arc<Stats>, adapter: Option<&str>) -> Self {
        stats.waiting.fetch_add(1, Ordering::Relaxed);
        if let Some(adapter) = adapter {
            stats
                .adapters
                .lock()
                .entry(adapter.to_owned())
                .or_default()
                .0 += 1;
        }
        Self {
            stats: Arc::clone(stats),
            adapter: adapter.map(str::to_owned),
            running: false,
        }
    }

    fn runs(&mut self) {
        self.running = true;
        self.stats.waiting.fetch_sub(1, Ordering::Relaxed);
        self.stats.running.fetch_add(1, Ordering::Relaxed);
        if let Some(adapter) = &self.adapter
            && let Some(counts) = self.stats.adapters.lock().get_mut(adapter)
        {
            counts.0 -= 1;
            counts.1 += 1;
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let gauge = if self.running {
            &self.stats.running
        } else {
            &self.stats.waiting
        };
        gauge.fetch_sub(1, Ordering::Relaxed);
        let Some(adapter) = &self.adapter else {
            return;
        };
        let mut adapters = self.stats.adapters.lock();
        if let Some(counts) = adapters.get_mut(adapter) {
            let count = if self.running {
                &mut counts.1
            } else {
                &mut counts.0
            };
            *count -= 1;
            if *counts == (0, 0) {
                adapters.remove(adapter);
            }
        }
    }
}

// === impl Stats ===

impl Stats {
    fn new() -> Self {
        Self {
            waiting: AtomicU64::new(0),
            running: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            adapters: Mutex::default(),
            ttft: Histogram::new(TTFT),
            itl: Histogram::new(ITL),
            e2e: Histogram::new(LATENCY),
            queue: Histogram::new(LATENCY),
            prompt: Histogram::new(TOKENS),
            generation: Histogram::new(TOKENS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(slots: usize) -> Engine {
        Engine::new(EngineConfig {
            ttft: Duration::from_millis(100),
            prefill_rate: 1000.0,
            itl: Duration::from_millis(10),
            max_num_seqs: slots,
            kv_blocks: 100,
            block_size: 16,
        })
    }

    fn gauges(engine: &Engine) -> [u64; 3] {
        let stats = engine.stats();
        [&stats.waiting, &stats.running, &stats.blocks].map(|gauge| gauge.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_blocks() {
        let engine = engine(1);
        let begun = Instant::now();
        let mut generation = engine.start(32, 3, Some("a")).await;
        assert_eq!(gauges(&engine), [0, 1, 2]);
        assert!(generation.token().await);
        assert_eq!(begun.elapsed().as_millis(), 132);
        assert_eq!(gauges(&engine), [0, 1, 3]);
        assert!(generation.token().await && generation.token().await);
        assert!(!generation.token().await);
        assert_eq!(begun.elapsed().as_millis(), 152);
        assert_eq!(generation.tokens(), (32, 3));
        drop(generation);
        assert_eq!(gauges(&engine), [0, 0, 0]);
        assert!(engine.stats().adapters.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_engine_queues_and_a_client_that_leaves_is_forgotten() {
        let engine = Arc::new(engine(1));
        let first = engine.start(1, 1, None).await;
        let other = Arc::clone(&engine);
        let second = tokio::spawn(async move { other.start(1, 1, Some("b")).await.tokens() });
        tokio::task::yield_now().await;
        assert_eq!(gauges(&engine)[..2], [1, 1]);
        let mut third = Box::pin(engine.start(1, 1, None));
        assert!(futures_util::poll!(&mut third).is_pending());
        assert_eq!(gauges(&engine)[..2], [2, 1]);
        drop(third);
        assert_eq!(gauges(&engine)[..2], [1, 1]);
        drop(first);
        assert_eq!(second.await.unwrap(), (1, 0));
        assert_eq!(gauges(&engine), [0, 0, 0]);
    }
}
