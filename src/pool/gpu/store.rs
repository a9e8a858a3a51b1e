//! What is known of all GPUs, by source and by UUID, and the joining of it to endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gpu_probes::telemetry::{Gpu, Report};
use parking_lot::Mutex;

use super::super::slab::Slot;
use super::super::{EndpointId, Pool, Snapshot, clock_ms, health};
use super::agents::FailedStreams;
use super::claims::{Claims, Standing};
use super::join::{Found, Place, join};
use super::told::{Changed, Known, Refused, Told};
use super::{EndpointGpus, SILENT_MS, Sight, memory};

/// Between two joinings of all, in milliseconds: nodes that start together cost one, not one each.
const JOIN_PAUSE_MS: u64 = 50;
/// Between two looks at what happens without being told.
const TICK: Duration = Duration::from_millis(50);

/// A node agent or an exporter, by where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// What it is.
    pub kind: SourceKind,
    /// `host:port`.
    pub address: Arc<str>,
}

/// Where readings come from; of two that tell of one GPU, the first kind counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// `pointsman probe` on a node.
    Agent,
    /// dcgm-exporter, or what stands in for it.
    Dcgm,
}

/// The GPUs of a pool.
#[derive(Debug)]
pub struct Gpus {
    pool: Arc<Pool>,
    inner: Mutex<Inner>,
    /// What of reports was not taken.
    pub refused: Refused,
    /// How often an agent claimed a GPU that another one has.
    pub conflicts: AtomicU64,
    /// How often agents' streams failed.
    pub failed_streams: FailedStreams,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) sources: BTreeMap<SourceId, Told>,
    pub(super) claims: Claims,
    /// Endpoints that have GPUs, by their slots' numbers.
    placed: HashMap<u32, Placed>,
    /// By UUID, the numbers of the endpoints that it is shown at.
    on: HashMap<Arc<str>, Vec<u32>>,
    /// The snapshot that was joined last, when, and whether something changed since.
    joined: (u64, u64),
    dirty: bool,
}

#[derive(Debug)]
struct Placed {
    /// Held, so that no other endpoint gets the number before this one's GPUs are taken back.
    slot: Arc<Slot>,
    name: EndpointId,
    place: Place,
}

/// A GPU, the source that counts for it, and whose it is.
pub(super) struct Shown<'a> {
    pub(super) source: &'a SourceId,
    pub(super) told: &'a Told,
    pub(super) known: &'a Known,
    pub(super) endpoints: Vec<&'a EndpointId>,
}

/// How sources are.
fn standing<'a>(sources: &'a BTreeMap<SourceId, Told>) -> impl Fn(&SourceId) -> Standing<'a> {
    |id| {
        let told = sources.get(id);
        Standing {
            silent: told.is_none_or(|told| told.was_silent),
            life: told.map_or("", |told| &told.agent),
        }
    }
}

// === impl Gpus ===

