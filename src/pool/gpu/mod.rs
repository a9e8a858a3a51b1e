//! The GPUs of the endpoints: what node agents and DCGM exporters tell, joined to endpoints.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use gpu_probes::telemetry::{Event, Gpu};

/// The GPUs that an endpoint runs on: several with tensor parallelism.
#[derive(Clone, Debug, Default)]
pub struct EndpointGpus {
    /// By UUID.
    pub gpus: Vec<Arc<Sight>>,
}

/// What is known of a GPU.
#[derive(Clone, Debug)]
pub struct Sight {
    /// As the source told it.
    pub gpu: Gpu,
    /// Who told it.
    pub source: Arc<Source>,
    /// When, in milliseconds of [`super::clock_ms`]. The ages in `gpu` count back from here.
    pub received_at: u64,
    /// What happened to it (or to its board), oldest first, with the time of it by the same clock; the last few.
    pub events: Vec<(u64, Event)>,
    /// Other endpoints of the pool on the same board, by their slots' numbers.
    pub neighbours: Vec<u32>,
}

/// A node agent or an exporter.
#[derive(Debug, Default)]
pub struct Source {
    /// The node's name.
    pub node: String,
    /// When anything (a heartbeat as well) was last heard of it, in milliseconds of [`super::clock_ms`].
    pub heard_at: AtomicU64,
}
