//! The pool as one request sees it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::breaker::Cause;
use super::endpoint::{Endpoint, EndpointId};
use super::objectives::Objectives;
use super::slab::{SEGMENT, Segment, Slab, Slot};
use super::stages::Stages;

/// All endpoints of one pool; the place where topology changes.
#[derive(Debug)]
pub struct Pool {
    /// What requests for it may name, and how much that matters.
    pub objectives: Objectives,
    slab: Arc<Slab>,
    current: ArcSwap<Snapshot>,
    writer: Mutex<()>,
}

/// An unchanging list of endpoints. Positions (`u32`, dense from 0) are valid within one snapshot only.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Rises with every change of topology; 0 before the first.
    pub version: u64,
    members: Vec<Arc<Member>>,
    numbers: Vec<u32>,
    lives: Vec<u64>,
    segments: Vec<Arc<Segment>>,
    by_address: HashMap<SocketAddr, u32>,
    by_ip: HashMap<IpAddr, Vec<u32>>,
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
        Self {
            objectives: Objectives::default(),
            slab: Arc::default(),
            current: ArcSwap::from_pointee(Snapshot::default()),
            writer: Mutex::new(()),
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

    /// How often endpoints were ejected because of `cause`, since the process started.
    pub fn ejections(&self, cause: Cause) -> u64 {
        self.slab.ejections(cause)
    }

    /// Makes `endpoints` the pool. An endpoint that stays (same id, address and port) keeps its cells, so its
    /// load and its requests in flight survive; any other starts fresh. Of two endpoints with one id the later wins.
    pub fn replace(&self, endpoints: Vec<Endpoint>) -> Arc<Snapshot> {
        let _one_at_a_time = self.writer.lock();
        let old = self.current.load_full();
        let known: HashMap<&EndpointId, &Arc<Member>> =
            old.members.iter().map(|m| (&m.endpoint.id, m)).collect();
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
        let members = order
            .into_iter()
            .filter_map(|id| wanted.remove(&id))
            .map(|endpoint| match known.get(&endpoint.id) {
                Some(member) if member.endpoint == endpoint => Arc::clone(member),
                Some(member) if member.endpoint.socket_addr() == endpoint.socket_addr() => {
                    Arc::new(Member::new(endpoint, Arc::clone(&member.slot)))
                }
                _ => Arc::new(Member::new(endpoint, self.slab.take())),
            })
            .collect();
        let next = Arc::new(Snapshot::new(old.version + 1, members));
        self.current.store(Arc::clone(&next));
        next
    }
}

// === impl Snapshot ===

impl Snapshot {
    fn new(version: u64, members: Vec<Arc<Member>>) -> Self {
        let mut snapshot = Self {
            version,
            numbers: members.iter().map(|m| m.slot.number()).collect(),
            lives: members.iter().map(|m| m.slot.life()).collect(),
            segments: Vec::new(),
            by_address: HashMap::with_capacity(members.len()),
            by_ip: HashMap::with_capacity(members.len()),
            members,
        };
        let mut by_index: Vec<Option<Arc<Segment>>> = Vec::new();
        for (position, member) in (0u32..).zip(&snapshot.members) {
            let endpoint = &member.endpoint;
            snapshot.by_address.insert(endpoint.socket_addr(), position);
            snapshot
                .by_ip
                .entry(endpoint.address)
                .or_default()
                .push(position);
            let at = member.slot.number() as usize / SEGMENT;
            if by_index.len() <= at {
                by_index.resize(at + 1, None);
            }
            by_index[at] = Some(Arc::clone(member.slot.segment()));
        }
        // A segment that no member lives in is never indexed: any other fills its place.
        if let Some(filler) = by_index.iter().flatten().next().cloned() {
            snapshot.segments = by_index
                .into_iter()
                .map(|s| s.unwrap_or_else(|| Arc::clone(&filler)))
                .collect();
        }
        snapshot
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
pub(super) mod tests {
    use super::*;
    use crate::pool::Reservation;

    pub(in crate::pool) fn endpoint(name: &str, address: &str) -> Endpoint {
        let address: SocketAddr = address.parse().unwrap();
        Endpoint {
            id: EndpointId {
                namespace: "default".into(),
                name: name.into(),
            },
            address: address.ip(),
            port: address.port(),
            hardware: Default::default(),
            labels: Default::default(),
        }
    }

    pub(in crate::pool) fn pool_of(addresses: &[&str]) -> Pool {
        let pool = Pool::default();
        pool.replace(addresses.iter().map(|a| endpoint(a, a)).collect());
        pool
    }

    fn in_flight(snapshot: &Snapshot, position: u32) -> u32 {
        let (s, i) = snapshot.cell(position);
        s.in_flight[i].load(Ordering::Relaxed)
    }

    #[test]
    fn who_stays_keeps_its_cells_and_who_moves_does_not() {
        let pool = Pool::default();
        let first = pool.replace(vec![
            endpoint("a", "10.0.0.1:80"),
            endpoint("b", "10.0.0.2:80"),
        ]);
        let reservations: Vec<_> = (0..2)
            .map(|p| Reservation::new(&first.member(p).slot))
            .collect();
        let mut relabelled = endpoint("a", "10.0.0.1:80");
        relabelled.labels.insert("k".into(), "v".into());
        let second = pool.replace(vec![endpoint("b", "10.0.0.3:80"), relabelled]);
        assert_eq!(second.version, first.version + 1);
        assert_eq!((in_flight(&second, 0), in_flight(&second, 1)), (0, 1));
        assert_eq!(second.member(1).endpoint.labels["k"], "v");
        drop(reservations);
        assert_eq!(in_flight(&second, 1), 0);
    }

    #[test]
    fn a_number_is_not_given_away_while_anyone_holds_it() {
        let pool = pool_of(&["10.0.0.1:80"]);
        let old = pool.snapshot();
        let number = old.member(0).slot.number();
        let reservation = Reservation::new(&old.member(0).slot);
        drop(old);
        let next = pool.replace(vec![endpoint("other", "10.0.0.2:80")]);
        assert_ne!(next.member(0).slot.number(), number);
        drop(reservation);
        let last = pool.replace(vec![
            endpoint("other", "10.0.0.2:80"),
            endpoint("new", "10.0.0.3:80"),
        ]);
        assert_eq!(last.member(1).slot.number(), number);
    }

    #[test]
    fn look_ups() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.1:81", "[fd00::1]:80"]);
        let snapshot = pool.snapshot();
        assert_eq!(snapshot.by_ip(&[10, 0, 0, 1].into()), [0, 1]);
        assert_eq!(
            snapshot.by_address(&"[fd00::1]:80".parse().unwrap()),
            Some(2)
        );
        assert_eq!(snapshot.by_address(&"10.0.0.1:82".parse().unwrap()), None);
        assert_eq!(&*snapshot.member(2).address, "[fd00::1]:80");
    }

    #[test]
    fn many_endpoints_live_in_many_segments() {
        let addresses: Vec<String> = (0..1000)
            .map(|i| format!("10.0.{}.{}:80", i / 250, i % 250))
            .collect();
        let pool = pool_of(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        let snapshot = pool.snapshot();
        let _held = Reservation::new(&snapshot.member(999).slot);
        assert_eq!(in_flight(&snapshot, 999), 1);
        assert_eq!((0..999).map(|p| in_flight(&snapshot, p)).sum::<u32>(), 0);
    }
}
