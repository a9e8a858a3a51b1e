//! Which GPUs are whose.
//!
//! A GPU is an endpoint's
//! - if a container of the endpoint's pod was given it: the endpoint's namespace and name are the pod's, or its name is
//!   `<pod>-rank-<n>`, as ranks of a data-parallel pod are called. Which rank computes on which of the pod's GPUs nobody
//!   tells, so all are each rank's;
//! - if the endpoint names it (`gpus` of an endpoints file);
//! - if it is said to have its whole node: all of that node are its (an endpoints file that names a node and no GPU);
//! - if it has no owner and is on a page that was read from the endpoint itself: an exporter beside the engine.
//!
//! With a MIG instance comes its board. Who shares boards, directly or over others, is in one domain: they fail together.
//! Who of them shares a GPU, or one MIG instance, in time is in one share: they slow each other down. Ranks of one pod are
//! not taken to, because each has a GPU of the pod's for itself.
//!
//! A source that is silent says nothing of who came since: what it told stays only where it was.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gpu_probes::telemetry::Gpu;

use super::super::{EndpointId, Snapshot};

/// A GPU, and who tells of it.
pub(super) struct Found<'a> {
    pub(super) uuid: &'a Arc<str>,
    pub(super) gpu: &'a Gpu,
    pub(super) node: &'a str,
    /// Endpoints on whose own pages it is without an owner.
    pub(super) near: Vec<&'a EndpointId>,
    /// If who tells of it is silent: the slots that it was shown at when it was heard.
    pub(super) only_at: Option<&'a [u32]>,
}

/// Where an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Its GPUs, each with the other endpoints (their slots' numbers) on the same board.
    pub(super) gpus: BTreeMap<Arc<str>, Vec<u32>>,
    /// Of each of them, how many endpoints share it.
    pub(super) sharers: BTreeMap<Arc<str>, u32>,
    /// See [`super::GpuCells::domain`].
    pub(super) domain: u32,
    /// See [`super::GpuCells::share`].
    pub(super) share: u32,
    /// See [`super::GpuCells::node`].
    pub(super) node: u32,
}

/// By what endpoints can be found.
struct Index<'a> {
    pods: HashMap<(&'a str, &'a str), Vec<u32>>,
    named: HashMap<&'a str, Vec<u32>>,
    nodes: HashMap<&'a str, Vec<u32>>,
}

/// Which endpoints belong together: each points to another of its group, or to itself.
struct Groups(Vec<u32>);

