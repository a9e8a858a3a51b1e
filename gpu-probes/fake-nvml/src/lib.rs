//! A `libnvidia-ml.so` for machines without a GPU, driven by the file of `fake-state`: for tests and demos.
//!
//! It has the symbols and the ABI of the real library: types come from NVIDIA's header by way of `nvml-wrapper-sys`, and
//! every exported function is checked against the header's signature when it is compiled. The file is the one that
//! [`fake_state::STATE_VARIABLE`] names, else the one beside the library with `.json` after its name; it is looked at with
//! every call and read when it was replaced. Without a file the driver is not loaded.
//!
//! It answers as the real one does where that surprises: NOT_SUPPORTED for the utilisation of a board with MIG on and for
//! its remapped rows, NOT_FOUND for an empty MIG slot, INSUFFICIENT_SIZE for a list that is too short, GPU_IS_LOST for
//! everything of a lost GPU, and of several XIDs that wait in an event set the number of the last for each.

// C names, which NVIDIA documents, exported to no Rust.
#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    non_snake_case,
    non_upper_case_globals
)]

mod clocks;
mod device;
mod errors;
mod events;
mod fields;
mod gpm;
mod links;
mod memory;
mod mig;
mod processes;
mod state;
mod system;

use std::ffi::c_char;

use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT,
    nvmlReturn_t,
};

/// What a function answers, as [`nvmlReturn_t`] where it is not 0.
type Answer = Result<(), nvmlReturn_t>;

/// Defines exported functions. Each body gets the state of now and answers; whether the function is to fail is known by its
/// name. The signature is checked against that of NVIDIA's header.
macro_rules! api {
    ($(fn $name:ident($state:ident $(, $arg:ident: $type:ty)* $(,)?) $body:block)*) => {$(
        /// # Safety
        /// As NVIDIA documents it: handles are the library's own, pointers are null or may be written to.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
            $crate::state::answer(stringify!($name), |$state| {
                // SAFETY: what the body asks for is what the caller has promised, see above.
                #[allow(unused_unsafe)]
                unsafe { $body }
            })
        }

        const _: fn(&mut nvml_wrapper_sys::bindings::NvmlLib) = |library| library.$name = Ok($name);
    )*};
}
use api;

/// Writes an answer.
///
/// # Safety
/// `to` is null or may be written to.
unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, and then the caller has promised it.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a text and its final 0.
///
/// # Safety
/// `to` is null or `room` bytes may be written there.
unsafe fn put_text(to: *mut c_char, room: u32, text: &str) -> Answer {
    if to.is_null() {
        return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    }
    if room as usize <= text.len() {
        return Err(nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
    }
    // SAFETY: not null, and the text with its 0 fits into the room that the caller has promised.
    unsafe {
        to.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Writes a list by NVML's protocol: `count` says how much room there is, and then how much there is to tell.
///
/// # Safety
/// `count` is null or may be read and written; `to` is null or has room for `count` values.
unsafe fn put_list<T: Copy>(count: *mut u32, to: *mut T, values: &[T]) -> Answer {
    if count.is_null() {
        return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, and then the caller has promised it.
    let room = unsafe { count.replace(values.len() as u32) };
    if (room as usize) < values.len() {
        return Err(nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
    }
    if to.is_null() {
        return if values.is_empty() {
            Ok(())
        } else {
            Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)
        };
    }
    // SAFETY: not null, and there is room for as many as the caller has said.
    unsafe { to.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    Ok(())
}
