use super::super::breaker::{Breaker, Outcome, PAUSE_MS, STREAK};
use super::super::snapshot::tests::{endpoint, pool_of};
use super::super::{Pool, Reservation, simulate_clock};
use super::gpus::tests::{Told, told};
use super::*;
use std::sync::Arc;
use std::time::Duration;

mod restarts;

fn pool(endpoints: u32) -> Pool {
    // What happened before they came is not theirs.
    simulate_clock(1);
    let pool = Pool::default();
    let names = (0..endpoints).map(|n| format!("10.0.{}.{}:80", n / 250, n % 250));
    pool.replace(names.map(|name| endpoint(&name, &name)).collect());
    simulate_clock(0);
    pool
}

fn slot(pool: &Pool, position: u32) -> Arc<Slot> {
    Arc::clone(&pool.snapshot().member(position).slot)
}

fn offered(pool: &Pool, gpus: bool) -> Vec<u32> {
    let snapshot = pool.snapshot();
    let mut candidates = (0..snapshot.len() as u32).collect();
    snapshot.retain_healthy(gpus, &mut candidates);
    candidates
}

fn fail(pool: &Pool, position: u32, now: u64) {
    for _ in 0..STREAK {
        Breaker::observe(&slot(pool, position), Outcome::Failed, now, now);
    }
}

fn lose(pool: &Pool, position: u32, now: u64) {
    let lost = told(now, |gpu| gpu.lost = true);
    observe_gpus(&slot(pool, position), &lost.gpus(), now);
}

fn page(waiting: f32, progress: f64) -> Scrape {
    Scrape {
        waiting: Some(waiting),
        running: Some(2.0),
        kv_usage: Some(0.5),
        progress: Some(progress),
        ..Default::default()
    }
}

/// Scrapes every 50 ms and looks every [`TICK_MS`], from `from` to `to`; the page's counter is what `progress` says.
fn run(
    pool: &Pool,
    health: &mut Health,
    (from, to): (u64, u64),
    progress: impl Fn(u64) -> Option<f64>,
) {
    for now in (from..to).step_by(50) {
        if let Some(progress) = progress(now) {
            let slot = slot(pool, 0);
            slot.record(
                &page((now / 1000) as f32, progress),
                slot.scrape_begins(),
                now,
            );
        }
        if now % TICK_MS == 0 {
            health.tick(&pool.snapshot(), now);
        }
    }
}

fn state(pool: &Pool) -> State {
    slot(pool, 0).state()
}

#[test]
fn a_storm_on_all_gpus_never_keeps_more_out_than_the_share() {
    for (endpoints, share, left) in [
        (1, 0.5, 1),
        (2, 0.5, 1),
        (3, 0.5, 2),
        (8, 0.5, 4),
        (9, 0.5, 5),
        (8, 0.0, 8),
        (8, 1.0, 1),
        (300, 0.1, 270),
    ] {
        let pool = pool(endpoints);
        pool.limit_ejections(share);
        (0..endpoints).for_each(|position| lose(&pool, position, 100));
        let mut offered: Vec<u32> = (0..endpoints).collect();
        assert!(!pool.snapshot().retain_healthy(true, &mut offered));
        assert_eq!(offered.len(), left, "{endpoints} {share}");
        let (out, most) = pool.snapshot().kept_out();
        assert_eq!(
            (out, out - most),
            (endpoints as usize, left),
            "{endpoints} {share}"
        );
    }
}

