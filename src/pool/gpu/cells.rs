//! What scorers and filters read of GPUs: numbers by slot, worked out when something is told.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::super::slab::SEGMENT;

/// The columns. What is not known is 0 in the column that says since when it is known.
#[derive(Debug)]
pub struct GpuCells {
    /// How far what is known of memory reaches, in milliseconds of [`crate::pool::clock_ms`]: when the source of it that was
    /// silent for longest was heard. 0 = nothing is known.
    memory_at: [AtomicU64; SEGMENT],
    held: [AtomicU64; SEGMENT],
    free: [AtomicU64; SEGMENT],
    least_free: [AtomicU64; SEGMENT],
    foreign: [AtomicU32; SEGMENT],
    domain: [AtomicU32; SEGMENT],
    share: [AtomicU32; SEGMENT],
    node: [AtomicU32; SEGMENT],
    /// As a DCGM page told it, and when.
    utilization: [AtomicU32; SEGMENT],
    utilization_at: [AtomicU64; SEGMENT],
}

/// Memory of one endpoint's GPUs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// What the endpoint holds, over all its GPUs. A GPU that several endpoints share counts for each with its part.
    pub held: u64,
    /// What it can still take: free memory less what processes of nobody here are about to take, an equal part of it
    /// where a GPU is shared; on several GPUs as many times the least, because shards are alike.
    pub free: u64,
    /// The least that is free on any one of its GPUs, less the same growth.
    pub least_free: u64,
    /// Processes of nobody here on them.
    pub foreign: u32,
}

// === impl GpuCells ===

impl GpuCells {
    pub(in crate::pool) fn new() -> Self {
        Self {
            memory_at: [const { AtomicU64::new(0) }; SEGMENT],
            held: [const { AtomicU64::new(0) }; SEGMENT],
            free: [const { AtomicU64::new(0) }; SEGMENT],
            least_free: [const { AtomicU64::new(0) }; SEGMENT],
            foreign: [const { AtomicU32::new(0) }; SEGMENT],
            domain: [const { AtomicU32::new(0) }; SEGMENT],
            share: [const { AtomicU32::new(0) }; SEGMENT],
            node: [const { AtomicU32::new(0) }; SEGMENT],
            utilization: [const { AtomicU32::new(0) }; SEGMENT],
            utilization_at: [const { AtomicU64::new(0) }; SEGMENT],
        }
    }

    pub(in crate::pool) fn clear(&self, i: usize) {
        self.put_memory(i, None, 0);
        self.put_place(i, [0; 3]);
        self.utilization_at[i].store(0, Release);
    }

    /// What is known of memory at `i` reaches to `at`; `None`: nothing is.
    pub(crate) fn put_memory(&self, i: usize, memory: Option<GpuMemory>, at: u64) {
        let Some(memory) = memory else {
            return self.memory_at[i].store(0, Release);
        };
        self.held[i].store(memory.held, Relaxed);
        self.free[i].store(memory.free, Relaxed);
        self.least_free[i].store(memory.least_free, Relaxed);
        self.foreign[i].store(memory.foreign, Relaxed);
        self.memory_at[i].store(at.max(1), Release);
    }

    pub(crate) fn put_place(&self, i: usize, [domain, share, node]: [u32; 3]) {
        self.domain[i].store(domain, Relaxed);
        self.share[i].store(share, Relaxed);
        self.node[i].store(node, Relaxed);
    }

    /// A DCGM page told the utilisation at `i`, 0 to 1; `None`: it did not.
    pub(super) fn put_utilization(&self, i: usize, utilization: Option<f32>, now_ms: u64) {
        match utilization {
            None => self.utilization_at[i].store(0, Release),
            Some(utilization) => {
                self.utilization[i].store(utilization.to_bits(), Relaxed);
                self.utilization_at[i].store(now_ms.max(1), Release);
            }
        }
    }

    /// Memory of the GPUs of the endpoint at `i`, if what is known is not older than `max_age_ms`.
    pub fn memory(&self, i: usize, now_ms: u64, max_age_ms: u64) -> Option<GpuMemory> {
        self.memory_age(i, now_ms)
            .filter(|&age| age <= max_age_ms)?;
        Some(GpuMemory {
            held: self.held[i].load(Relaxed),
            free: self.free[i].load(Relaxed),
            least_free: self.least_free[i].load(Relaxed),
            foreign: self.foreign[i].load(Relaxed),
        })
    }

    /// How old that is, in milliseconds; `None`: nothing is known.
    pub fn memory_age(&self, i: usize, now_ms: u64) -> Option<u64> {
        let at = self.memory_at[i].load(Acquire);
        (at > 0).then(|| now_ms.saturating_sub(at))
    }

    /// Which endpoints the one at `i` shares boards with, and so may fail with: those of the same number. 0 = not known.
    /// Numbers are small.
    pub fn domain(&self, i: usize) -> u32 {
        self.domain[i].load(Relaxed)
    }

    /// The same for the GPUs, or MIG instances, that it shares in time with other pods.
    pub fn share(&self, i: usize) -> u32 {
        self.share[i].load(Relaxed)
    }

    /// The same for nodes.
    pub fn node(&self, i: usize) -> u32 {
        self.node[i].load(Relaxed)
    }

    /// The greatest utilisation of its GPUs, 0 to 1, as the last DCGM page told it, if that is not older than `max_age_ms`.
    pub fn utilization(&self, i: usize, now_ms: u64, max_age_ms: u64) -> Option<f32> {
        let at = self.utilization_at[i].load(Acquire);
        let fresh = at > 0 && now_ms.saturating_sub(at) <= max_age_ms;
        fresh.then(|| f32::from_bits(self.utilization[i].load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_not_known() {
        let cells = GpuCells::new();
        let memory = GpuMemory {
            held: 1,
            free: 2,
            least_free: 3,
            foreign: 4,
        };
        assert_eq!(cells.memory(3, 10, u64::MAX), None);
        cells.put_memory(3, Some(memory), 100);
        cells.put_utilization(3, Some(0.5), 100);
        assert_eq!(cells.memory(3, 150, 50), Some(memory));
        assert_eq!(cells.utilization(3, 150, 50), Some(0.5));
        assert_eq!(cells.memory(3, 151, 50), None);
        assert_eq!(cells.utilization(3, 151, 50), None);
        cells.clear(3);
        assert_eq!(cells.memory_age(3, 150), None);
        assert_eq!(cells.utilization(3, 150, u64::MAX), None);
    }
}
