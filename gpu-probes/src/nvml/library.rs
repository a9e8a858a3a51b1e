//! The loaded library, its handles, and what its calls answer.

#![allow(unsafe_code, non_upper_case_globals)] // The codes are named as in NVIDIA's header.

use std::borrow::Cow;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST, nvmlReturn_enum_NVML_ERROR_GPU_NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH, nvmlReturn_enum_NVML_ERROR_NO_PERMISSION,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_enum_NVML_ERROR_TIMEOUT,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED, nvmlReturn_t,
};

use crate::probe::ProbeError;

/// A library that was loaded and initialised. It is shut down when the last that uses it goes.
#[derive(Debug)]
pub(super) struct Library(ManuallyDrop<Nvml>);

impl Library {
    /// Loads the library at `path`, else the system's.
    pub(super) fn open(path: Option<&Path>) -> Result<Arc<Self>, ProbeError> {
        let mut builder = Nvml::builder();
        if let Some(path) = path {
            builder.lib_path(path.as_os_str());
        }
        match builder.init() {
            Ok(nvml) => Ok(Arc::new(Self(ManuallyDrop::new(nvml)))),
            Err(NvmlError::LibloadingError(error)) => Err(ProbeError::NoDriver(error.to_string())),
            Err(NvmlError::FailedToLoadSymbol(error)) => {
                Err(ProbeError::Failed(format!("not an NVML library: {error}")))
            }
            Err(error) => Err(Why::from(error).of_library()),
        }
    }

    /// The wrapper.
    pub(super) fn nvml(&self) -> &Nvml {
        &self.0
    }

    /// The symbols: a missing one is an error. Its methods of the same names would panic.
    pub(super) fn symbols(&self) -> &NvmlLib {
        self.0.lib()
    }

    /// The device of a handle.
    pub(super) fn device(&self, handle: Handle) -> Device<'_> {
        // SAFETY: handles are made of devices of this library alone; one whose GPU or instance is gone is answered with an
        // error code.
        unsafe { Device::new(handle.0, &self.0) }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // Dropping the wrapper panics without this symbol. Then the library stays loaded.
        if self.0.lib().nvmlShutdown.is_ok() {
            // SAFETY: it is not used again.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

/// A GPU or an instance in the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(pub(super) nvmlDevice_t);

// SAFETY: NVML may be called from any thread with any handle (NVML API reference, "thread-safe"), and the handle is never
// followed here.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// The handle of a device.
    pub(super) fn of(device: &Device<'_>) -> Self {
        // SAFETY: it is only given back to the library.
        Self(unsafe { device.handle() })
    }
}

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The GPU or the driver does not have it.
    NotSupported,
    /// The library does not have the function.
    NoFunction,
    /// Not for us.
    NoPermission,
    /// The GPU is lost.
    Lost,
    /// Nothing came in time.
    Timeout,
    /// Nothing works any more: the driver went. As NVML's code.
    Gone(nvmlReturn_t),
    /// Something else, in words.
    Other(Cow<'static, str>),
}

impl Why {
    /// What a code of NVML's means; none = success.
    pub(super) fn of_code(code: nvmlReturn_t) -> Option<Self> {
        Some(match code {
            0 => return None,
            nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED => Self::NotSupported,
            nvmlReturn_enum_NVML_ERROR_NO_PERMISSION => Self::NoPermission,
            nvmlReturn_enum_NVML_ERROR_TIMEOUT => Self::Timeout,
            nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST | nvmlReturn_enum_NVML_ERROR_GPU_NOT_FOUND => {
                Self::Lost
            }
            nvmlReturn_enum_NVML_ERROR_UNINITIALIZED
            | nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED
            | nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH => Self::Gone(code),
            _ => Self::Other(words(code)),
        })
    }

    /// Whether it will be the same with the next call.
    pub(super) fn lasts(&self) -> bool {
        matches!(
            self,
            Self::NotSupported | Self::NoFunction | Self::NoPermission
        )
    }

    /// For [`crate::telemetry::Missing`].
    pub(super) fn text(&self) -> &str {
        match self {
            Self::NotSupported => "not supported",
            Self::NoFunction => "not in this driver's library",
            Self::NoPermission => "no permission",
            Self::Lost => "GPU is lost",
            Self::Timeout => "timeout",
            Self::Gone(_) => "driver is gone",
            Self::Other(words) => words,
        }
    }

    /// The same of the whole library.
    pub(super) fn of_library(&self) -> ProbeError {
        match self {
            Self::Gone(nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH) => ProbeError::Failed(
                "the NVML library does not fit the kernel's driver: restart after a driver update"
                    .into(),
            ),
            Self::Gone(_) => ProbeError::NoDriver("the driver is not loaded".into()),
            Self::NoPermission => {
                ProbeError::NoPermission("the driver's devices may not be opened".into())
            }
            other => ProbeError::Failed(other.text().into()),
        }
    }
}

impl From<NvmlError> for Why {
    fn from(error: NvmlError) -> Self {
        match error {
            NvmlError::FailedToLoadSymbol(_) => Self::NoFunction,
            NvmlError::UnexpectedVariant(code) => Self::of_code(code).unwrap_or(Self::NotSupported),
            NvmlError::NotSupported => Self::NotSupported,
            NvmlError::NoPermission => Self::NoPermission,
            NvmlError::Timeout => Self::Timeout,
            NvmlError::GpuLost => Self::Lost,
            NvmlError::Uninitialized => Self::Gone(nvmlReturn_enum_NVML_ERROR_UNINITIALIZED),
            NvmlError::DriverNotLoaded => Self::Gone(nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED),
            NvmlError::LibRmVersionMismatch => {
                Self::Gone(nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH)
            }
            other => Self::Other(other.to_string().into()),
        }
    }
}

/// The codes that mean nothing in particular here; those from 23 on are not known to the wrapper.
fn words(code: nvmlReturn_t) -> Cow<'static, str> {
    match code {
        2 => "invalid argument".into(),
        6 => "not found".into(),
        7 => "insufficient size".into(),
        16 => "the GPU must be reset".into(),
        20 => "insufficient memory".into(),
        21 => "no data".into(),
        23 => "too little memory on the GPU".into(),
        25 => "the driver has another version of the struct".into(),
        26 => "deprecated".into(),
        27 => "not ready".into(),
        _ => format!("NVML error {code}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_the_wrapper_does_not_know_are_understood() {
        let why = |code| Why::from(NvmlError::UnexpectedVariant(code));
        assert_eq!(why(28), Why::Lost);
        assert_eq!(
            why(25).text(),
            "the driver has another version of the struct"
        );
        assert_eq!(why(999_999).text(), "NVML error 999999");
        assert!(!why(25).lasts() && !why(27).lasts());
    }
}
