//! Effective load: what was scraped, and what no scrape can have shown yet.
//!
//! A page tells of a request only once the engine has queued it, and the page is some milliseconds old when it is used.
//! Without our own count, all requests of such a moment go to the endpoint that looked best in it. So, by endpoint:
//!
//! ```text
//! unseen            = max(since − ended_since, in_flight − (waiting + running), 0)
//! effective waiting = waiting + unseen
//! effective running = running + unseen
//! requests          = max(waiting + running − in_flight then, 0) + max(in_flight, since − ended_since)
//! ```
//!
//! `waiting` and `running` are the scraped numbers. `since` counts the requests that we sent after that scrape began,
//! `ended_since` those of them whose response we saw to end: what came and went between two scrapes is no load.
//! `in_flight` counts our requests that have not ended: an engine that shows fewer than these has not counted
//! them yet, however many scrapes there were. A request whose end nobody shows us (decision-only without an
//! observer) is never in `ended_since`: it counts until the next scrape. Where the page gives only one of the two
//! numbers, the middle term is left out.
//!
//! A request that failed counts as one in flight for a while longer ([`super::breaker`]): where requests end at once because
//! they fail, nothing would be in flight, and the queue is empty.
//!
//! The first two lines are for scorers that look at one of the two numbers; both have all that is unseen. The third is for
//! those that want to know how many there are: what others sent, which is what a page shows beyond ours in flight
//! then, and ours in flight now.
//!
//! Missing is never zero: a number that is not known, or too old, is NaN here, and whoever reads it puts something
//! neutral in its place.

use std::sync::atomic::Ordering;

use super::breaker::weight_of_failures;
use super::slab::{Scraped, Segment};
use super::snapshot::Snapshot;

/// The numbers of one moment, by position: gathered once for a request, so that all scorers see the same.
/// NaN is "not known": never scraped, too old, or not on the page.
#[derive(Debug, Default)]
pub struct LoadView {
    /// Effective queue length, in requests.
    pub waiting: Vec<f32>,
    /// Effective number of running requests.
    pub running: Vec<f32>,
    /// Requests that wait or run there, ours and others'; never counted twice.
    pub requests: Vec<f32>,
    /// Scraped KV cache use, 0 to 1.
    pub kv_usage: Vec<f32>,
    /// Requests of ours that have not ended, and those that failed not long ago.
    pub in_flight: Vec<u32>,
    /// Estimated tokens of those requests that the engines have still to work through.
    pub tokens: Vec<u64>,
    /// Whether there was a scrape that is not too old.
    pub fresh: Vec<bool>,
    /// How fast it is beside the others: 1.0 = as fast, or not known. See [`super::health`].
    pub speed: Vec<f32>,
    /// How many endpoints had none.
    pub stale: u32,
    /// How long a scrape may take to be followed by the next one, in milliseconds: not gathered, but set by whoever knows
    /// how scrapes are made. 0 = not known. See [`LoadView::is_fresh`].
    pub turnover_ms: u64,
}

// === impl LoadView ===

