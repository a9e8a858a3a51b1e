//! What an endpoint holds of its GPUs' memory, and what it can still take.
//!
//! ```text
//! held       = Σ over its GPUs of (used − held by processes of nobody here) / sharers
//! left(gpu)  = max(free − growth of those processes over the next 10 s, 0)
//! free       = GPUs · min over its GPUs of left / sharers
//! least_free = min over its GPUs of left
//! ```
//!
//! Where the processes of its own tell what they hold, that counts in place of the first bracket. `sharers` are the
//! endpoints that have the same GPU, or the same MIG instance: what is free is all of theirs, and each can count on a part
//! only. `free` takes the least times the number, because a tensor-parallel engine puts as much on each GPU.

use gpu_probes::telemetry::Gpu;

use super::GpuMemory;

/// Bytes that processes of none of the owners hold, as far as they are known.
pub(super) fn foreign_bytes(gpu: &Gpu) -> u64 {
    let foreign = gpu.processes.iter().filter(|p| p.foreign == Some(true));
    foreign
        .filter_map(|process| process.memory)
        .fold(0, u64::saturating_add)
}

/// Of an endpoint on `gpus`: each with the growth of others on it, and its sharers. `None`: of one it is not known.
pub(super) fn of_endpoint<'a>(
    gpus: impl Iterator<Item = (&'a Gpu, u64, u32)>,
) -> Option<GpuMemory> {
    let mut all = GpuMemory {
        held: 0,
        free: 0,
        least_free: u64::MAX,
        foreign: 0,
    };
    let (mut count, mut least_part) = (0, u64::MAX);
    for (gpu, growth, sharers) in gpus {
        let memory = gpu.memory.as_ref()?;
        let sharers = u64::from(sharers.max(1));
        let left = memory.free.saturating_sub(growth);
        let held = own_bytes(gpu).unwrap_or_else(|| memory.used.saturating_sub(foreign_bytes(gpu)));
        all.held += held.min(memory.total) / sharers;
        all.least_free = all.least_free.min(left);
        least_part = least_part.min(left / sharers);
        let foreign = gpu.processes.iter().filter(|p| p.foreign == Some(true));
        all.foreign += foreign.count() as u32;
        count += 1;
    }
    all.free = least_part.saturating_mul(count);
    (count > 0).then_some(all)
}

/// What processes of the owners hold; `None` unless each of them, and there is one, tells.
fn own_bytes(gpu: &Gpu) -> Option<u64> {
    let mut own = gpu
        .processes
        .iter()
        .filter(|p| p.foreign == Some(false))
        .peekable();
    own.peek()?;
    own.try_fold(0u64, |sum, process| {
        Some(sum.saturating_add(process.memory?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpu_probes::telemetry::{Memory, Process};

    const GB: u64 = 1 << 30;

    /// GB in use and free, and of processes: what they hold, and whether they are foreign.
    fn gpu(used: u64, free: u64, processes: &[(Option<u64>, Option<bool>)]) -> Gpu {
        let process = |&(memory, foreign): &(Option<u64>, Option<bool>)| Process {
            memory: memory.map(|gb| gb * GB),
            foreign,
            ..Default::default()
        };
        Gpu {
            memory: Some(Memory {
                total: (used + free) * GB,
                used: used * GB,
                free: free * GB,
                ..Default::default()
            }),
            processes: processes.iter().map(process).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_formula() {
        let (own, foreign) = (Some(false), Some(true));
        let unknown = Gpu::default();
        // GPUs with growth and sharers; held, free, least free (GB), foreign processes.
        for (gpus, expected) in [
            (vec![(gpu(70, 10, &[]), 0, 1)], Some((70, 10, 10, 0))),
            (
                vec![(gpu(70, 10, &[(None, foreign)]), 0, 1)],
                Some((70, 10, 10, 1)),
            ),
            (
                vec![(gpu(70, 10, &[(Some(60), own), (Some(8), foreign)]), 0, 1)],
                Some((60, 10, 10, 1)),
            ),
            // One of its own does not tell: what is not foreign is its.
            (
                vec![(
                    gpu(70, 10, &[(Some(60), own), (None, own), (Some(8), foreign)]),
                    0,
                    1,
                )],
                Some((62, 10, 10, 1)),
            ),
            // It is not known whose they are.
            (
                vec![(gpu(70, 10, &[(Some(60), None)]), 0, 1)],
                Some((70, 10, 10, 0)),
            ),
            (
                vec![(gpu(20, 60, &[(Some(4), foreign)]), 24 * GB, 2)],
                Some((8, 18, 36, 1)),
            ),
            (vec![(gpu(20, 4, &[]), 9 * GB, 1)], Some((20, 0, 0, 0))),
            (
                vec![(gpu(60, 20, &[]), 0, 1), (gpu(64, 16, &[]), 0, 1)],
                Some((124, 32, 16, 0)),
            ),
            (vec![(gpu(60, 20, &[]), 0, 1), (unknown, 0, 1)], None),
            (vec![], None),
        ] {
            let got = of_endpoint(gpus.iter().map(|(gpu, growth, n)| (gpu, *growth, *n)));
            let expected = expected.map(|(held, free, least_free, foreign)| GpuMemory {
                held: held * GB,
                free: free * GB,
                least_free: least_free * GB,
                foreign,
            });
            assert_eq!(got, expected, "{gpus:?}");
        }
    }
}
