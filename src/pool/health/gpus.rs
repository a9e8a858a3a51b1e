//! What follows from an endpoint's GPUs: readings and events in, causes out.
//!
//! Several GPUs of one endpoint work together: the worst of them counts for its health, the slowest for its speed. A GPU
//! that is shared in time is one fault domain, so an event counts for all that it was given to. With MIG, an event that
//! names an instance is that instance's, unless it needs a reset: that takes the board. One that names none may be anybody's
//! on the board.
//!
//! What is not known is no sign of anything: what a silent source told ([`Source::is_silent`]), a reading that is
//! [`READ_MS`] old (of a source that is asked seldom, older than it may be silent), a value that is absent. `docs/health.md` has the thresholds and where they come from.

use std::collections::BTreeSet;
use std::sync::Arc;

use gpu_probes::telemetry::{Architecture, Errors, Event, EventKind, Gpu};
use gpu_probes::xid::{Class, xid};

#[cfg(doc)]
use super::super::gpu::Source;
use super::super::gpu::{EndpointGpus, Sight};
use super::cause::Cause;
use super::machine::Machine;
use super::processes::Processes;

mod activity;
mod whose;

pub(super) use activity::activity;
pub(super) use whose::is_shared;

use whose::{concerned, is_told_of_its_board};

/// An older reading is none, in milliseconds.
const READ_MS: u64 = 15_000;
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
/// The XID of a row remapping: the table has its weight by architecture.
const REMAPPED: u64 = 63;
/// So many events more than twice those that are told are remembered, so that none counts twice.
const MORE_EVENTS: usize = 64;
/// Of a GPU that others share, an error that killed a process may have killed another's: how long it counts, in milliseconds.
const ANOTHERS_MS: u64 = 5_000;

