//! Who is there: boards and their MIG instances.

use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError;

use super::library::{Handle, Library, Why};
use super::raw;
use crate::architecture::architecture_of;
use crate::telemetry::{Architecture, Gpu};

/// A board and the instances on it.
type Found = (Handle, Gpu, Vec<(Handle, Gpu)>);

/// The board at NVML's index. What only describes it may be missing, but its UUID may not.
pub(super) fn board(library: &Library, index: u32) -> Result<Found, Why> {
    let device = library.nvml().device_by_index(index)?;
    let handle = Handle::of(&device);
    let name = optional(device.name())?.unwrap_or_default();
    let mut gpu = Gpu {
        uuid: device.uuid()?,
        index,
        minor: optional(device.minor_number())?,
        architecture: architecture(library, handle, &name).into(),
        name,
        pci_bus_id: optional(device.pci_info())?
            .map(|pci| pci.bus_id)
            .unwrap_or_default(),
        // Most GPUs have no MIG, and say so.
        mig_enabled: optional(device.mig_mode())?.is_some_and(|mode| mode.current == 1),
        ..Gpu::default()
    };
    let instances = if gpu.mig_enabled {
        instances(library, &device, &gpu)?
    } else {
        Vec::new()
    };
    gpu.pci_bus_id.make_ascii_uppercase();
    Ok((handle, gpu, instances))
}

/// The instances of a board. A slot may be empty with others after it.
fn instances(library: &Library, board: &Device<'_>, gpu: &Gpu) -> Result<Vec<(Handle, Gpu)>, Why> {
    let mut found = Vec::new();
    for slot in 0..optional(board.mig_device_count())?.unwrap_or(0) {
        let Some(device) = optional(board.mig_device_by_index(slot))? else {
            continue;
        };
        let handle = Handle::of(&device);
        // An instance may go between two calls.
        let (Some(uuid), Ok((gpu_instance, compute_instance))) =
            (optional(device.uuid())?, raw::instance(library, handle))
        else {
            continue;
        };
        let name = optional(device.name())?.unwrap_or_else(|| gpu.name.clone());
        let instance = Gpu {
            uuid,
            parent: gpu.uuid.clone(),
            gpu_instance: Some(gpu_instance),
            compute_instance: Some(compute_instance),
            mig_profile: profile(&name, &device),
            name,
            mig_enabled: false,
            ..gpu.clone()
        };
        found.push((handle, instance));
    }
    Ok(found)
}

/// The size of an instance, as `1g.10gb` or `1c.2g.20gb`: at the end of its name, else from its slices.
fn profile(name: &str, device: &Device<'_>) -> String {
    if let Some((_, profile)) = name.rsplit_once(" MIG ") {
        return profile.trim().to_owned();
    }
    let Ok(attributes) = device.attributes() else {
        return String::new();
    };
    let (gpu, compute) = (
        attributes.gpu_instance_slice_count,
        attributes.compute_instance_slice_count,
    );
    let gigabytes = attributes.memory_size_mb.div_ceil(1 << 10);
    if compute < gpu {
        format!("{compute}c.{gpu}g.{gigabytes}gb")
    } else {
        format!("{gpu}g.{gigabytes}gb")
    }
}

/// NVML has one number for all Amperes: the compute capability tells GA100 from the others, else the name does.
fn architecture(library: &Library, handle: Handle, name: &str) -> Architecture {
    let of_ampere = || match raw::compute_capability(library, handle) {
        Ok((8, 0)) => Architecture::AmpereGa100,
        Ok((8, _)) => Architecture::AmpereGa10x,
        _ => architecture_of(name),
    };
    match raw::architecture(library, handle) {
        Ok(2..=4) => Architecture::PascalOrOlder,
        Ok(5) => Architecture::Volta,
        Ok(6) => Architecture::Turing,
        Ok(7) => of_ampere(),
        Ok(8) => Architecture::Ada,
        Ok(9) => Architecture::Hopper,
        Ok(10) => Architecture::Blackwell,
        _ => architecture_of(name),
    }
}

/// What may be missing, unless the GPU or the driver is.
fn optional<T>(told: Result<T, NvmlError>) -> Result<Option<T>, Why> {
    match told.map_err(Why::from) {
        Ok(value) => Ok(Some(value)),
        Err(why @ (Why::Lost | Why::Gone(_))) => Err(why),
        Err(_) => Ok(None),
    }
}
