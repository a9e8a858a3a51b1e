//! The pool as one request sees it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::endpoint::{Endpoint, EndpointId};
use super::slab::{SEGMENT, Segment, Slab, Slot};

/// All endpoints of one pool; the place where topology changes.
#[derive(Debug)]
pub struct Pool {
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
    /// What it is doing.
    pub slot: Arc<Slot>,
}

/// The numbers of one moment, by position: gathered once for a request, so that all scorers see the same.
/// NaN is "not known": never scraped, too old, or not on the page.
#[derive(Debug, Default)]
pub struct LoadView {
    /// Scraped queue length plus what we sent since.
    pub waiting: Vec<f32>,
    /// Scraped running requests plus what we sent since.
    pub running: Vec<f32>,
    /// Scraped KV cache use, 0 to 1.
    pub kv_usage: Vec<f32>,
    /// Requests of ours that have not ended.
    pub in_flight: Vec<u32>,
    /// How many endpoints had no fresh scrape.
    pub stale: u32,
}

// === impl Pool ===

impl Default for Pool {
    fn default() -> Self {
        Self {
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

    /// The endpoint with exactly this address and port.
    pub fn by_address(&self, address: &SocketAddr) -> Option<u32> {
        self.by_address.get(address).copied()
    }

    /// All endpoints with this IP address, whatever their port.
    pub fn by_ip(&self, ip: &IpAddr) -> &[u32] {
        self.by_ip.get(ip).map_or(&[], Vec::as_slice)
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
            endpoint,
            slot,
        }
    }
}

// === impl LoadView ===

impl LoadView {
    /// Reads the cells of every endpoint of `snapshot`. Scrapes older than `max_age_ms` count as unknown.
    pub fn gather(&mut self, snapshot: &Snapshot, now_ms: u64, max_age_ms: u64) {
        self.waiting.clear();
        self.running.clear();
        self.kv_usage.clear();
        self.in_flight.clear();
        self.stale = 0;
        let load =
            |cell: &std::sync::atomic::AtomicU32| f32::from_bits(cell.load(Ordering::Relaxed));
        for position in 0..snapshot.len() as u32 {
            let (s, i) = snapshot.cell(position);
            let scraped_at = s.scraped_at[i].load(Ordering::Acquire);
            self.in_flight.push(s.in_flight[i].load(Ordering::Relaxed));
            if scraped_at == 0 || now_ms.saturating_sub(scraped_at) > max_age_ms {
                self.stale += 1;
                self.waiting.push(f32::NAN);
                self.running.push(f32::NAN);
                self.kv_usage.push(f32::NAN);
                continue;
            }
            let sent = s.sent[i].load(Ordering::Relaxed);
            let since = sent.saturating_sub(s.sent_at_scrape[i].load(Ordering::Relaxed)) as f32;
            self.waiting.push(load(&s.waiting[i]) + since);
            self.running.push(load(&s.running[i]) + since);
            self.kv_usage.push(load(&s.kv_usage[i]));
        }
    }
}
