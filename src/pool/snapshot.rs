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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pool::Reservation;
    use crate::pool::slab::Scrape;

    pub(in crate::pool) fn endpoint(name: &str, address: &str) -> Endpoint {
        let address: SocketAddr = address.parse().unwrap();
        Endpoint {
            id: EndpointId {
                namespace: "default".into(),
                name: name.into(),
            },
            address: address.ip(),
            port: address.port(),
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

    #[test]
    fn load_is_the_scrape_plus_what_was_sent_since_and_unknown_when_old() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        let _before = Reservation::new(slot);
        let begun = slot.scrape_begins();
        let _during = Reservation::new(slot);
        let scrape = Scrape {
            waiting: Some(3.0),
            running: Some(5.0),
            ..Default::default()
        };
        slot.record(&scrape, begun, 1000);
        let mut load = LoadView::default();
        load.gather(&snapshot, 1500, 2000);
        assert_eq!((load.waiting[0], load.running[0]), (4.0, 6.0));
        assert!(load.kv_usage[0].is_nan() && load.waiting[1].is_nan());
        assert_eq!((load.in_flight[0], load.stale), (2, 1));
        load.gather(&snapshot, 3001, 2000);
        assert!(load.waiting[0].is_nan());
        assert_eq!(load.stale, 2);
    }
}
