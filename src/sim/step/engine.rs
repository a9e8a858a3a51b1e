//! The engine as its users see it: requests in, events out.

use std::collections::VecDeque;

use super::blocks::Blocks;
use super::changes::BlockChange;
use super::cost::{Chunk, Cost, Work};
use super::flight::{Decoders, Flight};
use super::gpu::GpuState;
use super::keys::{Chain, Keys};
use super::lora::{Adapters, LoraUse};
use super::requests::{Event, Request, Running, Slot, Slots};
use super::spec::{EngineSpec, StepError};
use super::tables::{Gpu, Shard};

/// One engine. Its caller moves time on: submissions, then [`advance`](Self::advance) up to the next one.
#[derive(Debug)]
pub struct Engine {
    pub(super) block_size: u32,
    pub(super) max_seqs: u32,
    pub(super) budget: u32,
    pub(super) asynchronous: bool,
    pub(super) reserve_prompt: bool,
    pub(super) cost: Cost,
    pub(super) blocks: Blocks,
    pub(super) slots: Slots,
    pub(super) waiting: VecDeque<u32>,
    /// In the order of their admission. All decode but the last one, perhaps: it may be reading its prompt in chunks.
    pub(super) running: Vec<Running>,
    pub(super) decoders: Decoders,
    pub(super) adapters: Option<Adapters>,
    pub(super) flight: Option<Flight>,
    /// The prompt tokens of the step that is under way, and whose they are.
    pub(super) chunks: Vec<(u32, Chunk)>,
    /// Preempted when the step that is under way was put together.
    pub(super) preempted: Vec<u64>,
    /// Passed over because of their adapters, when the last step was put together.
    pub(super) deferred: u32,
    /// When the last step that ended began; and what it gave back at its end: places in the batch, and blocks.
    pub(super) previous: f64,
    pub(super) released: (u32, u32),
    /// Where the last step ended, or later, when nothing is under way.
    pub(super) time: f64,
    pub(super) totals: Totals,
    last_work: Option<Work>,
    withheld: u32,
    each_token: bool,
    life: Life,
    /// What it told of its adapters when it hung.
    hung_loras: Option<LoraUse>,
    requests: u64,
}

/// Counters of an engine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) preemptions: u64,
    pub(super) queries: u64,
    pub(super) hits: u64,
    pub(super) iterations: u64,
    pub(super) tokens: u64,
    pub(super) cancelled: u32,
}

#[derive(Clone, Copy, Debug)]
enum Life {
    Up,
    /// Requests wait; whether weights and KV cache are still in the GPU's memory.
    Asleep {
        resident: bool,
    },
    Hung(Gauges),
    Dead,
}

/// What the engine's gauges and counters read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Requests that run.
    pub running: u32,
    /// Those of them that read their prompt.
    pub reading: u32,
    /// Requests that wait, deferred ones included.
    pub waiting: u32,
    /// Requests that were passed over because of their adapters.
    pub deferred: u32,
    /// Share of the KV cache blocks that are in use, 0 to 1.
    pub kv_usage: f64,
    /// Share of the blocks that nobody uses and that can be hit, 0 to 1.
    pub kv_cached: f64,
    /// Times that a request lost its blocks, in all.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache, in all.
    pub prefix_queries: u64,
    /// Those found.
    pub prefix_hits: u64,
    /// Steps that began, in all.
    pub iterations: u64,
    /// Tokens of the steps that are over, in all: read, and generated after the first.
    pub tokens: u64,
}

// === impl Engine ===

impl Engine {
    /// An idle engine at time 0.
    pub fn new(spec: &EngineSpec) -> Result<Self, StepError> {
        let (cost, blocks) = spec.resolve()?;
        Ok(Self {
            block_size: spec.block_size,
            max_seqs: spec.max_num_seqs,
            budget: spec.max_num_batched_tokens,
            asynchronous: spec.async_scheduling,
            reserve_prompt: spec.reserve_prompt,
            cost,
            blocks: Blocks::new(blocks),
            slots: Slots::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            decoders: Decoders::new(spec.block_size),
            adapters: spec.loras.map(Adapters::new),
            flight: None,
            chunks: Vec::new(),
            preempted: Vec::new(),
            deferred: 0,
            previous: f64::NEG_INFINITY,
            released: (0, 0),
            time: 0.0,
            totals: Totals::default(),
            last_work: None,
            withheld: 0,
            each_token: false,
            life: Life::Up,
            hung_loras: None,
            requests: 0,
        })
    }

    /// Whether every token is an event. Then each step is one by itself, at the cost of the batch; without, stretches of
    /// pure decoding are passed in one go. For live servers. Say so before the first request.
    pub fn each_token(&mut self, each: bool) {
        self.each_token = each;
    }

    /// From now on [`block_changes`](Self::block_changes) tells of blocks whose names have an [`Origin`](super::Origin).
    pub fn log_blocks(&mut self) {
        self.blocks.log.begin();
    }

    /// What has become of the prefix cache since the last call.
    pub fn block_changes(&mut self) -> Vec<BlockChange> {
        self.blocks.log.take()
    }

