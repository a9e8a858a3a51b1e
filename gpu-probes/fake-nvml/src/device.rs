//! Which GPUs there are. A board's PCI address is bus index + 1 of domain 0.

use std::ffi::{CStr, c_char, c_int};

use fake_state::State;
use nvml_wrapper_sys::bindings::*;

use crate::state::{board, board_handle, mig_handle, target};
use crate::{Answer, api, put, put_text};

api! {
    fn nvmlDeviceGetCount_v2(state, count: *mut u32) {
        put(count, state.gpus.len() as u32)
    }

    fn nvmlDeviceGetHandleByIndex_v2(state, index: u32, device: *mut nvmlDevice_t) {
        let handle = board_handle(index as usize);
        target(state, handle)?;
        put(device, handle)
    }

    fn nvmlDeviceGetHandleByUUID(state, uuid: *const c_char, device: *mut nvmlDevice_t) {
        let uuid = text(uuid)?;
        let boards = state.gpus.iter().enumerate().map(|(index, gpu)| (gpu.uuid.as_str(), board_handle(index)));
        let instances = state.gpus.iter().enumerate().flat_map(|(index, gpu)| {
            gpu.mig.iter().enumerate().map(move |(slot, mig)| (mig.uuid.as_str(), mig_handle(index, slot)))
        });
        find(state, device, boards.chain(instances).find(|(name, _)| *name == uuid && !name.is_empty()))
    }

    fn nvmlDeviceGetHandleByPciBusId_v2(state, bus_id: *const c_char, device: *mut nvmlDevice_t) {
        let wanted = text(bus_id)?;
        // With a domain of four or of eight digits.
        let fits = |index: usize| {
            let id = bus_id_of(index);
            id.eq_ignore_ascii_case(&wanted) || id[4..].eq_ignore_ascii_case(&wanted)
        };
        let found = (0..state.gpus.len()).find(|index| fits(*index));
        find(state, device, found.map(|index| ("", board_handle(index))))
    }

    fn nvmlDeviceGetUUID(state, device: nvmlDevice_t, uuid: *mut c_char, length: u32) {
        let target = target(state, device)?;
        put_text(uuid, length, target.mig.map_or(&target.gpu.uuid, |mig| &mig.uuid))
    }

    fn nvmlDeviceGetName(state, device: nvmlDevice_t, name: *mut c_char, length: u32) {
        let target = target(state, device)?;
        match target.mig {
            None => put_text(name, length, &target.gpu.name),
            Some(mig) => put_text(name, length, &format!("{} MIG {}", target.gpu.name, mig.profile)),
        }
    }

    fn nvmlDeviceGetSerial(state, device: nvmlDevice_t, serial: *mut c_char, length: u32) {
        board(state, device)?;
        put_text(serial, length, &format!("16{:011}", target(state, device)?.index))
    }

    fn nvmlDeviceGetIndex(state, device: nvmlDevice_t, index: *mut u32) {
        put(index, target(state, device)?.index as u32)
    }

    fn nvmlDeviceGetMinorNumber(state, device: nvmlDevice_t, minor: *mut u32) {
        board(state, device)?;
        put(minor, target(state, device)?.index as u32)
    }

    fn nvmlDeviceGetPciInfo_v3(state, device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        let index = target(state, device)?.index;
        let id = bus_id_of(index);
        // SAFETY: all zeros is a PciInfo, as numbers and texts.
        let mut info: nvmlPciInfo_t = std::mem::zeroed();
        info.bus = index as u32 + 1;
        info.pciDeviceId = 0x2330_10de;
        info.pciSubSystemId = 0x16c1_10de;
        put_text(info.busId.as_mut_ptr(), info.busId.len() as u32, &id)?;
        put_text(info.busIdLegacy.as_mut_ptr(), info.busIdLegacy.len() as u32, &id[4..])?;
        put(pci, info)
    }

    fn nvmlDeviceGetArchitecture(state, device: nvmlDevice_t, architecture: *mut nvmlDeviceArchitecture_t) {
        put(architecture, target(state, device)?.gpu.architecture)
    }

    fn nvmlDeviceGetCudaComputeCapability(state, device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) {
        let gpu = target(state, device)?.gpu;
        let ga100 = ["A100", "A800", "A30"].iter().any(|name| gpu.name.contains(name));
        let (of_major, of_minor) = match gpu.architecture {
            5 => (7, 0),
            6 => (7, 5),
            7 => (8, if ga100 { 0 } else { 6 }),
            8 => (8, 9),
            9 => (9, 0),
            10 => (10, 0),
            _ => (6, 0),
        };
        put(major, of_major)?;
        put(minor, of_minor)
    }
}

/// The PCI address of the board at `index`.
fn bus_id_of(index: usize) -> String {
    format!("00000000:{:02X}:00.0", index + 1)
}

/// A text that the caller gave.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> Result<String, nvmlReturn_t> {
    if text.is_null() {
        return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, and then the caller has promised it.
    Ok(unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned())
}

/// Answers with a handle that was found, unless its GPU is lost.
///
/// # Safety
/// `device` is null or may be written to.
unsafe fn find(
    state: &State,
    device: *mut nvmlDevice_t,
    found: Option<(&str, nvmlDevice_t)>,
) -> Answer {
    let (_, handle) = found.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_FOUND)?;
    target(state, handle)?;
    // SAFETY: the caller's promise is ours.
    unsafe { put(device, handle) }
}
