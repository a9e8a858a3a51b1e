//! What is noise: a GPU is told again only when something moved further than this since it was last told.
//!
//! | Value | Noise |
//! |---|---|
//! | memory (also of a process) | less than 32 MiB |
//! | utilisation, GPM | less than 0.05 |
//! | clocks | less than 2 % of the maximum; without one, less than 30 MHz |
//! | power | less than 2 % of the limit; without one, less than 5 W |
//! | temperature | less than 2 °C |
//! | energy | all of it: a counter that never rests |
//!
//! Anything else that differs is told: identity, owners, processes, reasons of clocks, error counters, links, what is missing.

use crate::telemetry::{Clocks, Gpu, Memory, Power, Process, Profile, Temperature, Utilization};

const MEMORY: f64 = (32 << 20) as f64;
const SHARE: f64 = 0.05;
const CLOCK: f64 = 30.0;
const POWER: f64 = 5.0;
const DEGREES: f64 = 2.0;
/// Of the maximum or limit.
const PART: f64 = 0.02;

/// Whether `now` is worth telling to whoever was told `told`.
pub(super) fn moved(told: &Gpu, now: &Gpu) -> bool {
    with(&told.memory, &now.memory, memory)
        || with(&told.utilization, &now.utilization, utilization)
        || with(&told.clocks, &now.clocks, clocks)
        || with(&told.power, &now.power, power)
        || with(&told.temperature, &now.temperature, temperature)
        || with(&told.profile, &now.profile, profile)
        || processes(&told.processes, &now.processes)
        || exact(told) != exact(now)
}

/// What is compared to the letter: all else left out.
fn exact(gpu: &Gpu) -> Gpu {
    let mut exact = Gpu {
        memory: None,
        processes: Vec::new(),
        utilization: None,
        clocks: None,
        power: None,
        temperature: None,
        profile: None,
        ..gpu.clone()
    };
    if let Some(errors) = &mut exact.errors {
        errors.age_ms = 0;
    }
    exact
}

/// Whether it came, went, or moved.
fn with<T>(told: &Option<T>, now: &Option<T>, moved: fn(&T, &T) -> bool) -> bool {
    match (told, now) {
        (Some(told), Some(now)) => moved(told, now),
        (None, None) => false,
        _ => true,
    }
}

fn far<T: Into<f64> + Copy>(told: Option<T>, now: Option<T>, noise: f64) -> bool {
    match (told, now) {
        (Some(told), Some(now)) => (told.into() - now.into()).abs() >= noise,
        (None, None) => false,
        _ => true,
    }
}

/// Bytes stay exact in a double up to 8 PiB.
fn bytes(told: u64, now: u64) -> bool {
    told.abs_diff(now) as f64 >= MEMORY
}

fn memory(told: &Memory, now: &Memory) -> bool {
    bytes(told.total, now.total)
        || bytes(told.used, now.used)
        || bytes(told.free, now.free)
        || with(&told.reserved, &now.reserved, |told, now| {
            bytes(*told, *now)
        })
}

fn processes(told: &[Process], now: &[Process]) -> bool {
    let same = |(told, now): (&Process, &Process)| {
        let memory = told.memory;
        let apart = with(&memory, &now.memory, |told, now| bytes(*told, *now));
        !apart
            && Process {
                memory,
                ..now.clone()
            } == *told
    };
    told.len() != now.len() || !told.iter().zip(now).all(same)
}

fn utilization(told: &Utilization, now: &Utilization) -> bool {
    far(told.gpu, now.gpu, SHARE) || far(told.memory, now.memory, SHARE)
}

fn clocks(told: &Clocks, now: &Clocks) -> bool {
    let noise = |max: Option<u32>| max.map_or(CLOCK, |max| f64::from(max) * PART);
    far(told.sm, now.sm, noise(now.sm_max))
        || far(told.memory, now.memory, noise(now.memory_max))
        || (told.sm_max, told.memory_max, told.event_reasons)
            != (now.sm_max, now.memory_max, now.event_reasons)
}

fn power(told: &Power, now: &Power) -> bool {
    let noise = now.limit.map_or(POWER, |limit| limit * PART);
    far(told.draw, now.draw, noise)
        || told.limit != now.limit
        || told.energy.is_some() != now.energy.is_some()
}

