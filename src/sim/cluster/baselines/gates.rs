//! Policies that go by thresholds.

use rand::rngs::SmallRng;

use super::super::router::Asked;
use super::{Rule, View, least};

/// The filter tree of the first GIE picker, as Higress still has it (reference `ai-gateway.md`): endpoints with fewer than
/// 50 waiting, if there are any; of those the least queuing (within `min + (max − min) / n`), of those the least KV cache
/// use (likewise), of those any. Its LoRA branches do not matter where there are no adapters.
pub(super) struct FilterTree;

/// SGLang's `cache_aware` (smg 1.9, reference `rust.md` §1.2) with the command line's defaults: the shortest queue when load is
/// uneven (`max − min > 64` and `max > 1.5 · min`, in requests in flight); else the endpoint that has most of the prompt, if
/// that is more than 0.3 of it; else the shortest queue.
pub(super) struct CacheAware;

const QUEUING: u32 = 50;
const THRESHOLD: f32 = 0.3;
const UNEVEN: u32 = 64;
const UNEVEN_BY: f32 = 1.5;

/// Those within the lowest n-th of the range of `value`.
fn low(candidates: &mut Vec<u32>, value: impl Fn(usize) -> f32) {
    let of = |&endpoint: &u32| value(endpoint as usize);
    let min = candidates.iter().map(of).fold(f32::MAX, f32::min);
    let max = candidates.iter().map(of).fold(f32::MIN, f32::max);
    let most = min + (max - min) / candidates.len() as f32;
    candidates.retain(|endpoint| of(endpoint) <= most);
}

impl Rule for FilterTree {
    fn choose(&mut self, _asked: &Asked, view: &View, rng: &mut SmallRng) -> u32 {
        let waiting = |at: usize| view.pages[at].waiting;
        let mut candidates: Vec<u32> = view.all().collect();
        if candidates.iter().any(|&e| waiting(e as usize) < QUEUING) {
            candidates.retain(|&e| waiting(e as usize) < QUEUING);
        }
        low(&mut candidates, |at| waiting(at) as f32);
        low(&mut candidates, |at| view.pages[at].kv_usage);
        least(candidates.into_iter(), |_| 0, rng)
    }
}

impl Rule for CacheAware {
    fn looks(&self) -> bool {
        true
    }

    fn choose(&mut self, asked: &Asked, view: &View, rng: &mut SmallRng) -> u32 {
        let load = |at: usize| view.in_flight[at];
        let loads = || view.in_flight.iter().copied();
        let (min, max) = (loads().min().unwrap_or(0), loads().max().unwrap_or(0));
        let uneven = max - min > UNEVEN && max as f32 > UNEVEN_BY * min as f32;
        let best = view.matched.iter().copied().max().unwrap_or(0);
        let share = best as f32 / asked.chain.0.len().max(1) as f32;
        if uneven || share <= THRESHOLD {
            return least(view.all(), load, rng);
        }
        let holders = view.all().filter(|&e| view.matched[e as usize] == best);
        least(holders, load, rng)
    }
}
