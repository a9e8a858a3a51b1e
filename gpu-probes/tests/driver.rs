//! Drivers and GPUs that are not there, that come and that go.

use gpu_probes::nvml::{NvmlProbe, Settings, self_test};
use gpu_probes::probe::{Class, GpuProbe, ProbeError};

use crate::support::{ALL, Node, gpu, read, state};

#[test]
fn without_a_library_there_is_no_driver() {
    let settings = Settings {
        library: Some("/nowhere/libnvidia-ml.so.1".into()),
        kmsg: None,
    };
    let mut probe = NvmlProbe::new(settings);
    let error = probe.discover().unwrap_err();
    assert!(
        matches!(&error, ProbeError::NoDriver(why) if why.contains("/nowhere")),
        "{error}"
    );
    assert!(probe.events().is_none());
    let error = probe.sample(&mut Default::default(), &ALL).unwrap_err();
    assert!(matches!(error, ProbeError::NoDriver(_)), "{error}");
}

#[test]
fn a_driver_that_comes_later_is_found() {
    let node = Node::without_driver(state(vec![gpu("GPU-a")]));
    let mut probe = node.probe();
    for _ in 0..2 {
        assert!(matches!(
            probe.discover().unwrap_err(),
            ProbeError::NoDriver(_)
        ));
    }
    node.write();
    assert_eq!(read(&mut probe)[0].uuid, "GPU-a");
}

#[test]
fn a_driver_that_goes_is_no_driver_until_it_is_back() {
    let mut node = Node::new(state(vec![gpu("GPU-a")]));
    let mut probe = node.probe();
    let mut told = read(&mut probe).remove(0);
    for code in [1, 9] {
        node.change(|state| state.failing = code);
        assert!(matches!(
            probe.sample(&mut told, &[Class::Memory]).unwrap_err(),
            ProbeError::NoDriver(_)
        ));
        assert!(matches!(
            probe.discover().unwrap_err(),
            ProbeError::NoDriver(_)
        ));
        node.change(|state| state.failing = 0);
        assert!(matches!(
            probe.sample(&mut told, &[Class::Memory]).unwrap_err(),
            ProbeError::NoDriver(_)
        ));
        told = read(&mut probe).remove(0);
        assert!(told.memory.is_some());
    }
}

#[test]
fn a_driver_that_was_updated_under_us_says_so() {
    let mut node = Node::new(state(vec![gpu("GPU-a")]));
    node.change(|state| state.failing = 18);
    let error = node.probe().discover().unwrap_err();
    assert!(
        matches!(&error, ProbeError::Failed(why) if why.contains("driver update")),
        "{error}"
    );
}

#[test]
fn without_permission_that_is_said() {
    let mut state = state(vec![gpu("GPU-a"), gpu("GPU-b")]);
    state.forbidden = vec!["nvmlInit_v2".into()];
    let mut node = Node::new(state);
    let mut probe = node.probe();
    assert!(matches!(
        probe.discover().unwrap_err(),
        ProbeError::NoPermission(_)
    ));
    node.change(|state| state.forbidden = vec!["nvmlDeviceGetHandleByIndex_v2".into()]);
    assert!(
        matches!(probe.discover().unwrap_err(), ProbeError::NoPermission(_)),
        "all of them"
    );
    node.change(|state| state.forbidden.clear());
    assert_eq!(
        (probe.discover().unwrap().len(), probe.problem()),
        (2, None)
    );
}

#[test]
fn a_gpu_that_cannot_be_told_apart_is_a_problem_and_the_others_are_there() {
    let mut broken = state(vec![gpu(&"x".repeat(200)), gpu("GPU-b")]);
    broken.driver_version.clear();
    let node = Node::new(broken);
    let mut probe = node.probe();
    let found = probe.discover().unwrap();
    assert_eq!((found.len(), found[0].uuid.as_str()), (1, "GPU-b"));
    let problem = probe.problem().unwrap();
    assert!(problem.starts_with("GPU 0: "), "{problem}");
}

