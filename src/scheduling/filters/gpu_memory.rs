//! `gpu-memory-filter` (ours): drops endpoints that may run out of GPU memory.
//!
//! One does where on any of its GPUs less than `minFree` (1Gi) is free, less what foreign processes are about to take
//! (pool/gpu/memory.rs), and where that matters: its engine does not pre-allocate, or there are such processes. An engine
//! that pre-allocates has what it needs; what little it left free is nobody's concern until somebody else takes it. What
//! is not known, or older than `maxAge` (10s), is enough. If none is left, all are. Parameters: `minFree`, `maxAge`. Source: our
//! own.

use serde::{Deserialize, Serialize};

use super::super::{Context, Filter, age_ms};
use crate::config::{PluginUse, Problem, units};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct GpuMemoryFilter {
    min_free: u64,
    max_age_ms: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    min_free: String,
    max_age: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            min_free: "1Gi".to_owned(),
            max_age: "10s".to_owned(),
        }
    }
}

// === impl GpuMemoryFilter ===

impl GpuMemoryFilter {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let min_free = units::quantity(&params.min_free)
            .map_err(|error| plugin.parameters.field_problem("minFree", &error))?;
        Ok(Self {
            min_free,
            max_age_ms: age_ms(plugin, "maxAge", &params.max_age)?,
        })
    }

    fn passes(&self, cx: &Context<'_>, candidate: u32) -> bool {
        let (s, i) = cx.snapshot.cell(candidate);
        let Some(memory) = s.gpu_cells.memory(i, cx.now_ms, self.max_age_ms) else {
            return true;
        };
        let usage = cx.load.kv_usage.get(candidate as usize);
        let pre_allocates = s.kv_tokens(i) > 0 || usage.is_some_and(|usage| !usage.is_nan());
        memory.least_free >= self.min_free || (pre_allocates && memory.foreign == 0)
    }
}

impl Filter for GpuMemoryFilter {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        let passes = |candidate: u32| self.passes(cx, candidate);
        if candidates.iter().any(|&candidate| passes(candidate)) {
            candidates.retain(|&candidate| passes(candidate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{held, kept_for, plugin, snapshot};
    use super::*;
    use crate::pool::LoadView;
    use crate::pool::gpu::GpuMemory;

    #[test]
    fn who_may_run_out_is_dropped_unless_all_may() {
        const GIB: u64 = 1 << 30;
        let filter = |parameters| GpuMemoryFilter::of(&plugin("gpu-memory-filter", parameters));
        let memory = |least_free, foreign| {
            Some(GpuMemory {
                held: 10 * GIB,
                free: GIB,
                least_free,
                foreign,
            })
        };
        let (all, known, unknown) = (vec![0, 1, 2], 0.5, f32::NAN);
        // Memory of each, KV cache use of each, what is left.
        for (memories, usage, expected) in [
            (
                [memory(GIB, 0), memory(GIB - 1, 0), None],
                [unknown; 3],
                vec![0, 2],
            ),
            (
                [memory(GIB, 9), memory(GIB - 1, 9), None],
                [known; 3],
                vec![0, 2],
            ),
            (
                [memory(GIB, 0), memory(GIB - 1, 0), None],
                [known; 3],
                all.clone(),
            ),
            (
                [memory(0, 0), memory(0, 1), memory(0, 1)],
                [unknown; 3],
                all.clone(),
            ),
        ] {
            let pool = snapshot(3);
            held(&pool, &memories, 1);
            let load = LoadView {
                kv_usage: usage.to_vec(),
                ..Default::default()
            };
            let got = kept_for(&filter("{}").unwrap(), &pool, &load, 0, &[]);
            assert_eq!(got, expected, "{memories:?} {usage:?}");
        }
        let wrong = filter("{minFree: much}").unwrap_err().message;
        assert!(wrong.contains("parameters.minFree"), "{wrong}");
        let wrong = filter("{maxAge: 0s}").unwrap_err().message;
        assert!(
            wrong.contains("parameters.maxAge: 0 makes everything too old"),
            "{wrong}"
        );
    }
}
