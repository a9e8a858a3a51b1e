//! Whether GPUs that say that they are busy work: the second witness of [`super::super::stall`].

use super::super::super::gpu::{EndpointGpus, Sight};
use super::super::stall::Activity;
use super::{is_known, is_shared};

/// The share of time with a kernel running from which on a GPU says that it is busy.
const BUSY: f64 = 0.9;
/// Shares of the peak, and of the power limit, below which a GPU that says it is busy spins, and above which it works.
const SPINS: (f64, f64) = (0.02, 0.25);
const WORKS: (f64, f64) = (0.05, 0.4);

/// What the GPUs do.
pub(in crate::pool::health) fn activity(gpus: &EndpointGpus, now: u64) -> Activity {
    // One of several that work together waits for the others: one that works is enough, one that spins is not.
    let all = gpus.own().map(|sight| activity_of(sight, now));
    let worse = |found: Activity, next: Activity| match (found, next) {
        (Activity::Works, _) | (_, Activity::Works) => Activity::Works,
        (Activity::Spins, Activity::Spins) => Activity::Spins,
        _ => Activity::Unknown,
    };
    all.reduce(worse).unwrap_or_default()
}

fn activity_of(sight: &Sight, now: u64) -> Activity {
    let gpu = &sight.gpu;
    let young = |age_ms: u32| is_known(sight, age_ms, now);
    // Whose work it is cannot be told.
    let shared = is_shared(gpu) || gpu.mig_enabled || !gpu.parent.is_empty();
    if shared {
        return Activity::Unknown;
    }
    let profile = gpu.profile.as_ref().filter(|p| young(p.age_ms));
    let dram = profile.and_then(|profile| profile.dram_active);
    let tensor = profile.and_then(|profile| profile.tensor_active);
    let power = gpu.power.as_ref().filter(|p| young(p.age_ms));
    let power = power.and_then(|power| Some(power.draw? / power.limit.filter(|&l| l > 0.0)?));
    let busy = gpu.utilization.as_ref().filter(|u| young(u.age_ms));
    let busy = busy.and_then(|utilization| utilization.gpu);
    let above = |value: Option<f64>, least: f64| value.is_some_and(|value| value >= least);
    let below = |value: Option<f64>, most: f64| value.is_some_and(|value| value < most);
    if above(dram, WORKS.0) || above(tensor, WORKS.0) || above(power, WORKS.1) {
        Activity::Works
    } else if above(busy, BUSY) && (below(dram, SPINS.0) || below(power, SPINS.1)) {
        Activity::Spins
    } else {
        Activity::Unknown
    }
}
