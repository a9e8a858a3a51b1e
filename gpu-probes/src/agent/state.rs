//! What the agent knows: written by the threads that read, told to whoever watches.
//!
//! Each GPU carries the number of the change in which it was last worth telling. A watcher keeps the number up to which it
//! was told, and is given what is above it: one who was slow gets what is now in place of what was in between, and nothing
//! is queued for anyone.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::change;
use super::node::{About, Node, aged, millis};
use super::periods::{CLASSES, Periods, place};
use crate::devices::DeviceNames;
use crate::owners::{Held, Owners};
use crate::processes::Seat;
use crate::telemetry::report::Content;
use crate::telemetry::{Change, Event, EventKind, Gpu, Missing, Snapshot};

/// Events that are kept.
pub(super) const MOST_EVENTS: usize = 64;
/// GPUs that are gone of which is known when they went.
const MOST_GONE: usize = 128;
/// XIDs of a GPU that are counted apart; the others count as 0, which no XID is.
const MOST_XIDS: usize = 32;
/// GPUs whose XIDs are counted: MIG instances come and go.
const MOST_COUNTED: usize = 128;
/// A loss that is seen twice, as an event and as a reading, within this is one.
const SAME: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Told {
    /// As it is now, with owners; ages as of the reading.
    now: Gpu,
    /// As it was last told.
    told: Gpu,
    version: u64,
}

/// Up to where a watcher was told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    version: u64,
    event: u64,
    started: bool,
}

pub(super) struct State {
    names: DeviceNames,
    periods: Periods,
    node: Node,
    told: Vec<Told>,
    version: u64,
    /// With the version of their going.
    gone: VecDeque<(u64, String)>,
    /// Up to here, `gone` is not all.
    forgotten: u64,
    problem: String,
    problem_version: u64,
    events: VecDeque<(Instant, Event)>,
    last_event: u64,
    xids: BTreeMap<String, Xids>,
    owners: Owners,
    /// Whether the source was read, or was found not to be there.
    pub settled: bool,
}

/// XIDs of a GPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Xids {
    pub last: u64,
    pub counts: BTreeMap<u64, u64>,
}

