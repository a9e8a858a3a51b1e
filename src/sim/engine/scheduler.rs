//! Who runs: vLLM's scheduler without its steps.
//!
//! Requests wait in the order of their arrival. The first one runs as soon as one of `max_num_seqs` slots is free and
//! the KV cache has room for its prompt; until then those behind it wait as well. One whose adapter would be one too
//! many in the batch (`max_loras`) is passed over, and counts as deferred. While a request runs, its blocks grow with
//! it. When there is none left, the request that began last gives its blocks back and waits again, first in line; what
//! it had generated is kept, but has to be read once more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::EngineConfig;
use super::lora::{Combination, History};

/// What the engine's gauges read, and the one counter that is the scheduler's.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::sim) struct Gauges {
    pub(in crate::sim) running: u64,
    /// Deferred ones included.
    pub(in crate::sim) waiting: u64,
    /// Passed over because of their adapter.
    pub(in crate::sim) deferred: u64,
    /// KV cache blocks in use.
    pub(in crate::sim) blocks: u64,
    /// Requests that had to wait again, in all.
    pub(in crate::sim) preemptions: u64,
    /// Empty before the first request, and without LoRA.
    pub(in crate::sim) lora: Vec<Combination>,
}

#[derive(Debug)]
pub(super) struct Scheduler {
    config: Arc<EngineConfig>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests so far.
    arrived: u64,
    /// Times that a request began to run so far.
    runs: u64,
    waiting: VecDeque<Entry>,
    /// In the order in which they began.
    running: Vec<Entry>,
    blocks: u64,
    preemptions: u64,
    /// For each adapter in use: requests running, requests waiting.
    adapters: BTreeMap<Arc<str>, [u64; 2]>,
    lora: History,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    /// Tokens that its blocks hold, or must hold when it runs.
    tokens: u64,
    blocks: u64,
    adapter: Option<Arc<str>>,
    deferred: bool,
    run: watch::Sender<Option<Run>>,
}

/// A time in which a request runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    number: u64,
    pub(super) began: Instant,
}

/// A request's place in the queue, then among the running; free when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    scheduler: Arc<Scheduler>,
    id: u64,
    run: watch::Receiver<Option<Run>>,
}

// === impl Scheduler ===

impl Scheduler {
    pub(super) fn new(config: Arc<EngineConfig>) -> Self {
        Self {
            config,
            state: Mutex::default(),
        }
    }

    pub(super) fn gauges(&self) -> Gauges {
        let state = self.state.lock();
        let deferred = state.waiting.iter().filter(|entry| entry.deferred);
        Gauges {
            running: state.running.len() as u64,
            waiting: state.waiting.len() as u64,
            deferred: deferred.count() as u64,
            blocks: state.blocks,
            preemptions: state.preemptions,
            lora: state.lora.seen().to_vec(),
        }
    }

    /// Queues a request whose prompt has so many tokens. All that it will ever have must fit into the KV cache.
    pub(super) fn enqueue(self: &Arc<Self>, tokens: u64, adapter: Option<&str>) -> Place {
        let (run, receiver) = watch::channel(None);
        let mut state = self.state.lock();
        state.arrived += 1;
        let id = state.arrived;
        let adapter: Option<Arc<str>> = adapter.map(Arc::from);
        state.adapter_moves(adapter.as_ref(), None, Some(1));
        state.waiting.push_back(Entry {
            id,
            tokens,
            blocks: 0,
            adapter,
            deferred: false,
            run,
        });
        state.schedule(&self.config);
        Place {
            scheduler: Arc::clone(self),
            id,
            run: receiver,
        }
    }

    fn leave(&self, id: u64) {
        let mut state = self.state.lock();
        if let Some(at) = state.running.iter().position(|entry| entry.id == id) {
            let entry = state.running.remove(at);
            state.blocks -= entry.blocks;
            state.adapter_moves(entry.adapter.as_ref(), Some(0), None);
        } else if let Some(at) = state.waiting.iter().position(|entry| entry.id == id)
            && let Some(entry) = state.waiting.remove(at)
        {
            state.adapter_moves(entry.adapter.as_ref(), Some(1), None);
        }
        state.schedule(&self.config);
    }