    /// Queues a request. `now`: not before the last event, nor before where time was moved to.
    pub fn submit(&mut self, request: Request, now: f64) -> Result<(), StepError> {
        if matches!(self.life, Life::Dead) {
            return Err(StepError::Dead);
        }
        let (prompt, output) = (request.prompt_tokens, request.output_tokens);
        if prompt == 0 || output == 0 {
            return Err(StepError::Empty);
        }
        let tokens = u64::from(prompt) + u64::from(output);
        let held = u64::from(self.blocks.total()) * u64::from(self.block_size);
        if tokens > held || tokens > u64::from(u32::MAX) {
            return Err(StepError::TooLong { tokens, held });
        }
        if request.adapter.is_some() && self.adapters.is_none() {
            return Err(StepError::NoLora);
        }
        self.requests += 1;
        let slot = self.slots.insert(Slot {
            id: request.id,
            prompt,
            output,
            adapter: request.adapter,
            chain: Chain {
                keys: request.keys,
                own: self.requests,
            },
            arrived: now,
            ..Slot::default()
        });
        // Nobody overtakes the first in line, unless adapters keep it there.
        let full = self.running.len() >= self.max_seqs as usize;
        let behind = !self.waiting.is_empty() && self.adapters.is_none();
        self.waiting.push_back(slot);
        if !full && !behind {
            self.cut(now);
        }
        if self.flight.is_none() {
            self.time = self.time.max(now);
        }
        Ok(())
    }

    /// Forgets a request: at once if it waits, else at the end of the step that runs. There will be no event of it, but
    /// tokens of that step. `false`: there is no such request.
    pub fn cancel(&mut self, id: u64, now: f64) -> bool {
        if let Some(at) = self.waiting.iter().position(|&s| self.slots[s].id == id) {
            if let Some(slot) = self.waiting.remove(at) {
                self.slots.remove(slot);
            }
            return true;
        }
        let Some(at) = self
            .running
            .iter()
            .position(|r| self.slots[r.slot].id == id)
        else {
            return false;
        };
        let slot = self.running[at].slot;
        if self.flight.is_some() {
            self.cut(now);
            self.totals.cancelled += 1;
            self.slots[slot].cancelled = true;
        } else {
            self.running.remove(at);
            self.retire(slot);
            self.slots.remove(slot);
        }
        true
    }

    /// When the next event is due, if nothing is submitted before. It puts the next step together if none runs: all that
    /// arrives at the same moment should have been submitted.
    pub fn next_event(&mut self) -> Option<f64> {
        match self.life {
            Life::Up => {}
            Life::Asleep { .. } => return self.flight.map(|flight| flight.end()),
            Life::Hung(_) | Life::Dead => return None,
        }
        if self.flight.is_none() && !self.is_idle() {
            self.start(self.each_token);
        }
        self.flight.map(|flight| flight.end())
    }

    /// Moves time on, and tells what happened up to `to`. Infinity: until all have ended.
    pub fn advance(&mut self, to: f64, events: &mut impl FnMut(Event)) {
        if matches!(self.life, Life::Hung(_) | Life::Dead) {
            return;
        }
        loop {
            match self.flight {
                Some(flight) if flight.end() <= to => {
                    self.flight = None;
                    self.last_work = Some(flight.work);
                    self.complete(flight, self.each_token, events);
                }
                Some(_) => return,
                None if self.is_idle() || matches!(self.life, Life::Asleep { .. }) => return,
                // A step that begins right now is for those as well that arrive right now.
                None if self.time >= to => return,
                None => self.start(self.each_token),
            }
        }
    }

    /// What the metrics page would show.
    pub fn gauges(&self, now: f64) -> Gauges {
        match self.life {
            Life::Up | Life::Asleep { .. } => {}
            Life::Hung(gauges) => return gauges,
            Life::Dead => return Gauges::default(),
        }
        let begun = self.flight.map_or(0, |flight| flight.begun(now));
        // What the steps after the first have taken is booked when all are over.
        let grown = if begun > 1 {
            self.decoders.blocks(1, begun)
        } else {
            0
        };
        let free = u64::from(self.blocks.available()).saturating_sub(grown);
        Gauges {
            running: self.running.len() as u32,
            reading: self.running.len() as u32 - self.decoders.count,
            waiting: self.waiting.len() as u32,
            deferred: self.deferred,
            kv_usage: 1.0 - free as f64 / f64::from(self.blocks.total()),
            kv_cached: f64::from(self.blocks.idle()) / f64::from(self.blocks.total()),
            preemptions: self.totals.preemptions,
            prefix_queries: self.totals.queries,
            prefix_hits: self.totals.hits,
            iterations: self.totals.iterations + begun,
            tokens: self.totals.tokens,
        }
    }

    /// What the page would tell of adapters; `None`: there is no LoRA, or nobody to tell.
    pub fn loras(&self) -> Option<LoraUse> {
        match self.life {
            Life::Up | Life::Asleep { .. } => {}
            Life::Hung(_) => return self.hung_loras.clone(),
            Life::Dead => return None,
        }
        let adapters = self.adapters.as_ref()?;
        let waiting = self.waiting.iter().map(|&slot| self.slots[slot].adapter);
        Some(adapters.in_use(waiting.flatten()))
    }