#[test]
fn the_least_bad_are_let_in_first_and_what_fails_requests_last() {
    let pool = pool(8);
    // 0 and 1 fail; 2 to 5 are lost; 6 has an XID; 7 is well.
    (0..2).for_each(|position| fail(&pool, position, 100));
    (2..6).for_each(|position| lose(&pool, position, 100));
    let xid = told(100, |_| {}).event(100, 31);
    observe_gpus(&slot(&pool, 6), &xid.gpus(), 100);
    assert_eq!(offered(&pool, true), [2, 3, 6, 7]);
    assert_eq!(offered(&pool, true), [2, 3, 6, 7]);
    assert_eq!(offered(&pool, false), [2, 3, 4, 5, 6, 7]);
    // Another two fail: now half of the pool is out for good reason, and nothing else can be.
    (2..4).for_each(|position| fail(&pool, position, 101));
    assert_eq!(offered(&pool, true), [4, 5, 6, 7]);
    (4..8).for_each(|position| fail(&pool, position, 101));
    assert_eq!(offered(&pool, true).len(), 8);
    // One works again.
    let later = 101 + PAUSE_MS;
    Breaker::observe(&slot(&pool, 7), Outcome::Ok, later, later);
    assert_eq!(offered(&pool, true), [7]);
}

#[test]
fn an_endpoint_that_leaves_is_not_counted_any_more() {
    let pool = pool(2);
    fail(&pool, 0, 100);
    assert!(pool.snapshot().any_out());
    assert_eq!(slot(&pool, 0).state(), State::Ejected(Cause::Failures, 100));
    pool.replace(vec![endpoint("other", "10.0.9.9:80")]);
    assert!(!pool.snapshot().any_out());
    let pool = pool_of(&["10.0.0.1:80"]);
    assert_eq!(slot(&pool, 0).state(), State::Ok);
}

#[test]
fn an_engine_that_stands_still_with_requests_is_wedged() {
    let pool = pool(2);
    let mut health = Health::default();
    let _held = Reservation::new(&slot(&pool, 0));
    run(&pool, &mut health, (1_000, 10_000), |now| Some(now as f64));
    assert_eq!(state(&pool), State::Ok);
    // Its queue grows meanwhile, which is no progress.
    run(&pool, &mut health, (10_000, 11_400), |_| Some(1e6));
    assert_eq!(state(&pool), State::Ok);
    run(&pool, &mut health, (11_400, 12_000), |_| Some(1e6));
    assert!(matches!(state(&pool), State::Ejected(Cause::Wedged, at) if at < 12_000));
    assert_eq!(offered(&pool, false), [1]);
    // It stands still for longer, and nothing is tried as long as what it has shows how it is.
    run(&pool, &mut health, (12_000, 40_000), |_| Some(1e6));
    assert!(!pool.snapshot().wants_probe(0, false, 40_000));
    // It moves on: one request, and it is back.
    run(&pool, &mut health, (40_000, 43_000), |now| {
        Some(1e6 + now as f64)
    });
    assert!(pool.snapshot().take_probe(0, false, 43_000));
    Breaker::observe(&slot(&pool, 0), Outcome::Ok, 43_000, 43_100);
    assert_eq!(state(&pool), State::Ok);
    // It was not wedged, only slow: next time it is given the time that it took.
    run(&pool, &mut health, (43_200, 60_000), |_| Some(2e6));
    assert_eq!(state(&pool), State::Ok);
}

#[test]
fn what_cannot_be_told_is_not_concluded() {
    let held = |pool: &Pool| Reservation::new(&slot(pool, 0));
    // No pages, and no response was ever seen.
    let quiet = pool(2);
    let _held = held(&quiet);
    run(&quiet, &mut Health::default(), (1_000, 60_000), |_| None);
    assert_eq!(state(&quiet), State::Ok);
    // Pages that come to an end: no telemetry is no sign.
    let flaps = pool(2);
    let _held = held(&flaps);
    run(&flaps, &mut Health::default(), (1_000, 60_000), |now| {
        (now < 5_000).then_some(now as f64)
    });
    assert_eq!(state(&flaps), State::Ok);
    let slow = pool(2);
    let _held = held(&slow);
    run(&slow, &mut Health::default(), (1_000, 60_000), |now| {
        (now < 5_400).then_some((now / 500) as f64)
    });
    assert_eq!(state(&slow), State::Ok);
    // Nothing is outstanding.
    let idle = pool(2);
    slot(&idle, 0).marks().piece();
    run(&idle, &mut Health::default(), (1_000, 60_000), |_| {
        Some(7.0)
    });
    assert_eq!(state(&idle), State::Ok);
    // Rare pages.
    let rare = pool(2);
    let _held = held(&rare);
    run(&rare, &mut Health::default(), (1_000, 60_000), |now| {
        (now % 5_000 == 0).then_some((now / 10_000) as f64)
    });
    assert_eq!(state(&rare), State::Ok);
}

