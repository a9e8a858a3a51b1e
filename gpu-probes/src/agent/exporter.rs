//! The metrics page: dcgm-exporter's names, types, help and labels, so that dashboards and readers of that find what they
//! know; and what it has no name for, as `pointsman_gpu_…` and `pointsman_probe_…`.
//!
//! Labels come in dcgm-exporter's order. A MIG instance has its board's `UUID` and is told apart by `GPU_I_ID`. A GPU with
//! several owners has a series for each, with `vgpu` where the kubelet numbers the shares: the exporter does so with
//! `--kubernetes-virtual-gpus`. What is not known has no series.

use std::fmt::Write as _;
use std::time::Instant;

mod fields;

use self::fields::{DCGM, OURS};
use super::state::{State, Xids};
use crate::telemetry::{Gpu, Owner};

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
