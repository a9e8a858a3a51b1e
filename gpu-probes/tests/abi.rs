//! The fake library by its symbols: where a caller makes mistakes, or has another version, it answers as NVIDIA documents.

#![allow(unsafe_code, non_upper_case_globals)] // NVML is C.

use std::ffi::c_uint;
use std::mem::zeroed;
use std::ptr::null_mut;

use nvml_wrapper_sys::bindings::*;

use crate::support::{Node, gpu, state};

/// The symbols of a node's library, and its first GPU.
fn library(node: &Node) -> (NvmlLib, nvmlDevice_t) {
    let mut device = null_mut();
    // SAFETY: the library is ours, and the calls are as its header has them. So in all of this file.
    unsafe {
        let library = NvmlLib::new(node.library()).unwrap();
        assert_eq!(
            library.nvmlDeviceGetHandleByIndex_v2(0, &mut device),
            1,
            "not initialised"
        );
        assert_eq!(library.nvmlInit_v2(), 0);
        assert_eq!(library.nvmlDeviceGetHandleByIndex_v2(0, &mut device), 0);
        (library, device)
    }
}

fn node() -> Node {
    let processes = (1..=3)
        .map(|pid| fake_state::Process { pid, memory: 5 })
        .collect();
    Node::new(state(vec![fake_state::Gpu {
        processes,
        ..gpu("GPU-a")
    }]))
}

#[test]
fn lists_say_how_long_they_are() {
    let node = node();
    let (library, device) = library(&node);
    // SAFETY: see `library`.
    unsafe {
        let mut count = 0;
        assert_eq!(
            library.nvmlDeviceGetComputeRunningProcesses_v3(device, &mut count, null_mut()),
            7
        );
        assert_eq!(count, 3);
        let mut room = [zeroed::<nvmlProcessInfo_t>(); 4];
        count = 2;
        assert_eq!(
            library.nvmlDeviceGetComputeRunningProcesses_v3(device, &mut count, room.as_mut_ptr()),
            7
        );
        assert_eq!(
            (count, room[0].pid),
            (3, 0),
            "nothing is written where all does not fit"
        );
        count = 4;
        assert_eq!(
            library.nvmlDeviceGetComputeRunningProcesses_v3(device, &mut count, room.as_mut_ptr()),
            0
        );
        assert_eq!((count, room.map(|process| process.pid)), (3, [1, 2, 3, 0]));
        assert_eq!(
            (room[0].gpuInstanceId, room[0].usedGpuMemory),
            (c_uint::MAX, 5)
        );
        let mut short = [0; 3];
        assert_eq!(library.nvmlDeviceGetUUID(device, short.as_mut_ptr(), 3), 7);
    }
}

#[test]
fn structs_have_versions() {
    let node = node();
    let (library, device) = library(&node);
    // SAFETY: see `library`.
    unsafe {
        let mut memory: nvmlMemory_v2_t = zeroed();
        assert_eq!(library.nvmlDeviceGetMemoryInfo_v2(device, &mut memory), 25);
        memory.version = 0x0200_0028;
        assert_eq!(library.nvmlDeviceGetMemoryInfo_v2(device, &mut memory), 0);
        let mut request: nvmlGpmMetricsGet_t = zeroed();
        assert_eq!(library.nvmlGpmMetricsGet(&mut request), 25);
        request.version = 1;
        assert_eq!(
            library.nvmlGpmMetricsGet(&mut request),
            2,
            "without samples"
        );
    }
}

#[test]
fn what_is_not_a_gpu_is_not_taken_for_one() {
    let node = node();
    let (library, device) = library(&node);
    let mut value = 0;
    // SAFETY: see `library`; its handles are numbers that are looked up.
    unsafe {
        for wrong in [
            null_mut(),
            std::ptr::without_provenance_mut(2),
            std::ptr::without_provenance_mut(usize::MAX),
        ] {
            assert_eq!(library.nvmlDeviceGetPowerUsage(wrong, &mut value), 2);
        }
        assert_eq!(library.nvmlDeviceGetPowerUsage(device, null_mut()), 2);
        assert_eq!(
            library.nvmlEventSetFree(std::ptr::without_provenance_mut(99)),
            2
        );
        let mut mig = null_mut();
        assert_eq!(
            library.nvmlDeviceGetMigDeviceHandleByIndex(device, 0, &mut mig),
            6,
            "an empty slot"
        );
        assert_eq!(
            library.nvmlDeviceGetMigDeviceHandleByIndex(device, 7, &mut mig),
            2,
            "no slot"
        );
        assert_eq!(
            library.nvmlDeviceGetHandleByUUID(c"GPU-x".as_ptr(), &mut mig),
            6
        );
        assert_eq!(
            library.nvmlDeviceGetHandleByUUID(c"GPU-a".as_ptr(), &mut mig),
            0
        );
        assert_eq!(
            (mig, library.nvmlShutdown(), library.nvmlShutdown()),
            (device, 0, 1)
        );
    }
}

#[test]
fn a_set_waits_as_long_as_it_is_told_and_for_what_is_registered() {
    let mut node = node();
    let (library, device) = library(&node);
    // SAFETY: see `library`.
    unsafe {
        let (mut set, mut event) = (null_mut(), zeroed::<nvmlEventData_t>());
        assert_eq!(library.nvmlEventSetCreate(&mut set), 0);
        assert_eq!(
            library.nvmlDeviceRegisterEvents(device, 1 << 40, set),
            3,
            "a kind that no GPU has"
        );
        assert_eq!(library.nvmlDeviceRegisterEvents(device, 8, set), 0);
        let begin = std::time::Instant::now();
        assert_eq!(library.nvmlEventSetWait_v2(set, &mut event, 30), 10);
        assert!(begin.elapsed() >= std::time::Duration::from_millis(30));
        node.happen([(0, 2, 1), (0, 8, 79)]);
        assert_eq!(library.nvmlEventSetWait_v2(set, &mut event, 0), 0);
        assert_eq!(
            (event.device, event.eventType, event.eventData),
            (device, 8, 79)
        );
        assert_eq!(
            library.nvmlEventSetWait_v2(set, &mut event, 0),
            10,
            "each once"
        );
        assert_eq!(
            (
                library.nvmlEventSetFree(set),
                library.nvmlEventSetWait_v2(set, &mut event, 0)
            ),
            (0, 2)
        );
    }
}
