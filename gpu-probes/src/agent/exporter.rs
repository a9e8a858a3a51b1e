//! The metrics page: dcgm-exporter's names, types, help and labels, so that dashboards and readers of that find what they
//! know; and what it has no name for, as `pointsman_gpu_…` and `pointsman_probe_…`.
//!
//! Labels come in dcgm-exporter's order. A MIG instance has its board's `UUID` and is told apart by `GPU_I_ID`. A GPU with
//! several owners has a series for each, with `vgpu` where the kubelet numbers the shares: the exporter does so with
//! `--kubernetes-virtual-gpus`. What is not known has no series.

use std::fmt::Write as _;
use std::time::Instant;

use super::state::{State, Xids};
use crate::telemetry::{Gpu, Owner};

/// A line of the page: name, type, help, and a GPU's value.
type Field = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Gpu) -> Option<f64>,
);

const MIB: f64 = (1 << 20) as f64;

/// Those of dcgm-exporter, in the order of its default counters, then those that it has and leaves out by default.
const DCGM: [Field; 28] = [
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
const OURS: [Field; 6] = [
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

pub(super) fn page(state: &State, node: &str, watchers: usize, now: Instant) -> String {
    let snapshot = state.snapshot(now);
    let gpus = &snapshot.gpus;
    let mut page = String::new();
    let labels: Vec<Vec<String>> = gpus.iter().map(|gpu| label_sets(gpu, node)).collect();
    for (name, kind, help, value) in DCGM.iter().chain(&OURS) {
        let values = gpus.iter().zip(&labels);
        let values = values.filter_map(|(gpu, labels)| Some((labels, value(gpu)?)));
        series(
            &mut page,
            (name, kind, help),
            values.flat_map(|(labels, value)| {
                labels.iter().map(move |labels| (labels.clone(), value))
            }),
        );
    }
    let none = Xids::default();
    let xids = |gpu: &Gpu| state.xids().get(&gpu.uuid).unwrap_or(&none);
    series(
        &mut page,
        (
            "DCGM_FI_DEV_XID_ERRORS",
            "gauge",
            "Value of the last XID error encountered.",
        ),
        gpus.iter().zip(&labels).flat_map(|(gpu, labels)| {
            let last = xids(gpu).last as f64;
            labels.iter().map(move |labels| (labels.clone(), last))
        }),
    );
    series(
        &mut page,
        (
            "pointsman_gpu_xid_errors_total",
            "counter",
            "XIDs since the agent started, by number; those past the 32nd of a GPU under 0",
        ),
        gpus.iter().flat_map(|gpu| {
            let identity = identity(gpu, node);
            let counts = xids(gpu).counts.iter();
            counts.map(move |(xid, count)| (format!("{identity},xid=\"{xid}\""), *count as f64))
        }),
    );
    series(
        &mut page,
        (
            "pointsman_gpu_sample_age_seconds",
            "gauge",
            "Since a class of signals was last read",
        ),
        gpus.iter().flat_map(|gpu| {
            let identity = identity(gpu, node);
            ages(gpu).map(move |(class, age)| {
                let labels = format!("{identity},class=\"{class}\"");
                (labels, f64::from(age) / 1e3)
            })
        }),
    );
    let of_agent = |page: &mut String, name: &str, help: &str, value: f64| {
        let labels = format!("Hostname=\"{}\"", escaped(node));
        series(
            page,
            (name, "gauge", help),
            std::iter::once((labels, value)),
        );
    };
    for (name, help, value) in [
        (
            "pointsman_probe_problem",
            "Whether something keeps the agent from reading GPUs: its log says what",
            f64::from(!snapshot.problem.is_empty()),
        ),
        (
            "pointsman_probe_gpus",
            "GPUs and MIG instances that are read",
            gpus.len() as f64,
        ),
        (
            "pointsman_probe_owners_known",
            "Whether the kubelet or a map has told who has which GPU",
            f64::from(state.owners_known()),
        ),
        (
            "pointsman_probe_unknown_devices",
            "Devices that were given to somebody and are none of these GPUs",
            state.unknown_devices() as f64,
        ),
        (
            "pointsman_probe_watchers",
            "Streams that are open",
            watchers as f64,
        ),
    ] {
        of_agent(&mut page, name, help, value);
    }
    page
}

/// Writes a metric, if there is anything of it.
fn series(
    page: &mut String,
    (name, kind, help): (&str, &str, &str),
    values: impl Iterator<Item = (String, f64)>,
) {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return;
    }
    // Writing to a String cannot fail.
    let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    for (labels, value) in values {
        let _ = writeln!(page, "{name}{{{labels}}} {value}");
    }
}

fn ages(gpu: &Gpu) -> impl Iterator<Item = (&'static str, u32)> + use<> {
    [
        ("memory", gpu.memory.map(|group| group.age_ms)),
        ("utilization", gpu.utilization.map(|group| group.age_ms)),
        ("clocks", gpu.clocks.map(|group| group.age_ms)),
        ("power", gpu.power.map(|group| group.age_ms)),
        ("temperature", gpu.temperature.map(|group| group.age_ms)),
        ("errors", gpu.errors.map(|group| group.age_ms)),
        ("profile", gpu.profile.map(|group| group.age_ms)),
    ]
    .into_iter()
    .filter_map(|(class, age)| Some((class, age?)))
}

/// One for each owner.
fn label_sets(gpu: &Gpu, node: &str) -> Vec<String> {
    let mut identity = identity(gpu, node);
    if !gpu.driver_version.is_empty() {
        let version = escaped(&gpu.driver_version);
        let _ = write!(identity, ",DCGM_FI_DRIVER_VERSION=\"{version}\"");
    }
    if gpu.owners.is_empty() {
        return vec![identity];
    }
    let with = |owner: &Owner| {
        let mut labels = format!(
            "{identity},container=\"{}\",namespace=\"{}\",pod=\"{}\"",
            escaped(&owner.container),
            escaped(&owner.namespace),
            escaped(&owner.pod)
        );
        if let Some(replica) = owner.replica {
            let _ = write!(labels, ",vgpu=\"{replica}\"");
        }
        labels
    };
    gpu.owners.iter().map(with).collect()
}

fn identity(gpu: &Gpu, node: &str) -> String {
    let board = match gpu.parent.as_str() {
        "" => &gpu.uuid,
        parent => parent,
    };
    let index = gpu.index;
    let mut labels = format!(
        "gpu=\"{index}\",UUID=\"{}\",pci_bus_id=\"{}\",device=\"nvidia{}\",modelName=\"{}\"",
        escaped(board),
        escaped(&gpu.pci_bus_id),
        index,
        escaped(&gpu.name)
    );
    if let Some(instance) = gpu.gpu_instance {
        let profile = escaped(&gpu.mig_profile);
        let _ = write!(
            labels,
            ",GPU_I_PROFILE=\"{profile}\",GPU_I_ID=\"{instance}\""
        );
    }
    let _ = write!(labels, ",Hostname=\"{}\"", escaped(node));
    labels
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', r"\\").replace('"', "\\\"");
    text.replace('\n', r"\n")
}

#[cfg(test)]
mod tests;
