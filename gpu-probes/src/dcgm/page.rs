//! A whole page: lines in, GPUs out.

use std::collections::BTreeMap;

use super::line::Sample;
use super::metric::{self, Metric};
use crate::architecture::architecture_of;
use crate::telemetry::{Gpu, Memory, Missing, Owner};

/// More GPUs and instances than on any node; lines of further ones are bad.
pub const MOST_GPUS: usize = 256;
/// More pods than share any GPU; further ones are not kept.
pub const MOST_OWNERS: usize = 64;
/// Of how many different XIDs counts are kept for a GPU.
const MOST_XIDS: usize = 64;

const MIB: f64 = (1u64 << 20) as f64;

/// What one page tells.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Boards first, each followed by its MIG instances. Ages are 0.
    pub gpus: Vec<Gpu>,
    /// The node, by the exporter's label `Hostname`; empty = not told.
    pub node: String,
    /// How many lines were malformed, or told of no GPU where they should.
    pub bad_lines: usize,
    /// By UUID: what only the next page makes sense of.
    pub(super) marks: BTreeMap<String, Marks>,
}

/// Numbers of which only the change says something.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Marks {
    /// The last XID: its number.
    pub(super) last_xid: Option<u64>,
    /// XID to how many of it were seen lately.
    pub(super) xids: BTreeMap<u64, f64>,
    /// Clock-event bit to a counter of time that rises while it holds.
    pub(super) violations: BTreeMap<u64, f64>,
    /// Clock-event bit to how often it was seen in the exporter's window (5 minutes).
    pub(super) clock_events: BTreeMap<u64, f64>,
    /// Uncorrected ECC errors.
    pub(super) ecc_uncorrected: Option<u64>,
}

/// By board and GPU instance (none = the board itself).
type Key = (String, Option<u32>);

#[derive(Default)]
struct Entry {
    gpu: Gpu,
    memory: [Option<f64>; 4],
    nvlink: [Option<f64>; 4],
    marks: Marks,
}

/// Reads the page of a dcgm-exporter. What is malformed is counted and passed over, what is not of a GPU passed over.
pub fn parse(text: &str) -> Page {
    let mut page = Page::default();
    let mut entries = BTreeMap::<Key, Entry>::new();
    for line in text.lines() {
        let read = match Sample::read(line) {
            Ok(None) => continue,
            Ok(Some(sample)) => take(&sample, &mut entries, &mut page.node),
            Err(()) => None,
        };
        page.bad_lines += usize::from(read.is_none());
    }
    let mut entries: Vec<Entry> = entries.into_values().collect();
    // A board's key sorts before those of its instances, and a stable sort keeps that.
    entries.sort_by_key(|entry| entry.gpu.index);
    for mut entry in entries {
        entry.finish();
        page.marks.insert(entry.gpu.uuid.clone(), entry.marks);
        page.gpus.push(entry.gpu);
    }
    page
}

/// Takes one line in; none = it is bad.
fn take(sample: &Sample<'_>, entries: &mut BTreeMap<Key, Entry>, node: &mut String) -> Option<()> {
    let Some(metric) = metric::metric(sample.name) else {
        return Some(());
    };
    // Those of a single link are in the sum.
    if sample.label(&["nvlink"]).is_some() {
        return Some(());
    }
    let board = sample.label(&["UUID", "uuid", "gpu_uuid"])?.to_owned();
    let instance = match sample.label(&["GPU_I_ID"]) {
        None => None,
        Some(id) => Some(id.parse::<u32>().ok()?),
    };
    let of_board = entry(entries, &board, None, sample)?;
    if instance.is_some() {
        of_board.gpu.mig_enabled = true;
    }
    if let Some(name) = sample.label(&["Hostname", "hostname"])
        && node.is_empty()
    {
        name.clone_into(node);
    }
    let of_instance = entry(entries, &board, instance, sample)?;
    own(&mut of_instance.gpu, sample);
    // A blank says who is there, but no value.
    let value = sample.value;
    if metric::is_blank(value) {
        return Some(());
    }
    match metric {
        Metric::Instance(set) => set(&mut of_instance.gpu, value),
        Metric::Memory(part) => of_instance.memory[part] = Some(value),
        of_board => {
            let entry = entry(entries, &board, None, sample)?;
            let marks = &mut entry.marks;
            match of_board {
                Metric::Board(set) => set(&mut entry.gpu, value),
                Metric::NvlinkErrors(part) => entry.nvlink[part] = Some(value),
                Metric::LastXid => marks.last_xid = Some(value as u64),
                Metric::XidCount => {
                    // A GPU without any has one line, without the label.
                    if let Some(xid) = sample.label(&["xid"])
                        && marks.xids.len() < MOST_XIDS
                    {
                        marks.xids.insert(xid.parse().ok()?, value);
                    }
                }
                Metric::Violation(bit) => _ = marks.violations.insert(bit, value),
                Metric::ClockEventCount => {
                    if let Some(event) = sample.label(&["clock_event"]) {
                        marks
                            .clock_events
                            .insert(metric::clock_event(event)?, value);
                    }
                }
                Metric::Instance(_) | Metric::Memory(_) => {}
            }
        }
    }
    Some(())
}

