//! NVLink.

use fake_state::{Gpu, Link};
use nvml_wrapper_sys::bindings::field_id::*;
use nvml_wrapper_sys::bindings::*;

use crate::fields::Value;
use crate::state::board;
use crate::{api, put};

api! {
    fn nvmlDeviceGetNvLinkState(state, device: nvmlDevice_t, link: u32, active: *mut nvmlEnableState_t) {
        put(active, of(board(state, device)?, link)?.active.into())
    }

    fn nvmlDeviceGetNvLinkErrorCounter(
        state,
        device: nvmlDevice_t,
        link: u32,
        counter: nvmlNvLinkErrorCounter_t,
        errors: *mut u64,
    ) {
        let gpu = board(state, device)?;
        let link = of(gpu, link)?;
        if is_5(gpu) {
            return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
        }
        // All of a link's errors are replays.
        let replay = counter == nvmlNvLinkErrorCounter_enum_NVML_NVLINK_ERROR_DL_REPLAY;
        put(errors, if replay { link.errors } else { 0 })
    }
}

/// Blackwell and later: its counters have other fields.
pub(crate) fn is_5(gpu: &Gpu) -> bool {
    gpu.architecture >= 10
}

/// Counters of errors that NVLink 5 does not have.
pub(crate) fn is_of_older(field: u32) -> bool {
    let of_board =
        NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_L0..=NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL;
    let of_link = NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY..=NVML_FI_DEV_NVLINK_ERROR_DL_CRC;
    of_board.contains(&field) || of_link.contains(&field)
}

/// Counters of NVLink 5: of one link, or of all.
pub(crate) fn count_5(gpu: &Gpu, field: u32, scope: u32) -> Result<Value, nvmlReturn_t> {
    if !is_5(gpu) || gpu.links.is_empty() {
        return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
    }
    let errors = match scope {
        u32::MAX => gpu.links.iter().map(|link| link.errors).sum(),
        link => of(gpu, link)?.errors,
    };
    // All of a link's errors are packets that came with errors.
    let told = field == NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS;
    Ok(Value::U64(if told { errors } else { 0 }))
}

/// A link that the GPU has.
pub(crate) fn of(gpu: &Gpu, link: u32) -> Result<&Link, nvmlReturn_t> {
    gpu.links
        .get(link as usize)
        .ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)
}