impl Gpus {
    /// Nobody tells of any yet.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            inner: Mutex::default(),
            refused: Refused::default(),
            conflicts: AtomicU64::new(0),
            failed_streams: FailedStreams::default(),
        }
    }

    /// The pool whose endpoints they are.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// From now on `id` is listened to. It is silent after so many milliseconds without a word from it, [`SILENT_MS`] at
    /// least.
    pub fn add(&self, id: &SourceId, silent_ms: u64) {
        let mut inner = self.inner.lock();
        let told = || Told::new(silent_ms.max(SILENT_MS));
        inner.sources.entry(id.clone()).or_insert_with(told);
    }

    /// It is not any more: what it told is forgotten, with the next [`Gpus::tick`].
    pub fn remove(&self, id: &SourceId) {
        let inner = &mut *self.inner.lock();
        if let Some(told) = inner.sources.remove(id) {
            for uuid in told.gpus.keys() {
                inner.claims.remove(uuid, id, standing(&inner.sources));
            }
            inner.dirty = true;
        }
    }

    /// `id` said `report`; without effect unless it is listened to. `near`: the endpoints whose own page it is.
    pub fn report(&self, id: &SourceId, report: Report, near: Vec<EndpointId>, now_ms: u64) {
        let inner = &mut *self.inner.lock();
        if let Some(told) = inner.sources.get_mut(id) {
            let changed = told.report(report, near, now_ms, &self.refused);
            self.settle(inner, id, changed, now_ms);
        }
    }

    /// Sees to it that [`Gpus::tick`] is called, for good.
    pub async fn follow(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.tick(clock_ms());
        }
    }

    /// To be called several times a second: sees endpoints that came or went, and sources that fell silent.
    pub fn tick(&self, now_ms: u64) {
        let inner = &mut *self.inner.lock();
        let silent = inner.sources.iter_mut().filter_map(|(id, told)| {
            let silent = told.source.is_silent(now_ms);
            let begins = silent && !told.was_silent && told.source.heard_at() > 0;
            told.was_silent = silent;
            begins.then(|| id.clone())
        });
        for id in silent.collect::<Vec<_>>() {
            inner.give_up(&id);
        }
        if inner.dirty || inner.joined.0 != self.pool.snapshot().version {
            inner.join(&self.pool, now_ms);
        }
    }

    /// What `id` told has its effect.
    fn settle(&self, inner: &mut Inner, id: &SourceId, changed: Changed, now_ms: u64) {
        let told = inner.sources.get_mut(id);
        let is_back = told.is_some_and(|told| std::mem::take(&mut told.was_silent));
        for uuid in &changed.went {
            inner.claims.remove(uuid, id, standing(&inner.sources));
        }
        for uuid in &changed.came {
            let keeper = inner.claims.add(uuid, id, standing(&inner.sources));
            self.disputed(uuid, id, keeper);
        }
        if is_back {
            self.regain(inner, id);
            inner.dirty = true;
        }
        if changed.places || !changed.came.is_empty() || !changed.went.is_empty() {
            inner.dirty = true;
        }
        if inner.dirty && now_ms.saturating_sub(inner.joined.1) >= JOIN_PAUSE_MS {
            return inner.join(&self.pool, now_ms);
        }
        let counts = |uuid: &&Arc<str>| inner.claims.keeper(uuid) == Some(id);
        let shown = changed.gpus.iter().filter(counts);
        let shown = shown.filter_map(|uuid| inner.on.get(uuid)).flatten();
        let news: BTreeSet<u32> = shown.copied().collect();
        for &number in &news {
            inner.show(number, now_ms);
        }
        inner.touch(id, &news);
    }

    /// `id` is heard again.
    fn regain(&self, inner: &mut Inner, id: &SourceId) {
        let told = inner.sources.get(id).into_iter();
        for uuid in told.flat_map(|told| told.gpus.keys()) {
            let keeper = inner.claims.regain(uuid, id, standing(&inner.sources));
            self.disputed(uuid, id, keeper);
        }
    }

    /// `id` claims what `keeper` has, if there is one.
    fn disputed(&self, uuid: &Arc<str>, id: &SourceId, keeper: Option<SourceId>) {
        if let Some(keeper) = keeper {
            self.conflicts.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(gpu = %uuid, by = %id, %keeper, "Two agents claim one GPU; the one seen first keeps it until it is silent.");
        }
    }

    /// Calls `look` with all that is known.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.lock())
    }
}

// === impl Inner ===

impl Inner {
    /// `id` fell silent: where others tell of what it tells of, they count.
    fn give_up(&mut self, id: &SourceId) {
        let told = self.sources.get(id).into_iter();
        for uuid in told.flat_map(|told| told.gpus.keys()) {
            let of = standing(&self.sources);
            self.dirty |= self.claims.give_up(uuid, id, of);
        }
    }

    /// The GPU, as the source that counts knows it.
    fn known(&self, uuid: &Arc<str>) -> Option<(&Told, &Known)> {
        let told = self.sources.get(self.claims.keeper(uuid)?)?;
        Some((told, told.gpus.get(uuid)?))
    }

    /// Agents and exporters call a MIG instance differently, and so both count it: it is that of whoever counts for its board.
    fn is_of_its_board(&self, uuid: &Arc<str>, gpu: &Gpu) -> bool {
        let board = self.claims.keeper(&gpu.parent);
        board.is_none_or(|board| {
            self.claims
                .keeper(uuid)
                .is_some_and(|keeper| keeper.kind == board.kind)
        })
    }

    /// How many GPUs there are, and how many of them are shown at endpoints.
    pub(super) fn counts(&self) -> (usize, usize) {
        // What went a moment ago is shown until all is joined anew.
        let placed = self.on.keys().filter(|u| self.claims.keeper(u).is_some());
        (self.claims.all().count(), placed.count())
    }

