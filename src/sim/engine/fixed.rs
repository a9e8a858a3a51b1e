//! An engine whose times are given: the first token of a request that runs comes after `ttft` plus the time of its prompt
//! at `prefill_rate`, the others follow at intervals of `itl`.
//!
//! For tests and demonstrations that want a server of a certain slowness. There are no steps in which a batch moves on
//! together, so a large batch slows nothing down; there is no prefix cache and no GPU.
//!
//! Who runs is as in vLLM: requests wait in the order of their arrival. The first one runs as soon as one of
//! `max_num_seqs` slots is free and the KV cache has room for its prompt; until then those behind it wait as well. One
//! whose adapter would be one too many in the batch (`max_loras`) is passed over, and counts as deferred. While a request
//! runs, its blocks grow with it. When there is none left, the request that began last gives its blocks back and waits
//! again, first in line; what it had generated is kept, but has to be read once more.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::EngineConfig;
use crate::sim::step::{Event, Gauges, Request};

/// Times of an engine that has no hardware.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// To the first token, with an empty prompt and a free slot.
    pub ttft: Duration,
    /// Prompt tokens a second; more than 0.
    pub prefill_rate: f64,
    /// Between two tokens.
    pub itl: Duration,
}

#[derive(Debug)]
pub(super) struct Fixed {
    times: Times,
    /// How many times slower than that it is.
    slow: f64,
    max_num_seqs: usize,
    max_loras: usize,
    kv_blocks: u64,
    withheld: u64,
    block_size: u64,
    waiting: VecDeque<Entry>,
    /// In the order in which they began.
    running: Vec<Entry>,
    blocks: u64,
    paused: bool,
    totals: Totals,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    preemptions: u64,
    queries: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    prompt: u64,
    done: u64,
    output: u64,
    blocks: u64,
    adapter: Option<u32>,
    deferred: bool,
    /// When it first ran.
    scheduled: f64,
    /// When its next token is due, while it runs.
    next: f64,
}

// === impl Fixed ===

impl Fixed {
    pub(super) fn new(config: &EngineConfig, times: Times) -> Self {
        Self {
            times,
            slow: 1.0,
            max_num_seqs: config.max_num_seqs,
            max_loras: config.max_loras,
            kv_blocks: config.kv_blocks,
            withheld: 0,
            block_size: config.block_size,
            waiting: VecDeque::new(),
            running: Vec::new(),
            blocks: 0,
            paused: false,
            totals: Totals::default(),
        }
    }

    /// Queues a request. All that it will ever have must fit into the KV cache.
    pub(super) fn submit(&mut self, request: &Request, now: f64) {
        self.waiting.push_back(Entry {
            id: request.id,
            prompt: u64::from(request.prompt_tokens),
            done: 0,
            output: u64::from(request.output_tokens),
            blocks: 0,
            adapter: request.adapter,
            deferred: false,
            scheduled: now,
            next: f64::INFINITY,
        });
        self.schedule(now);
    }

    /// Forgets a request.
    pub(super) fn cancel(&mut self, id: u64, now: f64) {
        if let Some(at) = self.running.iter().position(|entry| entry.id == id) {
            self.blocks -= self.running.remove(at).blocks;
        } else {
            self.waiting.retain(|entry| entry.id != id);
        }
        self.schedule(now);
    }

    /// When the next token is due.
    pub(super) fn next_event(&self) -> Option<f64> {
        self.running.iter().map(|e| e.next).min_by(f64::total_cmp)
    }

    /// Tells the tokens that are due.
    pub(super) fn advance(&mut self, to: f64, events: &mut impl FnMut(Event)) {
        loop {
            let running = self.running.iter().enumerate();
            let first = running.min_by(|(_, a), (_, b)| a.next.total_cmp(&b.next));
            let Some((place, at)) = first.map(|(place, entry)| (place, entry.next)) else {
                return;
            };
            if at > to {
                return;
            }
            self.token(place, at, events);
        }
    }