    /// Takes the blocks for so many tokens. `false`: the request does not run, or not any more.
    fn grow(&self, id: u64, run: Run, tokens: u64) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        let is_it = |entry: &Entry| entry.id == id && *entry.run.borrow() == Some(run);
        let Some(at) = state.running.iter().position(is_it) else {
            return false;
        };
        state.running[at].tokens = tokens;
        let needed = tokens.div_ceil(self.config.block_size);
        while state.blocks - state.running[at].blocks + needed > self.config.kv_blocks {
            let last = state.running.len() - 1;
            state.preempt();
            state.tell(&self.config);
            if last == at {
                return false;
            }
        }
        state.blocks += needed - state.running[at].blocks;
        state.running[at].blocks = needed;
        if self.config.max_loras > 0 {
            state.lora.still();
        }
        true
    }
}

// === impl State ===

impl State {
    /// Lets run who can.
    fn schedule(&mut self, config: &EngineConfig) {
        let mut at = 0;
        while self.running.len() < config.max_num_seqs
            && let Some(entry) = self.waiting.get_mut(at)
        {
            if let Some(adapter) = &entry.adapter {
                let in_batch = |counts: &&[u64; 2]| counts[0] > 0;
                let others = self.adapters.values().filter(in_batch).count();
                let new = self.adapters.get(adapter).is_none_or(|c| c[0] == 0);
                if new && others >= config.max_loras.max(1) {
                    entry.deferred = true;
                    at += 1;
                    continue;
                }
            }
            let needed = entry.tokens.div_ceil(config.block_size);
            if self.blocks + needed > config.kv_blocks {
                break;
            }
            let Some(mut entry) = self.waiting.remove(at) else {
                break;
            };
            self.runs += 1;
            self.blocks += needed;
            entry.blocks = needed;
            entry.deferred = false;
            entry.run.send_replace(Some(Run {
                number: self.runs,
                began: Instant::now(),
            }));
            self.adapter_moves(entry.adapter.as_ref(), Some(1), Some(0));
            self.running.push(entry);
        }
        self.tell(config);
    }

    /// The request that began last waits again.
    fn preempt(&mut self) {
        let Some(mut entry) = self.running.pop() else {
            return;
        };
        self.preemptions += 1;
        self.blocks -= entry.blocks;
        entry.blocks = 0;
        entry.run.send_replace(None);
        self.adapter_moves(entry.adapter.as_ref(), Some(0), Some(1));
        self.waiting.push_front(entry);
    }

    /// A request of that adapter is counted here no more, but there.
    fn adapter_moves(
        &mut self,
        adapter: Option<&Arc<str>>,
        from: Option<usize>,
        to: Option<usize>,
    ) {
        let Some(adapter) = adapter else { return };
        let counts = self.adapters.entry(Arc::clone(adapter)).or_default();
        if let Some(from) = from {
            counts[from] -= 1;
        }
        if let Some(to) = to {
            counts[to] += 1;
        }
        if *counts == [0, 0] {
            self.adapters.remove(adapter);
        }
    }

    /// vLLM tells its adapters at every step, whoever the step was for.
    fn tell(&mut self, config: &EngineConfig) {
        if config.max_loras == 0 {
            return;
        }
        let list = |which: usize| {
            let names = self.adapters.iter().filter(|(_, c)| c[which] > 0);
            names.map(|(name, _)| &**name).collect::<Vec<_>>().join(",")
        };
        let (running, waiting) = (list(0), list(1));
        self.lora.record(running, waiting);
    }
}

// === impl Place ===

impl Place {
    /// Waits until the request runs.
    pub(super) async fn runs(&mut self) -> Run {
        let run = self.run.wait_for(Option::is_some).await;
        match run.ok().and_then(|run| *run) {
            Some(run) => run,
            // Its sender is in the scheduler for as long as this place is.
            None => std::future::pending().await,
        }
    }

    /// Takes the blocks for so many tokens. `false`: `run` is over, and nothing was taken.
    pub(super) fn grow(&self, run: Run, tokens: u64) -> bool {
        self.scheduler.grow(self.id, run, tokens)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.scheduler.leave(self.id);
    }
}
