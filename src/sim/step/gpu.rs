//! What an engine does on one of its GPUs, as NVML and GPM would read it. gpu-and-simulation.md §2.3.

use super::cost::{Cost, Work};
use super::tables::{Gpu, Shard};

/// What an engine does on a GPU, or on its MIG instance. It is the same on all GPUs of a tensor-parallel group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuState {
    /// Bytes in use: weights, KV pool and overhead. vLLM takes them at the start; load does not move them.
    pub memory_used: u64,
    /// Share of time with a kernel running, 0 to 1: 1 from one running request on.
    pub utilisation: f64,
    /// Share of the peak HBM bandwidth, 0 to 1.
    pub bandwidth: f64,
    /// Share of the peak FLOP/s, 0 to 1.
    pub tensor: f64,
    /// Seconds of the step that runs, or of the last one.
    pub step: f64,
}

/// Shares of the power above idle that full bandwidth and full tensor cores take: between them they match Splitwise's
/// A100, token phase 0.43 to 0.74 of TDP, prompt phase up to 1.
const BANDWIDTH_POWER: f64 = 0.55;
const TENSOR_POWER: f64 = 0.9;

// === impl GpuState ===

impl GpuState {
    /// While the engine does `work`, or nothing.
    pub(super) fn new(
        cost: &Cost,
        blocks: u64,
        block_size: u32,
        budget: u32,
        work: Option<Work>,
    ) -> Self {
        let (gpu, shard) = (&cost.gpu, &cost.shard);
        let pool = blocks as f64 * f64::from(block_size) * shard.kv_bytes;
        let used = shard.weights + pool + Shard::overhead(budget);
        let share = |amount: f64, peak: f64| {
            work.map_or(0.0, |w| (amount / w.seconds / peak).clamp(0.0, 1.0))
        };
        let bandwidth = share(work.map_or(0.0, |w| w.bytes), gpu.peak_bandwidth);
        let tensor = share(work.map_or(0.0, |w| w.flops), gpu.peak_flops);
        Self {
            memory_used: (used as u64).min(gpu.hbm_bytes),
            utilisation: if work.is_some() { 1.0 } else { 0.0 },
            bandwidth,
            tensor,
            step: 0.0,
        }
    }
}

// === impl Gpu ===

impl Gpu {
    /// W, at these shares of the peak HBM bandwidth and FLOP/s.
    pub fn power(&self, bandwidth: f64, tensor: f64) -> f64 {
        let load = (BANDWIDTH_POWER * bandwidth + TENSOR_POWER * tensor).min(1.0);
        self.idle + (self.tdp - self.idle) * load
    }
}
