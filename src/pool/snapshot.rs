//! The pool as one request sees it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::endpoint::{Endpoint, EndpointId};
use super::health::Cause;
use super::objectives::Objectives;
use super::rewrites::Rewrites;
use super::slab::{SEGMENT, Segment, Slab, Slot};
use super::stages::Stages;

/// All endpoints of one pool; the place where topology changes.
#[derive(Debug)]
pub struct Pool {
    /// What requests for it may name, and how much that matters.
    pub objectives: Objectives,
    /// The models that requests are sent on under.
    pub rewrites: Rewrites,
    slab: Arc<Slab>,
    current: ArcSwap<Snapshot>,
    /// Where the endpoints of the current snapshot are in it. Whoever holds it is the only one to make the next.
    positions: Mutex<HashMap<EndpointId, u32>>,
}

/// What becomes of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there, and like this.
    Put(Endpoint),
    /// It is not there.
    Remove(EndpointId),
}

/// An unchanging list of endpoints. Positions (`u32`, dense from 0) are valid within one snapshot only.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Rises with every change of topology; 0 before the first.
    pub version: u64,
    members: Vec<Arc<Member>>,
    numbers: Vec<u32>,
    lives: Vec<u64>,
    segments: Vec<Arc<Segment>>,
    by_address: HashMap<SocketAddr, u32>,
    by_ip: HashMap<IpAddr, Vec<u32>>,
    slab: Arc<Slab>,
}

/// An endpoint and its cells.
#[derive(Debug)]
pub struct Member {
    /// Who it is.
    pub endpoint: Endpoint,
    /// `ip:port` as it goes into the destination header.
    pub address: Box<str>,
    /// The stages that its role says it does.
    pub stages: Stages,
    /// What it is doing.
    pub slot: Arc<Slot>,
}

// === impl Pool ===

impl Default for Pool {
    fn default() -> Self {
        let slab: Arc<Slab> = Arc::default();
        Self {
            objectives: Objectives::default(),
            rewrites: Rewrites::default(),
            current: ArcSwap::from_pointee(Snapshot {
                slab: Arc::clone(&slab),
                ..Snapshot::default()
            }),
            slab,
            positions: Mutex::default(),
        }
    }
}

impl Pool {
    /// The pool as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// How many LoRA adapters are known as such.
    pub fn known_adapters(&self) -> usize {
        self.slab.known_adapters()
    }

    pub(super) fn slab(&self) -> &Slab {
        &self.slab
    }

    /// How often endpoints were put out because of `cause`, since the process started.
    pub fn ejections(&self, cause: Cause) -> u64 {
        self.slab.ejections(cause)
    }

    /// Makes `endpoints` the pool. An endpoint that stays (same id, address and port) keeps its cells, so its
    /// load and its requests in flight survive; any other starts fresh. Of two endpoints with one id the later wins.
    pub fn replace(&self, endpoints: Vec<Endpoint>) -> Arc<Snapshot> {
        let mut positions = self.positions.lock();
        let old = self.current.load_full();
        let mut order: Vec<EndpointId> = Vec::with_capacity(endpoints.len());
        let mut wanted: HashMap<EndpointId, Endpoint> = HashMap::with_capacity(endpoints.len());
        for endpoint in endpoints {
            if wanted
                .insert(endpoint.id.clone(), endpoint.clone())
                .is_none()
            {
                order.push(endpoint.id);
            }
        }
        let mut next = Snapshot {
            version: old.version + 1,
            slab: Arc::clone(&self.slab),
            ..Snapshot::default()
        };
        let mut places = HashMap::with_capacity(order.len());
        for id in order {
            let Some(endpoint) = wanted.remove(&id) else {
                continue;
            };
            let known = positions.get(&id).map(|&at| old.member(at));
            places.insert(id, next.push(self.member(endpoint, known)));
        }
        *positions = places;
        self.publish(next)
    }

    /// Makes `changes`, in their order, and touches no other endpoint; cells stay as with [`Pool::replace`]. Returns the
    /// pool as it is then: the same snapshot, if nothing changed.
    pub fn update(&self, changes: impl IntoIterator<Item = Change>) -> Arc<Snapshot> {
        let mut positions = self.positions.lock();
        let old = self.current.load_full();
        let mut next = Snapshot::clone(&old);
        next.version += 1;
        let mut changed = false;
        for change in changes {
            match change {
                Change::Put(endpoint) => match positions.get(&endpoint.id).copied() {
                    Some(at) if next.member(at).endpoint == endpoint => continue,
                    Some(at) => {
                        let member = self.member(endpoint, Some(next.member(at)));
                        next.set(at, member);
                    }
                    None => {
                        let id = endpoint.id.clone();
                        positions.insert(id, next.push(self.member(endpoint, None)));
                    }
                },
                Change::Remove(id) => {
                    let Some(at) = positions.remove(&id) else {
                        continue;
                    };
                    if let Some(moved) = next.swap_remove(at) {
                        positions.insert(moved.endpoint.id.clone(), at);
                    }
                }
            }
            changed = true;
        }
        if changed { self.publish(next) } else { old }
    }