/// The entry of a board or instance, made with its first line; none = there are too many.
fn entry<'a>(
    entries: &'a mut BTreeMap<Key, Entry>,
    board: &str,
    instance: Option<u32>,
    sample: &Sample<'_>,
) -> Option<&'a mut Entry> {
    let key = (board.to_owned(), instance);
    if !entries.contains_key(&key) && entries.len() == MOST_GPUS {
        return None;
    }
    Some(entries.entry(key).or_insert_with(|| {
        let text = |names: &[&str]| sample.label(names).unwrap_or_default().to_owned();
        let name = text(&["modelName", "model_name"]);
        let gpu = Gpu {
            uuid: match instance {
                None => board.to_owned(),
                Some(id) => format!("MIG-{board}/{id}"),
            },
            parent: instance.map(|_| board.to_owned()).unwrap_or_default(),
            index: sample
                .label(&["gpu"])
                .and_then(|index| index.parse().ok())
                .unwrap_or(u32::MAX),
            architecture: architecture_of(&name).into(),
            name,
            pci_bus_id: text(&["pci_bus_id"]),
            driver_version: text(&["DCGM_FI_DRIVER_VERSION"]),
            gpu_instance: instance,
            mig_profile: if instance.is_some() {
                text(&["GPU_I_PROFILE"])
            } else {
                String::new()
            },
            ..Gpu::default()
        };
        Entry {
            gpu,
            ..Entry::default()
        }
    }))
}

/// Notes the pod that a line names. With time-slicing each pod has lines of its own.
fn own(gpu: &mut Gpu, sample: &Sample<'_>) {
    let Some(pod) = sample.label(&["pod", "pod_name"]) else {
        return;
    };
    let text = |names: &[&str]| sample.label(names).unwrap_or_default().to_owned();
    let owner = Owner {
        namespace: text(&["namespace", "pod_namespace"]),
        pod: pod.to_owned(),
        container: text(&["container", "container_name"]),
        replica: sample.label(&["vgpu"]).and_then(|n| n.parse().ok()),
    };
    if gpu.owners.len() < MOST_OWNERS && !gpu.owners.contains(&owner) {
        gpu.owners.push(owner);
    }
}

impl Entry {
    fn finish(&mut self) {
        let gpu = &mut self.gpu;
        gpu.memory = memory(self.memory);
        if self.nvlink.iter().any(Option::is_some) {
            let sum: f64 = self.nvlink.iter().flatten().sum();
            gpu.errors.get_or_insert_default().nvlink_errors = Some(sum as u64);
        }
        self.marks.ecc_uncorrected = gpu
            .errors
            .as_ref()
            .and_then(|errors| errors.ecc_uncorrected);
        let board = gpu.parent.is_empty();
        for (field, absent) in [
            ("clocks", board && gpu.clocks.is_none()),
            (
                "clocks.event_reasons",
                board && gpu.clocks.is_some_and(|c| c.event_reasons.is_none()),
            ),
            ("errors", board && gpu.errors.is_none()),
            ("memory", gpu.memory.is_none() && !gpu.mig_enabled),
            ("power", board && gpu.power.is_none()),
            ("profile", gpu.profile.is_none() && !gpu.mig_enabled),
            ("temperature", board && gpu.temperature.is_none()),
            ("utilization", gpu.utilization.is_none() && !gpu.mig_enabled),
        ] {
            if absent {
                gpu.missing.push(Missing {
                    field: field.to_owned(),
                    why: "not on the page".to_owned(),
                });
            }
        }
    }
}

/// Memory, where enough of it is told.
fn memory(parts: [Option<f64>; 4]) -> Option<Memory> {
    let [total, used, free, reserved] = parts.map(|part| part.map(|mib| (mib * MIB) as u64));
    let of_reserved = reserved.unwrap_or(0);
    let (total, used, free) = match (total, used, free) {
        (Some(total), Some(used), Some(free)) => (total, used, free),
        (None, Some(used), Some(free)) => (
            used.saturating_add(free).saturating_add(of_reserved),
            used,
            free,
        ),
        (Some(total), Some(used), None) => (
            total,
            used,
            total.saturating_sub(used).saturating_sub(of_reserved),
        ),
        (Some(total), None, Some(free)) => (
            total,
            total.saturating_sub(free).saturating_sub(of_reserved),
            free,
        ),
        _ => return None,
    };
    Some(Memory {
        age_ms: 0,
        total,
        used,
        free,
        reserved,
    })
}
