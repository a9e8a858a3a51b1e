//! One reading of a board or an instance, class by class.

use std::sync::Arc;

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::error::NvmlError;

use super::gpm::Gpm;
use super::library::{Handle, Library, Why};
use super::links::Links;
use super::raw::{self, ProcessKind};
use super::{fields, missing};
use crate::probe::Class;
use crate::telemetry::{Clocks, Errors, Gpu, Memory, Power, Process, Temperature, Utilization};

/// What has to be known of a board or an instance to read it, and what was learned from the last reading.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) handle: Handle,
    /// Of an instance: its board and which GPU instance it is.
    pub(super) inside: Option<(Handle, u32)>,
    /// What was answered with something that lasts, and is not asked for again.
    given_up: Vec<&'static str>,
    links: Links,
    gpm: Gpm,
}

impl Target {
    pub(super) fn new(handle: Handle, inside: Option<(Handle, u32)>) -> Self {
        Self {
            handle,
            inside,
            given_up: Vec::new(),
            links: Links::default(),
            gpm: Gpm::default(),
        }
    }

    /// Goes on with the last sample of the same board or instance. All else is learned anew.
    pub(super) fn inherit(&mut self, known: Self) {
        self.gpm = known.gpm;
    }
}

/// What ends a reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The GPU is lost.
    Lost,
    /// Discovery has not given it.
    Unknown,
    /// The library is of no more use.
    Gone(Why),
}

/// Reads the signals of `classes` into `gpu`.
pub(super) fn sample(
    library: &Arc<Library>,
    target: &mut Target,
    gpu: &mut Gpu,
    classes: &[Class],
) -> Result<(), End> {
    let mut reading = Reading {
        library,
        target,
        gpu,
    };
    for class in classes {
        match class {
            Class::Memory => reading.memory()?,
            Class::Processes => reading.processes()?,
            Class::Utilization => reading.utilization()?,
            Class::Clocks => reading.clocks()?,
            Class::Power => reading.power()?,
            Class::Temperature => reading.temperature()?,
            Class::Errors => reading.errors()?,
            Class::Profile => reading.profile()?,
        }
    }
    Ok(())
}

struct Reading<'a> {
    library: &'a Arc<Library>,
    target: &'a mut Target,
    gpu: &'a mut Gpu,
}

