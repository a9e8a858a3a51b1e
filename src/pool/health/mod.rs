//! Whether requests may go to an endpoint, and how many: from what is served, from its engine, from its GPUs.
//!
//! An endpoint is well, derated (it gets less), draining (nothing new) or ejected (nothing, until it was tried out): the
//! worst of the [`Cause`]s that stand there. [`machine`] says how they come and go; what tells of them is
//! [`super::breaker`] (failed requests), [`stall`] (requests that nothing comes of), the engine's own metrics page, and
//! [`gpus`] (readings and events of its GPUs). [`speed`] learns how fast each is beside the others.
//!
//! All of it is worked out when something is told, or by [`Health::tick`], under the endpoint's own lock. What decisions
//! read is two numbers in its cells, its [`Word`] and its speed, and while all are well, one number of the pool.
//! [`limit`] keeps requests away, and sees to it that not too many are kept out.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::gpu::{EndpointGpus, SILENT_MS};
use super::slab::{Scrape, Slot};
use super::snapshot::{Member, Snapshot};

mod cause;
mod gpus;
pub mod limit;
pub(super) mod machine;
mod marks;
mod processes;
mod speed;
mod stall;
mod word;

pub use cause::{Cause, Effect};
pub use marks::Marks;
pub use word::Word;

use machine::Machine;
use speed::{Measured, Medians, Pace};
use stall::{Look, Watch};

/// How often [`Health::tick`] is to be called, in milliseconds.
pub const TICK_MS: u64 = 100;
/// Between two lessons in speed, in milliseconds.
const LESSON_MS: u64 = 500;

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// Nothing is wrong.
    Ok,
    /// It is to get this share of what it got, 0 to 1.
    Derated(f32),
    /// Nothing new, for this cause.
    Draining(Cause),
    /// Nothing, for this cause, since so many milliseconds of [`super::clock_ms`].
    Ejected(Cause, u64),
}

/// Looks at endpoints from time to time: what nothing is told of can only be seen so.
#[derive(Debug, Default)]
pub struct Health {
    learned_at: u64,
    measured: Vec<Measured>,
    /// Too many were out at the last look.
    alarmed: bool,
}

/// What is remembered of an endpoint.
#[derive(Debug)]
pub(super) struct Condition {
    machine: Machine,
    gpus: gpus::Memory,
    watch: Watch,
    pace: Pace,
    /// When it came into the pool.
    since: u64,
    /// The worst cause, as it was last logged.
    logged: Option<Cause>,
}

/// The GPUs of the endpoint of `slot` changed, or something happened to them. Called at once.
pub fn observe_gpus(slot: &Slot, gpus: &EndpointGpus, now_ms: u64) {
    slot.with_condition(now_ms, |condition| condition.judge(gpus, now_ms));
}

/// A metrics page of the endpoint of `slot` was read.
pub(super) fn observe_page(slot: &Slot, scrape: &Scrape, now_ms: u64) {
    let restarted = slot.marks().page(scrape, now_ms);
    let unhealthy = Cause::EngineUnhealthy;
    let known = slot.word().0 != 0;
    // Of nearly all pages there is nothing to say.
    if !restarted && !known && scrape.healthy != Some(false) {
        return;
    }
    slot.with_condition(now_ms, |condition| {
        if restarted {
            condition.restarted(now_ms);
        }
        match scrape.healthy {
            Some(false) => condition.machine.stands(unhealthy, now_ms),
            Some(true) => condition.machine.over(unhealthy, now_ms),
            None => condition.machine.unheard(unhealthy, now_ms),
        }
    });
}

// === impl Condition ===

impl Condition {
    pub(super) const NEW: Self = Self {
        machine: Machine::NEW,
        gpus: gpus::Memory::NEW,
        watch: Watch::NEW,
        pace: Pace::NEW,
        since: 0,
        logged: None,
    };

    /// Starts anew, as of an endpoint that came at `now`.
    pub(super) fn clear(&mut self, now: u64) {
        *self = Self {
            since: now,
            ..Self::NEW
        };
    }

    /// The engine is a new process.
    fn restarted(&mut self, now: u64) {
        self.watch = Watch::NEW;
        self.machine.restarted(now);
    }

    fn judge(&mut self, gpus: &EndpointGpus, now: u64) {
        let since = self.since;
        self.gpus.judge(&mut self.machine, gpus, since, now);
    }

