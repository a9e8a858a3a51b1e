//! Why each request went where it went: the last so many decisions, each with all that it was made from.
//!
//! A decision is written into a [`Record`] that its worker keeps for the purpose, and then swapped with the oldest one of the
//! ring: nothing is copied under the lock, and once the ring is full nothing is allocated. Names are kept in one string a
//! record, everything else in a few flat lists. All of it is bounded: [`ENDPOINTS`], [`TERMS`], [`STEPS`], [`GONE`], [`FAILED`]
//! and [`TEXT`] say by what. What a client sends is not in it, except for the model's name and the request's id, both cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

mod page;

pub use page::{DecisionPage, ProfilePage};

/// Endpoints of a record, over all its profiles: those that were chosen, and the best of the others.
pub const ENDPOINTS: usize = 32;
/// Scores of a record, over all its profiles and endpoints.
pub const TERMS: usize = 512;
/// Filters of a record, over all its profiles; the same for its scorers, and for the profiles themselves.
pub const STEPS: usize = 32;
/// Endpoints of a record of which it is told which filter took them, over all its profiles.
pub const GONE: usize = 16;
/// Endpoints of a record at which the request failed before.
pub const FAILED: usize = 4;
/// Bytes of all names in a record.
pub const TEXT: usize = 4096;
/// Bytes of one name.
const NAME: usize = 253;

/// The last decisions of a process. Clones have the same.
#[derive(Clone, Debug)]
pub struct Decisions {
    ring: Arc<[Mutex<Numbered>]>,
    next: Arc<AtomicU64>,
    /// Whose are those that are put here; `None`: there is one pool.
    pool_id: Option<Arc<str>>,
}

/// A record, and which one it is, from 1; 0 = none yet.
#[derive(Debug, Default)]
struct Numbered {
    number: u64,
    record: Record,
}

/// One decision. Lists are filled in the order in which things happen; a profile's part of each ends where [`Run`] says.
#[derive(Clone, Debug, Default)]
pub struct Record {
    text: String,
    /// Of the pool, where there are several.
    pub(super) pool_id: Option<Arc<str>>,
    /// In milliseconds since 1970.
    pub(super) time_ms: u64,
    pub(super) took: Duration,
    pub(super) id: Text,
    pub(super) model: Text,
    /// It is a retry: the id of the request that failed, and where that was.
    pub(super) retry: bool,
    pub(super) retry_of: Text,
    pub(super) failed: Vec<Text>,
    /// Endpoints in the pool, and those that the gateway's subset left.
    pub(super) pool: u32,
    pub(super) candidates: u32,
    pub(super) runs: Vec<Run>,
    pub(super) steps: Vec<Step>,
    /// Endpoints, and why they are gone where a filter has more than one reason.
    pub(super) gone: Vec<(Text, Option<&'static str>)>,
    pub(super) scorers: Vec<(Text, f32)>,
    pub(super) endpoints: Vec<Row>,
    pub(super) terms: Vec<f32>,
    /// Why there is no endpoint.
    pub(super) error: Option<&'static str>,
}

/// A piece of a record's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    start: u32,
    end: u32,
}

/// One profile's run: what it added to each list ends where this says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    pub(super) name: Text,
    pub(super) picker: Text,
    pub(super) candidates: u32,
    pub(super) probe: bool,
    /// What put others in the place of fallbacks, if anything did.
    pub(super) spread: Text,
    pub(super) steps: usize,
    pub(super) scorers: usize,
    pub(super) endpoints: usize,
    pub(super) terms: usize,
}

/// A filter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) name: Text,
    pub(super) removed: u32,
    /// Where the names of those that it removed end in [`Record::gone`].
    pub(super) gone: usize,
}