impl Reading<'_> {
    fn memory(&mut self) -> Result<(), End> {
        let handle = self.target.handle;
        let told = self.ask("memory", |library| {
            Ok(library.device(handle).memory_info()?)
        })?;
        self.gpu.memory = told.map(|memory| Memory {
            age_ms: 0,
            total: memory.total,
            used: memory.used,
            free: memory.free,
            reserved: Some(memory.reserved),
        });
        Ok(())
    }

    fn processes(&mut self) -> Result<(), End> {
        let handle = self.target.handle;
        let compute = self.ask("processes", |library| {
            raw::processes(library, handle, ProcessKind::Compute)
        })?;
        let Some(mut all) = compute else {
            self.gpu.processes.clear();
            return Ok(());
        };
        // These two add to it what uses the GPU in another way; a driver may well not have them.
        for (field, kind) in [
            ("processes.graphics", ProcessKind::Graphics),
            ("processes.mps", ProcessKind::Mps),
        ] {
            all.extend(
                self.ask(field, |library| raw::processes(library, handle, kind))?
                    .unwrap_or_default(),
            );
        }
        // A process that does several is told several times. The first after sorting lacks no memory that another has.
        all.sort_by_key(|process| {
            (
                process.pid,
                process.gpu_instance,
                std::cmp::Reverse(process.memory),
            )
        });
        all.dedup_by_key(|process| (process.pid, process.gpu_instance));
        self.gpu.processes = all
            .into_iter()
            .map(|process| Process {
                pid: process.pid,
                memory: process.memory,
                gpu_instance: process.gpu_instance,
                ..Process::default()
            })
            .collect();
        Ok(())
    }

    fn utilization(&mut self) -> Result<(), End> {
        let handle = self.target.handle;
        let told = self.ask("utilization", |library| {
            Ok(library.device(handle).utilization_rates()?)
        })?;
        let share = |percent: u32| Some((f64::from(percent) / 100.0).min(1.0));
        self.gpu.utilization = told.map(|rates| Utilization {
            age_ms: 0,
            gpu: share(rates.gpu),
            memory: share(rates.memory),
        });
        Ok(())
    }

    fn clocks(&mut self) -> Result<(), End> {
        if self.of_board("clocks") {
            return Ok(());
        }
        let handle = self.target.handle;
        let known = self.gpu.clocks.unwrap_or_default();
        let clocks = Clocks {
            age_ms: 0,
            sm: self.device("clocks.sm", |device| device.clock_info(Clock::SM))?,
            sm_max: self.constant("clocks.sm_max", known.sm_max, |device| {
                device.max_clock_info(Clock::SM)
            })?,
            memory: self.device("clocks.memory", |device| device.clock_info(Clock::Memory))?,
            memory_max: self.constant("clocks.memory_max", known.memory_max, |device| {
                device.max_clock_info(Clock::Memory)
            })?,
            event_reasons: self.ask("clocks.event_reasons", |library| {
                raw::clock_event_reasons(library, handle)
            })?,
        };
        self.gpu.clocks = Some(clocks).filter(|clocks| *clocks != Clocks::default());
        Ok(())
    }

    fn power(&mut self) -> Result<(), End> {
        if self.of_board("power") {
            return Ok(());
        }
        let power = Power {
            age_ms: 0,
            draw: self
                .device("power.draw", |device| device.power_usage())?
                .map(milli),
            limit: self
                .device("power.limit", |device| device.enforced_power_limit())?
                .map(milli),
            energy: self
                .device("power.energy", |device| device.total_energy_consumption())?
                .map(|mj| mj as f64 / 1000.0),
        };
        self.gpu.power = Some(power).filter(|power| *power != Power::default());
        Ok(())
    }

    fn temperature(&mut self) -> Result<(), End> {
        if self.of_board("temperature") {
            return Ok(());
        }
        let handle = self.target.handle;
        let known = self.gpu.temperature.unwrap_or_default();
        let threshold = |which: TemperatureThreshold| {
            move |device: &Device<'_>| Ok(f64::from(device.temperature_threshold(which)?))
        };
        let (slowdown, shutdown) = (
            TemperatureThreshold::Slowdown,
            TemperatureThreshold::Shutdown,
        );
        let temperature = Temperature {
            age_ms: 0,
            gpu: self
                .device("temperature.gpu", |device| {
                    device.temperature(TemperatureSensor::Gpu)
                })?
                .map(f64::from),
            memory: self
                .ask("temperature.memory", |library| {
                    fields::memory_temperature(library, handle)
                })?
                .map(|degrees| degrees as f64),
            slowdown: self.constant("temperature.slowdown", known.slowdown, threshold(slowdown))?,
            shutdown: self.constant("temperature.shutdown", known.shutdown, threshold(shutdown))?,
        };
        self.gpu.temperature =
            Some(temperature).filter(|temperature| *temperature != Temperature::default());
        Ok(())
    }

    fn errors(&mut self) -> Result<(), End> {
        if self.of_board("errors") {
            return Ok(());
        }
        let handle = self.target.handle;
        let ecc = |kind: MemoryError| {
            move |device: &Device<'_>| device.total_ecc_errors(kind, EccCounter::Volatile)
        };
        let mut errors = Errors {
            ecc_corrected: self.device("errors.ecc_corrected", ecc(MemoryError::Corrected))?,
            ecc_uncorrected: self
                .device("errors.ecc_uncorrected", ecc(MemoryError::Uncorrected))?,
            pcie_replays: self
                .device("errors.pcie_replays", |device| device.pcie_replay_counter())?
                .map(u64::from),
            sram_threshold_exceeded: self.ask("errors.sram_threshold_exceeded", |library| {
                raw::sram_threshold_exceeded(library, handle)
            })?,
            ..Errors::default()
        };
        if let Some(told) = self.ask("errors.fields", |library| fields::errors(library, handle))? {
            if let Some([corrected, uncorrected, pending, failed]) =
                self.note("errors.remapped_rows", told.remapped_rows)?
            {
                errors.remapped_corrected = Some(corrected);
                errors.remapped_uncorrected = Some(uncorrected);
                errors.remap_pending = Some(pending != 0);
                errors.remap_failed = Some(failed != 0);
            }
            errors.recovery_action = self.note("errors.recovery_action", told.recovery_action)?;
            errors.nvlink_errors = told.link_errors.ok();
        }
        let sum = errors.nvlink_errors;
        let links = {
            let Target {
                links, given_up, ..
            } = &mut *self.target;
            if given_up.contains(&"links") {
                None
            } else {
                Some(links.read(self.library, handle, sum))
            }
        };
        if let Some(links) = links {
            self.gpu.links = self.note("links", links)?.unwrap_or_default();
        }
        if sum.is_none() {
            errors.nvlink_errors = self
                .gpu
                .links
                .iter()
                .filter_map(|link| link.errors)
                .reduce(u64::saturating_add);
            // A GPU without links misses nothing.
            let misses = !self.gpu.links.is_empty() && errors.nvlink_errors.is_none();
            missing::set(
                &mut self.gpu.missing,
                "errors.nvlink_errors",
                misses.then_some(Why::NotSupported.text()),
            );
        }
        self.gpu.errors = Some(errors).filter(|errors| *errors != Errors::default());
        Ok(())
    }

    fn profile(&mut self) -> Result<(), End> {
        // With MIG on, GPM tells of the instances alone.
        if self.target.inside.is_none() && self.gpu.mig_enabled {
            missing::set(
                &mut self.gpu.missing,
                "profile",
                Some("told of the MIG instances"),
            );
            return Ok(());
        }
        if self.target.given_up.contains(&"profile") {
            return Ok(());
        }
        let (board, instance) = match self.target.inside {
            None => (self.target.handle, None),
            Some((board, instance)) => (board, Some(instance)),
        };
        let told = self.target.gpm.read(self.library, board, instance);
        self.gpu.profile = self.note("profile", told)?.flatten();
        Ok(())
    }

    /// Of an instance: notes that `field` is told of its board.
    fn of_board(&mut self, field: &'static str) -> bool {
        let inside = self.target.inside.is_some();
        if inside {
            missing::set(&mut self.gpu.missing, field, Some("told of the board"));
        }
        inside
    }

    /// Asks the wrapper's device.
    fn device<T>(
        &mut self,
        field: &'static str,
        ask: impl FnOnce(&Device<'_>) -> Result<T, NvmlError>,
    ) -> Result<Option<T>, End> {
        let handle = self.target.handle;
        self.ask(field, |library| Ok(ask(&library.device(handle))?))
    }

    /// Asks the wrapper's device for what does not change, where it is not `known` already.
    fn constant<T>(
        &mut self,
        field: &'static str,
        known: Option<T>,
        ask: impl FnOnce(&Device<'_>) -> Result<T, NvmlError>,
    ) -> Result<Option<T>, End> {
        match known {
            Some(known) => Ok(Some(known)),
            None => self.device(field, ask),
        }
    }

    /// Asks for `field`, unless it was given up.
    fn ask<T>(
        &mut self,
        field: &'static str,
        ask: impl FnOnce(&Library) -> Result<T, Why>,
    ) -> Result<Option<T>, End> {
        if self.target.given_up.contains(&field) {
            return Ok(None);
        }
        let told = ask(self.library);
        self.note(field, told)
    }

    /// Notes what was answered for `field`.
    fn note<T>(&mut self, field: &'static str, told: Result<T, Why>) -> Result<Option<T>, End> {
        match told {
            Ok(value) => {
                missing::set(&mut self.gpu.missing, field, None);
                Ok(Some(value))
            }
            Err(Why::Lost) => Err(End::Lost),
            Err(why @ Why::Gone(_)) => Err(End::Gone(why)),
            Err(why) => {
                missing::set(&mut self.gpu.missing, field, Some(why.text()));
                // What is read with other things is not asked for alone, and may be given up without harm.
                if why.lasts() && !self.target.given_up.contains(&field) {
                    self.target.given_up.push(field);
                }
                Ok(None)
            }
        }
    }
}

fn milli(value: u32) -> f64 {
    f64::from(value) / 1000.0
}