#[test]
fn gpus_that_spin_are_believed_sooner_and_those_that_work_are_given_time() {
    // A limit that is known to be 4 s: nothing was learned.
    for (power, dram, by, not_by) in [
        (None, None, 5_200, 4_500),
        (Some(0.15), None, 3_200, 2_900),
        (Some(0.8), None, 60_000, 34_000),
        (None, Some(0.001), 3_200, 2_900),
        (None, Some(0.5), 60_000, 34_000),
    ] {
        let pool = pool(2);
        let mut health = Health::default();
        let _held = Reservation::new(&slot(&pool, 0));
        let mut wedged_at = None;
        for now in (1_000..70_000).step_by(50) {
            let gpus = told(now, |gpu| {
                gpu.utilization = Some(gpu_probes::telemetry::Utilization {
                    gpu: Some(1.0),
                    ..Default::default()
                });
                gpu.power = power.map(|share| gpu_probes::telemetry::Power {
                    draw: Some(share * 700.0),
                    limit: Some(700.0),
                    ..Default::default()
                });
                gpu.profile = dram.map(|share| gpu_probes::telemetry::Profile {
                    dram_active: Some(share),
                    ..Default::default()
                });
            });
            let cell = &slot(&pool, 0);
            cell.segment().gpus[cell.index()].store(Some(Arc::new(gpus.gpus())));
            run(&pool, &mut health, (now, now + 50), |_| Some(7.0));
            if wedged_at.is_none() && state(&pool) != State::Ok {
                wedged_at = Some(now);
            }
        }
        let at = wedged_at.unwrap();
        assert!((not_by..=by).contains(&at), "{power:?} {dram:?}: {at}");
    }
}

#[test]
fn pieces_of_responses_are_progress_where_pages_tell_nothing() {
    let pool = pool(2);
    let mut health = Health::default();
    let _held = Reservation::new(&slot(&pool, 0));
    let no_page = |_| None;
    let mut now = 1_000;
    for _ in 0..100 {
        slot(&pool, 0).marks().piece();
        run(&pool, &mut health, (now, now + 100), no_page);
        now += 100;
    }
    run(&pool, &mut health, (now, now + 3_900), no_page);
    assert_eq!(state(&pool), State::Ok);
    run(&pool, &mut health, (now + 3_900, now + 4_300), no_page);
    assert!(matches!(state(&pool), State::Ejected(Cause::Wedged, _)));
}

#[test]
fn an_engine_that_says_that_it_is_unhealthy_gets_nothing() {
    let pool = pool(2);
    let mut health = Health::default();
    let say = |healthy: Option<bool>, now: u64| {
        let page = Scrape {
            healthy,
            ..page(0.0, now as f64)
        };
        slot(&pool, 0).record(&page, 0, now);
    };
    say(Some(true), 100);
    assert_eq!(state(&pool), State::Ok);
    say(Some(false), 150);
    assert_eq!(state(&pool), State::Ejected(Cause::EngineUnhealthy, 150));
    assert_eq!(offered(&pool, false), [1]);
    say(Some(true), 200);
    health.tick(&pool.snapshot(), 2_100);
    assert!(!pool.snapshot().wants_probe(0, false, 2_199));
    // The page does not say any more: that is not zero, and not one.
    say(Some(false), 2_150);
    say(None, 2_200);
    assert!(!pool.snapshot().wants_probe(0, false, 12_199));
    assert!(pool.snapshot().take_probe(0, false, 12_200));
    Breaker::observe(&slot(&pool, 0), Outcome::Ok, 12_200, 12_300);
    assert_eq!(state(&pool), State::Ok);
    // There are no more pages.
    say(Some(false), 20_000);
    health.tick(&pool.snapshot(), 23_000);
    health.tick(&pool.snapshot(), 23_001);
    assert!(!pool.snapshot().wants_probe(0, false, 33_000));
    assert!(pool.snapshot().wants_probe(0, false, 33_001));
}

