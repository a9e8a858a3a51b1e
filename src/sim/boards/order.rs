//! What can be ordered of a server's GPUs: `POST /admin/gpu`.

use std::time::Duration;

use serde::Deserialize;

use crate::sim::step::Gpu;

/// Until CUDA's or NCCL's own timeout ends a process whose GPU is gone.
const PROCESS_TIMEOUT_MS: u64 = 2_000;

/// What shall happen. Everything that is named does, in the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::sim) struct Order {
    /// All faults end, counters are zero: the board was reset. A process that died stays dead.
    pub(super) clear: bool,
    /// Which of the server's GPUs the rest happens to.
    pub(super) rank: usize,
    /// An error that the driver reports, by its number.
    pub(super) xid: Option<u64>,
    /// With XID 154: the recovery action from now on.
    pub(super) action: Option<u32>,
    /// With XID 79: when the process ends that had the GPU.
    pub(super) timeout_ms: Option<u64>,
    /// The hardware slows down because it is hot; 1 ends it.
    pub(super) thermal: Option<Slow>,
    /// The power limit, in W.
    pub(super) power_cap: Option<f64>,
    /// Someone else on the GPU, or on the server's MIG instance; 0 GiB and 1 end it.
    pub(super) cotenant: Option<Cotenant>,
}

/// What computes and what reads memory takes so many times as long (1 = healthy).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::sim) struct Slow {
    #[serde(default = "healthy")]
    pub(in crate::sim) compute: f64,
    #[serde(default = "healthy")]
    pub(in crate::sim) memory: f64,
}

/// A process that is none of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cotenant {
    /// Memory that it takes, as far as it is free.
    #[serde(default)]
    pub(super) memory_gib: f64,
    /// How many times as long all else takes.
    #[serde(default = "healthy")]
    pub(super) slow: f64,
}

fn healthy() -> f64 {
    1.0
}

// === impl Order ===

impl Order {
    /// What is wrong with it, for a server with so many of these GPUs.
    pub(super) fn check(&self, gpus: usize, gpu: &Gpu) -> Result<(), String> {
        let named = [
            self.clear,
            self.xid.is_some(),
            self.thermal.is_some(),
            self.power_cap.is_some(),
            self.cotenant.is_some(),
        ];
        if !named.contains(&true) {
            return Err("one of xid, thermal, power_cap, cotenant, clear is needed".to_owned());
        }
        if self.rank >= gpus {
            return Err(format!("rank: the server has {gpus} GPUs, numbered from 0"));
        }
        if self.xid == Some(0) {
            return Err("xid: XIDs are numbered from 1".to_owned());
        }
        match (self.xid == Some(154), self.action) {
            (true, None) | (false, Some(_)) => {
                return Err("action: XID 154 has one, from 0 to 4, and no other XID has".to_owned());
            }
            (true, Some(action)) if action > 4 => {
                return Err("action: there are 0 none, 1 GPU reset, 2 node reboot, 3 drain P2P, 4 drain and reset".to_owned());
            }
            _ => {}
        }
        if self.timeout_ms.is_some() && self.xid != Some(79) {
            return Err("timeout_ms: only XID 79 has one".to_owned());
        }
        if let Some(slow) = self.thermal {
            slow.check("thermal")?;
        }
        if let Some(cap) = self.power_cap
            && !(cap > gpu.idle && cap <= gpu.tdp)
        {
            let (idle, tdp) = (gpu.idle, gpu.tdp);
            return Err(format!("power_cap: W, more than {idle} and at most {tdp}"));
        }
        if let Some(Cotenant { memory_gib, slow }) = self.cotenant
            && !((0.0..=1e6).contains(&memory_gib) && (1.0..=1e6).contains(&slow))
        {
            return Err("cotenant: memory_gib is 0 or more, slow is 1 or more".to_owned());
        }
        Ok(())
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.unwrap_or(PROCESS_TIMEOUT_MS))
    }
}

// === impl Slow ===

impl Slow {
    /// What is wrong with it; `name` is the field that it is the value of.
    pub(in crate::sim) fn check(&self, name: &str) -> Result<(), String> {
        if [self.compute, self.memory]
            .iter()
            .all(|factor| (1e-3..=1e6).contains(factor))
        {
            return Ok(());
        }
        Err(format!("{name}: factors are numbers from 0.001 to 1000000"))
    }
}
