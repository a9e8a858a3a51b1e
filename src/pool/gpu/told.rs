//! What one source told last.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gpu_probes::telemetry::{Event, Gpu, Report, report::Content};

use super::super::EndpointId;
use super::Source;
use super::growth::Growth;
use super::memory::foreign_bytes;
use super::sane;

/// Two events of different lives of an agent that lie no further apart are one: it reads the kernel's log again. In
/// milliseconds.
const SAME_EVENT_MS: u64 = 2_000;

/// One source.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) source: Arc<Source>,
    /// Which life of the agent it is; empty for an exporter.
    pub(super) agent: String,
    /// Why it has no GPUs, or not all, in its words.
    pub(super) problem: String,
    pub(super) gpus: HashMap<Arc<str>, Known>,
    /// Those whose page it is: GPUs on it that have no owner are theirs.
    pub(super) near: Vec<EndpointId>,
    /// The number of the last event of this life.
    last_event: u64,
    /// It was silent when that was last looked at.
    pub(super) was_silent: bool,
}

/// A GPU as one source knows it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) gpu: Gpu,
    pub(super) received_at: u64,
    pub(super) events: VecDeque<(u64, Event)>,
    pub(super) growth: Growth,
}

/// What a report changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// GPUs of which something is new.
    pub(super) gpus: Vec<Arc<str>>,
    /// GPUs that came.
    pub(super) came: Vec<Arc<str>>,
    /// GPUs that went.
    pub(super) went: Vec<Arc<str>>,
    /// Whose they are is to be worked out anew.
    pub(super) places: bool,
}

/// What of reports was not taken, since the start.
#[derive(Debug, Default)]
pub struct Refused {
    /// GPUs without a usable UUID.
    pub nameless: AtomicU64,
    /// GPUs beyond what a source may have.
    pub too_many: AtomicU64,
    /// Events of GPUs that the source has not told of.
    pub strange_events: AtomicU64,
}

// === impl Told ===

impl Told {
    /// Nothing yet. `silent_ms`: see [`Source::silent_ms`].
    pub(super) fn new(silent_ms: u64) -> Self {
        Self {
            source: Arc::new(Source {
                silent_ms,
                ..Source::default()
            }),
            agent: String::new(),
            problem: String::new(),
            gpus: HashMap::new(),
            near: Vec::new(),
            last_event: 0,
            was_silent: false,
        }
    }

    /// How long ago it was last heard, in milliseconds; `None`: never.
    pub(super) fn age_ms(&self, now_ms: u64) -> Option<u64> {
        let at = self.source.heard_at();
        (at > 0).then(|| now_ms.saturating_sub(at))
    }

    /// The source said `report`. `near`: the endpoints whose own page it is.
    pub(super) fn report(
        &mut self,
        report: Report,
        near: Vec<EndpointId>,
        now_ms: u64,
        refused: &Refused,
    ) -> Changed {
        let mut changed = Changed::default();
        let other_life = report.agent != self.agent;
        if other_life {
            self.agent = sane::name(report.agent);
            self.last_event = 0;
        }
        self.heard(report.node, now_ms, &mut changed);
        changed.places |= self.near != near;
        self.near = near;
        match report.content {
            Some(Content::Snapshot(snapshot)) => {
                self.problem = sane::name(snapshot.problem);
                self.replace(snapshot.gpus, now_ms, refused, &mut changed);
                self.events(snapshot.events, other_life, now_ms, refused, &mut changed);
            }
            Some(Content::Change(change)) => {
                self.problem = sane::name(change.problem);
                for gpu in change.gpus {
                    self.take(gpu, now_ms, refused, &mut changed);
                }
                // First, so that nobody misses why it went.
                self.events(change.events, false, now_ms, refused, &mut changed);
                for uuid in change.gone {
                    if let Some((uuid, _)) = self.gpus.remove_entry(uuid.as_str()) {
                        changed.went.push(uuid);
                    }
                }
            }
            Some(Content::Heartbeat(_)) | None => {
                for known in self.gpus.values_mut() {
                    known.growth.still(now_ms);
                }
            }
        }
        // One report may say of a GPU that it came and that it went.
        changed.came.retain(|uuid| self.gpus.contains_key(uuid));
        changed
    }

