//! What is taken of what a source tells: so much and no more, and nothing that cannot be.
//!
//! A source is trusted as a part of the cluster, not as a program without faults. What is too much is cut, a reading that
//! cannot be is taken as missing, and a GPU that has no usable UUID is left out; each is counted.

use gpu_probes::telemetry::{Event, Gpu, Missing};

/// GPUs and MIG instances that one source may tell of.
pub(super) const MOST_GPUS: usize = 256;
/// Events that are kept of a GPU: the last ones.
pub(super) const MOST_EVENTS: usize = 32;
/// Events that are read of one report.
pub(super) const MOST_TOLD: usize = 256;
/// Processes of a GPU, its owners, links, and what is missing.
const MOST_PARTS: usize = 128;
/// Bytes of a UUID. The longest form there is, `MIG-GPU-<uuid>/<gi>/<ci>`, has 50.
const LONGEST_UUID: usize = 96;
/// Bytes of a name.
const LONGEST_NAME: usize = 256;

/// `name`, its first part if it is too long.
pub(super) fn name(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(LONGEST_NAME));
    name
}

/// Whether `uuid` may name a GPU.
pub(super) fn is_uuid(uuid: &str) -> bool {
    (1..=LONGEST_UUID).contains(&uuid.len()) && uuid.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `gpu`, with what cannot be taken out. `None`: nothing can be made of it.
pub(super) fn gpu(mut gpu: Gpu) -> Option<Gpu> {
    let is_parent = gpu.parent.is_empty() || (is_uuid(&gpu.parent) && gpu.parent != gpu.uuid);
    if !is_uuid(&gpu.uuid) || !is_parent {
        return None;
    }
    for text in [
        &mut gpu.name,
        &mut gpu.pci_bus_id,
        &mut gpu.driver_version,
        &mut gpu.mig_profile,
    ] {
        *text = name(std::mem::take(text));
    }
    gpu.owners.truncate(MOST_PARTS);
    gpu.processes.truncate(MOST_PARTS);
    gpu.links.truncate(MOST_PARTS);
    gpu.missing.truncate(MOST_PARTS);
    for process in &mut gpu.processes {
        process.name = name(std::mem::take(&mut process.name));
        process.pod_uid = name(std::mem::take(&mut process.pod_uid));
    }
    for missing in &mut gpu.missing {
        missing.field = name(std::mem::take(&mut missing.field));
        missing.why = name(std::mem::take(&mut missing.why));
    }
    let mut absent = |field: &str| {
        gpu.missing.push(Missing {
            field: field.to_owned(),
            why: "told, and cannot be".to_owned(),
        });
    };
    if gpu
        .memory
        .as_ref()
        .is_some_and(|m| m.total == 0 || m.used > m.total || m.free > m.total)
    {
        gpu.memory = None;
        absent("memory");
    }
    let mut number = |value: &mut Option<f64>, most: f64, field: &str| {
        if value.is_some_and(|value| !(0.0..=most).contains(&value)) {
            *value = None;
            absent(field);
        }
    };
    if let Some(utilization) = &mut gpu.utilization {
        number(&mut utilization.gpu, 1.0, "utilization.gpu");
        number(&mut utilization.memory, 1.0, "utilization.memory");
    }
    if let Some(power) = &mut gpu.power {
        number(&mut power.draw, 1e5, "power.draw");
        number(&mut power.limit, 1e5, "power.limit");
        number(&mut power.energy, f64::MAX, "power.energy");
    }
    if let Some(temperature) = &mut gpu.temperature {
        number(&mut temperature.gpu, 1e3, "temperature.gpu");
        number(&mut temperature.memory, 1e3, "temperature.memory");
        number(&mut temperature.slowdown, 1e3, "temperature.slowdown");
        number(&mut temperature.shutdown, 1e3, "temperature.shutdown");
    }
    if let Some(profile) = &mut gpu.profile {
        number(&mut profile.sm_active, 1.0, "profile.sm_active");
        number(&mut profile.tensor_active, 1.0, "profile.tensor_active");
        number(&mut profile.dram_active, 1.0, "profile.dram_active");
    }
    Some(gpu)
}

/// `event`, with its texts cut.
pub(super) fn event(mut event: Event) -> Event {
    event.source = name(std::mem::take(&mut event.source));
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpu_probes::telemetry::{Memory, Owner, Temperature, Utilization};

    #[test]
    fn what_cannot_be_is_missing_and_what_is_too_much_is_cut() {
        for uuid in ["", "GPU 1", "GPU-\u{e9}", &"x".repeat(97)] {
            let bad = Gpu {
                uuid: uuid.to_owned(),
                ..Default::default()
            };
            assert!(gpu(bad).is_none(), "{uuid}");
        }
        let told = Gpu {
            uuid: "GPU-1".to_owned(),
            name: "\u{e9}".repeat(1000),
            owners: vec![Owner::default(); 10_000],
            memory: Some(Memory {
                total: 10,
                used: 11,
                ..Default::default()
            }),
            utilization: Some(Utilization {
                gpu: Some(f64::NAN),
                memory: Some(0.5),
                ..Default::default()
            }),
            temperature: Some(Temperature {
                gpu: Some(-4.0),
                memory: Some(f64::INFINITY),
                ..Default::default()
            }),
            ..Default::default()
        };
        let taken = gpu(told).unwrap();
        assert_eq!((taken.name.len(), taken.owners.len()), (256, MOST_PARTS));
        assert_eq!(taken.memory, None);
        let utilization = taken.utilization.unwrap();
        assert_eq!((utilization.gpu, utilization.memory), (None, Some(0.5)));
        let missing: Vec<_> = taken.missing.iter().map(|m| &*m.field).collect();
        let expected = [
            "memory",
            "utilization.gpu",
            "temperature.gpu",
            "temperature.memory",
        ];
        assert_eq!(missing, expected);
        let itself = Gpu {
            uuid: "GPU-1".to_owned(),
            parent: "GPU-1".to_owned(),
            ..Default::default()
        };
        assert!(gpu(itself).is_none());
    }
}