/// Serves for `seconds`: each endpoint has so many requests, and takes so many ms a token.
fn serve(pool: &Pool, health: &mut Health, from: u64, seconds: u64, itl: &[u64]) -> u64 {
    let until = from + seconds * 1000;
    for now in (from..until).step_by(100) {
        for (position, itl) in (0..).zip(itl) {
            let slot = slot(pool, position);
            // Ten streams.
            let tokens = 10 * 100 / itl;
            slot.marks().piece();
            slot.marks()
                .generated(tokens, Duration::from_millis(tokens * itl));
        }
        health.tick(&pool.snapshot(), now);
    }
    until
}

fn speed(pool: &Pool, position: u32) -> f32 {
    let slot = slot(pool, position);
    f32::from_bits(slot.segment().speed[slot.index()].load(Relaxed))
}

#[test]
fn speed_is_learned_beside_the_others_and_forgotten_without_requests() {
    let pool = pool(4);
    let mut health = Health::default();
    let now = serve(&pool, &mut health, 1_000, 20, &[25, 25, 20, 25]);
    for position in 0..4 {
        let speed = speed(&pool, position);
        assert!((0.9..1.1).contains(&speed), "{position}: {speed}");
    }
    let now = serve(&pool, &mut health, now, 20, &[25, 25, 25, 100]);
    let slow = speed(&pool, 3);
    assert!((0.25..0.35).contains(&slow), "{slow}");
    // It gets no more requests: it is given another chance.
    let now = serve(&pool, &mut health, now, 120, &[25, 25, 25]);
    assert!(speed(&pool, 3) > 0.9, "{}", speed(&pool, 3));
    // Nothing at all is seen.
    serve(&pool, &mut health, now, 300, &[]);
    assert!((0..4).all(|position| speed(&pool, position) == 1.0));
}

#[test]
fn clocks_are_felt_at_once_and_corrected_by_what_is_served() {
    let pool = pool(4);
    let mut health = Health::default();
    let now = serve(&pool, &mut health, 1_000, 10, &[25; 4]);
    let hot = |mhz: u32, now: u64| -> Told {
        told(now, move |gpu| {
            gpu.clocks = Some(gpu_probes::telemetry::Clocks {
                sm: Some(mhz),
                sm_max: Some(2_000),
                event_reasons: Some(if mhz < 2_000 { 0x40 } else { 0 }),
                ..Default::default()
            });
        })
    };
    let put = |told: &Told, now: u64| {
        let slot = slot(&pool, 0);
        slot.segment().gpus[slot.index()].store(Some(Arc::new(told.gpus())));
        observe_gpus(&slot, &told.gpus(), now);
    };
    let slow = hot(1_000, now);
    put(&slow, now);
    assert_eq!(slot(&pool, 0).state().name(), "derated");
    let mut later = now;
    for _ in 0..7 {
        later += 100;
        slow.heard(later);
        health.tick(&pool.snapshot(), later);
    }
    let speed_then = speed(&pool, 0);
    assert!((0.5..0.65).contains(&speed_then), "{speed_then}");
    // What is served says that it is hardly slower: half the clock is not half the speed where memory is what counts.
    let mut served = later;
    for _ in 0..10 {
        slow.heard(served);
        served = serve(&pool, &mut health, served, 2, &[28, 25, 25, 25]);
    }
    assert!(speed(&pool, 0) > 0.9, "{}", speed(&pool, 0));
    assert_eq!(slot(&pool, 0).state().name(), "derated");
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Derated(_) => "derated",
            Self::Draining(_) => "draining",
            Self::Ejected(..) => "ejected",
        }
    }
}