impl LoadView {
    /// Reads the cells of every endpoint of `snapshot`. Scrapes older than `max_age_ms` count as unknown.
    pub fn gather(&mut self, snapshot: &Snapshot, now_ms: u64, max_age_ms: u64) {
        let many = snapshot.len();
        self.waiting.resize(many, f32::NAN);
        self.running.resize(many, f32::NAN);
        self.requests.resize(many, f32::NAN);
        self.kv_usage.resize(many, f32::NAN);
        self.in_flight.resize(many, 0);
        self.tokens.resize(many, 0);
        self.fresh.resize(many, false);
        self.speed.resize(many, 1.0);
        self.stale = 0;
        // This is done for every request: columns of one length, walked at once, cost no bounds checks and no growing.
        let columns = self.waiting.iter_mut().zip(&mut self.running);
        let columns = columns.zip(&mut self.kv_usage).zip(&mut self.in_flight);
        let columns = columns.zip(&mut self.tokens).zip(&mut self.fresh);
        let columns = columns.zip(&mut self.requests).zip(&mut self.speed);
        for (row, (s, i)) in columns.zip(snapshot.cells()) {
            let (row, speed) = row;
            let ((((((waiting, running), kv_usage), in_flight), tokens), fresh), requests) = row;
            *speed = f32::from_bits(s.speed[i].load(Ordering::Relaxed));
            let scraped = s.fresh(i, now_ms, max_age_ms);
            let failed = weight_of_failures(s.blame[i].load(Ordering::Relaxed), now_ms);
            *in_flight = s.in_flight[i].load(Ordering::Relaxed) + failed.round() as u32;
            *tokens = s.tokens[i].load(Ordering::Relaxed);
            *fresh = scraped.is_some();
            self.stale += u32::from(scraped.is_none());
            let unknown = Scraped {
                waiting: f32::NAN,
                running: f32::NAN,
                kv_usage: f32::NAN,
            };
            let scraped = scraped.unwrap_or(unknown);
            let since = since(s, i);
            let unseen = unseen(since, *in_flight, scraped);
            let flying = s.flying_at_scrape[i].load(Ordering::Relaxed) as f32;
            let others = scraped.waiting + scraped.running - flying;
            // NaN stays.
            let others = if others < 0.0 { 0.0 } else { others };
            *requests = others + since.max(*in_flight as f32);
            *waiting = scraped.waiting + unseen;
            *running = scraped.running + unseen;
            *kv_usage = scraped.kv_usage;
        }
    }
}

impl LoadView {
    /// Whether the endpoint at `position` has a scrape that is not older than `most_ms`, as some plugins ask. None may ask
    /// for fresher ones than there can be: as long as a scrape is not overdue, it is fresh. What the whole view calls too
    /// old is too old for anyone.
    pub fn is_fresh(&self, snapshot: &Snapshot, position: u32, now_ms: u64, most_ms: u64) -> bool {
        let young = |at: u64| now_ms.saturating_sub(at) <= most_ms.max(self.turnover_ms);
        self.fresh[position as usize] && snapshot.scraped_at(position).is_some_and(young)
    }
}

/// Requests that were sent since the last scrape began and were not seen to end.
fn since(segment: &Segment, i: usize) -> f32 {
    let sent = segment.sent[i].load(Ordering::Relaxed);
    let since = sent.saturating_sub(segment.sent_at_scrape[i].load(Ordering::Relaxed));
    let ended = u64::from(segment.ended_since[i].load(Ordering::Relaxed));
    since.saturating_sub(ended) as f32
}

/// Requests at the endpoint that `scraped` does not show: the formula of the module.
fn unseen(since: f32, in_flight: u32, scraped: Scraped) -> f32 {
    let hidden = in_flight as f32 - (scraped.waiting + scraped.running);
    // No comparison with NaN is true, so that passes over it.
    let least = if since > 0.0 { since } else { 0.0 };
    if hidden > least { hidden } else { least }
}

#[cfg(test)]
mod tests {
    use super::super::slab::{Scrape, Slot};
    use super::super::snapshot::tests::pool_of;
    use super::super::{Pool, Reservation};
    use super::*;

    fn page(waiting: f32, running: f32) -> Scrape {
        Scrape {
            waiting: Some(waiting),
            running: Some(running),
            ..Default::default()
        }
    }

    fn scraped(slot: &Slot, page: &Scrape) {
        let begun = slot.scrape_begins();
        slot.record(page, begun, 1000);
    }

    /// Effective waiting and running of the only endpoint.
    fn load(pool: &Pool) -> (f32, f32) {
        let mut load = LoadView::default();
        load.gather(&pool.snapshot(), 1000, 2000);
        (load.waiting[0], load.running[0])
    }

