use super::super::stall::Activity;
use super::*;
use crate::pool::gpu::Source;
use gpu_probes::telemetry::{Clocks, Owner};
use std::sync::atomic::Ordering::Relaxed;

mod events;
mod mig;
mod throttling;

/// GPUs of an endpoint, as a source told them.
pub(in crate::pool::health) struct Told {
    sights: Vec<Sight>,
    source: Arc<Source>,
}

/// One Hopper GPU, with what `with` sets, told at `now`.
pub(in crate::pool::health) fn told(now: u64, with: impl Fn(&mut Gpu)) -> Told {
    told_by(Source::default(), now, with)
}

/// The same, by a source of its own.
fn told_by(source: Source, now: u64, with: impl Fn(&mut Gpu)) -> Told {
    Told::none(source, now).and(now, with)
}

impl Told {
    /// No GPU as yet.
    fn none(source: Source, now: u64) -> Self {
        source.heard_at.store(now, Relaxed);
        Self {
            sights: Vec::new(),
            source: Arc::new(source),
        }
    }

    /// Another one.
    pub(in crate::pool::health) fn and(mut self, now: u64, with: impl Fn(&mut Gpu)) -> Self {
        let mut gpu = Gpu {
            uuid: format!("GPU-{}", self.sights.len()),
            architecture: Architecture::Hopper.into(),
            ..Default::default()
        };
        with(&mut gpu);
        self.sights.push(Sight {
            gpu,
            source: Arc::clone(&self.source),
            received_at: now,
            events: Vec::new(),
            neighbours: Vec::new(),
        });
        self
    }

    /// XID `number` happened to the last one.
    pub(in crate::pool::health) fn event(self, at: u64, number: u64) -> Self {
        self.happened(at, |event| event.value = number)
    }

    fn happened(mut self, at: u64, with: impl Fn(&mut Event)) -> Self {
        let sight = self.sights.last_mut().unwrap();
        let mut event = Event {
            number: sight.events.len() as u64 + 1,
            kind: EventKind::Xid.into(),
            ..Default::default()
        };
        with(&mut event);
        sight.events.push((at, event));
        self
    }

    /// The source said something.
    pub(in crate::pool::health) fn heard(&self, now: u64) {
        self.source.heard_at.store(now, Relaxed);
    }

    pub(in crate::pool::health) fn gpus(&self) -> EndpointGpus {
        EndpointGpus {
            gpus: self.sights.iter().cloned().map(Arc::new).collect(),
        }
    }
}

/// What stands at an endpoint, over time.
struct Case {
    memory: Memory,
    machine: Machine,
}

impl Case {
    fn new() -> Self {
        Self {
            memory: Memory::NEW,
            machine: Machine::NEW,
        }
    }

    /// What stands after `told` is judged.
    fn judge(&mut self, told: &Told, now: u64) -> Vec<Cause> {
        self.memory.judge(&mut self.machine, &told.gpus(), 1, now);
        self.machine.settle(now);
        let all = Cause::ALL.into_iter();
        all.filter(|&cause| self.machine.has(cause)).collect()
    }
}

/// What stands after `told`, told at 1000.
fn causes(told: &Told) -> Vec<Cause> {
    Case::new().judge(told, 1_000)
}

/// So many pods that were given one GPU.
pub(in crate::pool::health) fn pods(count: usize) -> Vec<Owner> {
    let pod = |n| Owner {
        pod: format!("pod-{n}"),
        ..Default::default()
    };
    (0..count).map(pod).collect()
}

fn errors(with: impl Fn(&mut Errors)) -> impl Fn(&mut Gpu) {
    move |gpu| with(gpu.errors.get_or_insert_default())
}

