//! What each metric of the page is of a GPU.

use crate::telemetry::Gpu;

/// A line of the page: name, type, help, and a GPU's value.
pub(super) type Field = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Gpu) -> Option<f64>,
);

const MIB: f64 = (1 << 20) as f64;

/// Those of dcgm-exporter, in the order of its default counters, then those that it has and leaves out by default.
pub(super) const DCGM: [Field; 28] = [
    (
        "DCGM_FI_DEV_SM_CLOCK",
        "gauge",
        "SM clock frequency (in MHz).",
        |gpu| gpu.clocks?.sm.map(f64::from),
    ),
    (
        "DCGM_FI_DEV_MEM_CLOCK",
        "gauge",
        "Memory clock frequency (in MHz).",
        |gpu| gpu.clocks?.memory.map(f64::from),
    ),
    (
        "DCGM_FI_DEV_MEMORY_TEMP",
        "gauge",
        "Memory temperature (in C).",
        |gpu| gpu.temperature?.memory,
    ),
    (
        "DCGM_FI_DEV_GPU_TEMP",
        "gauge",
        "GPU temperature (in C).",
        |gpu| gpu.temperature?.gpu,
    ),
    (
        "DCGM_FI_DEV_POWER_USAGE",
        "gauge",
        "Power draw (in W).",
        |gpu| gpu.power?.draw,
    ),
    (
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "counter",
        "Total energy consumption since boot (in mJ).",
        |gpu| Some((gpu.power?.energy? * 1e3).round()),
    ),
    (
        "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
        "counter",
        "Total number of PCIe retries.",
        |gpu| count(gpu.errors?.pcie_replays),
    ),
    (
        "DCGM_FI_DEV_GPU_UTIL",
        "gauge",
        "GPU utilization (in %).",
        |gpu| per_cent(gpu.utilization?.gpu),
    ),
    (
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        "gauge",
        "Memory utilization (in %).",
        |gpu| per_cent(gpu.utilization?.memory),
    ),
    (
        "DCGM_FI_DEV_FB_FREE",
        "gauge",
        "Framebuffer memory free (in MiB).",
        |gpu| mib(gpu.memory?.free),
    ),
    (
        "DCGM_FI_DEV_FB_USED",
        "gauge",
        "Framebuffer memory used (in MiB).",
        |gpu| mib(gpu.memory?.used),
    ),
    (
        "DCGM_FI_DEV_FB_RESERVED",
        "gauge",
        "Framebuffer memory reserved (in MiB).",
        |gpu| mib(gpu.memory?.reserved?),
    ),
    (
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "counter",
        "Number of remapped rows for uncorrectable errors",
        |gpu| gpu.errors?.remapped_uncorrected.map(f64::from),
    ),
    (
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        "counter",
        "Number of remapped rows for correctable errors",
        |gpu| gpu.errors?.remapped_corrected.map(f64::from),
    ),
    (
        "DCGM_FI_DEV_ROW_REMAP_FAILURE",
        "gauge",
        "Whether remapping of rows has failed",
        |gpu| gpu.errors?.remap_failed.map(f64::from),
    ),
    (
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        "gauge",
        "Ratio of cycles the tensor (HMMA) pipe is active.",
        |gpu| gpu.profile?.tensor_active,
    ),
    (
        "DCGM_FI_PROF_DRAM_ACTIVE",
        "gauge",
        "Ratio of cycles the device memory interface is active sending or receiving data.",
        |gpu| gpu.profile?.dram_active,
    ),
    (
        "DCGM_FI_PROF_SM_ACTIVE",
        "gauge",
        "The ratio of cycles an SM has at least 1 warp assigned.",
        |gpu| gpu.profile?.sm_active,
    ),
    (
        "DCGM_FI_DEV_FB_TOTAL",
        "gauge",
        "Total framebuffer memory (in MiB).",
        |gpu| mib(gpu.memory?.total),
    ),
    (
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT",
        "gauge",
        "Enforced power limit (in W).",
        |gpu| gpu.power?.limit,
    ),
    (
        "DCGM_FI_DEV_MAX_SM_CLOCK",
        "gauge",
        "Maximum SM clock frequency (in MHz).",
        |gpu| gpu.clocks?.sm_max.map(f64::from),
    ),
    (
        "DCGM_FI_DEV_MAX_MEM_CLOCK",
        "gauge",
        "Maximum memory clock frequency (in MHz).",
        |gpu| gpu.clocks?.memory_max.map(f64::from),
    ),
    (
        "DCGM_FI_DEV_SLOWDOWN_TEMP",
        "gauge",
        "Slowdown temperature (in C).",
        |gpu| gpu.temperature?.slowdown,
    ),
    (
        "DCGM_FI_DEV_SHUTDOWN_TEMP",
        "gauge",
        "Shutdown temperature (in C).",
        |gpu| gpu.temperature?.shutdown,
    ),
    (
        "DCGM_FI_DEV_ROW_REMAP_PENDING",
        "gauge",
        "Whether remapping of rows is pending",
        |gpu| gpu.errors?.remap_pending.map(f64::from),
    ),
    (
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
        "gauge",
        "Current clock event reasons (bitmask of DCGM_CLOCKS_EVENT_REASON_*).",
        |gpu| count(gpu.clocks?.event_reasons),
    ),
    (
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
        "counter",
        "Total number of single-bit volatile ECC errors.",
        |gpu| count(gpu.errors?.ecc_corrected),
    ),
    (
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "counter",
        "Total number of double-bit volatile ECC errors.",
        |gpu| count(gpu.errors?.ecc_uncorrected),
    ),
];