/// The state, and who waits for it.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// The processes on some GPU are others than before: so may be its owners.
    pub processes: Notify,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(names: DeviceNames, periods: Periods) -> Self {
        Self {
            state: Mutex::new(State::new(names, periods)),
            changed: watch::Sender::new(()),
            processes: Notify::new(),
        }
    }

    /// Changes the state and wakes the watchers.
    pub(super) fn update<T>(&self, update: impl FnOnce(&mut State) -> T) -> T {
        let result = update(&mut self.state.lock());
        self.changed.send_replace(());
        result
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock())
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    pub(super) fn new(names: DeviceNames, periods: Periods) -> Self {
        Self {
            names,
            periods,
            node: Node::default(),
            told: Vec::new(),
            version: 0,
            gone: VecDeque::new(),
            forgotten: 0,
            problem: String::new(),
            problem_version: 0,
            events: VecDeque::new(),
            last_event: 0,
            xids: BTreeMap::new(),
            owners: Owners::default(),
            settled: false,
        }
    }

    /// The GPUs were read. What only a reading shows becomes an event.
    pub(super) fn publish(&mut self, node: Node, now: Instant) {
        let mut seen = Vec::new();
        for gpu in node.gpus.iter().filter(|gpu| gpu.parent.is_empty()) {
            let Some(old) = self.node.gpus.iter().find(|old| old.uuid == gpu.uuid) else {
                continue;
            };
            let event = |kind: EventKind, value: u64| Event {
                uuid: gpu.uuid.clone(),
                kind: kind.into(),
                value,
                source: node.source.to_owned(),
                ..Event::default()
            };
            if gpu.lost && !old.lost {
                seen.push(event(EventKind::GpuLost, 0));
            }
            let action = |gpu: &Gpu| gpu.errors.and_then(|errors| errors.recovery_action);
            if let (Some(was), Some(is)) = (action(old), action(gpu))
                && was != is
            {
                seen.push(event(EventKind::RecoveryAction, u64::from(is)));
            }
        }
        self.node = node;
        self.settled = true;
        self.happened(seen, now);
        self.refresh();
    }

    /// Whether a reading showed what an event said, or the other way round: then they are one.
    fn is_known(&self, event: &Event, now: Instant) -> bool {
        let mut before = self.events.iter().rev();
        let last = before.find(|(_, known)| known.uuid == event.uuid && known.kind == event.kind);
        last.is_some_and(|(at, known)| match event.kind() {
            EventKind::GpuLost => now.saturating_duration_since(*at) < SAME,
            EventKind::RecoveryAction => known.value == event.value,
            _ => false,
        })
    }

    /// Events, oldest first.
    pub(super) fn happened(&mut self, events: Vec<Event>, now: Instant) {
        for mut event in events {
            if self.is_known(&event, now) {
                continue;
            }
            self.last_event += 1;
            event.number = self.last_event;
            if event.kind() == EventKind::Xid {
                self.count(&event);
            }
            if self.events.len() == MOST_EVENTS {
                self.events.pop_front();
            }
            self.events.push_back((now, event));
        }
    }

    fn count(&mut self, event: &Event) {
        if !self.xids.contains_key(&event.uuid) && self.xids.len() >= MOST_COUNTED {
            return;
        }
        let xids = self.xids.entry(event.uuid.clone()).or_default();
        xids.last = event.value;
        let full = xids.counts.len() >= MOST_XIDS && !xids.counts.contains_key(&event.value);
        let counted = if full { 0 } else { event.value };
        *xids.counts.entry(counted).or_default() += 1;
    }

    /// Why there are no GPUs, or not all; empty = nothing is wrong.
    pub(super) fn set_problem(&mut self, problem: String) {
        if self.problem != problem {
            self.version += 1;
            self.problem_version = self.version;
            self.problem = problem;
        }
    }

    pub(super) fn set_owners(&mut self, update: impl FnOnce(&mut Owners)) {
        update(&mut self.owners);
        self.refresh();
    }

    /// Joins readings and owners, and finds what is worth telling.
    fn refresh(&mut self) {
        let next = self.version + 1;
        let mut old = std::mem::take(&mut self.told);
        let held = self.owners.of(&self.node.gpus, &self.names);
        for ((gpu, about), held) in self.node.gpus.iter().zip(&self.node.about).zip(&held) {
            let now = joined(gpu, about, held);
            let known = old.iter().position(|told| told.now.uuid == gpu.uuid);
            self.told.push(match known.map(|at| old.swap_remove(at)) {
                Some(Told { told, version, .. }) if !change::moved(&told, &now) => {
                    Told { now, told, version }
                }
                _ => {
                    self.version = next;
                    let told = now.clone();
                    let version = next;
                    Told { now, told, version }
                }
            });
        }
        for Told { now, .. } in old {
            self.version = next;
            self.xids.remove(&now.uuid);
            if self.gone.len() == MOST_GONE
                && let Some((version, _)) = self.gone.pop_front()
            {
                self.forgotten = version;
            }
            self.gone.push_back((next, now.uuid));
        }
    }

    /// What a watcher that was told up to `cursor` has not heard.
    pub(super) fn news(&self, cursor: &mut Cursor, now: Instant) -> Option<Content> {
        let told = *cursor;
        *cursor = Cursor {
            version: self.version,
            event: self.last_event,
            started: true,
        };
        let oldest = self.last_event - self.events.len() as u64;
        if !told.started || told.version < self.forgotten || told.event < oldest {
            return Some(Content::Snapshot(self.snapshot(now)));
        }
        let moved = self.aged(now, |told_gpu| told_gpu.version > told.version);
        let gone = self.gone.iter();
        let gone = gone.filter(|(version, uuid)| {
            *version > told.version && !self.node.gpus.iter().any(|gpu| gpu.uuid == *uuid)
        });
        let change = Change {
            gpus: moved,
            gone: gone.map(|(_, uuid)| uuid.clone()).collect(),
            events: self.events(now, told.event),
            problem: self.problem(now),
        };
        let quiet = change.gpus.is_empty()
            && change.gone.is_empty()
            && change.events.is_empty()
            && self.problem_version <= told.version;
        (!quiet).then_some(Content::Change(change))
    }

    /// The GPUs that are not read as they should be, if any.
    pub(super) fn stalled(&self, now: Instant) -> Option<Content> {
        let late: Vec<bool> = self.late(now).map(|late| late.is_some()).collect();
        if !late.contains(&true) {
            return None;
        }
        let mut late = late.into_iter();
        Some(Content::Change(Change {
            gpus: self.aged(now, |_| late.next().unwrap_or_default()),
            problem: self.problem(now),
            ..Change::default()
        }))
    }

    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            gpus: self.aged(now, |_| true),
            problem: self.problem(now),
            events: self.events(now, 0),
        }
    }

    /// Of each GPU, for how long a class has not been read, if that is longer than it should be.
    fn late(&self, now: Instant) -> impl Iterator<Item = Option<Duration>> {
        self.node.about.iter().map(move |about| {
            let classes = CLASSES.iter().filter_map(|&class| {
                let age = now.saturating_duration_since(about.read[place(class)]);
                (age > self.periods.of(class) * 2 + Duration::from_secs(1)).then_some(age)
            });
            classes.max()
        })
    }

    pub(super) fn problem(&self, now: Instant) -> String {
        let late = self.node.gpus.iter().zip(self.late(now));
        let late = late.filter_map(|(gpu, late)| Some((gpu, late?)));
        match late.max_by_key(|(_, late)| *late) {
            Some((gpu, late)) if self.problem.is_empty() => {
                format!("{} was last read {} s ago", gpu.uuid, late.as_secs())
            }
            _ => self.problem.clone(),
        }
    }

    /// Those that `wanted` takes, with their ages as of now.
    fn aged(&self, now: Instant, mut wanted: impl FnMut(&Told) -> bool) -> Vec<Gpu> {
        let gpus = self.told.iter().zip(&self.node.about);
        gpus.filter(|(told, _)| wanted(told))
            .map(|(told, about)| aged(told.now.clone(), about, now))
            .collect()
    }

    fn events(&self, now: Instant, after: u64) -> Vec<Event> {
        let events = self.events.iter().filter(|(_, event)| event.number > after);
        events
            .map(|(at, event)| Event {
                age_ms: event.age_ms.saturating_add(millis(now, *at)),
                ..event.clone()
            })
            .collect()
    }

    pub(super) fn xids(&self) -> &BTreeMap<String, Xids> {
        &self.xids
    }

    pub(super) fn unknown_devices(&self) -> usize {
        self.owners.unknown_devices(&self.node.gpus, &self.names)
    }

    /// Whether somebody has told who has which GPU.
    pub(super) fn owners_known(&self) -> bool {
        self.owners.is_known()
    }

    /// Whether the kubelet has been heard, or was found not to be there.
    pub(super) fn kubelet_settled(&self) -> bool {
        self.owners.kubelet.is_some() || self.owners.kubelet_problem.is_some()
    }
}

/// What is told of a GPU.
fn joined(gpu: &Gpu, about: &About, held: &Held<'_>) -> Gpu {
    let mut told = gpu.clone();
    let owners = held.holders.iter();
    told.owners = owners.map(|holder| holder.owner.clone()).collect();
    told.missing.extend(held.missing());
    for (process, seen) in told.processes.iter_mut().zip(&about.seen) {
        if let Seat::Pod(uid) = &seen.seat {
            process.pod_uid.clone_from(uid);
        }
        // A board's processes are its instances'. And a process may have come with an owner of whom nobody has told yet.
        if !gpu.mig_enabled && held.asked.is_none_or(|asked| seen.since < asked) {
            process.foreign = held.is_foreign(&seen.seat, &process.name);
        }
    }
    let unseen = about.seen.iter().find_map(|seen| match &seen.seat {
        Seat::Unseen(why) => Some(why.clone()),
        _ => None,
    });
    told.missing.extend(unseen.map(|why| Missing {
        field: "processes.pod_uid".to_owned(),
        why,
    }));
    told
}

#[cfg(test)]
mod tests;