#[test]
fn what_is_read_of_errors() {
    let ada = |gpu: &mut Gpu| gpu.architecture = Architecture::Ada.into();
    for (told, expected) in [
        (told(1_000, |_| {}), &[][..]),
        (told(1_000, |gpu| gpu.lost = true), &[Cause::GpuLost]),
        (told(1_000, errors(|e| e.recovery_action = Some(0))), &[]),
        (
            told(1_000, errors(|e| e.recovery_action = Some(1))),
            &[Cause::GpuRecovery],
        ),
        (
            told(1_000, errors(|e| e.recovery_action = Some(2))),
            &[Cause::GpuRecovery],
        ),
        (
            told(1_000, errors(|e| e.recovery_action = Some(4))),
            &[Cause::GpuDrain],
        ),
        // Peers: of no account where there are none.
        (
            told(1_000, errors(|e| e.recovery_action = Some(3))),
            &[Cause::GpuSoft],
        ),
        (
            told(1_000, errors(|e| e.recovery_action = Some(3))).and(1_000, |_| {}),
            &[Cause::GpuDrain],
        ),
        (told(1_000, errors(|e| e.recovery_action = Some(99))), &[]),
        (
            told(1_000, errors(|e| e.remap_failed = Some(true))),
            &[Cause::GpuDrain],
        ),
        // Contained on Hopper, not on Ada.
        (told(1_000, errors(|e| e.remap_pending = Some(true))), &[]),
        (
            told(1_000, |gpu| {
                ada(gpu);
                errors(|e| e.remap_pending = Some(true))(gpu);
            }),
            &[Cause::GpuSoft],
        ),
        (
            told(1_000, errors(|e| e.sram_threshold_exceeded = Some(true))),
            &[Cause::GpuSoft],
        ),
        // How many there were before is nobody's fault.
        (
            told(1_000, errors(|e| e.ecc_uncorrected = Some(1_000_000))),
            &[],
        ),
        // The worst of all counts.
        (
            told(1_000, |_| {}).and(1_000, |gpu| gpu.lost = true),
            &[Cause::GpuLost],
        ),
        // A reading that was old when it came.
        (
            told(
                1_000,
                errors(|e| {
                    e.recovery_action = Some(1);
                    e.age_ms = 60_000;
                }),
            ),
            &[],
        ),
    ] {
        assert_eq!(causes(&told), expected, "{:?}", told.sights);
    }
}

#[test]
fn a_reading_from_before_the_last_error_does_not_mend_it() {
    let told = |now: u64, age_ms| {
        told(
            now,
            errors(move |errors| {
                errors.recovery_action = Some(0);
                errors.age_ms = age_ms;
            }),
        )
    };
    let mut case = Case::new();
    case.judge(&told(1_000, 0).event(1_000, 79), 1_000);
    // Read a while after the first, and before the second.
    case.judge(&told(50_000, 100).event(50_000, 79), 50_000);
    case.judge(&told(50_100, 200), 50_100);
    let soon = 50_100 + Cause::GpuFatal.hold_ms();
    assert!(!case.machine.take_trial(soon));
    case.judge(&told(70_000, 0), 70_000);
    let free = 70_000 + Cause::GpuFatal.hold_ms();
    assert!(!case.machine.take_trial(free - 1) && case.machine.take_trial(free));
}

#[test]
fn memory_errors_since_the_last_reading() {
    for (architecture, expected) in [
        (Architecture::Hopper, Cause::GpuAppFatal),
        (Architecture::AmpereGa100, Cause::GpuAppFatal),
        (Architecture::Ada, Cause::GpuEcc),
        (Architecture::Unknown, Cause::GpuEcc),
    ] {
        let with = |count: Option<u64>, now| {
            told(now, move |gpu| {
                gpu.architecture = architecture.into();
                errors(|e| e.ecc_uncorrected = count)(gpu);
            })
        };
        let mut case = Case::new();
        assert_eq!(case.judge(&with(Some(7), 1_000), 1_000), []);
        assert_eq!(case.judge(&with(None, 1_100), 1_100), []);
        assert_eq!(case.judge(&with(Some(7), 1_200), 1_200), []);
        assert_eq!(case.judge(&with(Some(8), 1_300), 1_300), [expected]);
    }
    // A counter that begins anew: the GPU was reset.
    let with = |count, now| {
        told(now, move |gpu| {
            gpu.architecture = Architecture::Ada.into();
            errors(|e| e.ecc_uncorrected = Some(count))(gpu);
        })
    };
    let mut case = Case::new();
    case.judge(&with(7, 1_000), 1_000);
    case.judge(&with(9, 1_100), 1_100);
    case.judge(&with(0, 2_000), 2_000);
    assert!(case.machine.take_trial(2_000 + Cause::GpuEcc.hold_ms()));
}

#[test]
fn after_a_reset_that_the_driver_confirms_it_is_tried_out_and_else_after_ten_minutes() {
    let fatal = |now: u64, action: Option<u32>| {
        told(now, errors(move |e| e.recovery_action = action)).event(1_000, 79)
    };
    let mut case = Case::new();
    case.judge(&fatal(1_000, Some(0)), 1_000);
    // So soon nobody has looked.
    case.judge(&fatal(2_000, Some(0)), 2_000);
    assert!(!case.machine.take_trial(30_000));
    // It is wanted, then it was done.
    case.judge(&fatal(30_000, Some(1)), 30_000);
    assert!(case.machine.has(Cause::GpuRecovery));
    case.judge(&fatal(60_000, Some(0)), 60_000);
    let free = 60_000 + Cause::GpuFatal.hold_ms();
    assert!(!case.machine.take_trial(free - 1) && case.machine.take_trial(free));
    // Where the driver does not tell.
    let mut case = Case::new();
    for now in [1_000, 20_000, 600_000] {
        case.judge(&fatal(now, None), now);
    }
    assert!(!case.machine.take_trial(600_999) && case.machine.take_trial(601_000));
}

