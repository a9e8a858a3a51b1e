//! MIG: instances sit in slots; an entry without a UUID is a slot that is empty.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::*;

use crate::state::{board, board_handle, mig_handle, mig_on, target};
use crate::{api, put};

/// How many slots a board has.
const SLOTS: u32 = 7;

api! {
    fn nvmlDeviceGetMigMode(state, device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) {
        let gpu = board(state, device)?;
        // A100, A30, H100 and Blackwell have it.
        if gpu.architecture < 7 || gpu.architecture == 8 {
            return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
        }
        put(current, mig_on(gpu).into())?;
        put(pending, mig_on(gpu).into())
    }

    fn nvmlDeviceGetMaxMigDeviceCount(state, device: nvmlDevice_t, count: *mut c_uint) {
        board(state, device)?;
        put(count, SLOTS)
    }

    fn nvmlDeviceGetMigDeviceHandleByIndex(state, device: nvmlDevice_t, slot: c_uint, mig: *mut nvmlDevice_t) {
        board(state, device)?;
        if slot >= SLOTS {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        let handle = mig_handle(target(state, device)?.index, slot as usize);
        target(state, handle).map_err(|_| nvmlReturn_enum_NVML_ERROR_NOT_FOUND)?;
        put(mig, handle)
    }

    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(state, mig: nvmlDevice_t, device: *mut nvmlDevice_t) {
        let target = target(state, mig)?;
        if target.mig.is_none() {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        put(device, board_handle(target.index))
    }

    fn nvmlDeviceIsMigDeviceHandle(state, device: nvmlDevice_t, is: *mut c_uint) {
        put(is, target(state, device)?.mig.is_some().into())
    }

    fn nvmlDeviceGetGpuInstanceId(state, device: nvmlDevice_t, id: *mut c_uint) {
        let mig = target(state, device)?.mig.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
        put(id, mig.gpu_instance)
    }

    fn nvmlDeviceGetComputeInstanceId(state, device: nvmlDevice_t, id: *mut c_uint) {
        let mig = target(state, device)?.mig.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
        put(id, mig.compute_instance)
    }

    fn nvmlDeviceGetAttributes_v2(state, device: nvmlDevice_t, attributes: *mut nvmlDeviceAttributes_t) {
        let mig = target(state, device)?.mig.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
        let slices = |unit: &str| {
            mig.profile.split('.').find_map(|part| part.strip_suffix(unit)).and_then(|number| number.parse().ok())
        };
        let of_gpu: c_uint = slices("g").unwrap_or(1);
        put(attributes, nvmlDeviceAttributes_t {
            multiprocessorCount: of_gpu * 16,
            sharedCopyEngineCount: of_gpu,
            sharedDecoderCount: of_gpu,
            sharedEncoderCount: 0,
            sharedJpegCount: 0,
            sharedOfaCount: 0,
            gpuInstanceSliceCount: of_gpu,
            computeInstanceSliceCount: slices("c").unwrap_or(of_gpu),
            memorySizeMB: mig.memory_total >> 20,
        })
    }
}
