//! GPUs, for people: `GET /debug/gpus`, and what `pointsman gpus` shows.

use std::collections::HashMap;
use std::sync::Arc;

use gpu_probes::telemetry::report::Content;
use gpu_probes::telemetry::{Event, EventKind, Gpu, Report};
use gpu_probes::xid::xid;
use serde::{Deserialize, Serialize};

use super::super::{EndpointId, Member, clock_ms};
use super::{Gpus, SourceId, SourceKind};

/// GPUs that are shown, and sources.
pub const MOST_SHOWN: usize = 4_096;
/// Events of a GPU that are shown: the last ones.
const MOST_EVENTS: usize = 8;

/// NVML's clock-event bits, by number.
const REASONS: [(u64, &str); 9] = [
    (0x1, "idle"),
    (0x2, "application-clocks"),
    (0x4, "sw-power-cap"),
    (0x8, "hw-slowdown"),
    (0x10, "sync-boost"),
    (0x20, "sw-thermal"),
    (0x40, "hw-thermal"),
    (0x80, "hw-power-brake"),
    (0x100, "display"),
];

/// All that is known. Bytes, MHz, W, degrees Celsius; ages in milliseconds; what is not known is null.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct GpusPage {
    /// Who tells.
    pub sources: Vec<SourcePage>,
    /// Of what, by node and index.
    pub gpus: Vec<GpuPage>,
    /// GPUs that are left out, because there are so many.
    pub not_shown: usize,
}

/// A node agent or an exporter.
#[derive(Debug, Serialize, Deserialize)]
pub struct SourcePage {
    /// `agent` or `dcgm`.
    pub kind: String,
    /// `host:port`.
    pub address: String,
    /// Its node; empty = it was never heard, or does not say.
    pub node: String,
    /// Since it was last heard.
    pub age_ms: Option<u64>,
    /// It is not heard: what it told is too old to count.
    pub silent: bool,
    /// GPUs that it tells of.
    pub gpus: usize,
    /// Why there are none, or not all, in its words.
    pub problem: String,
}

/// A GPU or a MIG instance.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct GpuPage {
    /// Its node.
    pub node: String,
    /// NVML's index.
    pub index: u32,
    /// `GPU-…` or `MIG-…`.
    pub uuid: String,
    /// Of a MIG instance, its board.
    pub parent: String,
    /// As `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Of a MIG instance, as `1g.10gb`.
    pub mig_profile: String,
    /// `namespace/pod` of those that it was given to.
    pub owners: Vec<String>,
    /// Endpoints of the pool on it.
    pub endpoints: Vec<EndpointPage>,
    /// Who tells, and how long ago it was heard.
    pub source: String,
    /// See there.
    pub age_ms: u64,
    /// It answers no more.
    pub lost: bool,
    /// Bytes.
    pub memory_total: Option<u64>,
    /// Bytes.
    pub memory_used: Option<u64>,
    /// Bytes.
    pub memory_free: Option<u64>,
    /// Processes of none of its owners.
    pub foreign_processes: usize,
    /// Share of time with a kernel running, 0 to 1.
    pub utilization: Option<f64>,
    /// MHz.
    pub sm_clock: Option<u32>,
    /// MHz.
    pub sm_clock_max: Option<u32>,
    /// Why the clock is not higher.
    pub clock_reasons: Vec<String>,
    /// W.
    pub power: Option<f64>,
    /// W.
    pub power_limit: Option<f64>,
    /// Degrees Celsius.
    pub temperature: Option<f64>,
    /// Since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// What the driver wants done, in NVML's numbers; 0 = nothing.
    pub recovery_action: Option<u32>,
    /// The last of what happened to it, oldest first.
    pub events: Vec<EventPage>,
    /// What is not known of it, and why.
    pub missing: Vec<String>,
}

/// An endpoint on a GPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndpointPage {
    /// `namespace/name`.
    pub name: String,
    /// `ok`, `derated`, `draining` or `ejected`.
    pub health: String,
    /// Why, the worst first.
    pub causes: Vec<CausePage>,
}

/// What is wrong with an endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub struct CausePage {
    /// As metrics have it.
    pub cause: String,
    /// Since when.
    pub age_ms: u64,
}

/// Something that happened.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventPage {
    /// Since then.
    pub age_ms: u64,
    /// In words, as `XID 79: fell off the bus`.
    pub what: String,
    /// `nvml`, `kmsg` or `dcgm`.
    pub source: String,
}

/// What is known of all GPUs now.
pub fn page(gpus: &Gpus) -> GpusPage {
    let now = clock_ms();
    let snapshot = gpus.pool().snapshot();
    let members = snapshot.members().iter();
    let by_name: HashMap<&EndpointId, &Arc<Member>> = members
        .map(|member| (&member.endpoint.id, member))
        .collect();
    gpus.look(|inner| {
        let sources = inner.sources.iter().take(MOST_SHOWN);
        let sources = sources.map(|(id, told)| SourcePage {
            kind: id.kind.name().to_owned(),
            address: id.address.to_string(),
            node: told.source.node.clone(),
            age_ms: told.age_ms(now),
            silent: told.source.is_silent(now),
            gpus: told.gpus.len(),
            problem: told.problem.clone(),
        });
        let all = inner.all();
        let shown = all.iter().take(MOST_SHOWN).map(|found| {
            let (source, known) = (&found.told.source, found.known);
            let events = known.events.iter();
            let events = events.map(|(at, event)| (now.saturating_sub(*at), event));
            let mut page = GpuPage::of(&known.gpu, events);
            page.node = source.node.clone();
            page.source = found.source.to_string();
            page.age_ms = now.saturating_sub(source.heard_at());
            let endpoints = found.endpoints.iter().filter_map(|id| by_name.get(id));
            page.endpoints = endpoints.map(|member| endpoint(member, now)).collect();
            page
        });
        GpusPage {
            sources: sources.collect(),
            not_shown: all.len().saturating_sub(MOST_SHOWN),
            gpus: shown.collect(),
        }
    })
}

