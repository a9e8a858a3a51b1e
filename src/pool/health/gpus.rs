//! What follows from an endpoint's GPUs: readings and events in, causes out.
//!
//! Several GPUs of one endpoint work together: the worst of them counts for its health, the slowest for its speed. A GPU
//! that is shared in time is one fault domain, so an event counts for all that it was given to. With MIG, an event that
//! names an instance is that instance's, unless it needs a reset: that takes the board.
//!
//! What is not known is no sign of anything: a source that was not heard for [`HEARD_MS`], a reading that was
//! [`READ_MS`] old when it came, a value that is absent. `docs/health.md` has the thresholds and where they come from.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use gpu_probes::telemetry::{Architecture, Errors, Event, EventKind, Gpu};
use gpu_probes::xid::{Class, xid};

use super::super::gpu::{EndpointGpus, Sight};
use super::cause::Cause;
use super::machine::Machine;
use super::stall::Activity;

/// A source that is silent for longer knows nothing, in milliseconds: agents say something every second.
const HEARD_MS: u64 = 10_000;
/// A reading that was older when it came is none, in milliseconds.
const READ_MS: u32 = 15_000;
/// An event that is older when it comes is history, in milliseconds.
const RECENT_MS: u64 = 60_000;
/// An event that a source tells again, with the age it has by then, is the same within this, in milliseconds.
const SAME_MS: u64 = 5_000;
/// NVML's clock-event bits: idle; slowdowns by hardware, by heat (software, hardware) and by the power brake. A software
/// power cap (0x4) is how a GPU works under load.
const IDLE: u64 = 0x1;
const THROTTLES: u64 = 0x8 | 0x20 | 0x40 | 0x80;
/// The least weight that clocks come to, and that where they are not told.
const LEAST: f32 = 0.3;
const UNTOLD: f32 = 0.5;
/// The weight of a GPU with a soft error.
const SOFT: f32 = 0.9;
/// In so many milliseconds a weight makes up most of what it lost.
const RISES_MS: f32 = 5_000.0;
/// Shares of the peak, and of the power limit, below which a GPU that says it is busy spins, and above which it works.
const SPINS: (f64, f64) = (0.02, 0.25);
const WORKS: (f64, f64) = (0.05, 0.4);

/// What is remembered of an endpoint's GPUs.
#[derive(Debug)]
pub(super) struct Memory {
    /// Uncorrected memory errors of each GPU, as last read.
    uncorrected: Vec<(String, u64)>,
    /// The last event that counted: when it was, and its number.
    last_event: (u64, u64),
    /// What the GPUs leave of the endpoint's speed, 0 to 1.
    pub(super) weight: f32,
    weighed_at: u64,
}

/// What all GPUs say of one thing.
#[derive(Clone, Copy, Debug, Default)]
struct Say {
    yes: bool,
    unknown: bool,
}

// === impl Memory ===

impl Memory {
    pub(super) const NEW: Self = Self {
        uncorrected: Vec::new(),
        last_event: (0, 0),
        weight: 1.0,
        weighed_at: 0,
    };

    /// Draws the conclusions. `since`: what happened before is not this endpoint's.
    pub(super) fn judge(
        &mut self,
        machine: &mut Machine,
        gpus: Option<&EndpointGpus>,
        since: u64,
        now: u64,
    ) {
        let sights = gpus.map_or(&[][..], |gpus| &gpus.gpus);
        self.facts(machine, sights, now);
        self.errors(machine, sights, now);
        self.events(machine, sights, since, now);
        self.weigh(machine, sights, now);
    }

    fn facts(&mut self, machine: &mut Machine, sights: &[Arc<Sight>], now: u64) {
        let together = sights.len() > 1;
        let mut says = [
            (Cause::GpuLost, Say::default()),
            (Cause::GpuRecovery, Say::default()),
            (Cause::GpuDrain, Say::default()),
            (Cause::GpuSoft, Say::default()),
            (Cause::GpuThrottled, Say::default()),
        ];
        for sight in sights {
            let gpu = &sight.gpu;
            let heard = is_heard(sight, now);
            let errors = gpu.errors.as_ref().filter(|e| heard && e.age_ms <= READ_MS);
            let action = errors.and_then(|errors| errors.recovery_action);
            let failed = errors.and_then(|errors| errors.remap_failed);
            let drains = match action {
                Some(4) => Some(true),
                Some(3) if together => Some(true),
                Some(_) => Some(false),
                None => None,
            };
            let [lost, recovery, drain, soft, throttled] = &mut says;
            lost.1.add(heard.then_some(gpu.lost));
            recovery.1.add(action.map(|action| matches!(action, 1 | 2)));
            drain.1.add(any(drains, failed));
            soft.1.add(errors.and_then(|errors| is_soft(gpu, errors, together)));
            throttled.1.add(throttle(sight, now).map(|weight| weight.is_some()));
        }
        for (cause, say) in says {
            match say {
                Say { yes: true, .. } => machine.stands(cause, now),
                Say { unknown: false, .. } if !sights.is_empty() => machine.over(cause, now),
                _ => machine.unheard(cause, now),
            }
        }
        // After an error that needs a reset: the driver wants none any more, and said so since.
        for cause in [Cause::GpuFatal, Cause::GpuEcc, Cause::GpuLink] {
            let Some(since) = machine.since(cause) else {
                continue;
            };
            let well = |sight: &Arc<Sight>| {
                let errors = sight.gpu.errors.as_ref();
                let read_at = errors.map(|e| sight.received_at.saturating_sub(e.age_ms.into()));
                let after = read_at.is_some_and(|at| at > since + cause.hold_ms());
                let none = errors.and_then(|errors| errors.recovery_action) == Some(0);
                is_heard(sight, now) && !sight.gpu.lost && after && none
            };
            if !sights.is_empty() && sights.iter().all(well) {
                machine.over(cause, now);
            }
        }
    }