    /// `known` is who has that name now.
    fn member(&self, endpoint: Endpoint, known: Option<&Arc<Member>>) -> Arc<Member> {
        match known {
            Some(member) if member.endpoint == endpoint => Arc::clone(member),
            Some(member) if member.endpoint.socket_addr() == endpoint.socket_addr() => {
                Arc::new(Member::new(endpoint, Arc::clone(&member.slot)))
            }
            _ => Arc::new(Member::new(endpoint, self.slab.take())),
        }
    }

    fn publish(&self, next: Snapshot) -> Arc<Snapshot> {
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        next
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Returns the new member's position.
    fn push(&mut self, member: Arc<Member>) -> u32 {
        let position = self.members.len() as u32;
        self.numbers.push(member.slot.number());
        self.lives.push(member.slot.life());
        self.index(position, &member);
        self.members.push(member);
        position
    }

    /// Puts `member` where another is.
    fn set(&mut self, position: u32, member: Arc<Member>) {
        let at = position as usize;
        let before = Arc::clone(&self.members[at]);
        self.forget(position, &before);
        self.numbers[at] = member.slot.number();
        self.lives[at] = member.slot.life();
        self.index(position, &member);
        self.members[at] = member;
    }

    /// Takes out the member at `position`. Returns the one that was last and is there now, if it was another.
    fn swap_remove(&mut self, position: u32) -> Option<Arc<Member>> {
        let (at, last) = (position as usize, self.members.len() as u32 - 1);
        self.numbers.swap_remove(at);
        self.lives.swap_remove(at);
        let gone = self.members.swap_remove(at);
        self.forget(position, &gone);
        let moved = self.members.get(at).cloned()?;
        self.forget(last, &moved);
        self.index(position, &moved);
        Some(moved)
    }

    /// Makes `member` found at `position`.
    fn index(&mut self, position: u32, member: &Member) {
        let endpoint = &member.endpoint;
        self.by_address.insert(endpoint.socket_addr(), position);
        let of_ip = self.by_ip.entry(endpoint.address).or_default();
        let sorted = of_ip.partition_point(|&other| other < position);
        of_ip.insert(sorted, position);
        // A segment that no member lives in is never indexed: any other fills its place.
        let (at, segment) = (
            member.slot.number() as usize / SEGMENT,
            member.slot.segment(),
        );
        if self.segments.len() <= at {
            self.segments.resize(at + 1, Arc::clone(segment));
        }
        self.segments[at] = Arc::clone(segment);
    }

    fn forget(&mut self, position: u32, member: &Member) {
        let endpoint = &member.endpoint;
        let address = endpoint.socket_addr();
        if let Some(of_ip) = self.by_ip.get_mut(&endpoint.address) {
            of_ip.retain(|&other| other != position);
            if of_ip.is_empty() {
                self.by_ip.remove(&endpoint.address);
            }
        }
        if self.by_address.get(&address) == Some(&position) {
            // Of two with one address the other is found from now on.
            let has_it = |&&other: &&u32| {
                let member = self.members.get(other as usize);
                member.is_some_and(|m| m.endpoint.socket_addr() == address)
            };
            match self.by_ip(&endpoint.address).iter().rfind(has_it) {
                Some(&other) => self.by_address.insert(address, other),
                None => self.by_address.remove(&address),
            };
        }
    }

    pub(super) fn slab(&self) -> &Slab {
        &self.slab
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// No endpoints at all.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All endpoints, by position.
    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// The endpoint at `position`.
    pub fn member(&self, position: u32) -> &Arc<Member> {
        &self.members[position as usize]
    }

    /// The numbers of all endpoints, by position.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Their [`Slot::life`], by position.
    pub fn lives(&self) -> &[u64] {
        &self.lives
    }

    /// The endpoint with exactly this address and port.
    pub fn by_address(&self, address: &SocketAddr) -> Option<u32> {
        self.by_address.get(address).copied()
    }

    /// All endpoints with this IP address, whatever their port.
    pub fn by_ip(&self, ip: &IpAddr) -> &[u32] {
        self.by_ip.get(ip).map_or(&[], Vec::as_slice)
    }

    /// When the endpoint at `position` was last scraped, in milliseconds of [`super::clock_ms`].
    pub fn scraped_at(&self, position: u32) -> Option<u64> {
        let (segment, i) = self.cell(position);
        Some(segment.scraped_at[i].load(Ordering::Acquire)).filter(|&at| at != 0)
    }

    /// What [`Snapshot::cell`] gives for all endpoints, by position.
    pub fn cells(&self) -> impl Iterator<Item = (&Segment, usize)> {
        let cell = |&number: &u32| {
            let number = number as usize;
            (&*self.segments[number / SEGMENT], number % SEGMENT)
        };
        self.numbers.iter().map(cell)
    }

    /// The columns and the place in them of the endpoint at `position`.
    pub fn cell(&self, position: u32) -> (&Segment, usize) {
        let number = self.numbers[position as usize] as usize;
        (&self.segments[number / SEGMENT], number % SEGMENT)
    }
}

// === impl Member ===

impl Member {
    fn new(endpoint: Endpoint, slot: Arc<Slot>) -> Self {
        Self {
            address: endpoint.socket_addr().to_string().into_boxed_str(),
            stages: Stages::of(&endpoint.labels),
            endpoint,
            slot,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