/// An endpoint as a decision saw it. NaN = not known.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its place among the chosen, from 1; 0 = it is not one of them.
    pub rank: u32,
    /// The sum of its terms; NaN for one that was not scored (a probe).
    pub total: f32,
    /// Effective queue length.
    pub waiting: f32,
    /// Effective number of running requests.
    pub running: f32,
    /// KV cache use, 0 to 1.
    pub kv_usage: f32,
    /// Requests of ours that have not ended.
    pub in_flight: u32,
    /// How old its last scrape was, in milliseconds.
    pub scrape_age_ms: Option<u64>,
    /// How it is: `ok`, `derated`, `draining` or `ejected`, and why.
    pub health: (&'static str, Option<&'static str>),
    /// How fast it is beside the others.
    pub speed: f32,
    /// What was known of its GPUs, however old.
    pub gpu: Option<SeenGpu>,
}

/// The GPUs of an endpoint as a decision saw them. Bytes.
#[derive(Clone, Copy, Debug)]
pub struct SeenGpu {
    /// How old that was, in milliseconds.
    pub age_ms: u64,
    /// What the endpoint held.
    pub held: u64,
    /// What it could still take.
    pub free: u64,
    /// Processes of nobody here.
    pub foreign: u32,
    /// Endpoints of one number share boards; 0 = not known.
    pub domain: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: Text,
    pub(super) address: Text,
    pub(super) seen: Seen,
}

// === impl Decisions ===

impl Decisions {
    /// Keeps the last `records`, one at least.
    pub fn new(records: usize) -> Self {
        Self {
            ring: (0..records.max(1)).map(|_| Mutex::default()).collect(),
            next: Arc::default(),
            pool_id: None,
        }
    }

    /// The same ones; what is put here is of the pool with `id`, which `None` leaves unsaid.
    pub fn of_pool(&self, id: Option<Arc<str>>) -> Self {
        Self {
            pool_id: id,
            ..self.clone()
        }
    }

    /// Takes what is in `record`, and gives it something to write the next one into.
    pub fn put(&self, record: &mut Record) {
        record.pool_id.clone_from(&self.pool_id);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut place = self.ring[(number % self.ring.len() as u64) as usize].lock();
        // Whoever was held up for a whole round is out of date.
        if place.number <= number {
            place.number = number + 1;
            std::mem::swap(&mut place.record, record);
        }
    }

    /// The latest decision on the request with `id`.
    pub fn find(&self, id: &str) -> Option<DecisionPage> {
        let id = cut(id);
        let of_id = |numbered: &Numbered| {
            let record = &numbered.record;
            (numbered.number > 0 && record.text(record.id) == id).then_some(numbered.number)
        };
        let places = self.ring.iter();
        let (number, place) = places
            .filter_map(|place| Some((of_id(&place.lock())?, place)))
            .max_by_key(|&(number, _)| number)?;
        let numbered = place.lock();
        (numbered.number == number).then(|| numbered.record.page())
    }

    /// The latest decisions, newest first, `limit` at most.
    pub fn latest(&self, limit: usize) -> Vec<DecisionPage> {
        let next = self.next.load(Ordering::Relaxed);
        let many = (self.ring.len() as u64).min(next).min(limit as u64);
        (next - many..next)
            .rev()
            .filter_map(|number| {
                let place = self.ring[(number % self.ring.len() as u64) as usize].lock();
                (place.number > 0).then(|| place.record.page())
            })
            .collect()
    }
}

// === impl Record ===

impl Record {
    /// Forgets all, and begins a decision on a request among `pool` endpoints, of which `candidates` are allowed.
    pub fn begin(&mut self, id: &str, model: &str, pool: usize, candidates: usize) {
        self.text.clear();
        self.runs.clear();
        self.steps.clear();
        self.gone.clear();
        self.scorers.clear();
        self.endpoints.clear();
        self.terms.clear();
        self.failed.clear();
        (self.error, self.retry) = (None, false);
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.time_ms = since_1970.unwrap_or_default().as_millis() as u64;
        self.id = self.name(id);
        self.model = self.name(model);
        (self.pool, self.candidates) = (pool as u32, candidates as u32);
    }

