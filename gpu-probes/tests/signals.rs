//! What a board tells, and what it does not.

use fake_state::{Gpm, Process};
use gpu_probes::probe::{Class, GpuProbe};
use gpu_probes::telemetry::Architecture;

use crate::support::{ALL, Node, gpu, missing, read, state};

#[test]
fn a_board_tells_every_signal() {
    let board = fake_state::Gpu {
        name: "NVIDIA A100-SXM4-80GB".into(),
        architecture: 7,
        memory_total: 80 << 30,
        memory_used: 60 << 30,
        memory_reserved: 1 << 30,
        processes: vec![
            Process {
                pid: 7,
                memory: 59 << 30,
            },
            Process {
                pid: 3,
                memory: u64::MAX,
            },
        ],
        utilization: 97,
        memory_utilization: 41,
        sm_clock: 705,
        sm_clock_max: 1410,
        memory_clock: 1215,
        memory_clock_max: 1593,
        // A bit that the wrapper does not know must not get lost.
        clock_event_reasons: 0x48 | 0x1000,
        power: 301_500,
        power_limit: 400_000,
        energy: 12_345_678,
        temperature: 71,
        memory_temperature: 80,
        ecc_corrected: 5,
        ecc_uncorrected: 1,
        remapped_corrected: 2,
        remapped_uncorrected: 3,
        remap_pending: true,
        recovery_action: 4,
        pcie_replays: 6,
        sram_threshold_exceeded: true,
        ..gpu("GPU-a")
    };
    let node = Node::new(state(vec![gpu("GPU-0"), board]));
    let mut probe = node.probe();
    let gpus = read(&mut probe);
    assert_eq!((gpus.len(), probe.problem()), (2, None));
    let told = &gpus[1];
    assert_eq!(
        (told.uuid.as_str(), told.parent.as_str(), told.index),
        ("GPU-a", "", 1)
    );
    assert_eq!(
        (told.name.as_str(), told.architecture()),
        ("NVIDIA A100-SXM4-80GB", Architecture::AmpereGa100)
    );
    assert_eq!(
        (told.pci_bus_id.as_str(), told.driver_version.as_str()),
        ("00000000:02:00.0", "570.124.06")
    );
    assert!(!told.mig_enabled && !told.lost);

    let memory = told.memory.unwrap();
    assert_eq!(
        (memory.total, memory.used, memory.free),
        (80 << 30, 60 << 30, 19 << 30)
    );
    assert_eq!(memory.reserved, Some(1 << 30));
    let processes: Vec<_> = told
        .processes
        .iter()
        .map(|p| (p.pid, p.memory, p.foreign))
        .collect();
    assert_eq!(
        processes,
        [(3, None, None), (7, Some(59 << 30), None)],
        "whose they are is not known here"
    );
    let utilization = told.utilization.unwrap();
    assert_eq!(
        (utilization.gpu, utilization.memory),
        (Some(0.97), Some(0.41))
    );
    let clocks = told.clocks.unwrap();
    assert_eq!((clocks.sm, clocks.sm_max), (Some(705), Some(1410)));
    assert_eq!((clocks.memory, clocks.memory_max), (Some(1215), Some(1593)));
    assert_eq!(clocks.event_reasons, Some(0x1048));
    let power = told.power.unwrap();
    assert_eq!(
        (power.draw, power.limit, power.energy),
        (Some(301.5), Some(400.0), Some(12_345.678))
    );
    let temperature = told.temperature.unwrap();
    assert_eq!(
        (temperature.gpu, temperature.memory),
        (Some(71.0), Some(80.0))
    );
    assert_eq!(
        (temperature.slowdown, temperature.shutdown),
        (Some(87.0), Some(92.0))
    );
    let errors = told.errors.unwrap();
    assert_eq!(
        (errors.ecc_corrected, errors.ecc_uncorrected),
        (Some(5), Some(1))
    );
    assert_eq!(
        (errors.remapped_corrected, errors.remapped_uncorrected),
        (Some(2), Some(3))
    );
    assert_eq!(
        (errors.remap_pending, errors.remap_failed),
        (Some(true), Some(false))
    );
    assert_eq!(
        (errors.recovery_action, errors.pcie_replays),
        (Some(4), Some(6))
    );
    assert_eq!(
        (errors.nvlink_errors, errors.sram_threshold_exceeded),
        (Some(3), Some(true))
    );
    let links: Vec<_> = told
        .links
        .iter()
        .map(|l| (l.index, l.active, l.errors))
        .collect();
    assert_eq!(links, [(0, true, Some(3)), (1, false, Some(0))]);
    assert_eq!(missing(told), []);
}

#[test]
fn only_the_classes_that_are_asked_for_are_read() {
    let mut node = Node::new(state(vec![gpu("GPU-a")]));
    let mut probe = node.probe();
    let mut told = read(&mut probe).remove(0);
    node.change(|state| {
        state.gpus[0].temperature = 99;
        state.gpus[0].power = 1000;
    });
    probe.sample(&mut told, &[Class::Temperature]).unwrap();
    assert_eq!(told.temperature.unwrap().gpu, Some(99.0));
    assert_eq!(told.power.unwrap().draw, Some(70.0), "as it was");
}