fn temperature(told: &Temperature, now: &Temperature) -> bool {
    far(told.gpu, now.gpu, DEGREES)
        || far(told.memory, now.memory, DEGREES)
        || (told.slowdown, told.shutdown) != (now.slowdown, now.shutdown)
}

fn profile(told: &Profile, now: &Profile) -> bool {
    far(told.sm_active, now.sm_active, SHARE)
        || far(told.tensor_active, now.tensor_active, SHARE)
        || far(told.dram_active, now.dram_active, SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Errors, Link, Owner};

    fn gpu() -> Gpu {
        Gpu {
            uuid: "GPU-a".into(),
            memory: Some(Memory {
                total: 80 << 30,
                used: 40 << 30,
                free: 40 << 30,
                ..Memory::default()
            }),
            processes: vec![Process {
                pid: 7,
                memory: Some(1 << 30),
                ..Process::default()
            }],
            utilization: Some(Utilization {
                gpu: Some(0.5),
                ..Utilization::default()
            }),
            clocks: Some(Clocks {
                sm: Some(1000),
                sm_max: Some(2000),
                event_reasons: Some(0),
                ..Clocks::default()
            }),
            power: Some(Power {
                draw: Some(300.0),
                limit: Some(700.0),
                energy: Some(1.0),
                ..Power::default()
            }),
            temperature: Some(Temperature {
                gpu: Some(50.0),
                ..Temperature::default()
            }),
            errors: Some(Errors {
                pcie_replays: Some(3),
                ..Errors::default()
            }),
            ..Gpu::default()
        }
    }

    /// What an edit of a GPU comes to.
    fn after(edit: impl FnOnce(&mut Gpu)) -> bool {
        let mut now = gpu();
        edit(&mut now);
        moved(&gpu(), &now)
    }

    macro_rules! of {
        ($gpu:ident.$group:ident) => {
            $gpu.$group.as_mut().unwrap()
        };
    }

    #[test]
    fn noise_is_not_told() {
        assert!(!after(|_| {}));
        assert!(!after(|gpu| {
            of!(gpu.memory).age_ms = 900;
            of!(gpu.errors).age_ms = 900;
            of!(gpu.memory).used += (32 << 20) - 1;
            of!(gpu.memory).free -= (32 << 20) - 1;
            gpu.processes[0].memory = Some((1 << 30) + 1);
            of!(gpu.utilization).gpu = Some(0.54);
            of!(gpu.clocks).sm = Some(1039);
            of!(gpu.power).draw = Some(313.9);
            of!(gpu.power).energy = Some(1e9);
            of!(gpu.temperature).gpu = Some(51.0);
        }));
    }

    #[test]
    fn what_moved_is_told() {
        assert!(after(|gpu| of!(gpu.memory).used += 32 << 20));
        assert!(after(|gpu| gpu.processes[0].memory = Some(2 << 30)));
        assert!(after(|gpu| gpu.processes[0].memory = None));
        assert!(after(|gpu| gpu.processes[0].foreign = Some(true)));
        assert!(after(|gpu| gpu.processes.clear()));
        assert!(after(|gpu| of!(gpu.utilization).gpu = Some(0.44)));
        assert!(after(|gpu| of!(gpu.clocks).sm = Some(1040)));
        assert!(after(|gpu| of!(gpu.clocks).event_reasons = Some(0x40)));
        assert!(after(|gpu| of!(gpu.power).draw = Some(314.0)));
        assert!(after(|gpu| of!(gpu.power).limit = Some(400.0)));
        assert!(after(|gpu| of!(gpu.temperature).gpu = Some(52.0)));
        assert!(after(|gpu| of!(gpu.errors).pcie_replays = Some(4)));
        assert!(after(|gpu| of!(gpu.errors).recovery_action = Some(0)));
        // To be missing is not to be 0.
        assert!(after(|gpu| of!(gpu.power).draw = None));
        assert!(after(|gpu| gpu.power = None));
        assert!(after(|gpu| gpu.lost = true));
        assert!(after(|gpu| gpu.owners = vec![Owner::default()]));
        assert!(after(|gpu| gpu.links = vec![Link::default()]));
    }
}
