//! The cells that hold what changes: one slot an endpoint, in columns.
//!
//! Columns, because a scorer reads one number of every endpoint and nothing else. Segments, because a
//! column that grew by copying would lose the writes that happen meanwhile: a segment never moves, so a
//! [`Slot`] can be written to and read from without a lock, for as long as anyone holds it.
//!
//! A slot's index is the endpoint's number (`u32`) for as long as the slot lives; it is given to another
//! endpoint only after the last snapshot and the last reservation that name it are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

pub use super::attributes::{Attributes, MOST_ATTRIBUTES, attribute_key};
use super::clock_ms;
use super::failure::Faults;
use super::gpu::{EndpointGpus, GpuCells};
use super::health::limit::MOST_OUT;
use super::health::{Cause, Condition, Effect, Marks, observe_page};
use super::ledger::Ends;
use super::models::ModelList;
use super::residents::KnownAdapters;

/// Slots in a segment.
pub const SEGMENT: usize = 128;

/// Grows by whole segments, hands out slots, takes them back.
#[derive(Debug)]
pub struct Slab {
    inner: Mutex<SlabInner>,
    adapters: KnownAdapters,
    ejections: [AtomicU64; Cause::ALL.len()],
    /// Slots whose endpoints are out.
    out: AtomicU32,
    /// The share of a pool that may be out, as the bits of an `f32`.
    pub(super) most_out: AtomicU32,
    /// Decisions in which that counted for more than the endpoints' health.
    pub(super) overruled: AtomicU64,
}

#[derive(Debug, Default)]
struct SlabInner {
    segments: Vec<Arc<Segment>>,
    free: Vec<u32>,
    used: u32,
    lives: u64,
}

/// One endpoint's cells. Dropping the last handle gives the number back.
#[derive(Debug)]
pub struct Slot {
    slab: Arc<Slab>,
    segment: Arc<Segment>,
    number: u32,
    life: u64,
}

/// Columns for [`SEGMENT`] endpoints. `f32` values are kept as their bits.
#[derive(Debug)]
pub struct Segment {
    /// Requests waiting in the engine's queue, as scraped.
    pub waiting: [AtomicU32; SEGMENT],
    /// Requests running in the engine, as scraped.
    pub running: [AtomicU32; SEGMENT],
    /// Share of the KV cache in use, 0 to 1, as scraped.
    pub kv_usage: [AtomicU32; SEGMENT],
    /// When the values above were scraped, in milliseconds of [`crate::pool::clock_ms`]; 0 = never.
    pub scraped_at: [AtomicU64; SEGMENT],
    /// Requests that we sent and that have not ended.
    pub in_flight: [AtomicU32; SEGMENT],
    /// Estimated tokens of those requests that the engine has still to work through.
    pub tokens: [AtomicU64; SEGMENT],
    /// Requests that we ever sent.
    pub sent: [AtomicU64; SEGMENT],
    /// The value of `sent` when the last successful scrape began.
    pub sent_at_scrape: [AtomicU64; SEGMENT],
    /// Requests of ours that were in flight when the last successful scrape began.
    pub flying_at_scrape: [AtomicU32; SEGMENT],
    /// Of the requests sent since then, those whose response was seen to end. Written under `ends` only.
    pub ended_since: [AtomicU32; SEGMENT],
    /// The same for the scrape that is under way.
    pub(super) ends: [Mutex<Ends>; SEGMENT],
    /// What recent failures weigh: see [`crate::pool::breaker`].
    pub(super) blame: [AtomicU64; SEGMENT],
    /// Its health, as a [`crate::pool::health::Word`].
    pub(super) health: [AtomicU32; SEGMENT],
    /// When it may next be tried out, if it is out: where what GPUs tell keeps nobody out, and where it does.
    pub(super) next_trial: [[AtomicU64; SEGMENT]; 2],
    /// How fast it is beside the others, as the bits of an `f32`; 1.0 = as fast, or not known.
    pub speed: [AtomicU32; SEGMENT],
    /// What responses and pages leave for the next look.
    pub(super) marks: [Marks; SEGMENT],
    /// All that its health is made of.
    pub(super) condition: [Mutex<Condition>; SEGMENT],
    /// Numbers that a configuration asks for by name, as scraped.
    pub attributes: [ArcSwapOption<Attributes>; SEGMENT],
    /// LoRA adapters, as scraped, and those remembered.
    pub lora: [ArcSwapOption<LoraState>; SEGMENT],
    /// [`LoraState::hint`] of that; 0 = there is none.
    pub lora_hint: [AtomicU64; SEGMENT],
    /// What the endpoint says that it serves; none = it was not asked, or has not answered yet.
    pub models: [ArcSwapOption<ModelList>; SEGMENT],
    /// Why polls of the endpoint fail now.
    pub(super) faults: [Faults; SEGMENT],
    /// KV cache blocks of the engine; 0 = unknown.
    pub kv_blocks: [AtomicU32; SEGMENT],
    /// Tokens in a KV cache block; 0 = unknown.
    pub block_size: [AtomicU32; SEGMENT],
    /// The GPUs it runs on, as last heard of; none = nothing is known.
    pub gpus: [ArcSwapOption<EndpointGpus>; SEGMENT],
    /// What scorers and filters go by of that.
    pub gpu_cells: GpuCells,
}