/// What is remembered of an endpoint's GPUs.
#[derive(Debug)]
pub(super) struct Memory {
    /// Uncorrected memory errors of each GPU, as last read.
    uncorrected: Vec<(String, u64)>,
    /// Events that were seen: number, value, and when.
    events: BTreeSet<(u64, u64, u64)>,
    pub(super) processes: Processes,
    /// What the GPUs leave of the endpoint's speed, 0 to 1.
    pub(super) weight: f32,
    weighed_at: u64,
    /// The weight that soft errors leave, while there are any.
    soft: f32,
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
        events: BTreeSet::new(),
        processes: Processes::NEW,
        weight: 1.0,
        weighed_at: 0,
        soft: 1.0,
    };

    /// Draws the conclusions. `since`: what happened before is not this endpoint's.
    pub(super) fn judge(
        &mut self,
        machine: &mut Machine,
        gpus: &EndpointGpus,
        since: u64,
        now: u64,
    ) {
        if !machine.has(Cause::GpuSoft) {
            self.soft = 1.0;
        }
        self.facts(machine, gpus, now);
        self.memory_errors(machine, gpus, now);
        self.processes.look(gpus, now);
        self.events(machine, gpus, since, now);
        machine.settle(now);
        self.weigh(machine, gpus, now);
    }

    fn facts(&mut self, machine: &mut Machine, gpus: &EndpointGpus, now: u64) {
        let together = gpus.own().count() > 1;
        let mut says = [
            (Cause::GpuLost, Say::default()),
            (Cause::GpuRecovery, Say::default()),
            (Cause::GpuDrain, Say::default()),
            (Cause::GpuSoft, Say::default()),
            (Cause::GpuThrottled, Say::default()),
        ];
        for sight in &gpus.gpus {
            let errors = errors(sight, now);
            let action = errors.and_then(|errors| errors.recovery_action);
            let failed = errors.and_then(|errors| errors.remap_failed);
            let drains = action.map(|action| action == 4 || action == 3 && together);
            let pending = errors.and_then(|errors| errors.remap_pending);
            let worn = errors.and_then(|errors| errors.sram_threshold_exceeded);
            let remaps = pending.map(|pending| pending && !contains_errors(&sight.gpu));
            let peer = action.map(|action| action == 3 && !together);
            if remaps == Some(true) {
                self.soften(xid(REMAPPED, sight.gpu.architecture()).weight as f32);
            }
            if worn == Some(true) || peer == Some(true) {
                self.soften(SOFT);
            }
            let [lost, recovery, drain, soft, throttled] = &mut says;
            lost.1
                .add((!sight.source.is_silent(now)).then_some(sight.gpu.lost));
            if is_told_of_its_board(sight, gpus) {
                continue;
            }
            recovery.1.add(action.map(|action| matches!(action, 1 | 2)));
            drain.1.add(any([drains, failed]));
            soft.1.add(any([remaps, worn, peer]));
            throttled
                .1
                .add(throttle(sight, now).map(|weight| weight.is_some()));
        }
        for (cause, say) in says {
            match say {
                Say { yes: true, .. } => machine.stands(cause, now),
                Say { unknown: false, .. } if !gpus.gpus.is_empty() => machine.over(cause, now),
                _ => machine.unheard(cause, now),
            }
        }
        // After an error that needs a reset: the driver wants none any more, and said so since.
        for cause in [Cause::GpuFatal, Cause::GpuEcc, Cause::GpuLink] {
            let Some(last) = machine.last(cause) else {
                continue;
            };
            let well = |sight: &Arc<Sight>| {
                errors(sight, now).is_some_and(|errors| {
                    let read_at = now - sight.age_ms(errors.age_ms, now).min(now);
                    let asked_since = read_at > last + cause.hold_ms();
                    asked_since && errors.recovery_action == Some(0) && !sight.gpu.lost
                })
            };
            let mut tell = gpus.gpus.iter().filter(|s| !is_told_of_its_board(s, gpus));
            if !gpus.gpus.is_empty() && tell.all(well) {
                machine.cleared(cause, now);
            }
        }
    }

    /// Uncorrected memory errors since the last reading.
    fn memory_errors(&mut self, machine: &mut Machine, gpus: &EndpointGpus, now: u64) {
        self.uncorrected
            .retain(|(uuid, _)| gpus.gpus.iter().any(|sight| sight.gpu.uuid == *uuid));
        for sight in &gpus.gpus {
            let Some(count) = errors(sight, now).and_then(|errors| errors.ecc_uncorrected) else {
                continue;
            };
            let uuid = &sight.gpu.uuid;
            match self.uncorrected.iter_mut().find(|(known, _)| known == uuid) {
                None => self.uncorrected.push((uuid.clone(), count)),
                Some((_, before)) => {
                    let before = std::mem::replace(before, count);
                    if count > before {
                        if let Some(cause) = failed_memory(&sight.gpu) {
                            machine.happened(cause, now, now + event_ms(cause, &sight.gpu));
                        }
                    } else if count < before {
                        // Counters begin anew with a reset.
                        machine.cleared(Cause::GpuEcc, now);
                    }
                }
            }
        }
    }

    fn events(&mut self, machine: &mut Machine, gpus: &EndpointGpus, since: u64, now: u64) {
        let together = gpus.own().count() > 1;
        for sight in &gpus.gpus {
            for (at, event) in &sight.events {
                if *at < since || now.saturating_sub(*at) > RECENT_MS || self.knows(event, *at) {
                    continue;
                }
                if let Some(gpu) = concerned(event, sight, gpus) {
                    self.happened(machine, event, gpu, together, (*at, now));
                }
            }
        }
        // Sources tell the last few of each GPU: what they dropped does not come again.
        let told = || gpus.gpus.iter().flat_map(|sight| &sight.events);
        if self.events.len() > MORE_EVENTS + 2 * told().count() {
            let told = told().map(|(at, event)| (event.number, event.value, *at));
            self.events = told.collect();
        }
    }

    /// Whether this event came before; if not, it has now.
    fn knows(&mut self, event: &Event, at: u64) -> bool {
        let (first, last) = (at.saturating_sub(SAME_MS - 1), at + (SAME_MS - 1));
        let same = |when| (event.number, event.value, when);
        let known = self.events.range(same(first)..=same(last)).next().is_some();
        if !known {
            self.events.insert(same(at));
        }
        known
    }

    fn happened(
        &mut self,
        machine: &mut Machine,
        event: &Event,
        gpu: &Gpu,
        together: bool,
        (at, now): (u64, u64),
    ) {
        let cause = match event.kind() {
            EventKind::GpuLost => Some(Cause::GpuLost),
            EventKind::RecoveryAction => match event.value {
                1 | 2 => Some(Cause::GpuRecovery),
                4 => Some(Cause::GpuDrain),
                _ => None,
            },
            EventKind::EccUncorrected => failed_memory(gpu),
            EventKind::Xid => {
                let known = xid(event.value, gpu.architecture());
                match known.class {
                    Class::Fatal => Some(Cause::GpuFatal),
                    Class::AppFatal => Some(Cause::GpuAppFatal),
                    Class::Link if together => Some(Cause::GpuLink),
                    Class::Drain => Some(Cause::GpuDrain),
                    Class::Link | Class::Soft => {
                        self.soften(known.weight as f32);
                        Some(Cause::GpuSoft)
                    }
                    Class::Action | Class::Ignored | Class::Unknown => None,
                }
            }
            EventKind::EventUnknown | EventKind::MigChanged => None,
        };
        if let Some(cause) = cause {
            // It came late: what it struck is gone.
            if cause.ends_with_the_process() && at < machine.restarted_at() {
                return;
            }
            self.processes.failed();
            machine.happened(cause, now, now + event_ms(cause, gpu));
        }
    }

    fn soften(&mut self, weight: f32) {
        self.soft = self.soft.min(weight);
    }

    /// Down at once, up slowly.
    fn weigh(&mut self, machine: &Machine, gpus: &EndpointGpus, now: u64) {
        let throttled = gpus.gpus.iter().filter_map(|sight| throttle(sight, now)?);
        let slowest = throttled.fold(f32::INFINITY, f32::min);
        let stands = machine.has(Cause::GpuThrottled);
        let target = match stands {
            // It was a moment ago.
            true if slowest.is_infinite() => self.weight,
            true => slowest,
            false => 1.0,
        };
        let target = match machine.has(Cause::GpuSoft) {
            true => target.min(self.soft),
            false => target,
        };
        let passed = now.saturating_sub(std::mem::replace(&mut self.weighed_at, now));
        let step = (passed as f32 / RISES_MS).min(1.0);
        self.weight = match target < self.weight || !stands {
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

/// True if one is; else what is known. What is not supported has no say.
fn any<const N: usize>(says: [Option<bool>; N]) -> Option<bool> {
    let known = says.into_iter().flatten();
    known.fold(None, |found, says| Some(found.unwrap_or(false) || says))
}

/// Its error counters, if they are known now.
fn errors(sight: &Sight, now: u64) -> Option<&Errors> {
    let errors = sight.gpu.errors.as_ref()?;
    is_known(sight, errors.age_ms, now).then_some(errors)
}

/// Whether a reading of that age holds now.
fn is_known(sight: &Sight, age_ms: u32, now: u64) -> bool {
    let oldest = READ_MS.max(sight.source.silent_ms);
    !sight.source.is_silent(now) && sight.age_ms(age_ms, now) <= oldest
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
    let clocks = sight.gpu.clocks.as_ref()?;
    if !is_known(sight, clocks.age_ms, now) {
        return None;
    }
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

/// What follows when memory of `gpu` failed and could not be corrected.
fn failed_memory(gpu: &Gpu) -> Option<Cause> {
    match contains_errors(gpu) {
        // Of which instance it was an XID tells.
        true if gpu.mig_enabled => None,
        true => Some(Cause::GpuAppFatal),
        false => Some(Cause::GpuEcc),
    }
}

/// How long an event of `gpu` counts, in milliseconds, when nothing else is heard. A board with MIG instances is all theirs.
fn event_ms(cause: Cause, gpu: &Gpu) -> u64 {
    let anothers = is_shared(gpu) || gpu.mig_enabled;
    match cause {
        Cause::GpuAppFatal if anothers => ANOTHERS_MS,
        cause => cause.event_ms(),
    }
}

#[cfg(test)]
pub(super) mod tests;
