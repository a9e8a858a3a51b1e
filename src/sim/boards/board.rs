//! One GPU: what is wrong with it, and how it looks to NVML.

use fake_state::{Gpm, Link, Mig, Process};

use super::layout::Layout;
use super::order::{Cotenant, Slow};
use crate::sim::step::{Gpu, GpuState, MigProfile};

/// NVML's clock-event bits.
const IDLE: u64 = 0x1;
const SOFTWARE_POWER_CAP: u64 = 0x4;
const HARDWARE_SLOWDOWN: u64 = 0x8;
const HARDWARE_THERMAL: u64 = 0x40;

/// How much longer compute takes at half the power limit. Splitwise's table of H100s capped at 50 %: prompts 1.30 times
/// as long, tokens no longer. §2.2 and §2.3.
const HALF_CAPPED: f64 = 1.3;

/// Degrees Celsius, idle and at the power limit.
const COOL: f64 = 35.0;
const WARM: f64 = 80.0;

/// Seconds in which most of a change of temperature is over.
const INERTIA: f64 = 10.0;

/// Share of the peaks that someone else uses while it has the GPU.
const FOREIGN_LOAD: f64 = 0.5;

/// A process that exists on every node and belongs to no pod.
const FOREIGN_PID: u32 = 1;

const GIB: f64 = (1_u64 << 30) as f64;

/// A GPU of the node.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) faults: Faults,
    /// mJ since it began.
    energy: f64,
    /// Degrees Celsius.
    heat: f64,
}

/// What has happened to a GPU since its last reset.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) lost: bool,
    pub(super) ecc_corrected: u64,
    pub(super) ecc_uncorrected: u64,
    pub(super) remapped_uncorrected: u32,
    pub(super) remap_pending: bool,
    pub(super) remap_failed: bool,
    pub(super) recovery_action: u32,
    pub(super) link_errors: u64,
    pub(super) thermal: Slow,
    /// W.
    pub(super) power_cap: Option<f64>,
    /// On the board, or with MIG by the instance's place.
    pub(super) cotenants: Vec<Option<Cotenant>>,
}

/// A server that sits on a board.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    /// Its number.
    pub(super) server: usize,
    /// Which one it is on the board.
    pub(super) slot: usize,
    pub(super) state: GpuState,
    /// By how much its own order slows compute: that shows in the clock.
    pub(super) compute: f64,
}

// === impl Board ===

impl Board {
    pub(super) fn new(tenants: usize) -> Self {
        Self {
            faults: Faults::new(tenants),
            energy: 0.0,
            heat: COOL,
        }
    }

    /// As NVML would read it, `seconds` after the last time.
    pub(super) fn read(
        &mut self,
        number: usize,
        gpu: &Gpu,
        profile: Option<MigProfile>,
        tenants: &[Tenant],
        seconds: f64,
    ) -> fake_state::Gpu {
        let faults = &self.faults;
        let foreign = faults.cotenants.iter().flatten();
        let load: f64 = foreign.map(Cotenant::load).sum();
        let share = |of: fn(&GpuState) -> f64, part: f64| {
            let sum: f64 = tenants.iter().map(|tenant| of(&tenant.state)).sum();
            (sum * part + load).min(1.0)
        };
        let part = profile.map_or((1.0, 1.0), |profile| {
            (
                f64::from(profile.memory) / 8.0,
                f64::from(profile.compute) / 7.0,
            )
        });
        let bandwidth = share(|state| state.bandwidth, part.0);
        let tensor = share(|state| state.tensor, part.1);
        let works = load > 0.0 || tenants.iter().any(|tenant| tenant.state.utilisation > 0.0);
        let limit = faults.power_cap.unwrap_or(gpu.tdp);
        let power = gpu.power(bandwidth, tensor).min(limit);
        self.energy += power * seconds * 1e3;
        self.warm_up(gpu, power, seconds);
        let (faults, heat) = (&self.faults, self.heat);

        let mut shown = fake_state::Gpu {
            uuid: Layout::board_uuid(number),
            name: gpu.nvml_name.clone(),
            architecture: gpu.architecture,
            memory_total: gpu.hbm_bytes,
            utilization: if works { 100 } else { 0 },
            memory_utilization: (bandwidth * 100.0) as u32,
            sm_clock: faults.clock(gpu, tenants) as u32,
            sm_clock_max: gpu.sm_clock as u32,
            memory_clock: gpu.memory_clock,
            memory_clock_max: gpu.memory_clock,
            clock_event_reasons: faults.clock_events(works),
            power: (power * 1e3) as u32,
            power_limit: (limit * 1e3) as u32,
            energy: self.energy as u64,
            temperature: heat as u32,
            memory_temperature: heat as u32 + 6,
            ecc_corrected: faults.ecc_corrected,
            ecc_uncorrected: faults.ecc_uncorrected,
            remapped_uncorrected: faults.remapped_uncorrected,
            remap_pending: faults.remap_pending,
            remap_failed: faults.remap_failed,
            recovery_action: faults.recovery_action,
            lost: faults.lost,
            links: faults.links(gpu),
            gpm: (gpu.architecture >= 9).then_some(Gpm {
                sm: f64::from(u8::from(works)),
                tensor,
                dram_bandwidth: bandwidth,
            }),
            ..fake_state::Gpu::default()
        };
        let room = shown.memory_total - shown.memory_reserved;
        match profile {
            None => {
                let cotenant = faults.cotenants.first().copied().flatten();
                shown.processes = processes(room, tenants, cotenant);
                shown.memory_used = used(&shown.processes);
            }
            Some(profile) => {
                let room = room / 8 * u64::from(profile.memory);
                shown.mig = faults.instances(gpu, profile, room, tenants);
                shown.memory_used = shown.mig.iter().map(|mig| mig.memory_used).sum();
            }
        }
        shown
    }

