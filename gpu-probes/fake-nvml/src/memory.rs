//! Memory and shares of time.

use nvml_wrapper_sys::bindings::*;

use crate::state::{Target, board, mig_on, target};
use crate::{api, put};

api! {
    fn nvmlDeviceGetMemoryInfo(state, device: nvmlDevice_t, memory: *mut nvmlMemory_t) {
        let (total, reserved, used) = of(&target(state, device)?);
        // This version counts what is reserved as used.
        let used = used + reserved;
        put(memory, nvmlMemory_t { total, free: total.saturating_sub(used), used })
    }

    fn nvmlDeviceGetMemoryInfo_v2(state, device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) {
        let (total, reserved, used) = of(&target(state, device)?);
        if memory.is_null() {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        // The caller says which version of the struct it has.
        let version = (*memory).version;
        if version != size_of::<nvmlMemory_v2_t>() as u32 | 2 << 24 {
            return Err(nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        let free = total.saturating_sub(reserved).saturating_sub(used);
        put(memory, nvmlMemory_v2_t { version, total, reserved, free, used })
    }

    fn nvmlDeviceGetUtilizationRates(state, device: nvmlDevice_t, rates: *mut nvmlUtilization_t) {
        let gpu = board(state, device)?;
        if mig_on(gpu) {
            return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
        }
        put(rates, nvmlUtilization_t { gpu: gpu.utilization, memory: gpu.memory_utilization })
    }
}

/// Total, reserved and used bytes.
fn of(target: &Target<'_>) -> (u64, u64, u64) {
    match target.mig {
        None => (
            target.gpu.memory_total,
            target.gpu.memory_reserved,
            target.gpu.memory_used,
        ),
        Some(mig) => (mig.memory_total, 0, mig.memory_used),
    }
}
