use super::*;
use proptest::prelude::*;

impl Machine {
    /// Claims a trial where what GPUs tell keeps requests away.
    pub(in crate::pool) fn take_trial(&mut self, now: u64) -> bool {
        self.claim_trial(true, now)
    }
}

fn word(machine: &Machine) -> Word {
    machine.word(1.0)
}

fn at(machine: &mut Machine, now: u64) -> Word {
    machine.settle(now);
    word(machine)
}

fn begun(machine: &mut Machine) -> Vec<Cause> {
    machine.take_begun().collect()
}

#[test]
fn a_fact_stands_while_it_is_told_and_a_while_longer() {
    for cause in Cause::ALL.into_iter().filter(|&c| c != Cause::Failures) {
        let mut machine = Machine::NEW;
        machine.stands(cause, 100);
        assert_eq!(word(&machine).cause(), Some(cause));
        assert_eq!(begun(&mut machine), [cause]);
        // Nobody takes it back, so nothing ends it.
        assert_eq!(at(&mut machine, 10_000_000).cause(), Some(cause));
        assert!(!machine.take_trial(10_000_000));
        let over = 10_000_000;
        machine.over(cause, over);
        machine.over(cause, over + 1);
        let free = over + cause.hold_ms();
        assert_eq!(at(&mut machine, free - 1).cause(), Some(cause), "{cause:?}");
        assert!(!machine.take_trial(free - 1));
        let well = match cause.effect() {
            Effect::Eject => {
                assert_eq!(at(&mut machine, free).cause(), Some(cause));
                assert!(machine.take_trial(free) && !machine.take_trial(free));
                machine.result(Outcome::Ok, free, free + 1);
                word(&machine)
            }
            Effect::Drain | Effect::Derate => at(&mut machine, free),
        };
        assert_eq!(well, Word::default(), "{cause:?}");
        assert!(begun(&mut machine).is_empty());
    }
}

#[test]
fn what_flickers_begins_once_and_stays() {
    for cause in Cause::ALL.into_iter().filter(|&c| c != Cause::Failures) {
        let mut machine = Machine::NEW;
        let step = cause.hold_ms() - 1;
        for n in 0..100 {
            let now = 100 + n * step;
            match n % 2 {
                0 => machine.stands(cause, now),
                _ => machine.over(cause, now),
            }
            assert_eq!(at(&mut machine, now).cause(), Some(cause), "{cause:?} {n}");
            assert!(!machine.take_trial(now));
        }
        assert_eq!(begun(&mut machine), [cause]);
    }
}

#[test]
fn what_nobody_can_tell_any_more_stands_for_a_while_and_not_for_ever() {
    for cause in [Cause::GpuLost, Cause::GpuThrottled, Cause::EngineUnhealthy] {
        let mut machine = Machine::NEW;
        machine.stands(cause, 100);
        for now in [1_000, 2_000] {
            machine.unheard(cause, now);
        }
        let free = 1_000 + cause.unheard_ms();
        assert_eq!(at(&mut machine, free - 1).cause(), Some(cause));
        at(&mut machine, free);
        match cause.effect() {
            Effect::Eject => assert!(machine.take_trial(free)),
            _ => assert_eq!(word(&machine), Word::default()),
        }
        // It is told again.
        machine.stands(cause, free);
        assert_eq!(at(&mut machine, 10 * free).cause(), Some(cause));
    }
}

#[test]
fn an_event_stands_for_its_time_and_readings_do_not_take_it_back() {
    let mut machine = Machine::NEW;
    machine.happened(Cause::GpuDrain, 100, 5_000);
    machine.over(Cause::GpuDrain, 200);
    assert_eq!(at(&mut machine, 4_999).name(), "draining");
    assert_eq!(at(&mut machine, 5_000).name(), "ok");
    // A repair does.
    machine.happened(Cause::GpuFatal, 6_000, 600_000);
    machine.cleared(Cause::GpuFatal, 7_000);
    let free = 7_000 + Cause::GpuFatal.hold_ms();
    assert!(!machine.take_trial(free - 1) && machine.take_trial(free));
}

#[test]
fn a_new_process_is_tried_out_at_once_unless_it_is_the_gpu() {
    for cause in Cause::ALL {
        if cause.effect() != Effect::Eject {
            continue;
        }
        let mut machine = Machine::NEW;
        machine.stands(cause, 100);
        machine.restarted(200);
        let hard = matches!(cause, Cause::GpuLost | Cause::GpuRecovery);
        assert_eq!(machine.take_trial(200), !hard, "{cause:?}");
    }
}

#[test]
fn service_disproves_what_was_guessed_and_not_what_is_broken() {
    for (cause, disproved) in [
        (Cause::GpuAppFatal, true),
        (Cause::Wedged, true),
        (Cause::GpuFatal, false),
        (Cause::GpuEcc, false),
    ] {
        let mut machine = Machine::NEW;
        machine.happened(cause, 100, 60_000);
        // Sent before: it says what was known.
        machine.result(Outcome::Ok, 100, 200);
        assert_eq!(word(&machine).cause(), Some(cause));
        machine.result(Outcome::Ok, 101, 200);
        assert_eq!(word(&machine).cause().is_none(), disproved, "{cause:?}");
    }
}