    #[test]
    fn load_is_the_scrape_plus_what_was_sent_since_and_unknown_when_old() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        let _before = Reservation::new(slot);
        let begun = slot.scrape_begins();
        let _during = Reservation::new(slot);
        slot.record(&page(3.0, 5.0), begun, 1000);
        let mut load = LoadView::default();
        load.gather(&snapshot, 1500, 2000);
        assert_eq!((load.waiting[0], load.running[0]), (4.0, 6.0));
        assert!(load.kv_usage[0].is_nan() && load.waiting[1].is_nan());
        assert_eq!((load.in_flight[0], load.stale), (2, 1));
        assert_eq!(load.fresh, [true, false]);
        for (now, most, turnover, expected) in [
            (1500, 500, 0, true),
            (1500, 499, 0, false),
            (1500, 499, 500, true),
            (1500, 600, 100, true),
        ] {
            load.turnover_ms = turnover;
            let got = [0, 1].map(|position| load.is_fresh(&snapshot, position, now, most));
            assert_eq!(got, [expected, false], "{most} {turnover}");
        }
        load.gather(&snapshot, 3001, 2000);
        assert!(!load.is_fresh(&snapshot, 0, 3001, 9000));
        assert!(load.waiting[0].is_nan());
        assert_eq!((load.stale, &*load.fresh), (2, &[false, false][..]));
    }

    #[test]
    fn requests_are_those_of_others_and_ours() {
        let pool = pool_of(&["10.0.0.1:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        let requests = || {
            let mut load = LoadView::default();
            load.gather(&snapshot, 1000, 2000);
            load.requests[0]
        };
        assert!(requests().is_nan());
        let mut ours: Vec<_> = (0..4).map(|_| Reservation::new(slot)).collect();
        // Two wait and five run, of which four are ours.
        scraped(slot, &page(2.0, 5.0));
        assert_eq!(requests(), 7.0);
        ours.push(Reservation::new(slot));
        assert_eq!(requests(), 8.0);
        for ended in ours.drain(..3) {
            ended.ended();
        }
        assert_eq!(requests(), 5.0);
        // An engine that has not counted ours yet.
        scraped(slot, &page(0.0, 0.0));
        assert_eq!(requests(), 2.0);
        // Their ends are not seen: they count until the next scrape.
        ours.clear();
        drop(Reservation::new(slot));
        assert_eq!(requests(), 1.0);
    }

    #[test]
    fn what_came_and_went_between_two_scrapes_is_no_load() {
        let pool = pool_of(&["10.0.0.1:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        scraped(slot, &page(0.0, 0.0));
        for _ in 0..5 {
            Reservation::new(slot).ended();
        }
        assert_eq!(load(&pool), (0.0, 0.0));
        // Its end was not seen: it may still be there.
        drop(Reservation::new(slot));
        assert_eq!(load(&pool), (1.0, 1.0));
        scraped(slot, &page(0.0, 0.0));
        assert_eq!(load(&pool), (0.0, 0.0));
    }

    #[test]
    fn an_engine_that_shows_fewer_than_we_sent_has_not_counted_them_yet() {
        let pool = pool_of(&["10.0.0.1:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        let _held: Vec<_> = (0..6).map(|_| Reservation::new(slot)).collect();
        scraped(slot, &page(0.0, 0.0));
        assert_eq!(load(&pool), (6.0, 6.0));
        scraped(slot, &page(1.0, 4.0));
        assert_eq!(load(&pool), (2.0, 5.0));
        // Others send there too.
        scraped(slot, &page(3.0, 9.0));
        assert_eq!(load(&pool), (3.0, 9.0));
        // Half a page: how many it holds cannot be told.
        let half = Scrape {
            waiting: Some(1.0),
            ..Default::default()
        };
        scraped(slot, &half);
        let (waiting, running) = load(&pool);
        assert!(waiting == 1.0 && running.is_nan(), "{waiting} {running}");
    }

    #[test]
    fn what_ends_while_a_scrape_is_under_way_is_counted_for_it() {
        let pool = pool_of(&["10.0.0.1:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        let before = Reservation::new(slot);
        let begun = slot.scrape_begins();
        let during = Reservation::new(slot);
        let stays = Reservation::new(slot);
        before.ended();
        during.ended();
        slot.record(&page(0.0, 1.0), begun, 1000);
        // Two were sent since it began, one of them has ended; the one before does not count.
        assert_eq!(load(&pool), (1.0, 2.0));
        // A scrape that failed changes nothing.
        slot.scrape_begins();
        assert_eq!(load(&pool), (1.0, 2.0));
        stays.ended();
        assert_eq!(load(&pool), (0.0, 1.0));
    }
}