#[test]
fn profiling_tells_what_was_between_two_samples() {
    let mut node = Node::new(state(vec![
        gpu("GPU-a"),
        fake_state::Gpu {
            gpm: None,
            ..gpu("GPU-b")
        },
    ]));
    let mut probe = node.probe();
    let mut gpus = probe.discover().unwrap();
    probe.sample(&mut gpus[0], &[Class::Profile]).unwrap();
    assert_eq!(
        (gpus[0].profile, missing(&gpus[0])),
        (None, vec![]),
        "one sample says nothing"
    );
    // Another discovery does not lose it.
    probe.discover().unwrap();
    probe.sample(&mut gpus[0], &[Class::Profile]).unwrap();
    let profile = gpus[0].profile.unwrap();
    assert_eq!(
        (profile.sm_active, profile.tensor_active),
        (Some(0.5), Some(0.25))
    );
    assert_eq!(profile.dram_active, Some(0.75));
    node.change(|state| {
        state.gpus[0].gpm = Some(Gpm {
            sm: -0.1,
            tensor: 1.7,
            dram_bandwidth: 0.0,
        })
    });
    probe.sample(&mut gpus[0], &[Class::Profile]).unwrap();
    let profile = gpus[0].profile.unwrap();
    assert_eq!(
        (profile.sm_active, profile.tensor_active),
        (Some(0.0), Some(1.0)),
        "a share is between 0 and 1"
    );
    probe.sample(&mut gpus[1], &[Class::Profile]).unwrap();
    assert_eq!(
        (gpus[1].profile, missing(&gpus[1])),
        (None, vec![("profile", "not supported")])
    );
}

#[test]
fn what_is_not_supported_or_not_permitted_is_named_once_and_the_rest_is_read() {
    let mut state = state(vec![gpu("GPU-a")]);
    state.unsupported = [
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetFieldValues/82",
        "nvmlDeviceGetFieldValues/230",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlGpmQueryDeviceSupport",
        "nvmlDeviceGetEnforcedPowerLimit",
    ]
    .map(str::to_owned)
    .to_vec();
    state.forbidden = vec![
        "nvmlDeviceGetComputeRunningProcesses_v3".into(),
        "nvmlDeviceGetPowerUsage".into(),
    ];
    let mut node = Node::new(state);
    let mut probe = node.probe();
    let mut told = read(&mut probe).remove(0);
    let expected = [
        ("errors.ecc_corrected", "not supported"),
        ("errors.ecc_uncorrected", "not supported"),
        ("errors.recovery_action", "not supported"),
        ("power.draw", "no permission"),
        ("power.limit", "not supported"),
        ("processes", "no permission"),
        ("profile", "not supported"),
        ("temperature.memory", "not supported"),
        ("utilization", "not supported"),
    ];
    assert_eq!(missing(&told), expected);
    for _ in 0..3 {
        probe.sample(&mut told, &ALL).unwrap();
    }
    assert_eq!(missing(&told), expected);
    assert_eq!(
        (
            told.utilization,
            told.power.unwrap().limit,
            told.power.unwrap().draw
        ),
        (None, None, None)
    );
    assert!(
        told.power.unwrap().energy.is_some()
            && told.memory.is_some()
            && told.errors.unwrap().pcie_replays.is_some()
    );

    // Permissions come: the next discovery asks again.
    node.change(|state| {
        state.forbidden.clear();
        state.unsupported.clear();
    });
    probe.sample(&mut told, &[Class::Power]).unwrap();
    assert_eq!(
        told.power.unwrap().draw,
        None,
        "not asked for again with each sample"
    );
    probe.discover().unwrap();
    probe.sample(&mut told, &ALL).unwrap();
    assert_eq!(missing(&told), []);
    assert_eq!(told.power.unwrap().draw, Some(70.0));
}

#[test]
fn a_failure_that_passes_is_asked_for_again() {
    let mut node = Node::new(state(vec![gpu("GPU-a")]));
    let mut probe = node.probe();
    let mut told = read(&mut probe).remove(0);
    // "Unknown error" of all calls, then none.
    node.change(|state| state.failing = 999);
    probe.sample(&mut told, &[Class::Memory]).unwrap();
    assert_eq!((told.memory, missing(&told).len()), (None, 1));
    node.change(|state| state.failing = 0);
    probe.sample(&mut told, &[Class::Memory]).unwrap();
    assert_eq!((told.memory.is_some(), missing(&told)), (true, vec![]));
}

#[test]
fn a_crowd_of_processes_is_read_whole() {
    let process = |pid| Process { pid, memory: 1 };
    for count in [0, 31, 32, 33, 500] {
        let node = Node::new(state(vec![fake_state::Gpu {
            processes: (1..=count).map(process).collect(),
            ..gpu("GPU-a")
        }]));
        let told = read(&mut node.probe()).remove(0);
        assert_eq!(told.processes.len(), count as usize);
    }
}

#[test]
fn each_generation_is_known() {
    let board = |architecture, name: &str| fake_state::Gpu {
        architecture,
        name: name.into(),
        ..gpu(name)
    };
    let node = Node::new(state(vec![
        board(4, "Tesla P100"),
        board(5, "Tesla V100"),
        board(6, "Tesla T4"),
        board(7, "NVIDIA A30"),
        board(7, "NVIDIA A10"),
        board(8, "NVIDIA L4"),
        board(9, "NVIDIA H200"),
        board(10, "NVIDIA B200"),
        board(99, "NVIDIA Next"),
    ]));
    let found = node.probe().discover().unwrap();
    let found: Vec<_> = found.iter().map(|gpu| gpu.architecture()).collect();
    use Architecture::{
        Ada, AmpereGa10x, AmpereGa100, Blackwell, Hopper, PascalOrOlder, Turing, Unknown, Volta,
    };
    assert_eq!(
        found,
        [
            PascalOrOlder,
            Volta,
            Turing,
            AmpereGa100,
            AmpereGa10x,
            Ada,
            Hopper,
            Blackwell,
            Unknown
        ]
    );
}
