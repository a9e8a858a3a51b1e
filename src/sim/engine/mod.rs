//! A model behind the live servers: the step model, or given times, in real or scaled time.
//!
//! [`model`] computes in virtual seconds and knows no clock. [`desk`] keeps the requests that are in it: who waits for
//! their tokens, and what the metrics count of them. One task a server, [`drive`], sleeps until the next step ends. All
//! that ended meanwhile is told then, at the virtual time at which it did: a machine that is late makes tokens come in
//! bunches, but does not make the model slower.

mod bounds;
mod crowd;
mod desk;
mod fixed;
mod generation;
mod lora;
mod model;
mod outbox;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(super) use crowd::Crowd;
use desk::State;
pub use fixed::Times;
pub(super) use generation::{Generation, Lost, Prompt};
pub(super) use lora::Combination;
pub(super) use outbox::{Notice, Outbox};
pub(super) use stats::Stats;

use super::step::{EngineSpec, Gauges, GpuState, StepError};

/// No sleep is longer: sums of delays must stay times that a clock can have.
const LONGEST_DELAY: Duration = Duration::from_secs(365 * 24 * 3600);

/// Requests that wait in one engine at most. vLLM has no bound; a simulator's memory does.
const LONGEST_QUEUE: u32 = 16_384;

/// Whose metrics a server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineKind {
    /// vLLM.
    #[default]
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM behind `trtllm-serve`.
    Trtllm,
}

/// How fast and how large.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Whose metrics it keeps; what it does is the same.
    pub kind: EngineKind,
    /// How it keeps time.
    pub pace: Pace,
    /// Virtual seconds that pass in a real one; more than 0.
    pub speed: f64,
    /// Requests that run at once; at least 1.
    pub max_num_seqs: usize,
    /// KV cache blocks; at least 1.
    pub kv_blocks: u64,
    /// Tokens in a block; at least 1.
    pub block_size: u64,
    /// Tokens of the longest prompt with its answer, as far as the KV cache holds them; at least 1.
    pub max_model_len: u64,
    /// Adapters among the requests that run at once; 0 = no LoRA.
    pub max_loras: usize,
    /// How much longer a step takes when an adapter must be loaded for it.
    pub lora_load: Duration,
    /// Tokens of an answer whose request sets no limit.
    pub tokens: u64,
}

/// What says how long things take.
#[derive(Clone, Debug)]
pub enum Pace {
    /// Given times, whatever runs beside a request.
    Fixed(Times),
    /// The step model, on this hardware. What [`EngineConfig`] has too is taken from there.
    Steps(EngineSpec),
}

/// A request that an engine does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotTaken {
    /// HTTP 400, in vLLM's words, as the next one.
    #[error(
        "This model's maximum context length is {max} tokens. However, your request has {prompt} input tokens. Please reduce the length of the input messages."
    )]
    Prompt { max: u64, prompt: u64 },
    #[error(
        "'max_tokens' or 'max_completion_tokens' is too large: {limit}. This model's maximum context length is {max} tokens and your request has {prompt} input tokens ({limit} > {max} - {prompt})."
    )]
    Answer { max: u64, prompt: u64, limit: u64 },
    /// HTTP 503.
    #[error("The queue is full: {LONGEST_QUEUE} requests wait.")]
    Full,
    /// HTTP 500.
    #[error(transparent)]
    Dead(#[from] Lost),
}

/// What a sleeping engine has given up: vLLM's levels 0 to 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SleepLevel {
    /// Nothing but its requests.
    Paused,
    /// KV cache and weights, which main memory keeps.
    Offloaded,
    /// Both.
    Discarded,
}

/// One engine.
#[derive(Debug)]
pub(super) struct Engine {
    config: EngineConfig,
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

/// What an engine, its driver and its requests have in common.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something came or went: what is due next may have changed.
    changed: Notify,
    clock: Clock,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    origin: Instant,
    speed: f64,
}

/// Moves an engine's time on.
async fn drive(shared: Arc<Shared>) {
    loop {
        let due = shared.state.lock().due();
        let Some(due) = due else {
            shared.changed.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep_until(shared.clock.instant(due)) => {
                // A rounding must not leave it undone, and be waited for again without an end.
                let now = shared.clock.now().max(due.min(shared.clock.far()));
                shared.state.lock().advance(now);
            }
            () = shared.changed.notified() => {}
        }
    }
}

// === impl EngineConfig ===

impl EngineConfig {
    /// Tokens of the longest prompt with its answer. vLLM does not start with fewer KV cache blocks than these need.
    pub(super) fn longest(&self) -> u64 {
        let held = self.kv_blocks.saturating_mul(self.block_size);
        self.max_model_len.min(held).min(u64::from(u32::MAX))
    }

    /// The name of its GPUs, and how many there are; `None` without steps.
    pub(super) fn gpus(&self) -> Option<(&str, u32)> {
        match &self.pace {
            Pace::Steps(spec) => Some((&spec.gpu, spec.tp)),
            Pace::Fixed(_) => None,
        }
    }

