//! What events come to, each once.

use super::*;

#[test]
fn what_xids_come_to() {
    let (alone, together) = (false, true);
    for (numbers, peers, expected) in [
        (
            &[48, 79, 95, 109, 119, 120, 136, 140, 143][..],
            alone,
            &[Cause::GpuFatal][..],
        ),
        (&[13, 31, 43, 45, 94], alone, &[Cause::GpuAppFatal]),
        (&[64], alone, &[Cause::GpuDrain]),
        (&[63, 92], alone, &[Cause::GpuSoft]),
        (&[74, 144, 150], alone, &[Cause::GpuSoft]),
        (&[74, 144, 150], together, &[Cause::GpuLink]),
        (&[154, 0, 1, 999, u64::MAX], alone, &[]),
    ] {
        for &number in numbers {
            let mut told = told(1_000, |_| {});
            if peers {
                told = told.and(1_000, |_| {});
            }
            let told = told.event(990, number);
            assert_eq!(causes(&told), expected, "{number}");
        }
    }
}

#[test]
fn other_events() {
    for (kind, value, expected) in [
        (EventKind::GpuLost, 0, &[Cause::GpuLost][..]),
        (EventKind::RecoveryAction, 0, &[]),
        (EventKind::RecoveryAction, 1, &[Cause::GpuRecovery]),
        (EventKind::RecoveryAction, 4, &[Cause::GpuDrain]),
        (EventKind::EccUncorrected, 0, &[Cause::GpuAppFatal]),
        (EventKind::MigChanged, 0, &[]),
        (EventKind::EventUnknown, 79, &[]),
    ] {
        let told = told(1_000, |_| {}).happened(990, |event| {
            event.kind = kind.into();
            event.value = value;
        });
        assert_eq!(causes(&told), expected, "{kind:?} {value}");
    }
    let kind = |event: &mut Event| event.kind = 77;
    assert_eq!(causes(&told(1_000, |_| {}).happened(990, kind)), []);
}

#[test]
fn an_event_counts_once_however_often_it_is_told() {
    let mut case = Case::new();
    let first = told(1_000, |_| {}).event(1_000, 31);
    assert_eq!(case.judge(&first, 1_000), [Cause::GpuAppFatal]);
    // A connection is made anew; the age was rounded otherwise.
    let again = told(3_000, |_| {}).event(1_002, 31);
    case.judge(&again, 3_000);
    let free = 1_000 + Cause::GpuAppFatal.event_ms();
    assert!(!case.machine.take_trial(free - 1) && case.machine.take_trial(free));
    // Another one of the same sort.
    let at = free + 4_000;
    let other = told(at, |_| {}).event(1_000, 31).event(at, 31);
    case.judge(&other, at);
    let free = at + Cause::GpuAppFatal.event_ms();
    assert!(!case.machine.take_trial(free - 1) && case.machine.take_trial(free));
}

#[test]
fn a_storm_on_all_gpus_is_not_new_again_at_each_look() {
    let storm = |now: u64, at: u64| {
        (0..8).fold(Told::none(Source::default(), now), |told, gpu| {
            let told = told.and(now, |_| {});
            // One source numbers what happens to all.
            (0..32).fold(told, |told, n| {
                told.happened(at, |event| (event.number, event.value) = (gpu * 32 + n, 74))
            })
        })
    };
    let mut case = Case::new();
    assert_eq!(case.judge(&storm(1_000, 1_000), 1_000), [Cause::GpuLink]);
    for now in (1_100..61_000).step_by(1_000) {
        case.judge(&storm(now, 1_000), now);
    }
    let free = 1_000 + Cause::GpuLink.event_ms();
    assert!(!case.machine.take_trial(free - 1) && case.machine.take_trial(free));
    // What is remembered is bounded, and what is told is known.
    for now in (700_000..760_000).step_by(1_000) {
        case.judge(&storm(now, now), now);
    }
    assert!(case.memory.events.len() <= MORE_EVENTS + 2 * 8 * 32);
    assert_eq!(case.machine.last(Cause::GpuLink), Some(755_000));
}

#[test]
fn what_struck_the_process_before_is_not_held_against_the_new_one() {
    let mut case = Case::new();
    case.machine.restarted(5_000);
    for (at, number, expected) in [
        (4_990, 13, &[][..]),
        (4_990, 79, &[]),
        // Not of the process.
        (4_990, 64, &[Cause::GpuDrain]),
        (5_000, 31, &[Cause::GpuDrain, Cause::GpuAppFatal]),
    ] {
        let told = told(6_000, |_| {}).event(at, number);
        assert_eq!(case.judge(&told, 6_000), expected, "{number} at {at}");
    }
}

#[test]
fn history_is_not_held_against_an_endpoint() {
    let old = told(100_000, |_| {}).event(100_000 - RECENT_MS - 1, 79);
    assert_eq!(Case::new().judge(&old, 100_000), []);
    // Before it came into the pool.
    let mut case = Case::new();
    let told = told(5_000, |_| {}).event(4_000, 79);
    case.memory
        .judge(&mut case.machine, &told.gpus(), 4_500, 5_000);
    assert!(!case.machine.has(Cause::GpuFatal));
}
