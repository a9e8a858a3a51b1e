//! What we sent and what has not come back: reserved when the decision is made, released by a drop.
//!
//! A count here can neither leak nor fall below zero, because the only way to take one away is to drop
//! the [`Reservation`] that added it. Scrapes do not touch it.
//!
//! A request may weigh some tokens too: those of its prompt until the engine has read it, those of its answer until it
//! ends.
//!
//! Beside the requests in flight it counts those that were seen to end since a scrape began, for [`super::load`]:
//! [`Reservation::ended`] is the end of a response that came by; a mere drop only says that nobody looks any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::clock_ms;
use super::slab::Slot;

/// One request in flight at one endpoint. Dropping it is the end of what we see of the request.
#[derive(Debug)]
pub struct Reservation {
    slot: Arc<Slot>,
    /// How many were sent there before.
    sequence: u64,
    sent_at: u64,
    tokens: Tokens,
    /// Tokens that were to be worked through there before it.
    ahead: u64,
}

/// What a request weighs, estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt, as far as no cache spares the engine the work.
    pub input: u32,
    /// To be generated.
    pub output: u32,
}

/// Requests that were sent after the scrape that is under way began, or else the last one, and that were seen to end.
#[derive(Debug)]
pub(super) struct Ends {
    /// The number of requests sent when that scrape began.
    began: u64,
    ended: u32,
    /// Requests in flight when it began.
    flying: u32,
}

// === impl Reservation ===

impl Reservation {
    /// Counts one request at `slot`, from now until the drop.
    pub fn new(slot: &Arc<Slot>) -> Self {
        Self::of(slot, Tokens::default())
    }

    /// Counts one request that weighs `tokens` at `slot`, from now until the drop.
    pub fn of(slot: &Arc<Slot>, tokens: Tokens) -> Self {
        let (segment, i) = (slot.segment(), slot.index());
        segment.in_flight[i].fetch_add(1, Ordering::Relaxed);
        let ahead = segment.tokens[i].fetch_add(tokens.sum(), Ordering::Relaxed);
        let sequence = segment.sent[i].fetch_add(1, Ordering::Relaxed);
        Self {
            slot: Arc::clone(slot),
            sequence,
            sent_at: clock_ms(),
            tokens,
            ahead,
        }
    }

    /// The engine has read the prompt, to be told once. Returns how many tokens are left.
    pub fn prefilled(&mut self) -> u32 {
        let read = self.ahead + u64::from(self.tokens.input);
        let took = clock_ms().saturating_sub(self.sent_at);
        self.slot.marks().first_token(read, took);
        self.read()
    }

    /// The same, where nobody is to learn how long it took.
    pub fn read(&mut self) -> u32 {
        let read = u64::from(std::mem::take(&mut self.tokens.input));
        self.slot.segment().tokens[self.slot.index()].fetch_sub(read, Ordering::Relaxed);
        self.tokens.output
    }

