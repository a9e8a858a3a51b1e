//! When tokens come, and what the engine's gauges read meanwhile.
//!
//! [`scheduler`] says who runs. The first token of a request that runs comes after `ttft` plus the time of its prompt
//! at `prefill_rate`; the others follow at intervals of `itl`. So there are no steps in which a batch moves on
//! together, and large batches do not slow anything down. There is no prefix cache either.

mod lora;
mod scheduler;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(super) use scheduler::Gauges;
use scheduler::{Place, Run, Scheduler};
use stats::Finished;
pub(super) use stats::Stats;

/// No delay is longer: sums of delays must stay times that a clock can have.
const LONGEST_DELAY: Duration = Duration::from_secs(365 * 24 * 3600);

/// How fast and how large.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// To the first token, with an empty prompt and a free slot.
    pub ttft: Duration,
    /// Prompt tokens a second; more than 0.
    pub prefill_rate: f64,
    /// Between two tokens.
    pub itl: Duration,
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
    /// Tokens of an answer whose request sets no limit.
    pub tokens: u64,
}

/// A request that could never run. HTTP 400, in vLLM's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooLong {
    #[error(
        "This model's maximum context length is {max} tokens. However, your request has {prompt} input tokens. Please reduce the length of the input messages."
    )]
    Prompt { max: u64, prompt: u64 },
    #[error(
        "'max_tokens' or 'max_completion_tokens' is too large: {limit}. This model's maximum context length is {max} tokens and your request has {prompt} input tokens ({limit} > {max} - {prompt})."
    )]
    Answer { max: u64, prompt: u64, limit: u64 },
}

/// One engine.
#[derive(Debug)]
pub(super) struct Engine {
    config: Arc<EngineConfig>,
    scheduler: Arc<Scheduler>,
    stats: Arc<Stats>,
}

/// One request, waiting for its next token or running, until it is dropped.
#[derive(Debug)]
pub(super) struct Generation {
    config: Arc<EngineConfig>,
    stats: Arc<Stats>,
    place: Place,
    run: Run,
    prompt_tokens: u64,
    generated: u64,
    limit: u64,
    arrived: Instant,
    /// When it first ran.
    scheduled: Instant,
    first: Instant,
    /// When the last token came.
    last: Instant,
    next: Instant,
}

// === impl EngineConfig ===

impl EngineConfig {
    /// Tokens of the longest prompt with its answer. vLLM does not start with fewer KV cache blocks than these need.
    pub(super) fn longest(&self) -> u64 {
        let held = self.kv_blocks.saturating_mul(self.block_size);
        self.max_model_len.min(held)
    }

    /// How many tokens a request may generate.
    fn limit(&self, prompt: u64, asked: Option<u64>) -> Result<u64, TooLong> {
        let max = self.longest();
        let room = max.saturating_sub(prompt);
        match asked.map(|limit| limit.max(1)) {
            _ if room == 0 => Err(TooLong::Prompt { max, prompt }),
            None => Ok(self.tokens.clamp(1, room)),
            Some(limit) if limit > room => Err(TooLong::Answer { max, prompt, limit }),
            Some(limit) => Ok(limit),
        }
    }

    /// From the beginning of a run to its first token.
    fn prefill(&self, tokens: u64) -> Duration {
        let reading = Duration::try_from_secs_f64(tokens as f64 / self.prefill_rate);
        let reading = reading.unwrap_or(LONGEST_DELAY);
        self.ttft.saturating_add(reading).min(LONGEST_DELAY)
    }
}

// === impl Engine ===

impl Engine {
    /// An idle engine.
    pub(super) fn new(config: EngineConfig) -> Self {
        let config = Arc::new(config);
        Self {
            scheduler: Arc::new(Scheduler::new(Arc::clone(&config))),
            stats: Arc::new(Stats::new(config.longest())),
            config,
        }
    }

    /// How it was set up.
    pub(super) fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(super) fn gauges(&self) -> Gauges {
        self.scheduler.gauges()
    }

    /// Queues a request of `prompt_tokens` for at most `limit` tokens, and returns when it runs.
    pub(super) async fn start(
        &self,
        prompt_tokens: u64,
        limit: Option<u64>,
        adapter: Option<&str>,
    ) -> Result<Generation, TooLong> {
        let limit = self.config.limit(prompt_tokens, limit)?;
        let arrived = Instant::now();
        let mut place = self.scheduler.enqueue(prompt_tokens, adapter);
        let run = place.runs().await;
        self.stats.looked_up(prompt_tokens);
        Ok(Generation {
            config: Arc::clone(&self.config),
            stats: Arc::clone(&self.stats),
            place,
            run,
            prompt_tokens,
            generated: 0,
            limit,
            arrived,
            scheduled: run.began,
            first: run.began,
            last: run.began,
            next: run.began + self.config.prefill(prompt_tokens),
        })
    }
}

// === impl Generation ===

impl Generation {
    /// Waits for the next token. `false`: there are no more.
    pub(super) async fn token(&mut self) -> bool {
        if self.is_done() {
            return false;
        }
        let held = self.prompt_tokens + self.generated;
        loop {
            let run = self.place.runs().await;
            if run != self.run {
                // It was preempted: all has to be read again.
                self.run = run;
                self.next = run.began + self.config.prefill(held);
            }
            tokio::time::sleep_until(self.next).await;
            if self.place.grow(run, held + 1) {
                break;
            }
        }
        let now = Instant::now();
        if self.generated == 0 {
            self.first = now;
            let after = now - self.arrived;
            self.stats.first_token(self.prompt_tokens, after);
        } else {
            self.stats.next_token(now - self.last);
        }
        self.last = now;
        self.next += self.config.itl.min(LONGEST_DELAY);
        self.generated += 1;
        if self.is_done() {
            self.stats.finished(Finished {
                prompt_tokens: self.prompt_tokens,
                generated: self.generated,
                max_tokens: self.limit,
                queued: self.scheduled - self.arrived,
                prefill: self.first - self.scheduled,
                decode: self.last - self.first,
            });
        }
        true
    }

    /// Whether the last token was the last one.
    pub(super) fn is_done(&self) -> bool {
        self.generated == self.limit
    }

    /// Tokens so far: of the prompt, and generated.
    pub(super) fn tokens(&self) -> (u64, u64) {
        (self.prompt_tokens, self.generated)
    }
}
