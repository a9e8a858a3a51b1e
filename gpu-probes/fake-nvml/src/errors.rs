//! Errors of memory and PCIe.

use fake_state::Gpu;
use nvml_wrapper_sys::bindings::*;

use crate::state::{board, mig_on};
use crate::{Answer, api, put, put_list};

api! {
    fn nvmlDeviceGetEccMode(
        state,
        device: nvmlDevice_t,
        current: *mut nvmlEnableState_t,
        pending: *mut nvmlEnableState_t,
    ) {
        board(state, device)?;
        put(current, 1)?;
        put(pending, 1)
    }

    fn nvmlDeviceGetTotalEccErrors(
        state,
        device: nvmlDevice_t,
        kind: nvmlMemoryErrorType_t,
        _counter: nvmlEccCounterType_t,
        errors: *mut u64,
    ) {
        put(errors, ecc(board(state, device)?, kind)?)
    }

    fn nvmlDeviceGetMemoryErrorCounter(
        state,
        device: nvmlDevice_t,
        kind: nvmlMemoryErrorType_t,
        _counter: nvmlEccCounterType_t,
        location: nvmlMemoryLocation_t,
        errors: *mut u64,
    ) {
        let all = ecc(board(state, device)?, kind)?;
        put(errors, if location == nvmlMemoryLocation_enum_NVML_MEMORY_LOCATION_DRAM { all } else { 0 })
    }

    fn nvmlDeviceGetSramEccErrorStatus(state, device: nvmlDevice_t, status: *mut nvmlEccSramErrorStatus_t) {
        let gpu = board(state, device)?;
        if status.is_null() {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        if (*status).version != size_of::<nvmlEccSramErrorStatus_t>() as u32 | 1 << 24 {
            return Err(nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        (*status).bThresholdExceeded = gpu.sram_threshold_exceeded.into();
        Ok(())
    }

    fn nvmlDeviceGetRetiredPages(
        state,
        device: nvmlDevice_t,
        _cause: nvmlPageRetirementCause_t,
        count: *mut u32,
        addresses: *mut u64,
    ) {
        none_retired(board(state, device)?)?;
        put_list(count, addresses, &[])
    }

    fn nvmlDeviceGetRetiredPages_v2(
        state,
        device: nvmlDevice_t,
        _cause: nvmlPageRetirementCause_t,
        count: *mut u32,
        addresses: *mut u64,
        _times: *mut u64,
    ) {
        none_retired(board(state, device)?)?;
        put_list(count, addresses, &[])
    }

    fn nvmlDeviceGetRetiredPagesPendingStatus(state, device: nvmlDevice_t, pending: *mut nvmlEnableState_t) {
        none_retired(board(state, device)?)?;
        put(pending, 0)
    }

    fn nvmlDeviceGetRemappedRows(
        state,
        device: nvmlDevice_t,
        corrected: *mut u32,
        uncorrected: *mut u32,
        pending: *mut u32,
        failed: *mut u32,
    ) {
        let gpu = board(state, device)?;
        if !remaps(gpu) {
            return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
        }
        put(corrected, gpu.remapped_corrected)?;
        put(uncorrected, gpu.remapped_uncorrected)?;
        put(pending, gpu.remap_pending.into())?;
        put(failed, gpu.remap_failed.into())
    }

    fn nvmlDeviceGetPcieReplayCounter(state, device: nvmlDevice_t, replays: *mut u32) {
        put(replays, board(state, device)?.pcie_replays)
    }
}

/// Whether remapped rows can be read: from Ampere on, and not while MIG instances are there.
pub(crate) fn remaps(gpu: &Gpu) -> bool {
    gpu.architecture >= 7 && !mig_on(gpu)
}

/// Pages are retired before Ampere.
fn none_retired(gpu: &Gpu) -> Answer {
    if gpu.architecture >= 7 {
        Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)
    } else {
        Ok(())
    }
}

fn ecc(gpu: &Gpu, kind: nvmlMemoryErrorType_t) -> Result<u64, nvmlReturn_t> {
    match kind {
        nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_CORRECTED => Ok(gpu.ecc_corrected),
        nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_UNCORRECTED => Ok(gpu.ecc_uncorrected),
        _ => Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT),
    }
}
