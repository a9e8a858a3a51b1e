//! NVLink.

use fake_state::{Gpu, Link};
use nvml_wrapper_sys::bindings::*;

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
        let link = of(board(state, device)?, link)?;
        // All of a link's errors are replays.
        let replay = counter == nvmlNvLinkErrorCounter_enum_NVML_NVLINK_ERROR_DL_REPLAY;
        put(errors, if replay { link.errors } else { 0 })
    }
}

/// A link that the GPU has.
pub(crate) fn of(gpu: &Gpu, link: u32) -> Result<&Link, nvmlReturn_t> {
    gpu.links
        .get(link as usize)
        .ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)
}
