//! What happens to GPUs.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use fake_state::Mig;
use gpu_probes::probe::{EventSource, GpuProbe, ProbeError};
use gpu_probes::telemetry::{Event, EventKind};

use crate::support::{Node, SOON, events, gpu, state};

const XID: u64 = 8;
const DOUBLE_BIT: u64 = 2;
const MIG_CHANGE: u64 = 0x100;
const UNAVAILABLE: u64 = 0x4000;
const RECOVERY: u64 = 0x8000;

fn watch(node: &Node) -> Box<dyn EventSource> {
    let mut probe = node.probe();
    probe.discover().unwrap();
    probe.events().unwrap()
}

fn told(events: &[Event]) -> Vec<(&str, EventKind, u64)> {
    events
        .iter()
        .map(|event| (event.uuid.as_str(), event.kind(), event.value))
        .collect()
}

fn two() -> Node {
    Node::new(state(vec![gpu("GPU-a"), gpu("GPU-b")]))
}

#[test]
fn every_kind_is_told_of_the_gpu_it_happened_to() {
    let mut node = two();
    node.happen([(0, XID, 13)]);
    node.state.gpus[1].recovery_action = 2;
    let mut source = watch(&node);
    for (what, expected) in [
        ((0, XID, 79), ("GPU-a", EventKind::Xid, 79)),
        ((1, DOUBLE_BIT, 3), ("GPU-b", EventKind::EccUncorrected, 3)),
        ((1, MIG_CHANGE, 0), ("GPU-b", EventKind::MigChanged, 0)),
        ((0, UNAVAILABLE, 0), ("GPU-a", EventKind::GpuLost, 0)),
        ((1, RECOVERY, 0), ("GPU-b", EventKind::RecoveryAction, 2)),
    ] {
        // What was before the source began is not told.
        node.happen([what]);
        let event = events(source.as_mut(), 1).remove(0);
        assert_eq!(told(std::slice::from_ref(&event)), [expected]);
        assert_eq!(
            (event.source.as_str(), event.number, event.age_ms),
            ("nvml", 0, 0),
            "the rest is the caller's"
        );
    }
    assert_eq!(source.wait(Duration::ZERO).unwrap(), []);
    assert_eq!(source.wait(Duration::from_millis(20)).unwrap(), []);
}

#[test]
fn the_xid_for_a_recovery_action_brings_the_action() {
    let mut node = two();
    let mut source = watch(&node);
    node.state.gpus[0].recovery_action = 1;
    node.happen([(0, XID, 154)]);
    let came = events(source.as_mut(), 2);
    assert_eq!(
        told(&came),
        [
            ("GPU-a", EventKind::Xid, 154),
            ("GPU-a", EventKind::RecoveryAction, 1)
        ]
    );
}

#[test]
fn an_event_of_an_instance_has_its_name() {
    let mut node = two();
    let mig = |uuid: &str, gpu_instance, compute_instance| Mig {
        uuid: uuid.into(),
        gpu_instance,
        compute_instance,
        profile: "1g.10gb".into(),
        ..Mig::default()
    };
    node.change(|state| {
        state.gpus[0].mig = vec![mig("MIG-1", 9, 0), mig("MIG-2", 3, 0), mig("MIG-3", 3, 1)]
    });
    let mut probe = node.probe();
    probe.discover().unwrap();
    let mut source = probe.events().unwrap();
    for (gpu_instance, compute_instance, uuid) in [
        (Some(9), Some(0), "MIG-1"),
        (Some(3), Some(1), "MIG-3"),
        (Some(9), None, "MIG-1"),
        (Some(3), None, "GPU-a"),
        (Some(5), Some(0), "GPU-a"),
        (None, None, "GPU-a"),
    ] {
        let sequence = node.state.events.last().map_or(0, |event| event.sequence) + 1;
        node.change(|state| {
            state.events.push(fake_state::Event {
                sequence,
                gpu: 0,
                kind: XID,
                data: 31,
                gpu_instance,
                compute_instance,
            });
        });
        let event = events(source.as_mut(), 1).remove(0);
        assert_eq!(
            (
                event.uuid.as_str(),
                event.gpu_instance,
                event.compute_instance
            ),
            (uuid, gpu_instance, compute_instance)
        );
    }
    // Instances that came later are known after a discovery.
    node.change(|state| state.gpus[0].mig.push(mig("MIG-5", 5, 0)));
    probe.discover().unwrap();
    let sequence = node.state.events.last().unwrap().sequence + 1;
    node.change(|state| {
        let event = fake_state::Event {
            sequence,
            kind: XID,
            data: 31,
            gpu_instance: Some(5),
            ..Default::default()
        };
        state.events.push(event);
    });
    assert_eq!(events(source.as_mut(), 1)[0].uuid, "MIG-5");
}