/// The adapters of one endpoint. Names are kept as [`lora_key`]s.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LoraState {
    /// How many adapters the engine can hold at once.
    pub max: u32,
    /// Adapters with a running request.
    pub running: Box<[u64]>,
    /// Adapters with a waiting request.
    pub waiting: Box<[u64]>,
    /// Adapters that are taken to be loaded, most recent first: see [`super::residents`]. A page does not tell them.
    pub resident: Box<[u64]>,
}

/// What the last scrape of one endpoint found. NaN = not known.
#[derive(Debug, Clone, Copy)]
pub struct Scraped {
    /// Requests waiting.
    pub waiting: f32,
    /// Requests running.
    pub running: f32,
    /// KV cache use, 0 to 1.
    pub kv_usage: f32,
}

/// One successful scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scrape {
    /// Requests in the queue; `None` when the page does not say.
    pub waiting: Option<f32>,
    /// Requests running.
    pub running: Option<f32>,
    /// KV cache use, 0 to 1.
    pub kv_usage: Option<f32>,
    /// KV cache blocks.
    pub kv_blocks: Option<u32>,
    /// Tokens in a block.
    pub block_size: Option<u32>,
    /// LoRA state.
    pub lora: Option<LoraState>,
    /// Numbers asked for by name.
    pub attributes: Attributes,
    /// Sum of counters that rise while the engine works.
    pub progress: Option<f64>,
    /// Whether the engine says that it works.
    pub healthy: Option<bool>,
    /// When its process started, in seconds since 1970.
    pub started: Option<f64>,
}

/// What an adapter's name becomes in [`LoraState`]: equal names, equal keys.
pub fn lora_key(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_bytes())
}

// === impl Slab ===

impl Slab {
    /// How many adapters any page, or any list of models, named.
    pub fn known_adapters(&self) -> usize {
        self.adapters.count()
    }

    /// A free slot with all its cells at their start values.
    pub fn take(self: &Arc<Self>) -> Arc<Slot> {
        let mut inner = self.inner.lock();
        let number = match inner.free.pop() {
            Some(number) => number,
            None => {
                let number = inner.used;
                inner.used += 1;
                if number as usize / SEGMENT == inner.segments.len() {
                    inner.segments.push(Arc::new(Segment::new()));
                }
                number
            }
        };
        let segment = Arc::clone(&inner.segments[number as usize / SEGMENT]);
        segment.clear(number as usize % SEGMENT, clock_ms());
        inner.lives += 1;
        Arc::new(Slot {
            slab: Arc::clone(self),
            segment,
            number,
            life: inner.lives,
        })
    }

    /// How often endpoints were put out because of `cause`.
    pub fn ejections(&self, cause: Cause) -> u64 {
        self.ejections[cause as usize].load(Ordering::Relaxed)
    }

    /// Whether any endpoint may be out.
    pub(super) fn any_out(&self) -> bool {
        self.out.load(Ordering::Acquire) != 0
    }
}

impl Default for Slab {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            adapters: KnownAdapters::default(),
            ejections: Default::default(),
            out: AtomicU32::new(0),
            most_out: AtomicU32::new(MOST_OUT.to_bits()),
            overruled: AtomicU64::new(0),
        }
    }
}

// === impl Slot ===

impl Slot {
    /// The endpoint's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Which slot this is of all that the slab ever gave out, from 1: who keeps something under the endpoint's number knows
    /// by this whether it is still the same endpoint.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// The columns it lives in.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Its place in them.
    pub fn index(&self) -> usize {
        self.number as usize % SEGMENT
    }