/// Places of all endpoints of `snapshot`, by position.
pub(super) fn join(snapshot: &Snapshot, all: &[Found<'_>]) -> Vec<Place> {
    let index = Index::of(snapshot);
    let mut places = vec![Place::default(); snapshot.len()];
    let mut nodes: Vec<Option<&str>> = snapshot
        .members()
        .iter()
        .map(|member| member.endpoint.hardware.node.as_deref())
        .collect();
    let uuids: HashMap<&str, &Found<'_>> = all.iter().map(|found| (&**found.uuid, found)).collect();
    // By board, who is on it.
    let mut on: HashMap<&str, Vec<u32>> = HashMap::new();
    let mut shares = Groups::of(snapshot);
    for found in all {
        let endpoints = index.endpoints(snapshot, found);
        let pod = |&position: &u32| {
            let id = &snapshot.member(position).endpoint.id;
            (&id.namespace, pod_of_rank(&id.name).unwrap_or(&id.name))
        };
        if endpoints
            .iter()
            .any(|position| pod(position) != pod(&endpoints[0]))
        {
            shares.unite_all(&endpoints);
        }
        let board = board(found.gpu);
        for &position in &endpoints {
            let place = &mut places[position as usize];
            place.gpus.entry(Arc::clone(found.uuid)).or_default();
            place
                .sharers
                .insert(Arc::clone(found.uuid), endpoints.len() as u32);
            if let Some(board) = uuids.get(board) {
                place.gpus.entry(Arc::clone(board.uuid)).or_default();
            }
            on.entry(board).or_default().push(position);
            if !found.node.is_empty() {
                nodes[position as usize].get_or_insert(found.node);
            }
        }
    }
    let mut domains = Groups::of(snapshot);
    for positions in on.values_mut() {
        positions.sort_unstable();
        positions.dedup();
        domains.unite_all(positions);
    }
    for (position, place) in (0u32..).zip(&mut places) {
        for (uuid, neighbours) in &mut place.gpus {
            let board = uuids.get(&**uuid).map(|found| board(found.gpu));
            let others = board.and_then(|board| on.get(board)).into_iter().flatten();
            let others = others.filter(|&&other| other != position);
            neighbours.extend(others.map(|&other| snapshot.numbers()[other as usize]));
        }
    }
    number(&mut places, &mut domains, &mut shares, &nodes);
    places
}

/// The board that it is, or is on.
fn board(gpu: &Gpu) -> &str {
    match gpu.parent.as_str() {
        "" => &gpu.uuid,
        parent => parent,
    }
}

/// Groups and nodes get small numbers, from 1, in the order of endpoints.
fn number(places: &mut [Place], domains: &mut Groups, shares: &mut Groups, nodes: &[Option<&str>]) {
    let (mut known_domains, mut known_nodes) = (HashMap::new(), HashMap::new());
    let mut known_shares = HashMap::new();
    for (position, (place, node)) in (0u32..).zip(places.iter_mut().zip(nodes)) {
        if !place.gpus.is_empty() {
            let next = known_domains.len() as u32 + 1;
            let first = domains.first(position);
            place.domain = *known_domains.entry(first).or_insert(next);
            let next = known_shares.len() as u32 + 1;
            let first = shares.first(position);
            place.share = *known_shares.entry(first).or_insert(next);
        }
        if let Some(node) = node {
            let next = known_nodes.len() as u32 + 1;
            place.node = *known_nodes.entry(*node).or_insert(next);
        }
    }
}

/// The pod of an endpoint that is a rank of it.
fn pod_of_rank(name: &str) -> Option<&str> {
    let (pod, rank) = name.rsplit_once("-rank-")?;
    let is_number = !rank.is_empty() && rank.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(pod)
}

/// Whether the endpoint called `id` is a container of the pod, or a rank in it. An empty `namespace` is any.
pub(super) fn is_pod(id: &EndpointId, namespace: &str, pod: &str) -> bool {
    (namespace.is_empty() || id.namespace == namespace)
        && (id.name == pod || pod_of_rank(&id.name) == Some(pod))
}

// === impl Index ===

impl<'a> Index<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let mut index = Self {
            pods: HashMap::new(),
            named: HashMap::new(),
            nodes: HashMap::new(),
        };
        for (position, member) in (0u32..).zip(snapshot.members()) {
            let (id, hardware) = (&member.endpoint.id, &member.endpoint.hardware);
            for name in std::iter::once(id.name.as_str()).chain(pod_of_rank(&id.name)) {
                let of_pod = index.pods.entry((&id.namespace, name)).or_default();
                of_pod.push(position);
            }
            for gpu in &hardware.gpus {
                index.named.entry(gpu).or_default().push(position);
            }
            if let (Some(node), true) = (&hardware.node, hardware.whole_node) {
                index.nodes.entry(node).or_default().push(position);
            }
        }
        index
    }

    /// Whose `found` is: each once.
    fn endpoints(&self, snapshot: &Snapshot, found: &Found<'_>) -> Vec<u32> {
        let owners = found.gpu.owners.iter();
        let of_pods = owners.filter_map(|o| self.pods.get(&(o.namespace.as_str(), o.pod.as_str())));
        let lists = of_pods
            .chain(self.named.get(&**found.uuid))
            .chain(self.nodes.get(found.node));
        let mut endpoints: Vec<u32> = lists.flatten().copied().collect();
        if found.gpu.owners.is_empty() {
            let near = found.near.iter();
            endpoints.extend(near.filter_map(|id| {
                let all = self.pods.get(&(id.namespace.as_str(), id.name.as_str()))?;
                let named = |&&at: &&u32| snapshot.member(at).endpoint.id == **id;
                all.iter().find(named)
            }));
        }
        if let Some(only) = found.only_at {
            endpoints.retain(|&at| only.contains(&snapshot.numbers()[at as usize]));
        }
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints
    }
}

// === impl Groups ===

impl Groups {
    /// Each for itself.
    fn of(snapshot: &Snapshot) -> Self {
        Self((0..snapshot.len() as u32).collect())
    }

    fn unite_all(&mut self, positions: &[u32]) {
        for &position in positions {
            self.unite(positions[0], position);
        }
    }

    fn first(&mut self, position: u32) -> u32 {
        let mut at = position;
        while self.0[at as usize] != at {
            // Shortens the way for the next.
            self.0[at as usize] = self.0[self.0[at as usize] as usize];
            at = self.0[at as usize];
        }
        at
    }

    fn unite(&mut self, a: u32, b: u32) {
        let (a, b) = (self.first(a), self.first(b));
        self.0[b.max(a) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests;