    /// It follows the power, but a hot one is hot at once: that is what was ordered.
    fn warm_up(&mut self, gpu: &Gpu, power: f64, seconds: f64) {
        if self.faults.is_hot() {
            self.heat = f64::from(fake_state::Gpu::default().temperature_slowdown) + 1.0;
            return;
        }
        let load = (power - gpu.idle) / (gpu.tdp - gpu.idle);
        let target = COOL + (WARM - COOL) * load;
        self.heat += (target - self.heat) * (1.0 - (-seconds / INERTIA).exp());
    }
}

// === impl Faults ===

impl Faults {
    pub(super) fn new(tenants: usize) -> Self {
        Self {
            lost: false,
            ecc_corrected: 0,
            ecc_uncorrected: 0,
            remapped_uncorrected: 0,
            remap_pending: false,
            remap_failed: false,
            recovery_action: 0,
            link_errors: 0,
            thermal: Slow {
                compute: 1.0,
                memory: 1.0,
            },
            power_cap: None,
            cotenants: vec![None; tenants],
        }
    }

    /// How many times as long compute and memory take whoever is in that place.
    pub(super) fn slow(&self, gpu: &Gpu, slot: usize) -> [f64; 2] {
        let cotenant = self.cotenants.get(slot).copied().flatten();
        let other = cotenant.map_or(1.0, |cotenant| cotenant.slow);
        [self.throttle(gpu) * other, self.thermal.memory * other]
    }

    /// How many times lower the SM clock is.
    fn throttle(&self, gpu: &Gpu) -> f64 {
        let cap = self.power_cap.unwrap_or(gpu.tdp);
        self.thermal.compute * (1.0 + (HALF_CAPPED - 1.0) * 2.0 * (1.0 - cap / gpu.tdp))
    }

    fn is_hot(&self) -> bool {
        self.thermal.compute > 1.0 || self.thermal.memory > 1.0
    }

    /// MHz.
    fn clock(&self, gpu: &Gpu, tenants: &[Tenant]) -> f64 {
        let ordered = tenants.iter().map(|tenant| tenant.compute);
        let ordered = ordered.max_by(f64::total_cmp).unwrap_or(1.0);
        (gpu.sm_clock / self.throttle(gpu) / ordered).min(gpu.sm_clock)
    }

    fn clock_events(&self, works: bool) -> u64 {
        let mut reasons = 0;
        if self.power_cap.is_some() {
            reasons |= SOFTWARE_POWER_CAP;
        }
        if self.is_hot() {
            reasons |= HARDWARE_SLOWDOWN | HARDWARE_THERMAL;
        }
        match (reasons, works) {
            (0, false) => IDLE,
            _ => reasons,
        }
    }

    /// Errors are the first one's.
    fn links(&self, gpu: &Gpu) -> Vec<Link> {
        let link = |n| Link {
            active: true,
            errors: if n == 0 { self.link_errors } else { 0 },
        };
        (0..gpu.nvlinks).map(link).collect()
    }

    fn instances(&self, gpu: &Gpu, profile: MigProfile, room: u64, tenants: &[Tenant]) -> Vec<Mig> {
        let instance = |tenant: &Tenant| {
            let cotenant = self.cotenants.get(tenant.slot).copied().flatten();
            let processes = processes(room, std::slice::from_ref(tenant), cotenant);
            let state = &tenant.state;
            let load = cotenant.as_ref().map_or(0.0, Cotenant::load);
            Mig {
                uuid: Layout::instance_uuid(tenant.server),
                gpu_instance: profile.first_instance + tenant.slot as u32,
                compute_instance: 0,
                profile: profile.name.to_owned(),
                memory_total: gpu.hbm_bytes / 8 * u64::from(profile.memory),
                memory_used: used(&processes),
                processes,
                gpm: (gpu.architecture >= 9).then_some(Gpm {
                    sm: if load > 0.0 { 1.0 } else { state.utilisation },
                    tensor: (state.tensor + load).min(1.0),
                    dram_bandwidth: (state.bandwidth + load).min(1.0),
                }),
            }
        };
        tenants.iter().map(instance).collect()
    }
}

// === impl Cotenant ===

impl Cotenant {
    /// Shares of the peaks, over the time that it takes from the others.
    fn load(&self) -> f64 {
        FOREIGN_LOAD * (1.0 - 1.0 / self.slow)
    }
}

/// The servers, which are one process, and whoever else is there; dead ones have none.
fn processes(room: u64, tenants: &[Tenant], cotenant: Option<Cotenant>) -> Vec<Process> {
    let ours: u64 = tenants.iter().map(|tenant| tenant.state.memory_used).sum();
    let ours = ours.min(room);
    let mut processes = Vec::new();
    if ours > 0 {
        processes.push(Process {
            pid: std::process::id(),
            memory: ours,
        });
    }
    if let Some(cotenant) = cotenant {
        processes.push(Process {
            pid: FOREIGN_PID,
            memory: ((cotenant.memory_gib * GIB) as u64).min(room - ours),
        });
    }
    processes
}

fn used(processes: &[Process]) -> u64 {
    processes.iter().map(|process| process.memory).sum()
}