    /// All GPUs, as the sources that count know them, in the order of nodes and indices.
    pub(super) fn all(&self) -> Vec<Shown<'_>> {
        let claims = self.claims.all();
        let mut all: Vec<_> = claims
            .filter_map(|(uuid, claims)| {
                let (told, known) = self.known(uuid)?;
                let numbers = self.on.get(uuid).into_iter().flatten();
                let placed = numbers.filter_map(|number| self.placed.get(number));
                Some(Shown {
                    source: claims.first()?,
                    told,
                    known,
                    endpoints: placed.map(|placed| &placed.name).collect(),
                })
            })
            .collect();
        let order = |shown: &Shown<'_>| {
            let gpu = &shown.known.gpu;
            let of_node = (gpu.index, !gpu.parent.is_empty(), gpu.uuid.clone());
            (shown.told.source.node.clone(), of_node)
        };
        all.sort_by_cached_key(order);
        all
    }

    /// Works out anew whose all GPUs are, and shows it.
    fn join(&mut self, pool: &Pool, now_ms: u64) {
        let snapshot = pool.snapshot();
        let found: Vec<Found<'_>> = self
            .claims
            .all()
            .filter_map(|(uuid, claims)| {
                let (told, known) = self.known(uuid)?;
                if !self.is_of_its_board(uuid, &known.gpu) {
                    return None;
                }
                let near = claims.iter().filter_map(|claim| self.sources.get(claim));
                let shown_at = || self.on.get(uuid).map_or(&[][..], Vec::as_slice);
                Some(Found {
                    only_at: told.source.is_silent(now_ms).then(shown_at),
                    uuid,
                    gpu: &known.gpu,
                    node: &told.source.node,
                    near: near.flat_map(|told| &told.near).collect(),
                })
            })
            .collect();
        let places = join(&snapshot, &found);
        self.move_to(&snapshot, places, now_ms);
        self.joined = (snapshot.version, now_ms);
        self.dirty = false;
    }

    fn move_to(&mut self, snapshot: &Snapshot, places: Vec<Place>, now_ms: u64) {
        let mut before = std::mem::take(&mut self.placed);
        self.on.clear();
        for (member, place) in snapshot.members().iter().zip(places) {
            let number = member.slot.number();
            let cells = &member.slot.segment().gpu_cells;
            let numbers = [place.domain, place.share, place.node];
            cells.put_place(member.slot.index(), numbers);
            if place.gpus.is_empty() {
                continue;
            }
            for uuid in place.gpus.keys() {
                self.on.entry(Arc::clone(uuid)).or_default().push(number);
            }
            before.remove(&number);
            let placed = Placed {
                slot: Arc::clone(&member.slot),
                name: member.endpoint.id.clone(),
                place,
            };
            self.placed.insert(number, placed);
        }
        // Those that have none any more.
        for Placed { slot, .. } in before.into_values() {
            let (segment, i) = (slot.segment(), slot.index());
            segment.gpus[i].store(None);
            segment.gpu_cells.put_memory(i, None, 0);
            health::observe_gpus(&slot, &EndpointGpus::default(), now_ms);
        }
        // All: where another source counts now, it tells something else of the same places.
        for &number in self.placed.keys() {
            self.show(number, now_ms);
        }
    }

    /// `id` was heard: what it told of endpoints, but those of `news`, still holds.
    fn touch(&self, id: &SourceId, news: &BTreeSet<u32>) {
        let uuids = self
            .sources
            .get(id)
            .into_iter()
            .flat_map(|told| told.gpus.keys());
        let numbers = uuids.filter_map(|uuid| self.on.get(uuid)).flatten();
        let numbers: BTreeSet<u32> = numbers.copied().collect();
        for number in numbers.difference(news) {
            if let Some(placed) = self.placed.get(number) {
                self.show_memory(placed);
            }
        }
    }

    /// Puts what is known into the endpoint's cells.
    fn show(&self, number: u32, now_ms: u64) {
        let Some(placed) = self.placed.get(&number) else {
            return;
        };
        let sights = placed.place.gpus.iter().filter_map(|(uuid, neighbours)| {
            let (told, known) = self.known(uuid)?;
            Some(Arc::new(Sight {
                gpu: known.gpu.clone(),
                source: Arc::clone(&told.source),
                received_at: known.received_at,
                events: known.events.iter().cloned().collect(),
                neighbours: neighbours.clone(),
            }))
        });
        let gpus = EndpointGpus {
            gpus: sights.collect(),
        };
        let gpus = Arc::new(gpus);
        let (segment, i) = (placed.slot.segment(), placed.slot.index());
        segment.gpus[i].store(Some(Arc::clone(&gpus)));
        self.show_memory(placed);
        health::observe_gpus(&placed.slot, &gpus, now_ms);
    }

    fn show_memory(&self, placed: &Placed) {
        let place = &placed.place;
        let known = place
            .gpus
            .keys()
            .filter_map(|uuid| Some((uuid, self.known(uuid)?)));
        let all: Vec<_> = known.collect();
        let is_board = |uuid: &str| all.iter().any(|(_, (_, other))| other.gpu.parent == uuid);
        let own = all.iter().filter(|(uuid, _)| !is_board(uuid));
        let mut at = u64::MAX;
        let held = own.map(|(uuid, (told, known))| {
            let age = known.gpu.memory.as_ref().map_or(0, |memory| memory.age_ms);
            at = at.min(told.source.heard_at().saturating_sub(age.into()));
            let sharers = place.sharers.get(*uuid).copied().unwrap_or(1);
            (&known.gpu, known.growth.ahead(), sharers)
        });
        let memory = memory::of_endpoint(held);
        let (segment, i) = (placed.slot.segment(), placed.slot.index());
        segment.gpu_cells.put_memory(i, memory, at);
    }
}

// === impl SourceId ===

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.address)
    }
}

// === impl SourceKind ===

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Agent, Self::Dcgm];

    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Dcgm => "dcgm",
        }
    }
}

#[cfg(test)]
mod tests;
