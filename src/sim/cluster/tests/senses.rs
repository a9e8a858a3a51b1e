//! What the picker knows beside gauges, each thing by itself; and faults that it knows in different ways.

use super::super::sights::{Ailment, GpuReading, LOST};
use super::super::{Asked, Sense};
use super::*;
use crate::pool::LoadView;
use crate::pool::health::{Cause, State};

const ALL: [Sense; 4] = [Sense::Ledger, Sense::Errors, Sense::Speed, Sense::Gpu];

fn asked(id: u64) -> Asked {
    Asked {
        id,
        prompt_tokens: 1_280,
        max_tokens: None,
        chain: Chain::default(),
        adapter: None,
    }
}

/// With all senses, and without one.
fn both(lacks: Sense) -> [Ours; 2] {
    [&[][..], &[lacks]].map(|lacks| ours(3).without(lacks))
}

#[test]
fn the_ledger_can_be_taken_away() {
    let counted = both(Sense::Ledger).map(|mut ours| {
        for id in 0..4 {
            ours.pick(&asked(id), 1.0).unwrap();
        }
        let mut load = LoadView::default();
        load.gather(ours.snapshot(), 2_000, 2_000);
        load.in_flight.iter().sum::<u32>()
    });
    assert_eq!(counted, [4, 0]);
}

#[test]
fn errors_can_be_taken_away() {
    for (lacks, expected) in [(None, 2), (Some(Sense::Errors), 3)] {
        let mut ours = ours(3).without(lacks.as_slice());
        // Slowly: a failure weighs as load for some seconds.
        for id in 0..60 {
            let now = 1.0 + id as f64;
            let to = ours.pick(&asked(id), now).unwrap();
            match to {
                0 => ours.failed(id, true, now),
                _ => ours.ended(id, 0, now),
            }
        }
        let well = (0..3).filter(|&e| ours.state(e) == State::Ok);
        assert_eq!(well.count(), expected, "without {lacks:?}");
    }
    // Nothing comes of what endpoint 0 has.
    let stalled = both(Sense::Errors).map(|mut ours| {
        for id in 0..60 {
            ours.pick(&asked(id), 1.0).unwrap();
        }
        let mut stalled = false;
        for tick in 0..100 {
            let now = 1.0 + f64::from(tick) * 0.1;
            for endpoint in 0..3 {
                let progress = f64::from(tick * endpoint);
                ours.scrape_begins(endpoint as u32, now);
                let page = Page {
                    running: 20,
                    progress,
                    ..Page::default()
                };
                ours.scraped(endpoint as u32, page, now);
            }
            ours.tick(now);
            stalled |= matches!(ours.state(0), State::Ejected(Cause::Wedged, _));
            assert_eq!(ours.state(1), State::Ok);
        }
        stalled
    });
    assert_eq!(stalled, [true, false]);
}

#[test]
fn speed_can_be_taken_away() {
    let speeds = both(Sense::Speed).map(|mut ours| {
        let to: Vec<u32> = (0..30)
            .map(|id| ours.pick(&asked(id), 0.0).unwrap())
            .collect();
        for id in 0..30 {
            ours.first_token(id, 0.1);
        }
        for step in 1..400_u64 {
            let now = 0.1 + step as f64 * 0.02;
            // Endpoint 0 takes four times as long for a token.
            let ids = (0..30).filter(|&id| to[id as usize] != 0 || step % 4 == 0);
            ours.tokens(&ids.collect::<Vec<_>>(), now);
            if step % 5 == 0 {
                ours.tick(now);
            }
        }
        let mut load = LoadView::default();
        load.gather(ours.snapshot(), 9_000, 2_000);
        load.speed
    });
    let [learned, without] = speeds;
    assert!(learned[0] < 0.6 && learned[1] == 1.0, "{learned:?}");
    assert_eq!(without, [1.0; 3]);
}