    /// It is a retry of the request with the id `of`, which failed at the endpoints called `failed`.
    pub fn retry<'a>(&mut self, of: &str, failed: impl Iterator<Item = Name<'a>>) {
        self.retry = true;
        self.retry_of = self.name(of);
        for endpoint in failed.take(FAILED) {
            let text = self.endpoint(endpoint);
            self.failed.push(text);
        }
    }

    /// It is decided, after `took`; `error`: on no endpoint.
    pub fn end(&mut self, took: Duration, error: Option<&'static str>) {
        (self.took, self.error) = (took, error);
    }

    /// A profile runs on so many `candidates`. What follows is of it.
    pub fn run(&mut self, name: &str, candidates: usize) {
        if self.runs.len() < STEPS {
            let name = self.name(name);
            self.runs.push(Run {
                name,
                candidates: candidates as u32,
                ..Run::default()
            });
            self.close();
        }
    }

    /// A filter took `removed` away, among them those called `gone`, each with the reason if the filter has several.
    pub fn filtered<'a>(
        &mut self,
        filter: &str,
        removed: usize,
        gone: impl Iterator<Item = (Name<'a>, Option<&'static str>)>,
    ) {
        if self.steps.len() >= STEPS {
            return;
        }
        let name = self.name(filter);
        let room = GONE - self.gone.len();
        for (endpoint, why) in gone.take(room) {
            let text = self.endpoint(endpoint);
            self.gone.push((text, why));
        }
        self.steps.push(Step {
            name,
            removed: removed as u32,
            gone: self.gone.len(),
        });
        self.close();
    }

    /// A scorer of the profile counts `weight` times. `false`: there is no room for another.
    pub fn scorer(&mut self, name: &str, weight: f32) -> bool {
        if self.scorers.len() >= STEPS {
            return false;
        }
        let name = self.name(name);
        self.scorers.push((name, weight));
        self.close();
        true
    }

    /// An endpoint, and what each scorer that was told said of it; nothing, if it was not scored.
    pub fn saw(&mut self, name: Name<'_>, seen: Seen, scores: impl ExactSizeIterator<Item = f32>) {
        if self.endpoints.len() >= ENDPOINTS || self.terms.len() + scores.len() > TERMS {
            return;
        }
        let (text, address) = (self.endpoint(name), self.name(name.address));
        self.endpoints.push(Row {
            name: text,
            address,
            seen,
        });
        self.terms.extend(scores);
        self.close();
    }

    /// Who had the last word in the profile, and whether it was overruled because a probe was due.
    pub fn picked(&mut self, picker: &str, probe: bool) {
        let picker = self.name(picker);
        if let Some(run) = self.runs.last_mut() {
            (run.picker, run.probe) = (picker, probe);
        }
    }

    /// `scorer` put others in the place of the profile's fallbacks.
    pub fn spread(&mut self, scorer: &str) {
        let scorer = self.name(scorer);
        if let Some(run) = self.runs.last_mut() {
            run.spread = scorer;
        }
    }

    /// All that there is up to now is of the last run, or of one before it.
    fn close(&mut self) {
        if let Some(run) = self.runs.last_mut() {
            run.steps = self.steps.len();
            run.scorers = self.scorers.len();
            run.endpoints = self.endpoints.len();
            run.terms = self.terms.len();
        }
    }

    fn name(&mut self, name: &str) -> Text {
        let start = self.text.len() as u32;
        let name = cut(name);
        if self.text.len() + name.len() <= TEXT {
            self.text.push_str(name);
        }
        Text {
            start,
            end: self.text.len() as u32,
        }
    }

    /// `namespace/name`.
    fn endpoint(&mut self, name: Name<'_>) -> Text {
        let start = self.name(name.namespace).start;
        self.name("/");
        Text {
            start,
            end: self.name(name.name).end,
        }
    }

    pub(super) fn text(&self, text: Text) -> &str {
        let range = text.start as usize..text.end as usize;
        self.text.get(range).unwrap_or_default()
    }
}

/// What an endpoint is called.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name in it.
    pub name: &'a str,
    /// Where requests to it go.
    pub address: &'a str,
}

/// Its first [`NAME`] bytes, in whole characters.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME)]
}

#[cfg(test)]
mod tests;
