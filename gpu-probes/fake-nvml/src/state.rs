//! The file's state, and what a handle stands for in it.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fake_state::{Gpu, Mig, STATE_VARIABLE, State};
use nvml_wrapper_sys::bindings::*;

use crate::Answer;

/// How often `nvmlInit` was called more than `nvmlShutdown`.
pub(crate) static USERS: AtomicU32 = AtomicU32::new(0);

/// The file as it was read last, and how to know that it was replaced since.
struct Read {
    stamp: (i64, i64, u64, u64),
    state: Arc<State>,
}

static READ: Mutex<Option<Read>> = Mutex::new(None);

/// Runs `body` with the state of now, unless the function is to fail.
pub(crate) fn answer(function: &str, body: impl FnOnce(&State) -> Answer) -> nvmlReturn_t {
    let answer = now(function).and_then(|state| {
        if function != "nvmlInit_v2"
            && function != "nvmlInitWithFlags"
            && USERS.load(Ordering::Relaxed) == 0
        {
            return Err(nvmlReturn_enum_NVML_ERROR_UNINITIALIZED);
        }
        body(&state)
    });
    answer.err().unwrap_or(nvmlReturn_enum_NVML_SUCCESS)
}

/// The state, where it lets `function` succeed.
pub(crate) fn now(function: &str) -> Result<Arc<State>, nvmlReturn_t> {
    let state = read().ok_or(nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED)?;
    if state.failing != 0 {
        return Err(state.failing);
    }
    if state.forbidden.iter().any(|name| name == function) {
        return Err(nvmlReturn_enum_NVML_ERROR_NO_PERMISSION);
    }
    if state.unsupported.iter().any(|name| name == function) {
        return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
    }
    Ok(state)
}

/// The file, read anew if it was replaced. One that cannot be read counts as the last that could.
fn read() -> Option<Arc<State>> {
    let path = path()?;
    let stamp = std::fs::metadata(path)
        .ok()
        .map(|file| (file.mtime(), file.mtime_nsec(), file.ino(), file.size()));
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(stamp) = stamp else {
        *read = None;
        return None;
    };
    if read.as_ref().is_none_or(|last| last.stamp != stamp)
        && let Ok(state) = State::read(path)
    {
        *read = Some(Read {
            stamp,
            state: Arc::new(state),
        });
    }
    read.as_ref().map(|last| Arc::clone(&last.state))
}

/// Where the file is.
fn path() -> Option<&'static PathBuf> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    PATH.get_or_init(|| {
        std::env::var_os(STATE_VARIABLE)
            .map(PathBuf::from)
            .or_else(beside)
    })
    .as_ref()
}

/// The file beside this library.
fn beside() -> Option<PathBuf> {
    // SAFETY: all zeros is a Dl_info, as an integer and pointers that may be null.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is one of ours, and the answer goes into a Dl_info.
    let found = unsafe { libc::dladdr(path as *const libc::c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: not null, and then a C string that lives as long as this library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let mut path = OsStr::from_bytes(name.to_bytes()).to_owned();
    path.push(".json");
    Some(path.into())
}

/// What a handle stands for. Handles are numbers and never followed as pointers: a board is its index + 1, an instance has
/// its slot + 1 in the bits above.
pub(crate) struct Target<'a> {
    /// The board's index.
    pub(crate) index: usize,
    /// The board.
    pub(crate) gpu: &'a Gpu,
    /// The instance, if it is one.
    pub(crate) mig: Option<&'a Mig>,
}

const SLOT_SHIFT: usize = 16;

/// The handle of a board.
pub(crate) fn board_handle(index: usize) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(index + 1)
}

/// The handle of an instance.
pub(crate) fn mig_handle(index: usize, slot: usize) -> nvmlDevice_t {
    std::ptr::without_provenance_mut((slot + 1) << SLOT_SHIFT | (index + 1))
}

/// What `handle` stands for.
pub(crate) fn target(state: &State, handle: nvmlDevice_t) -> Result<Target<'_>, nvmlReturn_t> {
    let number = handle.addr();
    let invalid = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
    let index = (number & ((1 << SLOT_SHIFT) - 1))
        .checked_sub(1)
        .ok_or(invalid)?;
    let gpu = state.gpus.get(index).ok_or(invalid)?;
    if gpu.lost {
        return Err(nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST);
    }
    let mig = match number >> SLOT_SHIFT {
        0 => None,
        slot => Some(
            gpu.mig
                .get(slot - 1)
                .filter(|mig| !mig.uuid.is_empty())
                .ok_or(invalid)?,
        ),
    };
    Ok(Target { index, gpu, mig })
}

/// The board of `handle`, where a function does not work on MIG instances.
pub(crate) fn board(state: &State, handle: nvmlDevice_t) -> Result<&Gpu, nvmlReturn_t> {
    let target = target(state, handle)?;
    if target.mig.is_some() {
        return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
    }
    Ok(target.gpu)
}

/// Whether MIG is on.
pub(crate) fn mig_on(gpu: &Gpu) -> bool {
    !gpu.mig.is_empty()
}