#[test]
fn gpus_can_be_taken_away() {
    let engine = Engine::new(&EngineSpec::new("H100", "llama3-8b", 1)).unwrap();
    let reading = |lost| {
        let ailment = Ailment {
            lost,
            ..Ailment::default()
        };
        GpuReading::of(&engine, ailment)
    };
    let causes = both(Sense::Gpu).map(|mut ours| {
        if ours.sees_gpus() {
            for endpoint in 0..3 {
                ours.gpu(endpoint, &reading(false), 1.0);
            }
        }
        ours.tick(1.1);
        ours.xid(0, LOST, 1.2);
        let by_event = ours.state(0);
        if ours.sees_gpus() {
            ours.gpu(1, &reading(true), 1.5);
        }
        [by_event, ours.state(1), ours.state(2)]
    });
    let [told, untold] = causes;
    assert!(
        matches!(told[0], State::Ejected(Cause::GpuFatal, _)),
        "{told:?}"
    );
    assert!(
        matches!(told[1], State::Ejected(Cause::GpuLost, _)),
        "{told:?}"
    );
    assert_eq!(told[2], State::Ok);
    assert_eq!(untold, [State::Ok; 3]);
}

/// What becomes of 1,500 requests when these happen to endpoint 0 of four after 5 s.
fn after(kinds: &[FaultKind], lacks: &[Sense]) -> Vec<Outcome> {
    let fault = |&kind| Fault {
        at: 5.0,
        endpoint: 0,
        kind,
    };
    let faults: Vec<_> = kinds.iter().map(fault).collect();
    let mut cluster = cluster(4, &faults);
    cluster.wires.patience = 20.0;
    outcomes(&mut cluster, &mut ours(4).without(lacks), even(1_500))
}

/// The share of requests that came after `from` seconds and were sent to endpoint 0.
fn share(all: &[Outcome], from: f64) -> f64 {
    let late = all.iter().filter(|o| o.arrived >= from);
    let (to, all) = late.fold((0, 0), |(to, all), o| {
        (to + u32::from(o.endpoint == Some(0)), all + 1)
    });
    f64::from(to) / f64::from(all)
}

#[test]
fn a_dead_engine_is_left_alone_whatever_its_gauges_say() {
    for kinds in [
        [FaultKind::Die, FaultKind::Lost],
        [FaultKind::DieFrozen, FaultKind::Lost],
        [FaultKind::DieSilently, FaultKind::Lost],
        [FaultKind::Hang, FaultKind::Xid(119)],
        [FaultKind::HangEmpty, FaultKind::Xid(119)],
    ] {
        let told = after(&kinds, &[]);
        assert_eq!(share(&told, 5.1), 0.0, "{kinds:?}");
        assert_eq!(after(&kinds, &[]), told, "{kinds:?}");
        // The XID is told 50 ms later, and that is sooner than anything else.
        let lacks = [Sense::Gpu];
        let untold = after(&kinds, &lacks);
        assert!(share(&untold, 5.0) > share(&told, 5.0), "{kinds:?}");
        assert!(share(&untold, 12.0) < 0.02, "{kinds:?}");
    }
    // Gauges alone fall into the hole, if they read zero.
    for kind in [FaultKind::Die, FaultKind::HangEmpty] {
        let blind = share(&after(&[kind], &ALL), 6.0);
        assert!(blind > 0.8, "{kind:?}: {blind}");
    }
}

#[test]
fn slow_engines_are_slow_and_come_back() {
    let tpot = |kind| {
        let fault = Fault {
            at: 0.0,
            endpoint: 0,
            kind,
        };
        let back = Fault {
            at: 100.0,
            kind: FaultKind::Restart,
            ..fault
        };
        let source = Even {
            every: 5.0,
            ..even(40)
        };
        let all = outcomes(&mut cluster(1, &[fault, back]), &mut ours(1), source);
        [&all[..19], &all[21..]].map(|part| {
            let times = part.iter().map(|o| (o.ended - o.first.unwrap()) / 49.0);
            times.sum::<f64>() / part.len() as f64
        })
    };
    let [_, healthy] = tpot(FaultKind::Slow(1.0, 1.0));
    for (kind, range) in [
        (FaultKind::Slow(2.0, 2.0), 1.5..2.1),
        (FaultKind::Tenant, 1.5..2.1),
        // One request at a time reads memory, and hardly computes.
        (FaultKind::Brake, 1.0..1.2),
        (FaultKind::Heat, 1.1..1.5),
    ] {
        let [slow, back] = tpot(kind);
        assert!(
            range.contains(&(slow / healthy)),
            "{kind:?}: {slow} {healthy}"
        );
        assert!(
            (back / healthy - 1.0).abs() < 1e-6,
            "{kind:?}: {back} {healthy}"
        );
    }
}
