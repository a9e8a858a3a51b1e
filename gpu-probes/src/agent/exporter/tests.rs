use std::sync::Arc;
use std::time::Duration;

use super::super::node::{About, Node, Seen};
use super::super::periods::{CLASSES, Periods};
use super::*;
use crate::devices::Device;
use crate::owners::{Holder, Holding};
use crate::processes::Seat;
use crate::telemetry::{
    Clocks, Errors, Event, EventKind, Memory, Power, Process, Profile, Temperature, Utilization,
};

fn board() -> Gpu {
    Gpu {
        uuid: "GPU-a".into(),
        index: 0,
        name: "NVIDIA \"H100\" 80GB HBM3".into(),
        architecture: crate::telemetry::Architecture::Hopper.into(),
        pci_bus_id: "00000000:3B:00.0".into(),
        driver_version: "580.95.05".into(),
        memory: Some(Memory {
            total: 80 << 30,
            used: 31 << 30,
            free: 48 << 30,
            reserved: Some(1 << 30),
            ..Memory::default()
        }),
        processes: vec![
            Process {
                pid: 7,
                memory: Some(30 << 30),
                ..Process::default()
            },
            Process {
                pid: 8,
                memory: Some(1 << 30),
                ..Process::default()
            },
        ],
        utilization: Some(Utilization {
            gpu: Some(0.97),
            memory: Some(0.5),
            ..Utilization::default()
        }),
        clocks: Some(Clocks {
            sm: Some(1755),
            sm_max: Some(1980),
            memory: Some(2619),
            memory_max: Some(2619),
            event_reasons: Some(0x44),
            ..Clocks::default()
        }),
        power: Some(Power {
            draw: Some(512.5),
            limit: Some(700.0),
            energy: Some(1234.567),
            ..Power::default()
        }),
        temperature: Some(Temperature {
            gpu: Some(71.0),
            memory: Some(80.0),
            slowdown: Some(87.0),
            shutdown: Some(92.0),
            ..Temperature::default()
        }),
        errors: Some(Errors {
            ecc_corrected: Some(3),
            ecc_uncorrected: Some(1),
            remapped_corrected: Some(0),
            remapped_uncorrected: Some(2),
            remap_pending: Some(true),
            remap_failed: Some(false),
            recovery_action: Some(1),
            pcie_replays: Some(4),
            nvlink_errors: Some(5),
            ..Errors::default()
        }),
        profile: Some(Profile {
            sm_active: Some(0.8),
            tensor_active: Some(0.4),
            dram_active: Some(0.6),
            ..Profile::default()
        }),
        ..Gpu::default()
    }
}

/// A whole GPU with two owners, one that is lost, one with an instance that somebody has; one of the processes is foreign.
fn state(start: Instant) -> State {
    let instance = Gpu {
        uuid: "MIG-c".into(),
        parent: "GPU-c".into(),
        index: 2,
        gpu_instance: Some(3),
        compute_instance: Some(0),
        mig_profile: "1g.10gb".into(),
        memory: Some(Memory {
            total: 10 << 30,
            used: 0,
            free: 10 << 30,
            ..Memory::default()
        }),
        ..Gpu::default()
    };
    let bare = |uuid: &str, index, lost| Gpu {
        uuid: uuid.into(),
        index,
        lost,
        ..Gpu::default()
    };
    let gpus = vec![
        board(),
        bare("GPU-b", 1, true),
        bare("GPU-c", 2, false),
        instance,
    ];
    let about = |gpu: &Gpu| About {
        read: [start; CLASSES.len()],
        seen: gpu
            .processes
            .iter()
            .map(|process| Seen {
                seat: match process.pid {
                    7 => Seat::Pod("u1".into()),
                    _ => Seat::NoPod,
                },
                since: start,
            })
            .collect(),
    };
    let node = Node {
        source: "nvml",
        about: gpus.iter().map(about).collect(),
        gpus,
    };
    let mut state = State::new(Arc::new(|_| None), Periods::default());
    state.publish(node, start);
    let xid = |uuid: &str, value| Event {
        uuid: uuid.into(),
        kind: EventKind::Xid.into(),
        value,
        ..Event::default()
    };
    state.happened(
        vec![xid("GPU-a", 94), xid("GPU-a", 31), xid("GPU-a", 94)],
        start,
    );
    let holding = |uuid: &str, pod: &str, replica| Holding {
        device: Device::Uuid(uuid.into()),
        holder: Holder {
            owner: Owner {
                namespace: "default".into(),
                pod: pod.into(),
                container: "server".into(),
                replica,
            },
            pod_uids: vec!["u1".into()],
            ..Holder::default()
        },
    };
    state.set_owners(|owners| {
        owners.kubelet = Some(vec![
            holding("GPU-a", "llama-0", Some(0)),
            holding("GPU-a", "llama-1", Some(1)),
            holding("MIG-c", "small", None),
            holding("GPU-elsewhere", "lost", None),
        ]);
    });
    state
}

/// As DCGM's exporter writes it, to the letter: see the file.
#[test]
fn the_page_is_the_exporters() {
    let start = Instant::now();
    let page = page(
        &state(start),
        "node-1",
        2,
        start + Duration::from_millis(250),
    );
    let golden = include_str!("golden.txt");
    for (line, expected) in page.lines().zip(golden.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(page.lines().count(), golden.lines().count());
}

#[test]
fn our_own_reader_of_exporters_reads_it_back() {
    let start = Instant::now();
    let page = page(&state(start), "node-1", 0, start);
    let read = crate::dcgm::parse(&page);
    assert_eq!(read.bad_lines, 0);
    assert_eq!(read.node, "node-1");
    let uuids: Vec<&str> = read.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
    assert_eq!(uuids, ["GPU-a", "GPU-b", "GPU-c", "MIG-GPU-c/3"]);
    let (read, told) = (&read.gpus[0], board());
    assert_eq!(read.memory, told.memory);
    assert_eq!(read.utilization, told.utilization);
    assert_eq!(read.clocks, told.clocks);
    assert_eq!(read.power, told.power);
    assert_eq!(read.temperature, told.temperature);
    assert_eq!(read.profile, told.profile);
    let errors = Errors {
        // It has no name for these.
        recovery_action: None,
        nvlink_errors: None,
        ..told.errors.unwrap()
    };
    assert_eq!(read.errors, Some(errors));
    assert_eq!(
        (
            &read.name,
            &read.pci_bus_id,
            &read.driver_version,
            read.architecture()
        ),
        (
            &told.name,
            &told.pci_bus_id,
            &told.driver_version,
            told.architecture()
        )
    );
    let pods: Vec<&str> = read.owners.iter().map(|owner| owner.pod.as_str()).collect();
    assert_eq!(pods, ["llama-0", "llama-1"]);
}

#[test]
fn labels_cannot_break_out() {
    assert_eq!(escaped("a\"} 1\n\\"), "a\\\"} 1\\n\\\\");
}
