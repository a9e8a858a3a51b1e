//! What tests of this room share.

use gpu_probes::telemetry::{
    Change, Event, EventKind, Gpu, Heartbeat, Memory, Owner, Report, Snapshot, report::Content,
};

use super::super::{Endpoint, EndpointId, Hardware};
use super::{SourceId, SourceKind};

pub(super) const GB: u64 = 1 << 30;

/// An endpoint of the namespace `ns`, at a port that follows from its name.
pub(super) fn endpoint(name: &str, node: Option<&str>, gpus: &[&str]) -> Endpoint {
    let port = name.bytes().fold(1u16, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    Endpoint {
        id: EndpointId {
            namespace: "ns".to_owned(),
            name: name.to_owned(),
        },
        address: [127, 0, 0, 1].into(),
        port: port.max(1),
        labels: Default::default(),
        hardware: Hardware {
            node: node.map(str::to_owned),
            node_address: None,
            gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(),
            whole_node: node.is_some() && gpus.is_empty(),
        },
    }
}

/// A GPU of 80 GB, of which `used` are in use, that was given to `pods` of the namespace `ns`.
pub(super) fn gpu(uuid: &str, pods: &[&str], used: u64) -> Gpu {
    let owner = |pod: &&str| Owner {
        namespace: "ns".to_owned(),
        pod: (*pod).to_owned(),
        ..Default::default()
    };
    Gpu {
        uuid: uuid.to_owned(),
        owners: pods.iter().map(owner).collect(),
        memory: Some(Memory {
            total: 80 * GB,
            used: used * GB,
            free: (80 - used) * GB,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A MIG instance of `parent`.
pub(super) fn instance(uuid: &str, parent: &str, pods: &[&str]) -> Gpu {
    Gpu {
        parent: parent.to_owned(),
        ..gpu(uuid, pods, 1)
    }
}

pub(super) fn event(number: u64, uuid: &str, xid: u64, age_ms: u32) -> Event {
    Event {
        number,
        age_ms,
        uuid: uuid.to_owned(),
        kind: EventKind::Xid.into(),
        value: xid,
        ..Default::default()
    }
}

/// Of `node`, in the life `agent` of its agent.
fn report(node: &str, agent: &str, content: Content) -> Report {
    Report {
        node: node.to_owned(),
        agent: agent.to_owned(),
        sequence: 0,
        content: Some(content),
    }
}

pub(super) fn snapshot(node: &str, agent: &str, gpus: Vec<Gpu>, events: Vec<Event>) -> Report {
    let snapshot = Snapshot {
        gpus,
        events,
        problem: String::new(),
    };
    report(node, agent, Content::Snapshot(snapshot))
}

pub(super) fn change(
    node: &str,
    agent: &str,
    gpus: Vec<Gpu>,
    gone: &[&str],
    events: Vec<Event>,
) -> Report {
    let change = Change {
        gpus,
        gone: gone.iter().map(|uuid| (*uuid).to_owned()).collect(),
        events,
        problem: String::new(),
    };
    report(node, agent, Content::Change(change))
}

pub(super) fn heartbeat(node: &str, agent: &str) -> Report {
    report(node, agent, Content::Heartbeat(Heartbeat {}))
}

pub(super) fn agent(address: &str) -> SourceId {
    SourceId {
        kind: SourceKind::Agent,
        address: address.into(),
    }
}

pub(super) fn dcgm(address: &str) -> SourceId {
    SourceId {
        kind: SourceKind::Dcgm,
        address: address.into(),
    }
}