    /// To be called when a scrape begins: what [`Slot::record`] needs to know. One scrape at a time.
    pub fn scrape_begins(&self) -> u64 {
        self.segment.ends[self.index()].lock().scrape_begins(
            &self.segment.sent[self.index()],
            &self.segment.in_flight[self.index()],
        )
    }

    /// `cause` stands there from now on.
    pub(super) fn began(&self, cause: Cause) {
        if cause.effect() != Effect::Derate {
            self.slab.ejections[cause as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it is out changed. The calls for a slot are in order.
    pub(super) fn count_out(&self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => self.slab.out.fetch_add(1, Ordering::Release),
            (true, false) => self.slab.out.fetch_sub(1, Ordering::Release),
            _ => 0,
        };
    }

    /// A request for the adapter `key` was sent there.
    pub fn adapter_sent(&self, key: u64) {
        let cell = &self.segment.lora[self.index()];
        if cell.load().is_none() || !self.slab.adapters.contains(key) {
            return;
        }
        cell.rcu(|before| {
            let after = before.as_ref().and_then(|before| before.sent(key));
            after.map(Arc::new).or_else(|| before.clone())
        });
        self.hint_adapters();
    }

    /// Keeps the hint in step with what it is of, whoever else changes that meanwhile.
    fn hint_adapters(&self) {
        let (lora, hint) = (
            &self.segment.lora[self.index()],
            &self.segment.lora_hint[self.index()],
        );
        loop {
            let state = lora.load_full();
            let of_state = state.as_deref().map_or(0, LoraState::hint);
            hint.store(of_state, Ordering::Relaxed);
            if lora.load().as_ref().map(Arc::as_ptr) == state.as_ref().map(Arc::as_ptr) {
                return;
            }
        }
    }

    /// Stores what the endpoint lists as served; `None` = it is not asked any more. Adapters in the list are known as
    /// adapters from now on, in the whole pool. That one is listed does not say that it is loaded.
    pub fn list_models(&self, list: Option<ModelList>) {
        if let Some(list) = &list {
            let keys: Vec<u64> = list.adapters().map(lora_key).collect();
            self.slab.adapters.add(keys.iter().copied());
        }
        self.segment.models[self.index()].store(list.map(Arc::new));
    }

    /// Stores what a scrape found. A value that the page does not give becomes unknown, except for block
    /// size and count: they are fixed for an engine's life, and early pages lack them.
    pub fn record(&self, scrape: &Scrape, sent_when_begun: u64, now_ms: u64) {
        let (s, i) = (&*self.segment, self.index());
        let put = |cell: &AtomicU32, v: Option<f32>| {
            cell.store(v.unwrap_or(f32::NAN).to_bits(), Ordering::Relaxed)
        };
        put(&s.waiting[i], scrape.waiting);
        put(&s.running[i], scrape.running);
        put(&s.kv_usage[i], scrape.kv_usage);
        if let Some(n) = scrape.kv_blocks {
            s.kv_blocks[i].store(n, Ordering::Relaxed);
        }
        if let Some(n) = scrape.block_size {
            s.block_size[i].store(n, Ordering::Relaxed);
        }
        match &scrape.lora {
            None => s.lora[i].store(None),
            Some(page) => {
                let listed = page.running.iter().chain(&*page.waiting);
                self.slab.adapters.add(listed.copied());
                // Meanwhile something may be sent there.
                s.lora[i].rcu(|before| match before {
                    Some(before) if **before == page.after(Some(before)) => {
                        Some(Arc::clone(before))
                    }
                    before => Some(Arc::new(page.after(before.as_deref()))),
                });
            }
        }
        self.hint_adapters();
        let attributes = (!scrape.attributes.is_empty()).then_some(&scrape.attributes);
        if s.attributes[i].load().as_deref() != attributes {
            s.attributes[i].store(attributes.cloned().map(Arc::new));
        }
        let ends = s.ends[i].lock();
        s.ended_since[i].store(ends.since(sent_when_begun), Ordering::Relaxed);
        s.sent_at_scrape[i].store(sent_when_begun, Ordering::Relaxed);
        s.flying_at_scrape[i].store(ends.flying(), Ordering::Relaxed);
        drop(ends);
        s.scraped_at[i].store(now_ms.max(1), Ordering::Release);
        observe_page(self, scrape, now_ms);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.count_out(self.word().is_out(true), false);
        self.slab.inner.lock().free.push(self.number);
    }
}

// === impl Segment ===

impl Segment {
    fn new() -> Self {
        Self {
            waiting: [const { AtomicU32::new(0) }; SEGMENT],
            running: [const { AtomicU32::new(0) }; SEGMENT],
            kv_usage: [const { AtomicU32::new(0) }; SEGMENT],
            scraped_at: [const { AtomicU64::new(0) }; SEGMENT],
            in_flight: [const { AtomicU32::new(0) }; SEGMENT],
            tokens: [const { AtomicU64::new(0) }; SEGMENT],
            sent: [const { AtomicU64::new(0) }; SEGMENT],
            sent_at_scrape: [const { AtomicU64::new(0) }; SEGMENT],
            flying_at_scrape: [const { AtomicU32::new(0) }; SEGMENT],
            ended_since: [const { AtomicU32::new(0) }; SEGMENT],
            ends: [const { Mutex::new(Ends::NONE) }; SEGMENT],
            blame: [const { AtomicU64::new(0) }; SEGMENT],
            health: [const { AtomicU32::new(0) }; SEGMENT],
            next_trial: [const { [const { AtomicU64::new(0) }; SEGMENT] }; 2],
            speed: [const { AtomicU32::new(0) }; SEGMENT],
            marks: [const { Marks::new() }; SEGMENT],
            condition: [const { Mutex::new(Condition::NEW) }; SEGMENT],
            attributes: [const { ArcSwapOption::const_empty() }; SEGMENT],
            lora: [const { ArcSwapOption::const_empty() }; SEGMENT],
            lora_hint: [const { AtomicU64::new(0) }; SEGMENT],
            models: [const { ArcSwapOption::const_empty() }; SEGMENT],
            faults: [const { Faults::new() }; SEGMENT],
            kv_blocks: [const { AtomicU32::new(0) }; SEGMENT],
            block_size: [const { AtomicU32::new(0) }; SEGMENT],
            gpus: [const { ArcSwapOption::const_empty() }; SEGMENT],
            gpu_cells: GpuCells::new(),
        }
    }

    fn clear(&self, i: usize, now_ms: u64) {
        for cell in [&self.waiting, &self.running, &self.kv_usage] {
            cell[i].store(f32::NAN.to_bits(), Ordering::Relaxed);
        }
        for cell in [
            &self.in_flight,
            &self.flying_at_scrape,
            &self.ended_since,
            &self.kv_blocks,
            &self.block_size,
            &self.health,
        ] {
            cell[i].store(0, Ordering::Relaxed);
        }
        for cell in [
            &self.scraped_at,
            &self.tokens,
            &self.sent,
            &self.sent_at_scrape,
            &self.blame,
            &self.next_trial[0],
            &self.next_trial[1],
        ] {
            cell[i].store(0, Ordering::Relaxed);
        }
        self.speed[i].store(1.0_f32.to_bits(), Ordering::Relaxed);
        self.marks[i].clear();
        self.condition[i].lock().clear(now_ms);
        *self.ends[i].lock() = Ends::NONE;
        self.attributes[i].store(None);
        self.lora[i].store(None);
        self.lora_hint[i].store(0, Ordering::Relaxed);
        self.models[i].store(None);
        self.gpus[i].store(None);
        self.gpu_cells.clear(i);
        self.faults[i].clear();
    }

    /// Tokens that the KV cache of the endpoint at `i` can hold; 0 = unknown.
    pub fn kv_tokens(&self, i: usize) -> u64 {
        let blocks = self.kv_blocks[i].load(Ordering::Relaxed);
        u64::from(blocks) * u64::from(self.block_size[i].load(Ordering::Relaxed))
    }

    /// What the last scrape of the endpoint at `i` found, if it is at most `max_age_ms` old.
    pub fn fresh(&self, i: usize, now_ms: u64, max_age_ms: u64) -> Option<Scraped> {
        let at = self.scraped_at[i].load(Ordering::Acquire);
        if at == 0 || now_ms.saturating_sub(at) > max_age_ms {
            return None;
        }
        let load = |cell: &AtomicU32| f32::from_bits(cell.load(Ordering::Relaxed));
        Some(Scraped {
            waiting: load(&self.waiting[i]),
            running: load(&self.running[i]),
            kv_usage: load(&self.kv_usage[i]),
        })
    }
}
