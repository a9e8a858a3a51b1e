//! Every call on every device once, and what it answered: for reports from machines that are not at hand.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::error::NvmlError;

use super::gpm::Gpm;
use super::kmsg::Kmsg;
use super::library::{Handle, Library, Why};
use super::links::Links;
use super::raw::{self, EventSet, ProcessKind};
use super::{KERNEL_LOG, events, fields, identity};
use crate::probe::ProbeError;

/// What a call answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// NVML's function, or a file.
    pub call: &'static str,
    /// A UUID; empty = the whole node.
    pub device: String,
    /// The value, else the reason why there is none.
    pub answer: String,
}

/// Calls everything that the probe calls, with the library at `lib`, else the system's. Fails where none can be loaded.
pub fn self_test(lib: Option<&Path>) -> Result<Vec<Answer>, ProbeError> {
    let library = Library::open(lib)?;
    let mut answers = Answers {
        device: String::new(),
        told: Vec::new(),
    };
    let nvml = library.nvml();
    answers.wrapped("nvmlSystemGetDriverVersion", nvml.sys_driver_version());
    answers.wrapped("nvmlSystemGetNVMLVersion", nvml.sys_nvml_version());
    answers.wrapped(
        "nvmlSystemGetCudaDriverVersion_v2",
        nvml.sys_cuda_driver_version(),
    );
    let readable = Kmsg::open(KERNEL_LOG.as_ref())
        .map(|_| "readable")
        .map_err(|error| Why::Other(error.to_string().into()));
    answers.add(KERNEL_LOG, readable);
    let count = nvml.device_count();
    let boards = count.as_ref().copied().unwrap_or(0);
    answers.wrapped("nvmlDeviceGetCount_v2", count);
    for index in 0..boards {
        answers.device = format!("index {index}");
        match identity::board(&library, index) {
            Err(why) => answers.add::<()>("nvmlDeviceGetHandleByIndex_v2", Err(why)),
            Ok((handle, gpu, instances)) => {
                answers.device.clone_from(&gpu.uuid);
                answers.add("identity", Ok(&gpu));
                answers.board(&library, handle);
                for (instance, told) in instances {
                    answers.device.clone_from(&told.uuid);
                    answers.add("identity", Ok(&told));
                    answers.either(&library, instance);
                    answers.gpm(&library, handle, told.gpu_instance);
                }
            }
        }
    }
    Ok(answers.told)
}

struct Answers {
    device: String,
    told: Vec<Answer>,
}

impl Answers {
    fn add<T: Debug>(&mut self, call: &'static str, told: Result<T, Why>) {
        let answer = match told {
            Ok(value) => format!("{value:?}"),
            Err(why) => why.text().to_owned(),
        };
        self.told.push(Answer {
            call,
            device: self.device.clone(),
            answer,
        });
    }

    fn wrapped<T: Debug>(&mut self, call: &'static str, told: Result<T, NvmlError>) {
        self.add(call, told.map_err(Why::from));
    }

    /// What boards and instances both answer.
    fn either(&mut self, library: &Library, handle: Handle) {
        let device = library.device(handle);
        self.wrapped("nvmlDeviceGetMemoryInfo_v2", device.memory_info());
        self.wrapped("nvmlDeviceGetUtilizationRates", device.utilization_rates());
        for (call, kind) in [
            (
                "nvmlDeviceGetComputeRunningProcesses_v3",
                ProcessKind::Compute,
            ),
            (
                "nvmlDeviceGetGraphicsRunningProcesses_v3",
                ProcessKind::Graphics,
            ),
            (
                "nvmlDeviceGetMPSComputeRunningProcesses_v3",
                ProcessKind::Mps,
            ),
        ] {
            self.add(call, raw::processes(library, handle, kind));
        }
        self.wrapped("nvmlDeviceGetAttributes_v2", device.attributes());
    }

    fn board(&mut self, library: &Arc<Library>, handle: Handle) {
        self.either(library, handle);
        let device = library.device(handle);
        self.add(
            "nvmlDeviceGetArchitecture",
            raw::architecture(library, handle),
        );
        self.add(
            "nvmlDeviceGetCudaComputeCapability",
            raw::compute_capability(library, handle),
        );
        for clock in [Clock::SM, Clock::Memory] {
            self.wrapped("nvmlDeviceGetClockInfo", device.clock_info(clock));
            self.wrapped("nvmlDeviceGetMaxClockInfo", device.max_clock_info(clock));
        }
        self.add(
            "nvmlDeviceGetCurrentClocksEventReasons",
            raw::clock_event_reasons(library, handle),
        );
        self.wrapped("nvmlDeviceGetPowerUsage", device.power_usage());
        self.wrapped(
            "nvmlDeviceGetEnforcedPowerLimit",
            device.enforced_power_limit(),
        );
        self.wrapped(
            "nvmlDeviceGetTotalEnergyConsumption",
            device.total_energy_consumption(),
        );
        self.wrapped(
            "nvmlDeviceGetTemperature",
            device.temperature(TemperatureSensor::Gpu),
        );
        self.add(
            "nvmlDeviceGetFieldValues: memory temperature",
            fields::memory_temperature(library, handle),
        );
        for threshold in [
            TemperatureThreshold::Slowdown,
            TemperatureThreshold::Shutdown,
        ] {
            self.wrapped(
                "nvmlDeviceGetTemperatureThreshold",
                device.temperature_threshold(threshold),
            );
        }
        for kind in [MemoryError::Corrected, MemoryError::Uncorrected] {
            self.wrapped(
                "nvmlDeviceGetTotalEccErrors",
                device.total_ecc_errors(kind, EccCounter::Volatile),
            );
        }
        self.add(
            "nvmlDeviceGetSramEccErrorStatus",
            raw::sram_threshold_exceeded(library, handle),
        );
        self.add(
            "nvmlDeviceGetRemappedRows",
            raw::remapped_rows(library, handle),
        );
        self.add(
            "nvmlDeviceGetFieldValues: errors",
            fields::errors(library, handle),
        );
        self.wrapped(
            "nvmlDeviceGetPcieReplayCounter",
            device.pcie_replay_counter(),
        );
        self.add("NVLink", Links::default().read(library, handle, None));
        self.wrapped("nvmlDeviceGetMigMode", device.mig_mode());
        self.gpm(library, handle, None);
        let waited =
            EventSet::of(library, handle, events::KINDS).and_then(|set| match set.wait(1) {
                Err(Why::Timeout) => Ok("registered; nothing happened"),
                Ok(_) => Ok("registered; something happened"),
                Err(why) => Err(why),
            });
        self.add("nvmlDeviceRegisterEvents, nvmlEventSetWait_v2", waited);
    }

    /// Two samples at once, and what is between them.
    fn gpm(&mut self, library: &Arc<Library>, board: Handle, instance: Option<u32>) {
        let mut gpm = Gpm::default();
        let first = gpm.read(library, board, instance);
        let second = first.and_then(|_| gpm.read(library, board, instance));
        self.add("nvmlGpmSampleGet, nvmlGpmMetricsGet", second);
    }
}