    /// Uncorrected memory errors since the last reading.
    fn errors(&mut self, machine: &mut Machine, sights: &[Arc<Sight>], now: u64) {
        self.uncorrected
            .retain(|(uuid, _)| sights.iter().any(|sight| sight.gpu.uuid == *uuid));
        for sight in sights {
            let count = sight.gpu.errors.as_ref().and_then(|e| e.ecc_uncorrected);
            let Some(count) = count else {
                continue;
            };
            let uuid = &sight.gpu.uuid;
            match self.uncorrected.iter_mut().find(|(known, _)| known == uuid) {
                None => self.uncorrected.push((uuid.clone(), count)),
                Some((_, before)) => {
                    let before = std::mem::replace(before, count);
                    if count > before {
                        memory_failed(machine, &sight.gpu, now);
                    } else if count < before {
                        // Counters begin anew with a reset.
                        machine.over(Cause::GpuEcc, now);
                    }
                }
            }
        }
    }

    fn events(&mut self, machine: &mut Machine, sights: &[Arc<Sight>], since: u64, now: u64) {
        let mut latest = self.last_event;
        for sight in sights {
            for (at, event) in &sight.events {
                let (last_at, last_number) = self.last_event;
                let again = event.number == last_number && at.abs_diff(last_at) < SAME_MS;
                let told = *at < last_at || (*at == last_at && event.number <= last_number) || again;
                let old = *at < since || now.saturating_sub(*at) > RECENT_MS;
                latest = latest.max((*at, event.number));
                if !told && !old && concerns(event, &sight.gpu) {
                    happened(machine, event, &sight.gpu, sights.len() > 1, now);
                }
            }
        }
        self.last_event = latest;
    }

    /// Down at once, up slowly.
    fn weigh(&mut self, machine: &Machine, sights: &[Arc<Sight>], now: u64) {
        let throttled = sights.iter().filter_map(|sight| throttle(sight, now)?);
        let slowest = throttled.fold(1.0, f32::min);
        let mut target = match machine.has(Cause::GpuThrottled) {
            // It was a moment ago.
            true if slowest == 1.0 => self.weight.min(SOFT),
            true => slowest,
            false => 1.0,
        };
        if machine.has(Cause::GpuSoft) {
            target = target.min(SOFT);
        }
        let passed = now.saturating_sub(std::mem::replace(&mut self.weighed_at, now));
        let step = (passed as f32 / RISES_MS).min(1.0);
        let standing = machine.has(Cause::GpuThrottled);
        self.weight = match target < self.weight || !standing {
            true => target,
            false => self.weight + (target - self.weight) * step,
        };
    }
}

// === impl Say ===

impl Say {
    fn add(&mut self, says: Option<bool>) {
        self.yes |= says == Some(true);
        self.unknown |= says.is_none();
    }
}

/// What the GPUs do, for [`super::stall`].
pub(super) fn activity(gpus: Option<&EndpointGpus>, now: u64) -> Activity {
    let sights = gpus.map_or(&[][..], |gpus| &gpus.gpus);
    let of = |sight: &Arc<Sight>| -> Option<Activity> {
        let gpu = &sight.gpu;
        // Whose work it is cannot be told.
        let shared = gpu.owners.len() > 1 || gpu.mig_enabled || !gpu.parent.is_empty();
        if shared || !is_heard(sight, now) {
            return None;
        }
        let profile = gpu.profile.as_ref().filter(|p| p.age_ms <= READ_MS);
        let dram = profile.and_then(|profile| profile.dram_active);
        let tensor = profile.and_then(|profile| profile.tensor_active);
        let power = gpu.power.as_ref().filter(|p| p.age_ms <= READ_MS);
        let power = power.and_then(|power| Some(power.draw? / power.limit.filter(|&l| l > 0.0)?));
        let busy = gpu.utilization.as_ref().filter(|u| u.age_ms <= READ_MS);
        let busy = busy.and_then(|utilization| utilization.gpu);
        let above = |value: Option<f64>, least: f64| value.is_some_and(|value| value >= least);
        let below = |value: Option<f64>, most: f64| value.is_some_and(|value| value < most);
        if above(dram, WORKS.0) || above(tensor, WORKS.0) || above(power, WORKS.1) {
            return Some(Activity::Works);
        }
        let spins = above(busy, 0.9) && (below(dram, SPINS.0) || below(power, SPINS.1));
        spins.then_some(Activity::Spins)
    };
    let mut all = sights.iter().map(of);
    let Some(first) = all.next().flatten() else {
        return Activity::Unknown;
    };
    // One of several that work together waits for the others: one that works is enough, one that spins is not.
    all.fold(first, |found, next| match (found, next) {
        (Activity::Works, _) | (_, Some(Activity::Works)) => Activity::Works,
        (Activity::Spins, Some(Activity::Spins)) => Activity::Spins,
        _ => Activity::Unknown,
    })
}

