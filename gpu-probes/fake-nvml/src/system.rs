//! The library itself: start, end, versions.

use std::ffi::{c_char, c_int};
use std::sync::atomic::Ordering;

use nvml_wrapper_sys::bindings::*;

use crate::state::USERS;
use crate::{api, put, put_text};

api! {
    fn nvmlInit_v2(_state) {
        USERS.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn nvmlInitWithFlags(_state, _flags: u32) {
        USERS.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn nvmlSystemGetDriverVersion(state, version: *mut c_char, length: u32) {
        put_text(version, length, &state.driver_version)
    }

    fn nvmlSystemGetNVMLVersion(state, version: *mut c_char, length: u32) {
        put_text(version, length, &format!("13.{}", state.driver_version))
    }

    fn nvmlSystemGetCudaDriverVersion_v2(_state, version: *mut c_int) {
        put(version, 13_000)
    }
}

/// # Safety
/// None is needed: it takes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    // It succeeds whatever state the driver is in.
    let left = USERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |users| {
        users.checked_sub(1)
    });
    if left.is_ok() {
        nvmlReturn_enum_NVML_SUCCESS
    } else {
        nvmlReturn_enum_NVML_ERROR_UNINITIALIZED
    }
}

/// # Safety
/// None is needed: it takes a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlErrorString(code: nvmlReturn_t) -> *const c_char {
    let text = match code {
        nvmlReturn_enum_NVML_SUCCESS => c"Success",
        nvmlReturn_enum_NVML_ERROR_UNINITIALIZED => c"Uninitialized",
        nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT => c"Invalid Argument",
        nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED => c"Not Supported",
        nvmlReturn_enum_NVML_ERROR_NO_PERMISSION => c"Insufficient Permissions",
        nvmlReturn_enum_NVML_ERROR_NOT_FOUND => c"Not Found",
        nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE => c"Insufficient Size",
        nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED => c"Driver Not Loaded",
        nvmlReturn_enum_NVML_ERROR_TIMEOUT => c"Timeout",
        nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST => c"GPU is lost",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

const _: fn(&mut NvmlLib) = |library| {
    library.nvmlShutdown = Ok(nvmlShutdown);
    library.nvmlErrorString = Ok(nvmlErrorString);
};
