//! Who is on a GPU.

use fake_state::Process;
use nvml_wrapper_sys::bindings::*;

use crate::state::{Target, board, mig_on, target};
use crate::{api, put_list};

/// What stands for "in no instance".
const NONE: u32 = u32::MAX;

api! {
    fn nvmlDeviceGetComputeRunningProcesses_v3(
        state,
        device: nvmlDevice_t,
        count: *mut u32,
        processes: *mut nvmlProcessInfo_t,
    ) {
        put_list(count, processes, &of(&target(state, device)?))
    }

    fn nvmlDeviceGetGraphicsRunningProcesses_v3(
        state,
        device: nvmlDevice_t,
        count: *mut u32,
        processes: *mut nvmlProcessInfo_t,
    ) {
        target(state, device)?;
        put_list(count, processes, &[])
    }

    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
        state,
        device: nvmlDevice_t,
        count: *mut u32,
        processes: *mut nvmlProcessInfo_t,
    ) {
        target(state, device)?;
        put_list(count, processes, &[])
    }

    fn nvmlDeviceGetProcessUtilization(
        state,
        device: nvmlDevice_t,
        samples: *mut nvmlProcessUtilizationSample_t,
        count: *mut u32,
        _since: u64,
    ) {
        let gpu = board(state, device)?;
        if mig_on(gpu) {
            return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
        }
        let share = gpu.utilization / (gpu.processes.len() as u32).max(1);
        let values: Vec<_> = gpu.processes.iter().map(|process| nvmlProcessUtilizationSample_t {
            pid: process.pid,
            timeStamp: 1,
            smUtil: share,
            memUtil: 0,
            encUtil: 0,
            decUtil: 0,
        }).collect();
        put_list(count, samples, &values)
    }
}

/// The processes of an instance, or all on a board.
fn of(target: &Target<'_>) -> Vec<nvmlProcessInfo_t> {
    let info = |process: &Process, gpuInstanceId, computeInstanceId| nvmlProcessInfo_t {
        pid: process.pid,
        usedGpuMemory: process.memory,
        gpuInstanceId,
        computeInstanceId,
    };
    let instances = match target.mig {
        Some(mig) => std::slice::from_ref(mig),
        None => &target.gpu.mig,
    };
    let on_board = if target.mig.is_none() {
        &target.gpu.processes[..]
    } else {
        &[]
    };
    let in_instances = instances.iter().flat_map(|mig| {
        mig.processes
            .iter()
            .map(move |p| info(p, mig.gpu_instance, mig.compute_instance))
    });
    on_board
        .iter()
        .map(|process| info(process, NONE, NONE))
        .chain(in_instances)
        .collect()
}