    /// Times that an adapter was loaded, in all.
    pub fn lora_loads(&self) -> u64 {
        self.adapters.as_ref().map_or(0, |adapters| adapters.loads)
    }

    /// Blocks of that prompt that are in the KV cache right now, from its beginning: the truth that routers guess at.
    pub fn cached_blocks(&self, keys: &Keys) -> u32 {
        let chain = Chain {
            keys: keys.clone(),
            own: 0,
        };
        self.blocks.cached(&chain, keys.blocks())
    }

    /// The requests that wait.
    pub fn waiting(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|&slot| self.slots[slot].id)
    }

    /// KV cache blocks in all.
    pub fn kv_blocks(&self) -> u32 {
        self.blocks.total()
    }

    /// Makes what computes and what reads memory slower by these factors (1 = healthy), from the next step on.
    pub fn set_slow(&mut self, compute: f64, memory: f64, now: f64) {
        self.cut(now);
        self.cost.slow = [compute, memory].map(|factor| factor.max(1e-3));
    }

    /// Takes so many KV cache blocks away from the requests, or as many of them as are free; the next call gives back what
    /// is too much. Those who then need one preempt each other.
    pub fn withhold(&mut self, blocks: u32, now: f64) {
        self.cut(now);
        self.blocks.give_back(self.withheld);
        let steps = self.flight.map_or(1, |flight| flight.steps);
        let promised = self.decoders.blocks(1, steps);
        let free = u64::from(self.blocks.available()).saturating_sub(promised);
        self.withheld = blocks.min(u32::try_from(free).unwrap_or(u32::MAX));
        self.blocks.take(self.withheld);
    }

    /// All requests are given up: those that run with the end of their step. New ones wait until
    /// [`wake_up`](Self::wake_up). Where it gives up its `memory` too, the cache is empty.
    pub fn sleep(&mut self, memory: bool, now: f64) {
        if !matches!(self.life, Life::Up) {
            return;
        }
        let waiting = self.waiting.iter().copied();
        let running = self.running.iter().map(|running| running.slot);
        let ids: Vec<_> = waiting
            .chain(running)
            .map(|slot| self.slots[slot].id)
            .collect();
        if memory {
            self.give_up();
        } else {
            for id in ids {
                self.cancel(id, now);
            }
        }
        self.life = Life::Asleep { resident: !memory };
    }

    /// It goes on with what has waited.
    pub fn wake_up(&mut self, now: f64) {
        if matches!(self.life, Life::Asleep { .. }) {
            self.time = self.time.max(now);
            self.life = Life::Up;
        }
    }

    /// The process dies: all requests are lost, gauges read zero, submissions fail.
    pub fn die(&mut self) {
        self.clear();
        self.life = Life::Dead;
    }

    /// The engine stops for ever: requests are accepted, nothing happens, gauges stay as they are.
    pub fn hang(&mut self, now: f64) {
        if matches!(self.life, Life::Up) {
            self.hung_loras = self.loras();
            self.life = Life::Hung(self.gauges(now));
        }
    }

    /// The process is there again, with an empty cache and counters at zero.
    pub fn restart(&mut self, now: f64) {
        self.clear();
        self.time = self.time.max(now);
        self.life = Life::Up;
    }

    /// What its GPUs are.
    pub fn hardware(&self) -> &Gpu {
        &self.cost.gpu
    }

    /// What one of its GPUs does.
    pub fn gpu(&self) -> GpuState {
        let work = self.flight.map(|flight| flight.work);
        // Between two steps it is as busy as in the last one.
        let work = work.or(self.last_work.filter(|_| !self.is_idle()));
        let work = work.filter(|_| matches!(self.life, Life::Up));
        let blocks = u64::from(self.blocks.total());
        let mut state = GpuState::new(&self.cost, blocks, self.block_size, self.budget, work);
        let step = self.flight.map(|flight| flight.work).or(self.last_work);
        state.step = step.map_or(0.0, |work| work.seconds);
        match self.life {
            Life::Dead => state.memory_used = 0,
            Life::Asleep { resident: false } => {
                state.memory_used = Shard::overhead(self.budget) as u64;
            }
            _ => {}
        }
        state
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Ends a jump with the step that runs.
    fn cut(&mut self, now: f64) {
        if let Some(flight) = &mut self.flight {
            flight.steps = flight.begun(now);
        }
    }

    fn clear(&mut self) {
        self.give_up();
        self.totals = Totals::default();
        self.last_work = None;
    }

    /// No requests, and an empty cache.
    fn give_up(&mut self) {
        self.blocks = self.blocks.emptied();
        self.slots = Slots::default();
        self.waiting.clear();
        self.running.clear();
        self.decoders = Decoders::new(self.block_size);
        self.adapters = self.adapters.as_ref().map(Adapters::emptied);
        self.flight = None;
        self.chunks.clear();
        self.preempted.clear();
        self.deferred = 0;
        self.released = (0, 0);
        self.totals.cancelled = 0;
        self.withheld = 0;
    }
}
