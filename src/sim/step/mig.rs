//! Parts of a GPU: MIG instances.

use super::spec::StepError;
use super::tables::Gpu;

/// A MIG profile: what an instance has of the board, and how many there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigProfile {
    /// As `nvidia-smi mig -lgip` has it.
    pub name: &'static str,
    /// Sevenths of the SMs.
    pub compute: u32,
    /// Eighths of memory and its bandwidth.
    pub memory: u32,
    /// Instances that a board holds.
    pub most: u32,
    /// The GPU instance id of the first one; the others follow.
    pub first_instance: u32,
}

/// The profiles of A100 and H100 with 80 GB: NVIDIA's MIG user guide.
const PROFILES: [MigProfile; 6] = [
    profile("1g.10gb", 1, 1, 7, 7),
    profile("1g.20gb", 1, 2, 4, 3),
    profile("2g.20gb", 2, 2, 3, 3),
    profile("3g.40gb", 3, 4, 2, 1),
    profile("4g.40gb", 4, 4, 1, 1),
    profile("7g.80gb", 7, 8, 1, 0),
];

/// The GPUs of the tables that have these profiles.
const BOARDS: [&str; 2] = ["A100", "H100"];

const fn profile(
    name: &'static str,
    compute: u32,
    memory: u32,
    most: u32,
    first_instance: u32,
) -> MigProfile {
    MigProfile {
        name,
        compute,
        memory,
        most,
        first_instance,
    }
}

// === impl MigProfile ===

impl MigProfile {
    /// The profile of that name.
    pub fn find(name: &str) -> Result<Self, StepError> {
        let found = PROFILES.into_iter().find(|profile| profile.name == name);
        found.ok_or_else(|| StepError::Unknown {
            kind: "MIG profile",
            name: name.to_owned(),
            known: PROFILES.map(|profile| profile.name).join(", "),
        })
    }

    /// What is left of a GPU in one instance.
    pub(super) fn cut(&self, name: &str, gpu: &mut Gpu) -> Result<(), StepError> {
        if !BOARDS.contains(&name) {
            return Err(StepError::Unknown {
                kind: "GPU with the MIG profiles of 80 GB",
                name: name.to_owned(),
                known: BOARDS.join(", "),
            });
        }
        let (compute, memory) = (f64::from(self.compute) / 7.0, f64::from(self.memory) / 8.0);
        for rate in [
            &mut gpu.linear_flops,
            &mut gpu.attention_flops,
            &mut gpu.peak_flops,
        ] {
            *rate *= compute;
        }
        gpu.sms = gpu.sms * self.compute / 7;
        gpu.hbm_bandwidth *= memory;
        gpu.peak_bandwidth *= memory;
        gpu.l2_bandwidth = gpu.l2_bandwidth.map(|rate| rate * memory);
        gpu.hbm_bytes = gpu.hbm_bytes / 8 * u64::from(self.memory);
        Ok(())
    }
}
