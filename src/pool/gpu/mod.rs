//! The GPUs of the endpoints: what node agents and DCGM exporters tell, joined to endpoints.
//!
//! ```text
//! agents ──reports─▶           ┌ which source counts (elect) ┐           ┌ Segment.gpus[i], cells
//!                    Gpus: by source, by UUID                 ├ join ─▶ endpoints ┤
//! DCGM   ──pages───▶           └ the pool's snapshot ────────┘           └ health::observe_gpus
//! ```
//!
//! [`Gpus`] keeps what each source told last. A GPU is an endpoint's because the endpoint's pod was given it, because the
//! endpoint names it, or because it is on the endpoint's node ([`join`]). What a request looks at is worked out when
//! something is told, and lies in [`GpuCells`]: no request walks over GPUs. Nothing here is ever fatal: a source that is silent
//! leaves what it told, which ages, and whoever reads it knows its age.
//!
//! [`agents`] follows node agents, [`dcgm`] scrapes exporters, [`gauges`] and [`page`] show what is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gpu_probes::telemetry::{Event, Gpu};

pub mod agents;
mod cells;
mod claims;
mod common;
pub mod dcgm;
pub mod gauges;
mod growth;
mod join;
mod memory;
pub mod page;
mod sane;
mod store;
mod told;

#[cfg(test)]
mod testing;

pub use cells::{GpuCells, GpuMemory};
pub use common::Common;
pub use store::{Gpus, SourceId, SourceKind};

/// Without a word from it for so long, an agent is silent, in milliseconds: it says something each second. No source is
/// silent sooner.
pub const SILENT_MS: u64 = 3_000;

/// The GPUs that an endpoint runs on: several with tensor parallelism.
#[derive(Clone, Debug, Default)]
pub struct EndpointGpus {
    /// By UUID. Beside a MIG instance, its board.
    pub gpus: Vec<Arc<Sight>>,
}

/// What is known of a GPU.
#[derive(Clone, Debug)]
pub struct Sight {
    /// As the source told it.
    pub gpu: Gpu,
    /// Who told it.
    pub source: Arc<Source>,
    /// When, in milliseconds of [`super::clock_ms`]. The ages in `gpu` count back from when the source was last heard: see
    /// [`Sight::age_ms`].
    pub received_at: u64,
    /// What happened to it, oldest first, with the time of it by the same clock; the last few. What happened to the board of
    /// a MIG instance is with the board.
    pub events: Vec<(u64, Event)>,
    /// Other endpoints of the pool on the same board, by their slots' numbers.
    pub neighbours: Vec<u32>,
}

/// A node agent or an exporter.
#[derive(Debug)]
pub struct Source {
    /// The node's name.
    pub node: String,
    /// Without a word from it for so long, it is silent, in milliseconds.
    pub silent_ms: u64,
    /// When anything (a heartbeat as well) was last heard of it, in milliseconds of [`super::clock_ms`].
    pub heard_at: AtomicU64,
}

// === impl EndpointGpus ===

impl EndpointGpus {
    /// Those that the endpoint computes on: without the boards of its MIG instances.
    pub fn own(&self) -> impl Iterator<Item = &Sight> {
        let boards = |uuid: &str| self.gpus.iter().any(|other| other.gpu.parent == uuid);
        let own = move |sight: &&Arc<Sight>| !boards(&sight.gpu.uuid);
        self.gpus.iter().filter(own).map(|sight| &**sight)
    }
}

// === impl Sight ===

impl Sight {
    /// How old a reading is whose age was `told_ms` when the source told it, in milliseconds. A source tells what moves, so
    /// what it does not tell again stays true for as long as it is heard.
    pub fn age_ms(&self, told_ms: u32, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.source.heard_at()) + u64::from(told_ms)
    }
}

// === impl Source ===

impl Source {
    /// When it was last heard, in milliseconds of [`super::clock_ms`].
    pub fn heard_at(&self) -> u64 {
        self.heard_at.load(Ordering::Relaxed)
    }

    /// Whether it was not heard for [`Source::silent_ms`], or never.
    pub fn is_silent(&self, now_ms: u64) -> bool {
        let at = self.heard_at();
        at == 0 || now_ms.saturating_sub(at) > self.silent_ms
    }
}

impl Default for Source {
    /// An agent that was never heard.
    fn default() -> Self {
        Self {
            node: String::new(),
            silent_ms: SILENT_MS,
            heard_at: AtomicU64::new(0),
        }
    }
}