    pub(super) fn gauges(&self) -> Gauges {
        let deferred = self.waiting.iter().filter(|entry| entry.deferred).count();
        Gauges {
            running: self.running.len() as u32,
            reading: self.running.iter().filter(|entry| entry.done == 0).count() as u32,
            waiting: self.waiting.len() as u32,
            deferred: deferred as u32,
            kv_usage: (self.blocks + self.withheld) as f64 / self.kv_blocks as f64,
            preemptions: self.totals.preemptions,
            prefix_queries: self.totals.queries,
            ..Gauges::default()
        }
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|entry| entry.id)
    }

    /// From the next token on.
    pub(super) fn set_slow(&mut self, factor: f64) {
        self.slow = factor;
    }

    /// Takes that share of the blocks away, as far as they are free.
    pub(super) fn withhold(&mut self, share: f64, now: f64) {
        let blocks = (self.kv_blocks as f64 * share) as u64;
        self.withheld = blocks.min(self.kv_blocks - self.blocks);
        self.schedule(now);
    }

    /// All requests are given up; new ones wait until it goes on.
    pub(super) fn pause(&mut self) {
        self.waiting.clear();
        self.running.clear();
        self.blocks = 0;
        self.paused = true;
    }

    pub(super) fn go_on(&mut self, now: f64) {
        self.paused = false;
        self.schedule(now);
    }

    /// All requests are lost, and all counters.
    pub(super) fn clear(&mut self) {
        self.pause();
        self.paused = false;
        self.withheld = 0;
        self.totals = Totals::default();
    }

    /// A request has its next token, if there is a block for it.
    fn token(&mut self, place: usize, at: f64, events: &mut impl FnMut(Event)) {
        let entry = &self.running[place];
        let (held, had) = (entry.prompt + entry.done + 1, entry.blocks);
        let needed = held.div_ceil(self.block_size);
        while self.blocks - had + needed > self.kv_blocks - self.withheld {
            self.preempt(at, events);
            if self.running.len() <= place {
                return;
            }
        }
        self.blocks += needed - had;
        let itl = self.times.itl.as_secs_f64() * self.slow;
        let entry = &mut self.running[place];
        entry.blocks = needed;
        entry.done += 1;
        entry.next += itl;
        let (id, scheduled) = (entry.id, entry.scheduled);
        events(match entry.done {
            1 => Event::FirstToken {
                id,
                at,
                cached_tokens: 0,
                scheduled,
            },
            _ => Event::Token { id, at },
        });
        if entry.done >= entry.output {
            self.blocks -= needed;
            self.running.remove(place);
            events(Event::Finished { id, at });
            self.schedule(at);
        }
    }

    /// Lets run who can.
    fn schedule(&mut self, now: f64) {
        let mut at = 0;
        while !self.paused
            && self.running.len() < self.max_num_seqs
            && let Some(entry) = self.waiting.get_mut(at)
        {
            if let Some(adapter) = entry.adapter {
                let in_batch: BTreeSet<u32> =
                    self.running.iter().filter_map(|e| e.adapter).collect();
                if !in_batch.contains(&adapter) && in_batch.len() >= self.max_loras.max(1) {
                    entry.deferred = true;
                    at += 1;
                    continue;
                }
            }
            let read = entry.prompt + entry.done;
            let needed = read.div_ceil(self.block_size);
            if self.blocks + needed > self.kv_blocks - self.withheld {
                break;
            }
            let Some(mut entry) = self.waiting.remove(at) else {
                break;
            };
            self.blocks += needed;
            entry.blocks = needed;
            entry.deferred = false;
            if entry.done == 0 {
                self.totals.queries += entry.prompt;
                entry.scheduled = now;
            }
            let prefill = self.times.ttft.as_secs_f64() + read as f64 / self.times.prefill_rate;
            entry.next = now + prefill * self.slow;
            self.running.push(entry);
        }
    }

    /// The request that began last waits again.
    fn preempt(&mut self, at: f64, events: &mut impl FnMut(Event)) {
        if let Some(mut entry) = self.running.pop() {
            self.totals.preemptions += 1;
            self.blocks -= entry.blocks;
            entry.blocks = 0;
            events(Event::Preempted { id: entry.id, at });
            self.waiting.push_front(entry);
        }
    }
}
