//! The file through which a simulator drives the fake NVML library: JSON, replaced whole by a rename. For tests and demos.
//!
//! Units are NVML's: bytes, MHz, mW, mJ, degrees Celsius, per cent where it says so.

#![allow(missing_docs)] // The fields are named as NVML names what they hold.

mod library;

use std::path::Path;

pub use library::{LIBRARY_VARIABLE, library};
use serde::{Deserialize, Serialize};

/// The environment variable that names the file to the fake library.
pub const STATE_VARIABLE: &str = "FAKE_NVML_STATE";

/// How many events a writer keeps: the oldest go.
pub const MOST_EVENTS: usize = 256;

/// All GPUs of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// As `570.124.06`.
    pub driver_version: String,
    /// By NVML's index. The PCI bus of a GPU is its index + 1, as `00000000:01:00.0`.
    pub gpus: Vec<Gpu>,
    /// Oldest first; `sequence` rises.
    pub events: Vec<Event>,
    /// NVML functions that answer NOT_SUPPORTED on every GPU, as `nvmlDeviceGetUtilizationRates`; a single field value by its
    /// number, as `nvmlDeviceGetFieldValues/230`.
    pub unsupported: Vec<String>,
    /// NVML functions that answer NO_PERMISSION.
    pub forbidden: Vec<String>,
    /// What every call answers, where it is not 0: as 9 (driver not loaded).
    pub failing: u32,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    pub uuid: String,
    pub name: String,
    /// NVML's nvmlDeviceArchitecture_t: 7 Ampere, 8 Ada, 9 Hopper, 10 Blackwell.
    pub architecture: u32,
    pub memory_total: u64,
    pub memory_used: u64,
    pub memory_reserved: u64,
    pub processes: Vec<Process>,
    /// Per cent of time with a kernel running.
    pub utilization: u32,
    /// Per cent of time with memory being read or written.
    pub memory_utilization: u32,
    pub sm_clock: u32,
    pub sm_clock_max: u32,
    pub memory_clock: u32,
    pub memory_clock_max: u32,
    /// NVML's clock-event bits.
    pub clock_event_reasons: u64,
    pub power: u32,
    pub power_limit: u32,
    pub energy: u64,
    pub temperature: u32,
    pub memory_temperature: u32,
    pub temperature_slowdown: u32,
    pub temperature_shutdown: u32,
    pub ecc_corrected: u64,
    pub ecc_uncorrected: u64,
    pub remapped_corrected: u32,
    pub remapped_uncorrected: u32,
    pub remap_pending: bool,
    pub remap_failed: bool,
    pub recovery_action: u32,
    pub pcie_replays: u32,
    pub sram_threshold_exceeded: bool,
    /// Calls answer GPU_IS_LOST.
    pub lost: bool,
    pub links: Vec<Link>,
    /// GPM: 0 to 1; none = not supported.
    pub gpm: Option<Gpm>,
    /// Its MIG instances by their slots; with any, MIG is on. One without a UUID is an empty slot.
    pub mig: Vec<Mig>,
}

/// A compute process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    pub pid: u32,
    pub memory: u64,
}

/// An NVLink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    pub active: bool,
    pub errors: u64,
}

/// What GPM reads, as shares of the peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpm {
    pub sm: f64,
    pub tensor: f64,
    pub dram_bandwidth: f64,
}

/// A MIG instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mig {
    pub uuid: String,
    pub gpu_instance: u32,
    pub compute_instance: u32,
    /// As `1g.10gb`.
    pub profile: String,
    pub memory_total: u64,
    pub memory_used: u64,
    pub processes: Vec<Process>,
    pub gpm: Option<Gpm>,
}

/// Something that wakes an event set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Event {
    /// From 1.
    pub sequence: u64,
    /// Index of the GPU.
    pub gpu: usize,
    /// NVML's event bit: 8 = XID.
    pub kind: u64,
    /// Of an XID its number.
    pub data: u64,
    pub gpu_instance: Option<u32>,
    pub compute_instance: Option<u32>,
}

impl Default for Gpu {
    /// An idle H100.
    fn default() -> Self {
        Self {
            uuid: String::new(),
            name: "NVIDIA H100 80GB HBM3".into(),
            architecture: 9,
            memory_total: 85_520_809_984,
            memory_used: 0,
            memory_reserved: 638_582_784,
            processes: Vec::new(),
            utilization: 0,
            memory_utilization: 0,
            sm_clock: 1980,
            sm_clock_max: 1980,
            memory_clock: 2619,
            memory_clock_max: 2619,
            clock_event_reasons: 1,
            power: 70_000,
            power_limit: 700_000,
            energy: 0,
            temperature: 35,
            memory_temperature: 40,
            temperature_slowdown: 87,
            temperature_shutdown: 92,
            ecc_corrected: 0,
            ecc_uncorrected: 0,
            remapped_corrected: 0,
            remapped_uncorrected: 0,
            remap_pending: false,
            remap_failed: false,
            recovery_action: 0,
            pcie_replays: 0,
            sram_threshold_exceeded: false,
            lost: false,
            links: Vec::new(),
            gpm: None,
            mig: Vec::new(),
        }
    }
}

impl State {
    /// Reads the file.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Replaces the file: a reader sees the old or the new, whole. One writer a file.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let beside = path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::rename(beside, path)
    }
}