fn clocks(reasons: Option<u64>, sm: Option<u32>, sm_max: Option<u32>) -> impl Fn(&mut Gpu) {
    move |gpu| {
        gpu.clocks = Some(Clocks {
            event_reasons: reasons,
            sm,
            sm_max,
            ..Default::default()
        });
    }
}

#[test]
fn a_source_that_dies_or_was_never_heard_is_neutral() {
    let all = |now: u64| {
        told(now, |gpu| {
            gpu.lost = true;
            clocks(Some(0x40), Some(600), Some(2_000))(gpu);
        })
    };
    // Never heard since long.
    assert_eq!(Case::new().judge(&all(1_000), 60_000), []);
    // It told a hard fact, and died of it: that stands for a while, the weight does not.
    let mut case = Case::new();
    let told = all(1_000);
    assert_eq!(
        case.judge(&told, 1_000),
        [Cause::GpuThrottled, Cause::GpuLost]
    );
    assert_eq!(
        case.judge(&told, 10_000),
        [Cause::GpuThrottled, Cause::GpuLost]
    );
    let silent = 10_000 + Cause::GpuThrottled.unheard_ms();
    assert_eq!(case.judge(&told, silent), [Cause::GpuLost]);
    assert_eq!(case.judge(&told, silent), [Cause::GpuLost]);
    assert_eq!(case.memory.weight, 1.0);
    let free = 10_000 + Cause::GpuLost.unheard_ms();
    assert!(!case.machine.take_trial(free - 1) && case.machine.take_trial(free));
}

#[test]
fn what_a_source_told_that_is_asked_seldom_stands_until_it_is_silent() {
    let seldom = Source {
        silent_ms: 91_000,
        ..Source::default()
    };
    let told = told_by(seldom, 1_000, |gpu| {
        errors(|e| e.recovery_action = Some(4))(gpu);
        clocks(Some(0x40), Some(600), Some(2_000))(gpu);
    });
    let both = [Cause::GpuThrottled, Cause::GpuDrain];
    let mut case = Case::new();
    for now in [1_000, 20_000, 60_000, 92_000] {
        assert_eq!(case.judge(&told, now), both, "{now}");
        assert!(case.memory.weight < 0.5, "{now}");
    }
    assert_eq!(case.judge(&told, 92_001), both);
    let over = 92_001 + Cause::GpuThrottled.unheard_ms();
    assert_eq!(case.judge(&told, over), [Cause::GpuDrain]);
}

#[test]
fn garbage_is_neutral() {
    for value in [0, 1, u32::MAX] {
        let garbage = told(1_000, |gpu| {
            gpu.architecture = i32::MAX;
            errors(|e| {
                e.recovery_action = Some(value.max(5));
                e.age_ms = value;
            })(gpu);
            clocks(Some(1 << 40), Some(value), Some(value))(gpu);
            gpu.power = Some(gpu_probes::telemetry::Power {
                draw: Some(f64::NAN),
                limit: Some(0.0),
                ..Default::default()
            });
        });
        assert_eq!(causes(&garbage), [], "{value}");
        assert_eq!(activity(&garbage.gpus(), 1_000), Activity::Unknown);
    }
}

#[test]
fn activity_of_gpus_that_others_use_is_not_known() {
    let works = |gpu: &mut Gpu| {
        gpu.profile = Some(gpu_probes::telemetry::Profile {
            tensor_active: Some(0.3),
            ..Default::default()
        });
    };
    let spins = |gpu: &mut Gpu| {
        let utilization = gpu.utilization.get_or_insert_default();
        utilization.gpu = Some(1.0);
        let profile = gpu.profile.get_or_insert_default();
        profile.dram_active = Some(0.0);
    };
    for (told, expected) in [
        (told(1_000, |_| {}), Activity::Unknown),
        (told(1_000, works), Activity::Works),
        (told(1_000, spins), Activity::Spins),
        (told(1_000, spins).and(1_000, works), Activity::Works),
        (told(1_000, spins).and(1_000, spins), Activity::Spins),
        (told(1_000, spins).and(1_000, |_| {}), Activity::Unknown),
        (
            told(1_000, |gpu| {
                works(gpu);
                gpu.owners = pods(2);
            }),
            Activity::Unknown,
        ),
        // Two containers of one pod.
        (
            told(1_000, |gpu| {
                works(gpu);
                gpu.owners = vec![Default::default(); 2];
            }),
            Activity::Works,
        ),
    ] {
        assert_eq!(activity(&told.gpus(), 1_000), expected);
        assert_eq!(activity(&told.gpus(), 10_000), Activity::Unknown);
    }
    assert_eq!(activity(&EndpointGpus::default(), 1), Activity::Unknown);
}