#[test]
fn a_node_without_gpus_has_none_and_no_problem() {
    let node = Node::new(state(vec![]));
    let mut probe = node.probe();
    assert_eq!(
        (probe.discover().unwrap().len(), probe.problem()),
        (0, None)
    );
    assert!(probe.events().is_none());
}

#[test]
fn a_lost_gpu_is_marked_and_comes_back() {
    let mut node = Node::new(state(vec![gpu("GPU-a"), gpu("GPU-b")]));
    let mut probe = node.probe();
    let mut told = read(&mut probe).remove(0);
    node.change(|state| state.gpus[0].lost = true);
    probe.sample(&mut told, &ALL).unwrap();
    assert!(told.lost);
    assert_eq!(
        (told.memory, told.clocks, told.errors),
        (None, None, None),
        "old numbers say nothing"
    );
    assert_eq!((told.processes.len(), told.links.len()), (0, 0));
    let found = probe.discover().unwrap();
    let who: Vec<_> = found
        .iter()
        .map(|gpu| (gpu.uuid.as_str(), gpu.lost))
        .collect();
    assert_eq!(
        who,
        [("GPU-a", true), ("GPU-b", false)],
        "it is still known who it was"
    );
    node.change(|state| state.gpus[0].lost = false);
    probe.sample(&mut told, &ALL).unwrap();
    assert!(!told.lost && told.memory.is_some());
    assert!(!probe.discover().unwrap()[0].lost);
}

#[test]
fn a_gpu_that_was_lost_before_we_came_is_there_without_a_name() {
    let mut node = Node::new(state(vec![
        fake_state::Gpu {
            lost: true,
            ..gpu("GPU-a")
        },
        gpu("GPU-b"),
    ]));
    let mut probe = node.probe();
    let mut found = probe.discover().unwrap();
    let who: Vec<_> = found
        .iter()
        .map(|gpu| (gpu.uuid.as_str(), gpu.lost))
        .collect();
    assert_eq!(who, [("lost-0", true), ("GPU-b", false)]);
    probe.sample(&mut found[0], &ALL).unwrap();
    assert!(found[0].lost);
    node.change(|state| state.gpus[0].lost = false);
    assert_eq!(probe.discover().unwrap()[0].uuid, "GPU-a");
}

#[test]
fn the_self_test_tells_what_every_call_answered() {
    let mut state = state(vec![
        gpu("GPU-a"),
        fake_state::Gpu {
            gpm: None,
            lost: true,
            ..gpu("GPU-b")
        },
    ]);
    state.gpus[0].mig = vec![fake_state::Mig {
        uuid: "MIG-1".into(),
        profile: "1g.10gb".into(),
        ..Default::default()
    }];
    state.unsupported = vec!["nvmlDeviceGetPowerUsage".into()];
    let node = Node::new(state);
    let answers = self_test(Some(&node.library())).unwrap();
    let told = |call: &str, device: &str| {
        let found = answers
            .iter()
            .find(|answer| answer.call == call && answer.device == device);
        found
            .unwrap_or_else(|| panic!("{call} of {device} in {answers:#?}"))
            .answer
            .as_str()
    };
    assert_eq!(told("nvmlSystemGetDriverVersion", ""), "\"570.124.06\"");
    assert_eq!(told("nvmlDeviceGetPowerUsage", "GPU-a"), "not supported");
    assert_eq!(
        told("nvmlDeviceGetHandleByIndex_v2", "index 1"),
        "GPU is lost"
    );
    assert!(told("nvmlDeviceGetMemoryInfo_v2", "MIG-1").contains("total"));
    assert!(told("nvmlDeviceRegisterEvents, nvmlEventSetWait_v2", "GPU-a").contains("registered"));
    let nothing = self_test(Some("/nowhere/lib.so".as_ref())).unwrap_err();
    assert!(matches!(nothing, ProbeError::NoDriver(_)));
}
