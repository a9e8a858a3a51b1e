//! Where readings of GPUs come from.

use std::time::Duration;

use crate::telemetry::{Event, Gpu};

/// Signals that are read together, each with a period of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Memory: total, used, free, reserved.
    Memory,
    /// Who is on the GPU.
    Processes,
    /// Shares of time.
    Utilization,
    /// Clocks and why they are not higher.
    Clocks,
    /// Power draw, limit and energy.
    Power,
    /// Temperatures.
    Temperature,
    /// ECC, row remapping, recovery action, PCIe and NVLink.
    Errors,
    /// GPM: what memory and tensor cores do.
    Profile,
}

/// Why a source cannot be read at all.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no NVIDIA driver or library here.
    #[error("no NVIDIA driver: {0}")]
    NoDriver(String),
    /// It is there, but not for us.
    #[error("no permission: {0}")]
    NoPermission(String),
    /// Library and kernel driver do not fit, or it failed otherwise.
    #[error("{0}")]
    Failed(String),
}

/// A source of readings.
///
/// A value that cannot be had is left absent and named in [`Gpu::missing`]; a call fails only where nothing can be read.
pub trait GpuProbe: Send {
    /// As `nvml` or `dcgm`.
    fn source(&self) -> &'static str;

    /// Who is there: identities, without readings. Boards first, each followed by its MIG instances.
    fn discover(&mut self) -> Result<Vec<Gpu>, ProbeError>;

    /// Why the last [`GpuProbe::discover`] did not give all; none = it did.
    fn problem(&self) -> Option<String> {
        None
    }

    /// Reads the signals of `classes` into `gpu`, which [`GpuProbe::discover`] gave; the others stay as they are. A GPU
    /// that is lost is marked so, and that is no error.
    fn sample(&mut self, gpu: &mut Gpu, classes: &[Class]) -> Result<(), ProbeError>;

    /// A second handle that waits for events, for a thread of its own; none = the source has no events, or knows no GPUs
    /// as yet. When it fails, or after GPUs came, another is to be asked for.
    fn events(&mut self) -> Option<Box<dyn EventSource>>;
}

/// Waits for what happens to GPUs.
pub trait EventSource: Send {
    /// What happened, oldest first; empty when `timeout` passed without anything. Numbers and ages are for the caller to
    /// set.
    fn wait(&mut self, timeout: Duration) -> Result<Vec<Event>, ProbeError>;
}
