//! What a node agent tells of the cluster's GPUs.
//!
//! One GPU stands for all of an endpoint: those of a tensor-parallel group do the same. Eight endpoints share a node, and a
//! node an agent. The picker gets the very reports that an agent sends.

use gpu_probes::telemetry::{
    Architecture, Change, Clocks, Event, EventKind, Gpu, Memory, Owner, Process, Profile, Report,
    Utilization, report::Content,
};

use crate::sim::step::{Engine, GpuState};

/// Endpoints on a node.
pub(super) const OF_NODE: u32 = 8;
/// NVML's clock-event reasons.
pub(super) const SLOWED_BY_HARDWARE: u64 = 0x8;
pub(super) const SLOWED_BY_HEAT: u64 = 0x40;
pub(super) const POWER_BRAKE: u64 = 0x80;
/// "Fell off the bus".
pub(super) const LOST: u64 = 79;
/// Bytes that a tenant takes: less than vLLM leaves free.
const TENANT: u64 = 2 << 30;

/// What is wrong with a GPU, as it shows to NVML.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ailment {
    /// It answers no more.
    pub(super) lost: bool,
    /// Clock-event reasons, as bits, and the share of the highest clock that is left.
    pub(super) throttled: Option<(u64, f64)>,
    /// A process of somebody else's is on it.
    pub(super) tenant: bool,
    /// A kernel runs and does nothing.
    pub(super) spins: bool,
}

/// What an agent reads of an endpoint's GPU.
#[derive(Clone, Copy, Debug)]
pub struct GpuReading {
    state: GpuState,
    ailment: Ailment,
    /// Bytes.
    memory: u64,
    /// The highest SM clock, in MHz.
    clock: f64,
}

// === impl GpuReading ===

impl GpuReading {
    pub(super) fn of(engine: &Engine, ailment: Ailment) -> Self {
        let hardware = engine.hardware();
        Self {
            state: engine.gpu(),
            ailment,
            memory: hardware.hbm_bytes,
            clock: hardware.sm_clock,
        }
    }
}

/// The name of an endpoint's pod.
pub(super) fn pod(endpoint: u32) -> String {
    format!("sim-{endpoint}")
}

/// The namespace of all.
pub(super) const NAMESPACE: &str = "sim";

fn uuid(endpoint: u32) -> String {
    format!("GPU-sim-{endpoint}")
}

/// The node of an endpoint.
pub(super) fn node(endpoint: u32) -> u32 {
    endpoint / OF_NODE
}

/// What the agent of an endpoint's node says.
fn report(endpoint: u32, change: Change) -> Report {
    Report {
        node: format!("node-{}", node(endpoint)),
        agent: "sim".to_owned(),
        sequence: 0,
        content: Some(Content::Change(change)),
    }
}

/// A reading as the agent tells it.
pub(super) fn told(endpoint: u32, reading: &GpuReading) -> Report {
    report(
        endpoint,
        Change {
            gpus: vec![gpu(endpoint, reading)],
            ..Change::default()
        },
    )
}

/// Event number `number` of the agent: an XID.
pub(super) fn happened(endpoint: u32, number: u64, xid: u64) -> Report {
    let event = Event {
        number,
        uuid: uuid(endpoint),
        kind: EventKind::Xid.into(),
        value: xid,
        ..Event::default()
    };
    report(
        endpoint,
        Change {
            events: vec![event],
            ..Change::default()
        },
    )
}

fn gpu(endpoint: u32, reading: &GpuReading) -> Gpu {
    let GpuReading {
        state,
        ailment,
        memory,
        clock,
    } = *reading;
    let owner = Owner {
        namespace: NAMESPACE.to_owned(),
        pod: pod(endpoint),
        ..Owner::default()
    };
    let gpu = Gpu {
        uuid: uuid(endpoint),
        index: endpoint % OF_NODE,
        architecture: Architecture::Hopper.into(),
        owners: vec![owner],
        lost: ailment.lost,
        ..Gpu::default()
    };
    if ailment.lost {
        // It answers nothing.
        return gpu;
    }
    let process = |pid, bytes, foreign| Process {
        pid,
        memory: Some(bytes),
        foreign: Some(foreign),
        ..Process::default()
    };
    let tenant = if ailment.tenant { TENANT } else { 0 };
    let used = state.memory_used.saturating_add(tenant).min(memory);
    let mut processes = vec![process(1, state.memory_used, false)];
    processes.extend(ailment.tenant.then(|| process(2, tenant, true)));
    let (reasons, left) = ailment.throttled.unwrap_or((0, 1.0));
    let busy = ailment.spins || ailment.tenant;
    Gpu {
        processes,
        memory: Some(Memory {
            total: memory,
            used,
            free: memory - used,
            ..Memory::default()
        }),
        utilization: Some(Utilization {
            gpu: Some(if busy { 1.0 } else { state.utilisation }),
            ..Utilization::default()
        }),
        clocks: Some(Clocks {
            sm: Some((clock * left) as u32),
            sm_max: Some(clock as u32),
            event_reasons: Some(reasons),
            ..Clocks::default()
        }),
        profile: Some(Profile {
            tensor_active: Some(state.tensor),
            dram_active: Some(state.bandwidth),
            ..Profile::default()
        }),
        ..gpu
    }
}
