//! The GPUs of a node as they were read: who is there, what was read of them and when.

use std::time::Instant;

use super::periods::{CLASSES, place};
use crate::probe::Class;
use crate::processes::Seat;
use crate::telemetry::Gpu;

/// The GPUs of a node as they were read, without owners.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// As [`crate::probe::GpuProbe::source`] has it.
    pub source: &'static str,
    pub gpus: Vec<Gpu>,
    /// Of each of `gpus`.
    pub about: Vec<About>,
}

/// What is known of a GPU besides what is told.
#[derive(Clone, Debug)]
pub(super) struct About {
    /// When each class was last read.
    pub read: [Instant; CLASSES.len()],
    /// Of each process.
    pub seen: Vec<Seen>,
}

/// What is known of a process besides what is told.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub seat: Seat,
    /// When it was first seen here.
    pub since: Instant,
}

/// A GPU that answers no more has no readings: the last ones would look like those of a healthy one.
pub(super) fn forget(gpu: &mut Gpu, about: &mut About) {
    about.seen.clear();
    gpu.memory = None;
    gpu.processes.clear();
    gpu.utilization = None;
    gpu.clocks = None;
    gpu.power = None;
    gpu.temperature = None;
    gpu.errors = None;
    gpu.profile = None;
    gpu.links.clear();
}

/// Takes who is there now into `node`; whether that is another set. What was read of those that stay, stays. A lost GPU
/// stays even if it is no longer listed, unless another is in its place, and its instances stay with it whether it is listed
/// or not: their going must not look as if they had been taken away.
pub(super) fn merge(node: &mut Node, found: Vec<Gpu>, now: Instant) -> bool {
    let gpus = std::mem::take(&mut node.gpus).into_iter();
    let mut left: Vec<(Gpu, About)> = gpus.zip(std::mem::take(&mut node.about)).collect();
    let mut changed = false;
    for identity in found {
        match left.iter().position(|(gpu, _)| gpu.uuid == identity.uuid) {
            Some(at) => {
                let (gpu, about) = left.remove(at);
                changed |= gpu.mig_enabled != identity.mig_enabled;
                node.gpus.push(with_readings(identity, gpu));
                node.about.push(about);
            }
            None => {
                changed = true;
                node.gpus.push(identity);
                node.about.push(About {
                    read: [now; CLASSES.len()],
                    seen: Vec::new(),
                });
            }
        }
    }
    let replaced = |lost: &Gpu| {
        let mut boards = node.gpus.iter().filter(|gpu| gpu.parent.is_empty());
        boards.any(|gpu| match lost.pci_bus_id.as_str() {
            "" => gpu.index == lost.index,
            place => gpu.pci_bus_id == place,
        })
    };
    let unlisted = left.iter().map(|(gpu, _)| gpu);
    let lost = unlisted.filter(|gpu| !replaced(gpu)).chain(&node.gpus);
    let lost: Vec<String> = lost
        .filter(|gpu| gpu.lost && gpu.parent.is_empty())
        .map(|gpu| gpu.uuid.clone())
        .collect();
    for (mut gpu, about) in left {
        if lost.contains(&gpu.uuid) || lost.contains(&gpu.parent) {
            gpu.lost = true;
            node.gpus.push(gpu);
            node.about.push(about);
        } else {
            changed = true;
        }
    }
    changed
}

fn with_readings(identity: Gpu, gpu: Gpu) -> Gpu {
    Gpu {
        lost: gpu.lost || identity.lost,
        memory: gpu.memory,
        processes: gpu.processes,
        utilization: gpu.utilization,
        clocks: gpu.clocks,
        power: gpu.power,
        temperature: gpu.temperature,
        errors: gpu.errors,
        profile: gpu.profile,
        links: gpu.links,
        missing: gpu.missing,
        ..identity
    }
}

/// With its ages as of `now`.
pub(super) fn aged(mut gpu: Gpu, about: &About, now: Instant) -> Gpu {
    let age = |class: Class| millis(now, about.read[place(class)]);
    let add = |age_ms: &mut u32, class| *age_ms = age_ms.saturating_add(age(class));
    if let Some(memory) = &mut gpu.memory {
        add(&mut memory.age_ms, Class::Memory);
    }
    if let Some(utilization) = &mut gpu.utilization {
        add(&mut utilization.age_ms, Class::Utilization);
    }
    if let Some(clocks) = &mut gpu.clocks {
        add(&mut clocks.age_ms, Class::Clocks);
    }
    if let Some(power) = &mut gpu.power {
        add(&mut power.age_ms, Class::Power);
    }
    if let Some(temperature) = &mut gpu.temperature {
        add(&mut temperature.age_ms, Class::Temperature);
    }
    if let Some(errors) = &mut gpu.errors {
        add(&mut errors.age_ms, Class::Errors);
    }
    if let Some(profile) = &mut gpu.profile {
        add(&mut profile.age_ms, Class::Profile);
    }
    gpu
}

pub(super) fn millis(now: Instant, then: Instant) -> u32 {
    let age = now.saturating_duration_since(then).as_millis();
    u32::try_from(age).unwrap_or(u32::MAX)
}