    fn state(&self) -> State {
        let word = self.machine.word(self.gpus.weight);
        match word.cause() {
            None => State::Ok,
            Some(cause) => match cause.effect() {
                Effect::Derate => State::Derated(word.weight()),
                Effect::Drain => State::Draining(cause),
                Effect::Eject => State::Ejected(cause, self.machine.since(cause).unwrap_or(0)),
            },
        }
    }
}

// === impl Health ===

impl Health {
    /// Looks at the endpoints of `snapshot`, in milliseconds of [`super::clock_ms`].
    pub fn tick(&mut self, snapshot: &Snapshot, now_ms: u64) {
        let observed = snapshot
            .members()
            .iter()
            .any(|member| member.slot.marks().reading().pieces != 0);
        for member in snapshot.members() {
            look(member, observed, now_ms);
        }
        let since = now_ms.saturating_sub(self.learned_at);
        if since >= LESSON_MS {
            self.learned_at = now_ms;
            // After a long time without a look, what was left since is no older than a usual lesson's.
            self.learn(snapshot, since.min(10 * LESSON_MS) as f32 / 1000.0);
        }
        self.alarm(snapshot);
    }

    fn learn(&mut self, snapshot: &Snapshot, seconds: f32) {
        self.measured.clear();
        for (member, (s, i)) in snapshot.members().iter().zip(snapshot.cells()) {
            let running = f32::from_bits(s.running[i].load(Relaxed));
            // What is not known is NaN, and `max` passes over it.
            let requests = (s.in_flight[i].load(Relaxed) as f32).max(running);
            let marks = member.slot.marks().reading();
            let condition = &mut *s.condition[i].lock();
            let weight = condition.gpus.weight;
            let measured = condition.pace.measure(marks, requests, weight, seconds);
            self.measured.push(measured);
        }
        let mut all = self.measured.clone();
        let medians = Medians::of(&mut all);
        for (measured, (s, i)) in self.measured.iter().zip(snapshot.cells()) {
            let condition = &mut *s.condition[i].lock();
            condition.pace.learn(*measured, &medians, seconds);
            s.speed[i].store(condition.pace.speed().to_bits(), Relaxed);
        }
    }

    /// Says so when requests go to endpoints that had better have none, and when they do not any more.
    fn alarm(&mut self, snapshot: &Snapshot) {
        let (out, most) = snapshot.kept_out();
        let alarmed = out > most;
        if alarmed && !self.alarmed {
            tracing::error!(
                out,
                most,
                endpoints = snapshot.len(),
                "More endpoints are out than may be kept out: the least bad get requests all the same."
            );
        } else if !alarmed && self.alarmed {
            tracing::info!(out, most, "No more endpoints are out than may be.");
        }
        self.alarmed = alarmed;
    }
}

/// One endpoint: whether it moves, and what its GPUs told by now.
fn look(member: &Member, observed: bool, now: u64) {
    let slot = &*member.slot;
    let (s, i) = (slot.segment(), slot.index());
    let mut outstanding = s.in_flight[i].load(Relaxed) > 0;
    if !observed {
        // Nobody sees requests end: what the page says is there.
        let here = [&s.waiting, &s.running].map(|column| f32::from_bits(column[i].load(Relaxed)));
        outstanding = here.into_iter().any(|count| count > 0.0);
    }
    let marks = slot.marks().reading();
    let (before, after) = slot.with_condition(now, |condition| {
        // Not before, or what was told meanwhile would be taken back.
        let gpus = s.gpus[i].load();
        let activity = match gpus.as_deref() {
            None => stall::Activity::Unknown,
            Some(gpus) => gpus::activity(gpus, now),
        };
        let watch = &mut condition.watch;
        match watch.look(&marks, outstanding, observed, activity, now) {
            Look::Stalled => condition.machine.stands(Cause::Wedged, now),
            Look::Moves => condition.machine.over(Cause::Wedged, now),
            Look::Idle => condition.machine.unheard(Cause::Wedged, now),
            Look::Quiet => {}
        }
        if now.saturating_sub(marks.paged_at) > SILENT_MS {
            condition.machine.unheard(Cause::EngineUnhealthy, now);
        }
        match gpus.as_deref() {
            None => condition.judge(&EndpointGpus::default(), now),
            Some(gpus) => condition.judge(gpus, now),
        }
        if condition.gpus.processes.restarted(&marks) {
            condition.restarted(now);
        }
        let worst = condition.machine.word(condition.gpus.weight);
        let before = std::mem::replace(&mut condition.logged, worst.cause());
        (before, worst)
    });
    match (before, after.cause()) {
        (before, Some(cause)) if before != Some(cause) => tracing::warn!(
            endpoint = %member.endpoint.id,
            address = %member.address,
            state = after.name(),
            cause = cause.name(),
            "An endpoint is not well."
        ),
        (Some(_), None) => {
            tracing::info!(endpoint = %member.endpoint.id, "The endpoint is well again.");
        }
        _ => {}
    }
}