#[test]
fn a_trial_that_fails_doubles_the_pause_up_to_a_bound() {
    let mut machine = Machine::NEW;
    machine.stands(Cause::EngineUnhealthy, 100);
    machine.over(Cause::EngineUnhealthy, 100);
    let mut now = 100 + Cause::EngineUnhealthy.hold_ms();
    for pause in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        assert!(machine.take_trial(now), "{pause}");
        machine.result(Outcome::Failed, now, now + 10);
        assert_eq!(machine.next_trial(true), now + 10 + pause);
        now = machine.next_trial(true);
    }
    assert!(machine.take_trial(now));
    machine.result(Outcome::Ok, now, now + 10);
    assert_eq!(word(&machine), Word::default());
    // From the beginning.
    for _ in 0..5 {
        machine.result(Outcome::Failed, now, now + 20);
    }
    assert_eq!(machine.next_trial(true), now + 20 + PAUSE_MS);
}

#[test]
fn where_nobody_sees_how_requests_end_a_trial_unharmed_is_enough() {
    let mut machine = Machine::NEW;
    machine.stands(Cause::Wedged, 100);
    machine.over(Cause::Wedged, 100);
    let free = 100 + Cause::Wedged.hold_ms();
    // Nothing was sent there.
    assert_eq!(at(&mut machine, free + 10 * TRIAL_MS).name(), "ejected");
    let tried = free + 10 * TRIAL_MS;
    assert!(machine.take_trial(tried));
    assert!(!machine.take_trial(tried + HANGS_MS - 1));
    assert_eq!(at(&mut machine, tried + TRIAL_MS - 1).name(), "ejected");
    assert_eq!(at(&mut machine, tried + TRIAL_MS).name(), "ok");
}

#[test]
fn a_trial_that_hangs_or_a_fact_that_is_told_again_is_no_trial_without_harm() {
    for cause in [
        Cause::Wedged,
        Cause::EngineUnhealthy,
        Cause::GpuLost,
        Cause::GpuRecovery,
    ] {
        let mut machine = Machine::NEW;
        machine.stands(cause, 100);
        machine.unheard(cause, 1_000);
        let free = 1_000 + cause.unheard_ms();
        assert!(machine.take_trial(free));
        // What was sent does not come back, and its client waits for half a minute.
        let told = free + 2_000;
        machine.stands(cause, told);
        assert_eq!(at(&mut machine, told + 30_000).cause(), Some(cause));
        machine.result(Outcome::Failed, free, told + 30_000);
        machine.unheard(cause, told + 30_000);
        let free = told + 30_000 + cause.unheard_ms();
        assert_eq!(at(&mut machine, free).cause(), Some(cause));
        assert_eq!(at(&mut machine, free + 10 * TRIAL_MS).cause(), Some(cause));
        let tried = free + 10 * TRIAL_MS;
        assert!(machine.take_trial(tried));
        assert_eq!(at(&mut machine, tried + TRIAL_MS), Word::default());
    }
    // An event that comes again is the same.
    let mut machine = Machine::NEW;
    machine.happened(Cause::GpuFatal, 100, 1_000);
    assert!(machine.take_trial(1_000));
    machine.happened(Cause::GpuFatal, 2_000, 60_000);
    assert_eq!(at(&mut machine, 60_000).cause(), Some(Cause::GpuFatal));
}

#[test]
fn who_is_out_for_its_gpu_and_serves_all_the_same_fails_as_others_do() {
    let mut machine = Machine::NEW;
    machine.happened(Cause::GpuFatal, 100, 600_100);
    let mut now = 1_000;
    for n in 0..100 {
        now += 1_000;
        let outcome = if n % 10 == 0 {
            Outcome::Failed
        } else {
            Outcome::Ok
        };
        machine.result(outcome, now - 10, now);
        assert_eq!(word(&machine).cause(), Some(Cause::GpuFatal), "{n}");
    }
    for _ in 0..5 {
        machine.result(Outcome::Failed, now, now);
    }
    assert_eq!(word(&machine).cause(), Some(Cause::Failures));
    // Where nobody minds its GPU it is tried out as others are; elsewhere that has to be over first.
    let free = now + PAUSE_MS;
    assert_eq!(machine.next_trial(false), free);
    assert_eq!(machine.next_trial(true), 600_100);
    assert!(!machine.take_trial(free) && machine.claim_trial(false, free));
    machine.result(Outcome::Failed, free, free + 10);
    let free = free + 10 + 2 * PAUSE_MS;
    assert_eq!(machine.next_trial(false), free);
    assert!(machine.claim_trial(false, free));
    machine.result(Outcome::Ok, free, free + 10);
    assert_eq!(word(&machine).cause(), Some(Cause::GpuFatal));
    // That trial was none of the GPU.
    assert_eq!(machine.next_trial(true), 600_100);
    assert_eq!(
        at(&mut machine, 600_100 + TRIAL_MS).cause(),
        Some(Cause::GpuFatal)
    );
    assert_eq!(machine.next_trial(false), u64::MAX);
}

