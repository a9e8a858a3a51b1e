//! `gpu-cotenant-scorer` (ours): who has its GPUs for itself; and fallbacks that do not fail with what they are for.
//!
//! ```text
//! others = requests at the endpoints of other pods that share its GPUs (or its MIG instances) in time
//!          + foreignRequests, if there are processes of nobody here on them
//! score  = halfAt / (halfAt + others)
//! ```
//!
//! A MIG instance has its board's multiprocessors and memory in parts of its own: its neighbours do not slow it down, and do
//! not count. They do share its fate, as all do on one board: so where the picker names fallbacks (`maxNumOfEndpoints`), each
//! is to be on no board, and if that can be on no node, of those before it. One that is gives way to the best candidate that
//! is not, and moves back. The proxy retries by that list, so its order is all that its retries need.
//!
//! A request that comes again because it failed is another matter: it comes from the client, as one that nobody has seen. Where
//! it is recognised ([`Context::failed`]), the score is 0 for the endpoints where it failed and for those that share a board
//! with them, and half for those on their nodes; fallbacks keep away from them too.
//!
//! An endpoint whose GPUs are not known is the mean of the others, and in nobody's way. Who shares what is a matter of where
//! pods run, and so is believed for as long as the endpoint is there; foreign processes no longer than `maxAge`.
//! Parameters: `halfAt` (8), `foreignRequests` (8), `maxAge` (10s). Source: our own.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use super::super::{Context, Scorer, Spread, age_ms};
use super::mean_for_unknown;
use crate::config::{PluginUse, Problem};
use crate::pool::Snapshot;
use crate::pool::gpu::Common;

/// Of the score of an endpoint on the node where the request failed before. A node fails less often than a board.
const ON_THE_NODE: f32 = 0.5;

thread_local! {
    /// Requests by share, of the decision that is made on this thread.
    static REQUESTS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct GpuCotenant {
    half_at: f32,
    foreign_requests: f32,
    max_age_ms: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    half_at: f32,
    foreign_requests: f32,
    max_age: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            half_at: 8.0,
            foreign_requests: 8.0,
            max_age: "10s".to_owned(),
        }
    }
}

// === impl GpuCotenant ===

impl GpuCotenant {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let problem = |field, message| Err(plugin.parameters.field_problem(field, message));
        if !(0.001..=1e6).contains(&params.half_at) {
            return problem("halfAt", "is not a number from 0.001 to 1000000");
        }
        if !(0.0..=1e6).contains(&params.foreign_requests) {
            return problem("foreignRequests", "is not a number from 0 to 1000000");
        }
        Ok(Self {
            half_at: params.half_at,
            foreign_requests: params.foreign_requests,
            max_age_ms: age_ms(plugin, "maxAge", &params.max_age)?,
        })
    }
}

impl Scorer for GpuCotenant {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let out = &mut out[..candidates.len()];
        let share = |candidate: u32| {
            let (s, i) = cx.snapshot.cell(candidate);
            s.gpu_cells.share(i) as usize
        };
        let after_failures = |out: &mut [f32]| {
            if !cx.failed.is_empty() {
                for (out, &candidate) in out.iter_mut().zip(candidates) {
                    *out *= after_failure(cx.snapshot, candidate, cx.failed);
                }
            }
        };
        if candidates.iter().all(|&candidate| share(candidate) == 0) {
            out.fill(1.0);
            return after_failures(out);
        }
        // What is not known of a load is what we sent.
        let requests = |position: usize| {
            let known = cx.load.requests.get(position).copied().unwrap_or(f32::NAN);
            let sent = cx
                .load
                .in_flight
                .get(position)
                .map_or(0.0, |&sent| sent as f32);
            known.max(sent)
        };
        REQUESTS.with_borrow_mut(|by_share| {
            by_share.clear();
            // All endpoints, not the candidates alone: others compute too.
            for (position, (s, i)) in cx.snapshot.cells().enumerate() {
                let share = s.gpu_cells.share(i) as usize;
                if by_share.len() <= share {
                    by_share.resize(share + 1, 0.0);
                }
                by_share[share] += requests(position);
            }
            for (out, &candidate) in out.iter_mut().zip(candidates) {
                let (s, i) = cx.snapshot.cell(candidate);
                let share = share(candidate);
                if share == 0 {
                    *out = f32::NAN;
                    continue;
                }
                let memory = s.gpu_cells.memory(i, cx.now_ms, self.max_age_ms);
                let foreign = memory.is_some_and(|memory| memory.foreign > 0);
                let foreign = if foreign { self.foreign_requests } else { 0.0 };
                let others = (by_share[share] - requests(candidate as usize)).max(0.0);
                *out = self.half_at / (self.half_at + others + foreign);
            }
        });
        mean_for_unknown(out);
        after_failures(out);
    }

    fn minds_failures(&self) -> bool {
        true
    }

    fn spread(&self) -> Option<&dyn Spread> {
        Some(self)
    }
}

impl Spread for GpuCotenant {
    fn rearrange(
        &self,
        cx: &Context<'_>,
        candidates: &[u32],
        totals: &[f32],
        chosen: &mut Vec<u32>,
    ) -> bool {
        let most = chosen.len();
        let mut changed = false;
        for place in 1..most {
            let (before, after) = chosen.split_at(place);
            let with_before = |candidate: u32| {
                Common::most(cx.snapshot, candidate, before.iter().chain(cx.failed))
            };
            let own = with_before(after[0]);
            if own == Common::Nothing {
                continue;
            }
            let better = candidates.iter().zip(totals).filter(|(candidate, _)| {
                !before.contains(candidate) && with_before(**candidate) < own
            });
            let best = better.min_by(|(a, of_a), (b, of_b)| {
                let by_common = with_before(**a).cmp(&with_before(**b));
                by_common.then(of_b.total_cmp(of_a))
            });
            if let Some((&best, _)) = best {
                chosen.retain(|&endpoint| endpoint != best);
                chosen.insert(place, best);
                chosen.truncate(most);
                changed = true;
            }
        }
        changed
    }
}

/// What is left of the score of the candidate for a request that failed at `failed` before.
fn after_failure(snapshot: &Snapshot, candidate: u32, failed: &[u32]) -> f32 {
    match Common::most(snapshot, candidate, failed) {
        Common::Nothing => 1.0,
        Common::Node => ON_THE_NODE,
        Common::Board | Common::Endpoint => 0.0,
    }
}

#[cfg(test)]
mod tests;