    fn heard(&mut self, node: String, now_ms: u64, changed: &mut Changed) {
        let node = sane::name(node);
        if node != self.source.node {
            changed.places = true;
            self.source = Arc::new(Source {
                node,
                silent_ms: self.source.silent_ms,
                heard_at: AtomicU64::new(now_ms),
            });
        }
        self.source.heard_at.store(now_ms, Ordering::Relaxed);
    }

    /// These `gpus` are all that there are.
    fn replace(&mut self, gpus: Vec<Gpu>, now_ms: u64, refused: &Refused, changed: &mut Changed) {
        let stays = |uuid: &str| gpus.iter().any(|gpu| gpu.uuid == uuid);
        let went: Vec<_> = self.gpus.keys().filter(|u| !stays(u)).cloned().collect();
        for uuid in went {
            self.gpus.remove(&uuid);
            changed.went.push(uuid);
        }
        for gpu in gpus {
            self.take(gpu, now_ms, refused, changed);
        }
    }

    fn take(&mut self, gpu: Gpu, now_ms: u64, refused: &Refused, changed: &mut Changed) {
        let Some(gpu) = sane::gpu(gpu) else {
            refused.nameless.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let uuid = match self.gpus.get_key_value(gpu.uuid.as_str()) {
            Some((uuid, _)) => Arc::clone(uuid),
            None if self.gpus.len() >= sane::MOST_GPUS => {
                refused.too_many.fetch_add(1, Ordering::Relaxed);
                return;
            }
            None => {
                let uuid: Arc<str> = gpu.uuid.as_str().into();
                changed.came.push(Arc::clone(&uuid));
                uuid
            }
        };
        let known = self.gpus.entry(Arc::clone(&uuid)).or_insert_with(|| Known {
            gpu: Gpu::default(),
            received_at: now_ms,
            events: VecDeque::new(),
            growth: Growth::default(),
        });
        changed.places |= (&known.gpu.owners, &known.gpu.parent) != (&gpu.owners, &gpu.parent);
        if let Some(memory) = &gpu.memory {
            let read_at = now_ms.saturating_sub(memory.age_ms.into());
            known.growth.read(foreign_bytes(&gpu), read_at);
        }
        (known.gpu, known.received_at) = (gpu, now_ms);
        changed.gpus.push(uuid);
    }

    /// What happened, oldest first. `told_again`: some of it may be known under other numbers.
    fn events(
        &mut self,
        events: Vec<Event>,
        told_again: bool,
        now_ms: u64,
        refused: &Refused,
        changed: &mut Changed,
    ) {
        let before = self.last_event;
        for event in events.into_iter().take(sane::MOST_TOLD) {
            if event.number <= before {
                continue;
            }
            self.last_event = self.last_event.max(event.number);
            let Some((uuid, known)) = self.gpus.get_key_value(event.uuid.as_str()) else {
                refused.strange_events.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            // What names an instance may take the whole board, and all that is on it.
            let board = self.gpus.get_key_value(known.gpu.parent.as_str());
            let board = board.map(|(board, _)| Arc::clone(board));
            let at = now_ms.saturating_sub(event.age_ms.into());
            let event = sane::event(event);
            for uuid in [Some(Arc::clone(uuid)), board].into_iter().flatten() {
                let Some(known) = self.gpus.get_mut(&uuid) else {
                    continue;
                };
                if told_again && known.events.iter().any(|old| is_same(old, at, &event)) {
                    continue;
                }
                if known.events.len() == sane::MOST_EVENTS {
                    known.events.pop_front();
                }
                known.events.push_back((at, event.clone()));
                changed.gpus.push(uuid);
            }
        }
    }
}

fn is_same((then, old): &(u64, Event), at: u64, event: &Event) -> bool {
    let what = |e: &Event| (e.kind, e.value, e.gpu_instance, e.compute_instance);
    then.abs_diff(at) <= SAME_EVENT_MS && what(old) == what(event)
}

#[cfg(test)]
mod tests;