#[test]
fn what_only_drains_or_derates_is_not_tried_out() {
    for cause in [Cause::GpuDrain, Cause::GpuThrottled, Cause::GpuSoft] {
        let mut machine = Machine::NEW;
        assert_eq!(machine.next_trial(true), u64::MAX);
        machine.stands(cause, 100);
        machine.over(cause, 100);
        assert_eq!(machine.next_trial(true), u64::MAX, "{cause:?}");
        assert!(!machine.take_trial(10_000_000));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Stands(usize),
    Over(usize),
    Unheard(usize),
    Happened(usize, u64),
    Restarted,
    Result(bool, u64),
    /// With GPUs, or without.
    Trial(bool),
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let cause = || 0..Cause::ALL.len();
    let what = prop_oneof![
        cause().prop_map(Step::Stands),
        cause().prop_map(Step::Over),
        cause().prop_map(Step::Unheard),
        (cause(), 0u64..700_000).prop_map(|(c, ms)| Step::Happened(c, ms)),
        Just(Step::Restarted),
        (any::<bool>(), 0u64..5_000).prop_map(|(ok, ago)| Step::Result(ok, ago)),
        any::<bool>().prop_map(Step::Trial),
    ];
    (0u64..20_000, what)
}

proptest! {
    #[test]
    fn whatever_is_told(steps in proptest::collection::vec(step(), 1..200)) {
        let mut machine = Machine::NEW;
        let mut now = 1_000;
        // What is told and not taken back stands, by its number.
        let mut told = [false; Cause::ALL.len()];
        let mut last_trial = 0;
        // When each was told last, and when trials began.
        let mut told_at = [0; Cause::ALL.len()];
        let mut trials = Vec::new();
        for (passed, step) in steps {
            now += passed;
            let before = machine.standing;
            machine.settle(now);
            for cause in Cause::ALL.into_iter().filter(|c| c.effect() == Effect::Eject) {
                let ended = before[cause as usize].since != 0 && !machine.has(cause);
                let told_at = told_at[cause as usize];
                let unharmed = trials.iter().any(|&(gpus, at)| {
                    (gpus || !cause.is_of_gpus()) && at >= told_at && at + TRIAL_MS <= now
                });
                prop_assert!(!ended || unharmed, "{cause:?} {now} {told_at} {trials:?}");
            }
            match step {
                Step::Stands(c) => {
                    machine.stands(Cause::ALL[c], now);
                    (told[c], told_at[c]) = (true, now);
                }
                Step::Over(c) => {
                    machine.over(Cause::ALL[c], now);
                    told[c] = false;
                }
                Step::Unheard(c) => {
                    machine.unheard(Cause::ALL[c], now);
                    told[c] = false;
                }
                Step::Happened(c, ms) => {
                    machine.happened(Cause::ALL[c], now, now + ms);
                    if ms > 0 {
                        told_at[c] = now;
                    }
                }
                Step::Restarted => {
                    machine.restarted(now);
                    for cause in Cause::ALL.into_iter().filter(|c| c.ends_with_the_process()) {
                        told[cause as usize] = false;
                    }
                }
                Step::Result(ok, ago) => {
                    let outcome = if ok { Outcome::Ok } else { Outcome::Failed };
                    machine.result(outcome, now - ago.min(now), now);
                }
                Step::Trial(gpus) => {
                    let mut ejected = Cause::ALL.into_iter().filter(|c| c.effect() == Effect::Eject);
                    let stands = ejected.any(|c| (gpus || !c.is_of_gpus()) && told[c as usize]);
                    // Without GPUs in the way it is a trial of all.
                    let of_all = machine.next_trial(true) <= now;
                    if machine.claim_trial(gpus, now) {
                        prop_assert!(!stands);
                        prop_assert!(now - last_trial >= PROBE_MS || last_trial == 0 || machine.tripped_at >= last_trial);
                        last_trial = now;
                        trials.push((of_all, now));
                    }
                }
            }
            let word = machine.word(0.5);
            for cause in Cause::ALL {
                prop_assert!(!told[cause as usize] || machine.has(cause), "{cause:?}");
            }
            let worst = Cause::ALL.into_iter().filter(|&c| machine.has(c)).max();
            prop_assert_eq!(word.cause(), worst);
            prop_assert_eq!(word == Word::default(), worst.is_none());
            let ejected = worst.is_some_and(|c| c.effect() == Effect::Eject);
            prop_assert_eq!(word.name() == "ejected", ejected);
        }
        // In the end, when nothing is told any more, all is well again; failures, when a request shows it.
        for cause in Cause::ALL {
            machine.unheard(cause, now);
        }
        for _ in 0..5 {
            now += 700_000;
            machine.settle(now);
            if machine.take_trial(now) {
                machine.result(Outcome::Ok, now, now);
            }
        }
        machine.settle(now);
        prop_assert_eq!(machine.word(1.0), Word::default());
    }
}