#[test]
fn a_gpu_that_gets_lost_does_not_take_the_others_along() {
    let mut node = two();
    let mut source = watch(&node);
    node.change(|state| state.gpus[0].lost = true);
    assert_eq!(
        told(&events(source.as_mut(), 1)),
        [("GPU-a", EventKind::GpuLost, 0)]
    );
    node.happen([(1, XID, 31)]);
    assert_eq!(
        told(&events(source.as_mut(), 1)),
        [("GPU-b", EventKind::Xid, 31)],
        "told once, and no more of it"
    );
    node.change(|state| state.gpus[0].lost = false);
    // Its set is made anew after a while: until then, what happens to it is missed.
    let end = std::time::Instant::now() + SOON;
    loop {
        assert!(std::time::Instant::now() < end);
        node.happen([(0, XID, 43)]);
        let came = source.wait(Duration::from_millis(200)).unwrap();
        if !came.is_empty() {
            assert_eq!(told(&came[..1]), [("GPU-a", EventKind::Xid, 43)]);
            return;
        }
    }
}

#[test]
fn a_gpu_without_events_does_not_take_the_others_along() {
    // The set of the first cannot be registered: an old GPU.
    let mut node = two();
    node.change(|state| state.gpus[0].lost = true);
    let mut probe = node.probe();
    probe.discover().unwrap();
    let mut source = probe.events().unwrap();
    node.happen([(1, XID, 31)]);
    assert_eq!(
        told(&events(source.as_mut(), 1)),
        [("GPU-b", EventKind::Xid, 31)]
    );
    node.change(|state| state.unsupported = vec!["nvmlDeviceGetSupportedEventTypes".into()]);
    let mut silent = watch(&node);
    node.happen([(1, XID, 31)]);
    assert_eq!(silent.wait(Duration::from_millis(50)).unwrap(), []);
}

#[test]
fn a_driver_that_goes_ends_the_source_and_another_goes_on() {
    let mut node = two();
    let mut source = watch(&node);
    node.change(|state| state.failing = 9);
    let end = std::time::Instant::now() + SOON;
    let error = loop {
        assert!(std::time::Instant::now() < end);
        match source.wait(Duration::from_millis(100)) {
            Ok(came) => assert_eq!(came, []),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ProbeError::NoDriver(_)), "{error}");
    drop(source);
    node.change(|state| state.failing = 0);
    let mut source = watch(&node);
    node.happen([(1, XID, 31)]);
    assert_eq!(
        told(&events(source.as_mut(), 1)),
        [("GPU-b", EventKind::Xid, 31)]
    );
}

#[test]
fn two_sources_get_every_event_each() {
    let mut node = two();
    let (mut one, mut other) = (watch(&node), watch(&node));
    node.happen([(0, XID, 31)]);
    assert_eq!(
        told(&events(one.as_mut(), 1)),
        told(&events(other.as_mut(), 1))
    );
}

#[test]
fn several_xids_at_once_have_the_number_of_the_last_without_the_kernel_log() {
    let mut node = two();
    let mut source = watch(&node);
    node.happen([(0, XID, 31), (1, XID, 13), (0, XID, 45)]);
    let mut came = events(source.as_mut(), 3);
    came.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    let xid = EventKind::Xid;
    assert_eq!(
        told(&came),
        [("GPU-a", xid, 45), ("GPU-a", xid, 45), ("GPU-b", xid, 13)],
        "that is NVML"
    );
}

fn write(log: &mut File, lines: &[&str]) {
    for line in lines {
        writeln!(log, "4,812,5103,-;{line}").unwrap();
    }
}

#[test]
fn the_kernel_log_tells_each_xid_and_its_process() {
    let mut node = two();
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(node.kmsg())
        .unwrap();
    write(
        &mut log,
        &["NVRM: Xid (PCI:0000:01:00): 62, pid=1, before we came"],
    );
    let mut source = watch(&node);
    write(
        &mut log,
        &[
            "usb 1-1: new device",
            "NVRM: Xid (PCI:0000:01:00): 31, pid=7, name=vllm, Ch 0000000a, MMU Fault",
            "NVRM: Xid (PCI:0000:01:00): 45, pid=7, name=vllm, Ch 0000000a",
            "NVRM: Xid (PCI:0000:09:00): 79, of a GPU that is not ours",
            "NVRM: Xid (PCI:0000:02:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        ],
    );
    let came = events(source.as_mut(), 3);
    let who: Vec<_> = came
        .iter()
        .map(|e| (e.uuid.as_str(), e.value, e.pid, e.source.as_str()))
        .collect();
    let expected = [
        ("GPU-a", 31, Some(7), "kmsg"),
        ("GPU-a", 45, Some(7), "kmsg"),
        ("GPU-b", 79, None, "kmsg"),
    ];
    assert_eq!(who, expected);
    // NVML's events for them say nothing more, not even after the time that they would be held back for.
    node.happen([
        (0, XID, 31),
        (0, XID, 45),
        (0, DOUBLE_BIT, 1),
        (1, XID, 79),
        (1, DOUBLE_BIT, 1),
    ]);
    let came = events(source.as_mut(), 2);
    assert!(
        came.iter()
            .all(|event| event.kind() == EventKind::EccUncorrected),
        "{came:?}"
    );
    assert_eq!(source.wait(Duration::from_millis(200)).unwrap(), []);
}

#[test]
fn what_the_kernel_log_does_not_have_is_told_all_the_same() {
    let mut node = two();
    File::create(node.kmsg()).unwrap();
    let mut source = watch(&node);
    node.happen([(0, XID, 79)]);
    let came = events(source.as_mut(), 1);
    assert_eq!(
        (told(&came), came[0].source.as_str()),
        (vec![("GPU-a", EventKind::Xid, 79)], "nvml")
    );
}