fn is_heard(sight: &Sight, now: u64) -> bool {
    now.saturating_sub(sight.source.heard_at.load(Relaxed)) <= HEARD_MS
}

/// `None`: of neither is anything known, or one does not and the other is not known.
fn any(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (None, None) => None,
        // What is not supported is not told in the future either.
        _ => Some(false),
    }
}

/// Whether it has an error that says little for now.
fn is_soft(gpu: &Gpu, errors: &Errors, together: bool) -> Option<bool> {
    // Where errors are contained and pages taken out of use, a remapping may wait for the next reset.
    let pending = errors.remap_pending.map(|pending| pending && !contains_errors(gpu));
    let worn = errors.sram_threshold_exceeded;
    let peer = errors.recovery_action.map(|action| action == 3 && !together);
    any(any(pending, worn), peer)
}

/// Whether an error in memory stays with the process that met it: NVIDIA's support table for error containment.
fn contains_errors(gpu: &Gpu) -> bool {
    matches!(
        gpu.architecture(),
        Architecture::AmpereGa100 | Architecture::Hopper | Architecture::Blackwell
    )
}

/// What is left of the clock, if it is slowed down; `None`: not known.
fn throttle(sight: &Sight, now: u64) -> Option<Option<f32>> {
    let clocks = sight.gpu.clocks.as_ref();
    let clocks = clocks.filter(|clocks| is_heard(sight, now) && clocks.age_ms <= READ_MS)?;
    let reasons = clocks.event_reasons?;
    if reasons & THROTTLES == 0 || reasons & IDLE != 0 {
        return Some(None);
    }
    let share = match (clocks.sm, clocks.sm_max) {
        (Some(sm), Some(most)) if most > 0 => sm as f32 / most as f32,
        _ => UNTOLD,
    };
    Some(Some(share.clamp(LEAST, 1.0)))
}

/// Whether `event` is of `gpu`, which it was told of.
fn concerns(event: &Event, gpu: &Gpu) -> bool {
    let other = |named: Option<u32>, own: Option<u32>| matches!((named, own), (Some(a), Some(b)) if a != b);
    let elsewhere = other(event.gpu_instance, gpu.gpu_instance)
        || other(event.compute_instance, gpu.compute_instance);
    let takes_the_board = match event.kind() {
        EventKind::Xid => xid(event.value, gpu.architecture()).class == Class::Fatal,
        EventKind::GpuLost | EventKind::RecoveryAction => true,
        _ => false,
    };
    !elsewhere || takes_the_board
}

fn happened(machine: &mut Machine, event: &Event, gpu: &Gpu, together: bool, now: u64) {
    let cause = match event.kind() {
        EventKind::GpuLost => Some(Cause::GpuLost),
        EventKind::RecoveryAction => match event.value {
            1 | 2 => Some(Cause::GpuRecovery),
            4 => Some(Cause::GpuDrain),
            _ => None,
        },
        EventKind::EccUncorrected => {
            memory_failed(machine, gpu, now);
            None
        }
        EventKind::Xid => match xid(event.value, gpu.architecture()).class {
            Class::Fatal => Some(Cause::GpuFatal),
            Class::AppFatal => Some(Cause::GpuAppFatal),
            Class::Link if together => Some(Cause::GpuLink),
            Class::Drain => Some(Cause::GpuDrain),
            Class::Link | Class::Soft => Some(Cause::GpuSoft),
            Class::Action | Class::Ignored | Class::Unknown => None,
        },
        EventKind::EventUnknown | EventKind::MigChanged => None,
    };
    if let Some(cause) = cause {
        machine.happened(cause, now, now + cause.event_ms());
    }
}

/// Memory of `gpu` failed and could not be corrected.
fn memory_failed(machine: &mut Machine, gpu: &Gpu, now: u64) {
    let cause = match contains_errors(gpu) {
        true => Cause::GpuAppFatal,
        false => Cause::GpuEcc,
    };
    machine.happened(cause, now, now + cause.event_ms());
}

#[cfg(test)]
#[path = "gpus_tests.rs"]
mod tests;