/// What the exporter has no name for.
pub(super) const OURS: [Field; 6] = [
    (
        "pointsman_gpu_lost",
        "gauge",
        "Whether the GPU answers no more",
        |gpu| Some(f64::from(gpu.lost)),
    ),
    (
        "pointsman_gpu_recovery_action",
        "gauge",
        "What the driver asks for: 0 nothing, 1 reset the GPU, 2 reboot the node, 3 drain P2P, 4 drain and reset",
        |gpu| gpu.errors?.recovery_action.map(f64::from),
    ),
    (
        "pointsman_gpu_nvlink_errors_total",
        "counter",
        "Errors of all NVLinks",
        |gpu| count(gpu.errors?.nvlink_errors),
    ),
    (
        "pointsman_gpu_processes",
        "gauge",
        "Compute processes",
        |gpu| (!gpu.lost).then_some(gpu.processes.len() as f64),
    ),
    (
        "pointsman_gpu_foreign_processes",
        "gauge",
        "Compute processes that belong to none of the owners, where that is known of all",
        |gpu| {
            let foreign: Option<Vec<bool>> = gpu.processes.iter().map(|p| p.foreign).collect();
            let foreign = foreign?.into_iter().filter(|&foreign| foreign);
            has_processes(gpu).then_some(foreign.count() as f64)
        },
    ),
    (
        "pointsman_gpu_foreign_memory_bytes",
        "gauge",
        "Memory of those, where that is known of all",
        |gpu| {
            let foreign = gpu.processes.iter().map(|p| match p.foreign? {
                true => p.memory,
                false => Some(0),
            });
            let foreign: Option<u64> = foreign.sum();
            has_processes(gpu).then_some(foreign? as f64)
        },
    ),
];

/// Whether none would mean that there are none.
fn has_processes(gpu: &Gpu) -> bool {
    !gpu.lost
        && !gpu
            .missing
            .iter()
            .any(|missing| missing.field == "processes")
}

fn count(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn per_cent(share: Option<f64>) -> Option<f64> {
    share.map(|share| (share * 100.0).round())
}

/// Whole, as the exporter has it.
fn mib(bytes: u64) -> Option<f64> {
    Some((bytes as f64 / MIB).floor())
}