/// What an agent's `report`, a snapshot, tells: of no pool, so without endpoints.
pub fn of_report(address: &str, report: &Report) -> GpusPage {
    let snapshot = match &report.content {
        Some(Content::Snapshot(snapshot)) => snapshot.clone(),
        _ => Default::default(),
    };
    let source = SourceId {
        kind: SourceKind::Agent,
        address: address.into(),
    };
    let gpus = snapshot.gpus.iter().map(|gpu| {
        let events = snapshot
            .events
            .iter()
            .filter(|event| event.uuid == gpu.uuid);
        let events: Vec<_> = events.map(|event| (event.age_ms.into(), event)).collect();
        let mut page = GpuPage::of(gpu, events.into_iter());
        page.node = report.node.clone();
        page.source = source.to_string();
        page
    });
    GpusPage {
        gpus: gpus.collect(),
        sources: vec![SourcePage {
            kind: source.kind.name().to_owned(),
            address: address.to_owned(),
            node: report.node.clone(),
            age_ms: Some(0),
            silent: false,
            gpus: snapshot.gpus.len(),
            problem: snapshot.problem.clone(),
        }],
        not_shown: 0,
    }
}

fn endpoint(member: &Member, now: u64) -> EndpointPage {
    let causes = member.slot.causes().into_iter().rev();
    EndpointPage {
        name: member.endpoint.id.to_string(),
        health: member.slot.word().name().to_owned(),
        causes: causes
            .map(|(cause, since)| CausePage {
                cause: cause.name().to_owned(),
                age_ms: now.saturating_sub(since),
            })
            .collect(),
    }
}

/// What happened, in words.
fn what(event: &Event, gpu: &Gpu) -> String {
    let value = event.value;
    let mut text = match event.kind() {
        EventKind::Xid => format!("XID {value}: {}", xid(value, gpu.architecture()).meaning),
        EventKind::EccUncorrected => format!("{value} uncorrected ECC errors"),
        EventKind::GpuLost => "GPU lost".to_owned(),
        EventKind::RecoveryAction => format!("recovery action {value}"),
        EventKind::MigChanged => "MIG changed".to_owned(),
        EventKind::EventUnknown => format!("event of unknown kind {}", event.kind),
    };
    if let Some(instance) = event.gpu_instance {
        text.push_str(&format!(" (GPU instance {instance})"));
    }
    text
}

// === impl GpuPage ===

impl GpuPage {
    /// Of `gpu`, with what happened to it and how many milliseconds ago, oldest first. Who tells, and whose it is, is left
    /// open.
    pub fn of<'a>(gpu: &Gpu, events: impl ExactSizeIterator<Item = (u64, &'a Event)>) -> Self {
        let skipped = events.len().saturating_sub(MOST_EVENTS);
        let events = events.skip(skipped).map(|(age_ms, event)| EventPage {
            age_ms,
            what: what(event, gpu),
            source: event.source.clone(),
        });
        let owners = gpu
            .owners
            .iter()
            .map(|o| format!("{}/{}", o.namespace, o.pod));
        let missing = gpu
            .missing
            .iter()
            .map(|m| format!("{}: {}", m.field, m.why));
        let clocks = gpu.clocks.as_ref();
        let bits = clocks.and_then(|clocks| clocks.event_reasons).unwrap_or(0);
        let reasons = REASONS.iter().filter(|(bit, _)| bits & bit != 0);
        let (memory, power) = (gpu.memory.as_ref(), gpu.power.as_ref());
        let (errors, temperature) = (gpu.errors.as_ref(), gpu.temperature.as_ref());
        let foreign = gpu.processes.iter().filter(|p| p.foreign == Some(true));
        Self {
            index: gpu.index,
            uuid: gpu.uuid.clone(),
            parent: gpu.parent.clone(),
            name: gpu.name.clone(),
            mig_profile: gpu.mig_profile.clone(),
            owners: owners.collect(),
            lost: gpu.lost,
            memory_total: memory.map(|memory| memory.total),
            memory_used: memory.map(|memory| memory.used),
            memory_free: memory.map(|memory| memory.free),
            foreign_processes: foreign.count(),
            utilization: gpu.utilization.as_ref().and_then(|u| u.gpu),
            sm_clock: clocks.and_then(|clocks| clocks.sm),
            sm_clock_max: clocks.and_then(|clocks| clocks.sm_max),
            clock_reasons: reasons.map(|(_, name)| (*name).to_owned()).collect(),
            power: power.and_then(|power| power.draw),
            power_limit: power.and_then(|power| power.limit),
            temperature: temperature.and_then(|temperature| temperature.gpu),
            ecc_uncorrected: errors.and_then(|errors| errors.ecc_uncorrected),
            recovery_action: errors.and_then(|errors| errors.recovery_action),
            events: events.collect(),
            missing: missing.collect(),
            ..Self::default()
        }
    }
}