    /// How many tokens a request may generate.
    fn limit(&self, prompt: u64, asked: Option<u64>) -> Result<u64, NotTaken> {
        let max = self.longest();
        let room = max.saturating_sub(prompt);
        match asked.map(|limit| limit.max(1)) {
            _ if room == 0 => Err(NotTaken::Prompt { max, prompt }),
            None => Ok(self.tokens.clamp(1, room)),
            Some(limit) if limit > room => Err(NotTaken::Answer { max, prompt, limit }),
            Some(limit) => Ok(limit),
        }
    }
}

// === impl Engine ===

impl Engine {
    /// An idle engine, on GPUs that it shares with `crowd`. Its driver runs on the current runtime until it is dropped.
    pub(super) fn new(config: EngineConfig, crowd: Arc<Crowd>) -> Result<Self, StepError> {
        let clock = Clock {
            origin: Instant::now(),
            speed: config.speed,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(&config, crowd)?),
            changed: Notify::new(),
            clock,
        });
        Ok(Self {
            config,
            driver: tokio::spawn(drive(Arc::clone(&shared))),
            shared,
        })
    }

    /// How it was set up.
    pub(super) fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// What it counted since its last restart.
    pub(super) fn stats(&self) -> Arc<Stats> {
        self.shared.state.lock().stats()
    }

    pub(super) fn gauges(&self) -> Gauges {
        self.shared.state.lock().gauges()
    }

    /// Which adapters had requests, and when. Empty before the first request, and without LoRA.
    pub(super) fn adapters(&self) -> Vec<Combination> {
        self.shared.state.lock().adapters()
    }

    /// Queues a request for at most `limit` tokens.
    pub(super) fn start(
        &self,
        prompt: Prompt,
        limit: Option<u64>,
        adapter: Option<&str>,
    ) -> Result<Generation, NotTaken> {
        let limit = self.config.limit(prompt.len(), limit)?;
        let caches = matches!(self.config.pace, Pace::Steps(_));
        let cached_in = caches.then_some(self.config.block_size);
        Generation::begin(&self.shared, prompt, limit, adapter, cached_in)
    }

    /// From now on what becomes of the prefix cache is told there. Before the first request.
    pub(super) fn tell(&self, outbox: Arc<Outbox>) {
        self.change(|state| state.tell(outbox));
    }

    /// Gives up all requests, and does nothing with new ones until [`wake_up`](Self::wake_up). From level 1 on the cache
    /// is empty and the memory free.
    pub(super) fn sleep(&self, level: SleepLevel) {
        self.change(|state| state.sleep(level));
    }

    /// What has waited meanwhile goes on.
    pub(super) fn wake_up(&self) {
        self.change(State::wake_up);
    }

    /// How deep it sleeps; `None`: it is awake.
    pub(super) fn asleep(&self) -> Option<SleepLevel> {
        self.shared.state.lock().asleep()
    }

    /// Makes what computes and what reads memory slower by these factors (1 = healthy), from the next step on.
    pub(super) fn set_slow(&self, slow: [f64; 2]) {
        self.change(|state| state.set_slow(slow));
    }

    /// The factors of the last [`set_slow`](Self::set_slow).
    pub(super) fn slow(&self) -> [f64; 2] {
        self.shared.state.lock().slow()
    }

    /// The same, for what is wrong with its GPUs. Both slow it down.
    pub(super) fn set_gpu_slow(&self, slow: [f64; 2]) {
        self.change(|state| state.set_gpu_slow(slow));
    }

    /// Takes that share of the KV cache away (0 to 1), as far as it is free: those who need a block preempt each other.
    pub(super) fn withhold(&self, share: f64) {
        self.change(|state| state.withhold(share));
    }

    /// The process dies: all requests are lost and no more are taken; gauges read zero.
    pub(super) fn die(&self) {
        self.change(State::die);
    }

    /// Requests are taken, but nothing happens any more; gauges stay as they are.
    pub(super) fn hang(&self) {
        self.change(State::hang);
    }

    /// A new process: all requests are lost, counters and cache are empty.
    pub(super) fn restart(&self) {
        self.change(State::restart);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.shared.state.lock().is_dead()
    }

    pub(super) fn is_hung(&self) -> bool {
        self.shared.state.lock().is_hung()
    }

    /// What one of its GPUs does; `None` if there is none.
    pub(super) fn gpu(&self) -> Option<GpuState> {
        self.shared.state.lock().gpu()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.shared.change(change);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

// === impl Shared ===

impl Shared {
    /// Changes the state as it is now, and has the driver look again at what is due.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = {
            let mut state = self.state.lock();
            state.advance(self.clock.now());
            change(&mut state)
        };
        self.changed.notify_one();
        changed
    }
}

// === impl Clock ===

impl Clock {
    /// Virtual seconds.
    fn now(&self) -> f64 {
        self.origin.elapsed().as_secs_f64() * self.speed
    }

    /// When so many virtual seconds have passed, or in a very long time.
    fn instant(&self, at: f64) -> Instant {
        let after = Duration::try_from_secs_f64(at / self.speed);
        let longest = self.origin.elapsed() + LONGEST_DELAY;
        self.origin + after.unwrap_or(longest).min(longest)
    }

    /// What is nearly now: nothing but rounding lies between.
    fn far(&self) -> f64 {
        self.now() + 1e-3 * self.speed
    }
}