    /// The response was seen to end: the engine is rid of the request.
    pub fn ended(self) {
        let (segment, i) = (self.slot.segment(), self.slot.index());
        let mut ends = segment.ends[i].lock();
        if self.sequence >= ends.began {
            ends.ended += 1;
        }
        if self.sequence >= segment.sent_at_scrape[i].load(Ordering::Relaxed) {
            segment.ended_since[i].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The request turned out to be served elsewhere (a retry, a fallback): count it there. Here it has ended.
    pub fn move_to(&mut self, slot: &Arc<Slot>) {
        if slot.number() != self.slot.number() {
            let mut there = Self::of(slot, self.tokens);
            there.sent_at = self.sent_at;
            std::mem::replace(self, there).ended();
        }
    }

    /// Where it is counted.
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// When the request was first sent, in milliseconds of [`clock_ms`].
    pub fn sent_at(&self) -> u64 {
        self.sent_at
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let (segment, i) = (self.slot.segment(), self.slot.index());
        segment.in_flight[i].fetch_sub(1, Ordering::Relaxed);
        segment.tokens[i].fetch_sub(self.tokens.sum(), Ordering::Relaxed);
    }
}

// === impl Tokens ===

impl Tokens {
    fn sum(self) -> u64 {
        u64::from(self.input) + u64::from(self.output)
    }
}

// === impl Ends ===

impl Ends {
    pub(super) const NONE: Self = Self {
        began: 0,
        ended: 0,
        flying: 0,
    };

    /// Starts anew; returns what `sent` is now.
    pub(super) fn scrape_begins(&mut self, sent: &AtomicU64, in_flight: &AtomicU32) -> u64 {
        *self = Self {
            began: sent.load(Ordering::Relaxed),
            ended: 0,
            flying: in_flight.load(Ordering::Relaxed),
        };
        self.began
    }

    /// How many were in flight when the scrape began.
    pub(super) fn flying(&self) -> u32 {
        self.flying
    }

    /// How many have ended since the scrape that began when `began` were sent. Of any other scrape nothing is known.
    pub(super) fn since(&self, began: u64) -> u32 {
        if self.began == began { self.ended } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::slab::Scrape;
    use crate::pool::snapshot::tests::endpoint;
    use crate::pool::{LoadView, Pool};
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug)]
    enum Step {
        Connect(u32),
        /// The stream is gone; nobody saw the response.
        Cancel(usize),
        /// The response came to its end.
        End(usize),
        /// Its first token came.
        Prefilled(usize),
        Move(usize, u32),
        Flap(Vec<u8>),
        Begin(u32),
        Record(u32, u8, u8),
    }

    /// What [`super::super::load`] should say of one slot, kept the slow way.
    #[derive(Default)]
    struct Model {
        sent: u64,
        /// The sequences of those that were seen to end.
        ended: Vec<u64>,
        under_way: Option<u64>,
        recorded: Option<(u64, u8, u8)>,
    }

    fn step() -> impl Strategy<Value = Step> {
        let any_index = any::<usize>;
        prop_oneof![
            6 => any::<u32>().prop_map(Step::Connect),
            2 => any_index().prop_map(Step::Cancel),
            3 => any_index().prop_map(Step::End),
            1 => any_index().prop_map(Step::Prefilled),
            1 => (any_index(), any::<u32>()).prop_map(|(a, b)| Step::Move(a, b)),
            1 => proptest::collection::vec(0u8..6, 1..6).prop_map(Step::Flap),
            2 => any::<u32>().prop_map(Step::Begin),
            2 => (any::<u32>(), 0u8..4, 0u8..4).prop_map(|(n, w, r)| Step::Record(n, w, r)),
        ]
    }

    fn members(names: &[u8]) -> Vec<crate::pool::Endpoint> {
        names
            .iter()
            .map(|n| endpoint(&n.to_string(), &format!("10.0.0.{n}:80")))
            .collect()
    }

    fn page(waiting: u8, running: u8) -> Scrape {
        Scrape {
            waiting: Some(f32::from(waiting)),
            running: Some(f32::from(running)),
            ..Default::default()
        }
    }

    fn load(pool: &Pool) -> LoadView {
        let mut load = LoadView::default();
        load.gather(&pool.snapshot(), 1, 1);
        load
    }

    impl Model {
        /// Effective waiting and running: the formula, from all that ever happened.
        fn effective(&self, in_flight: usize) -> Option<(f32, f32)> {
            let (began, waiting, running) = self.recorded?;
            let since = self.sent - began;
            let ended = self.ended.iter().filter(|&&at| at >= began).count() as u64;
            assert!(ended <= since);
            let unseen = (since - ended)
                .max((in_flight as u64).saturating_sub(u64::from(waiting) + u64::from(running)));
            Some((
                f32::from(waiting) + unseen as f32,
                f32::from(running) + unseen as f32,
            ))
        }
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_requests_that_live(steps in proptest::collection::vec(step(), 1..200)) {
            let pool = Pool::default();
            pool.replace(members(&[0, 1, 2]));
            let mut live: Vec<Reservation> = Vec::new();
            // By slot; a number that was given to another endpoint is another slot.
            let mut models: HashMap<*const Slot, Model> = HashMap::new();
            // Keeps every slot alive, so that no address is used twice.
            let mut slots: Vec<Arc<Slot>> = Vec::new();
            for step in steps {
                let snapshot = pool.snapshot();
                slots.extend(snapshot.members().iter().map(|m| Arc::clone(&m.slot)));
                let slot = |n: u32| &snapshot.member(n % snapshot.len() as u32).slot;
                match step {
                    Step::Connect(n) => {
                        let tokens = Tokens { input: n % 100, output: n % 7 };
                        live.push(Reservation::of(slot(n), tokens));
                        models.entry(Arc::as_ptr(slot(n))).or_default().sent += 1;
                    }
                    Step::Cancel(n) if !live.is_empty() => {
                        let at = n % live.len();
                        live.swap_remove(at);
                    }
                    Step::End(n) if !live.is_empty() => {
                        let gone = live.swap_remove(n % live.len());
                        models.entry(Arc::as_ptr(gone.slot())).or_default().ended.push(gone.sequence);
                        gone.ended();
                    }
                    Step::Move(n, to) if !live.is_empty() => {
                        let at = n % live.len();
                        if !Arc::ptr_eq(live[at].slot(), slot(to)) {
                            let from = models.entry(Arc::as_ptr(live[at].slot())).or_default();
                            from.ended.push(live[at].sequence);
                            models.entry(Arc::as_ptr(slot(to))).or_default().sent += 1;
                        }
                        let sent_at = live[at].sent_at();
                        live[at].move_to(slot(to));
                        prop_assert_eq!(live[at].sent_at(), sent_at);
                    }
                    Step::Flap(names) => {
                        pool.replace(members(&names));
                    }
                    Step::Begin(n) => {
                        let begun = slot(n).scrape_begins();
                        models.entry(Arc::as_ptr(slot(n))).or_default().under_way = Some(begun);
                    }
                    Step::Record(n, waiting, running) => {
                        let model = models.entry(Arc::as_ptr(slot(n))).or_default();
                        if let Some(begun) = model.under_way.take() {
                            model.recorded = Some((begun, waiting, running));
                            slot(n).record(&page(waiting, running), begun, 1);
                        }
                    }
                    Step::Prefilled(n) if !live.is_empty() => {
                        let at = n % live.len();
                        live[at].prefilled();
                    }
                    Step::Cancel(_) | Step::End(_) | Step::Prefilled(_) | Step::Move(..) => {}
                }
                let snapshot = pool.snapshot();
                let load = load(&pool);
                for (position, member) in snapshot.members().iter().enumerate() {
                    let really = live.iter().filter(|r| Arc::ptr_eq(r.slot(), &member.slot)).count();
                    prop_assert_eq!(load.in_flight[position] as usize, really);
                    let here = live.iter().filter(|r| Arc::ptr_eq(r.slot(), &member.slot));
                    let weigh = here.map(|r| r.tokens.sum()).sum::<u64>();
                    prop_assert_eq!(load.tokens[position], weigh);
                    let (waiting, running) = (load.waiting[position], load.running[position]);
                    let model = models.entry(Arc::as_ptr(&member.slot)).or_default();
                    match model.effective(really) {
                        Some(expected) => prop_assert_eq!((waiting, running), expected),
                        None => prop_assert!(waiting.is_nan() && running.is_nan()),
                    }
                }
            }
            // All is seen to end: nothing is left, even before the next scrape says so.
            live.drain(..).for_each(Reservation::ended);
            for slot in &slots {
                let (s, i) = (slot.segment(), slot.index());
                prop_assert_eq!(s.in_flight[i].load(Ordering::Relaxed), 0);
                prop_assert_eq!(s.tokens[i].load(Ordering::Relaxed), 0);
            }
            let snapshot = pool.snapshot();
            for member in snapshot.members() {
                let begun = member.slot.scrape_begins();
                member.slot.record(&page(0, 0), begun, 1);
            }
            let load = load(&pool);
            prop_assert!(load.waiting.iter().chain(&load.running).all(|&n| n == 0.0));
        }

        #[test]
        fn all_seen_to_end_is_no_load(sent in 1usize..20, scraped_after in 0usize..20) {
            let pool = Pool::default();
            pool.replace(members(&[0]));
            let snapshot = pool.snapshot();
            let slot = &snapshot.member(0).slot;
            let begun = slot.scrape_begins();
            let mut live: Vec<_> = (0..sent).map(|_| Reservation::new(slot)).collect();
            live.drain(..scraped_after.min(sent)).for_each(Reservation::ended);
            slot.record(&page(0, 0), begun, 1);
            live.drain(..).for_each(Reservation::ended);
            let load = load(&pool);
            prop_assert_eq!((load.waiting[0], load.running[0]), (0.0, 0.0));
        }
    }
}
