//! A new engine process is another chance, and the only one soon after an error that kills processes.

use gpu_probes::telemetry::Process;

use super::*;

#[test]
fn a_new_process_of_a_wedged_engine_is_tried_out_at_once() {
    let pool = pool(2);
    let mut health = Health::default();
    let held = Reservation::new(&slot(&pool, 0));
    run(&pool, &mut health, (1_000, 5_000), |now| Some(now as f64));
    run(&pool, &mut health, (5_000, 8_000), |_| Some(5e3));
    assert!(matches!(state(&pool), State::Ejected(Cause::Wedged, _)));
    drop(held);
    run(&pool, &mut health, (8_000, 8_200), |_| Some(0.0));
    assert!(pool.snapshot().wants_probe(0, false, 8_200));
}

/// A GPU with this process on it, which met XID 31 at 2,000.
fn met(now: u64, pid: u32) -> Told {
    let gpu = told(now, |gpu| {
        gpu.processes = vec![Process {
            pid,
            ..Default::default()
        }];
    });
    if now < 2_000 {
        gpu
    } else {
        gpu.event(2_000, 31)
    }
}

/// What the agent tells and what pages say, every 100 ms from 1,000 on; when the endpoint was first tried out.
fn tried_after(pid: impl Fn(u64) -> u32, page_at: impl Fn(u64) -> Option<Scrape>) -> u64 {
    let pool = pool(2);
    let mut health = Health::default();
    let slot = slot(&pool, 0);
    for now in (1_000..300_000).step_by(100) {
        if let Some(page) = page_at(now) {
            slot.record(&page, slot.scrape_begins(), now);
        }
        let gpus = Arc::new(met(now, pid(now)).gpus());
        slot.segment().gpus[slot.index()].store(Some(Arc::clone(&gpus)));
        observe_gpus(&slot, &gpus, now);
        health.tick(&pool.snapshot(), now);
        let out = slot.state() == State::Ejected(Cause::GpuAppFatal, 2_000);
        assert_eq!(out, now >= 2_000, "{now}");
        if pool.snapshot().take_probe(0, true, now) {
            return now;
        }
    }
    panic!("never");
}

#[test]
fn an_error_that_kills_the_process_keeps_it_out_until_there_is_another() {
    // Started in seconds since 1970.
    let page = |progress: f64, started: Option<f64>| Scrape {
        started,
        running: Some(0.0),
        ..page(0.0, progress)
    };
    let same = |_| 1;
    let never = 2_000 + Cause::GpuAppFatal.event_ms();
    // It goes on, and so it may be that it is not dead.
    assert_eq!(tried_after(same, |_| Some(page(5.0, Some(1e9)))), never);
    assert_eq!(tried_after(same, |_| None), never);
    // By the start of its process, by its counters, by the processes on the GPU once it answers.
    let started = |now| Some(page(5.0, Some(if now < 30_000 { 1e9 } else { 1e9 + 28.0 })));
    assert_eq!(tried_after(same, started), 30_000);
    let counted = |now| Some(page(if now < 30_000 { 5.0 } else { 0.0 }, None));
    assert_eq!(tried_after(same, counted), 30_000);
    let other = |now| if now < 20_000 { 1 } else { 2 };
    let loading = |now| (!(2_000..30_000).contains(&now)).then(|| page(0.0, None));
    assert_eq!(tried_after(other, loading), 30_000);
    assert_eq!(tried_after(other, |_| None), 20_000);
}
