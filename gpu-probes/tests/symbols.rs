//! Libraries of other drivers, which lack functions.

use std::time::Duration;

use gpu_probes::nvml::self_test;
use gpu_probes::probe::{GpuProbe, ProbeError};
use gpu_probes::telemetry::Gpu;

use crate::support::{ALL, Node, gpu, missing, read, state, symbols, without_symbols};

/// A node whose library has only the functions for which `keep` says so, with all there is to read in it.
fn node(keep: impl Fn(&str) -> bool) -> Node {
    let mut node = Node::without_driver(state(vec![gpu("GPU-a"), gpu("GPU-b")]));
    node.state.gpus[1].mig = vec![fake_state::Mig {
        uuid: "MIG-1".into(),
        profile: "1g.10gb".into(),
        gpm: Some(fake_state::Gpm::default()),
        ..Default::default()
    }];
    without_symbols(&node.library(), keep);
    node.write();
    node
}

/// Everything that is ever called, twice, and everything dropped.
fn use_all(node: &Node) -> Result<Vec<Gpu>, ProbeError> {
    let mut probe = node.probe();
    let mut gpus = probe.discover()?;
    for _ in 0..2 {
        for gpu in &mut gpus {
            probe.sample(gpu, &ALL)?;
        }
    }
    if let Some(mut events) = probe.events() {
        events.wait(Duration::ZERO)?;
    }
    self_test(Some(&node.library()))?;
    Ok(gpus)
}

#[test]
fn no_function_that_is_missing_ends_the_process() {
    let names = symbols();
    assert!(names.len() > 60, "{names:?}");
    for name in names.keys() {
        let used = use_all(&node(|other| other != name));
        match name.as_str() {
            // Without these nothing is known of any GPU.
            "nvmlInit_v2" | "nvmlDeviceGetCount_v2" => assert!(used.is_err(), "{name}"),
            "nvmlDeviceGetHandleByIndex_v2" | "nvmlDeviceGetUUID" => {
                assert_eq!(used.unwrap().len(), 0, "{name}")
            }
            _ => assert!(used.unwrap().len() > 1, "{name}"),
        }
    }
}

#[test]
fn a_library_that_has_hardly_anything_tells_who_is_there() {
    let least = [
        "nvmlInit_v2",
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID",
    ];
    let used = use_all(&node(|name| least.contains(&name))).unwrap();
    assert_eq!(
        used.iter().map(|gpu| gpu.uuid.as_str()).collect::<Vec<_>>(),
        ["GPU-a", "GPU-b"]
    );
    let known = |gpu: &Gpu| gpu.memory.is_some() || gpu.clocks.is_some() || gpu.errors.is_some();
    assert!(!used.iter().any(known));
    assert!(
        used[0]
            .missing
            .iter()
            .all(|missing| missing.why == "not in this driver's library"),
        "{used:?}"
    );
}

#[test]
fn something_that_is_no_nvml_is_an_error() {
    let error = use_all(&node(|_| false)).unwrap_err();
    assert!(
        matches!(&error, ProbeError::Failed(why) if why.contains("not an NVML library")),
        "{error}"
    );
}

#[test]
fn the_older_name_of_a_function_will_do() {
    let node = node(|name| name != "nvmlDeviceGetCurrentClocksEventReasons");
    let told = read(&mut node.probe()).remove(0);
    assert_eq!(told.clocks.unwrap().event_reasons, Some(1));
    assert_eq!(missing(&told), []);
}