// === impl Slot ===

impl Slot {
    /// How it is.
    pub fn state(&self) -> State {
        self.segment().condition[self.index()].lock().state()
    }

    /// The same as decisions read it.
    pub fn word(&self) -> Word {
        Word(self.segment().health[self.index()].load(Acquire))
    }

    /// Whether it began to be out, for whatever cause, at `at_ms` (of [`super::clock_ms`]) or later, and is so still.
    pub fn broke_since(&self, at_ms: u64) -> bool {
        if !self.word().is_out(true) {
            return false;
        }
        let condition = self.segment().condition[self.index()].lock();
        let causes = Cause::ALL.into_iter();
        let mut out = causes.filter(|cause| cause.effect() == Effect::Eject);
        out.any(|cause| {
            condition
                .machine
                .since(cause)
                .is_some_and(|since| since >= at_ms)
        })
    }

    /// What responses and pages leave.
    pub fn marks(&self) -> &Marks {
        &self.segment().marks[self.index()]
    }

    /// What is wrong with it, and since when.
    pub(super) fn causes(&self) -> Vec<(Cause, u64)> {
        let condition = self.segment().condition[self.index()].lock();
        let since = |cause| Some((cause, condition.machine.since(cause)?));
        Cause::ALL.into_iter().filter_map(since).collect()
    }

    /// Failures in a row, and how often it was put out since it was last well.
    pub(super) fn failures(&self) -> (u32, u32) {
        self.segment().condition[self.index()]
            .lock()
            .machine
            .failures()
    }

    /// Changes what causes stand, and shows it.
    pub(super) fn with_health<T>(&self, now_ms: u64, change: impl FnOnce(&mut Machine) -> T) -> T {
        self.with_condition(now_ms, |condition| change(&mut condition.machine))
    }

    fn with_condition<T>(&self, now_ms: u64, change: impl FnOnce(&mut Condition) -> T) -> T {
        let (s, i) = (self.segment(), self.index());
        let condition = &mut *s.condition[i].lock();
        let changed = change(condition);
        condition.machine.settle(now_ms);
        let machine = &mut condition.machine;
        for cause in machine.take_begun() {
            self.began(cause);
        }
        for (gpus, cells) in [false, true].into_iter().zip(&s.next_trial) {
            cells[i].store(machine.next_trial(gpus), Relaxed);
        }
        let word = machine.word(condition.gpus.weight);
        let before = Word(s.health[i].swap(word.0, AcqRel));
        self.count_out(before.is_out(true), word.is_out(true));
        changed
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// How the endpoint at `position` is, as decisions read it.
    pub fn word(&self, position: u32) -> Word {
        let (s, i) = self.cell(position);
        Word(s.health[i].load(Acquire))
    }

    /// Whether the endpoint at `position` is out and it is time to try it: [`Snapshot::take_probe`] may succeed. `gpus`: see
    /// [`Word::is_out`].
    pub fn wants_probe(&self, position: u32, gpus: bool, now_ms: u64) -> bool {
        let (s, i) = self.cell(position);
        // Of most that is all that is asked.
        let out = Word(s.health[i].load(Acquire)).is_out(gpus);
        out && s.next_trial[usize::from(gpus)][i].load(Relaxed) <= now_ms
    }

    /// Claims the trial of the endpoint at `position`: on `true` the caller, and nobody else, sends a request there. The
    /// claim ends with what came of the request, or after a while.
    pub fn take_probe(&self, position: u32, gpus: bool, now_ms: u64) -> bool {
        let slot = &self.member(position).slot;
        self.wants_probe(position, gpus, now_ms)
            && slot.with_health(now_ms, |machine| machine.claim_trial(gpus, now_ms))
    }
}

#[cfg(test)]
mod tests;
