//! Events of boards that several endpoints have: MIG instances, and GPUs that are shared in time.

use super::*;

/// The endpoint's instance 3 of a board, shared by so many owners, as the store shows it: an event that names the instance is
/// told of both, and the board comes first, by its UUID.
fn mig(owners: usize, with: impl Fn(&mut Event)) -> Told {
    let board = |gpu: &mut Gpu| {
        gpu.uuid = "GPU-b".to_owned();
        gpu.mig_enabled = true;
    };
    let own = |gpu: &mut Gpu| {
        gpu.uuid = "MIG-a".to_owned();
        gpu.parent = "GPU-b".to_owned();
        (gpu.gpu_instance, gpu.compute_instance) = (Some(3), Some(0));
        gpu.owners = pods(owners);
    };
    let told = told(1_000, board).happened(990, &with).and(1_000, own);
    let mut event = Event::default();
    with(&mut event);
    match event.gpu_instance {
        Some(3) => told.happened(990, with),
        _ => told,
    }
}

/// When an endpoint with GPUs as `told` at 1000 is tried out, in milliseconds after that.
fn out_for(told: &Told, cause: Cause) -> u64 {
    let mut case = Case::new();
    assert_eq!(case.judge(told, 1_000), [cause]);
    let mut seconds = (0..1_000_000).step_by(1_000);
    let free = seconds.find(|after| case.machine.take_trial(1_000 + after));
    free.unwrap()
}

fn named(number: u64, instance: Option<u32>) -> impl Fn(&mut Event) {
    move |event| (event.value, event.gpu_instance) = (number, instance)
}

#[test]
fn whose_an_event_of_a_mig_board_is() {
    for (number, instance, expected) in [
        (31, Some(3), &[Cause::GpuAppFatal][..]),
        (31, Some(4), &[]),
        // Nobody says whose it is.
        (31, None, &[Cause::GpuAppFatal]),
        (94, Some(4), &[]),
        // What needs a reset takes the board.
        (79, Some(4), &[Cause::GpuFatal]),
        (95, Some(4), &[Cause::GpuFatal]),
        (64, Some(4), &[Cause::GpuDrain]),
        // A board and its instance are not several GPUs.
        (74, None, &[Cause::GpuSoft]),
    ] {
        let told = mig(1, named(number, instance));
        assert_eq!(causes(&told), expected, "{number} {instance:?}");
    }
}

#[test]
fn where_it_is_not_known_whose_process_died_all_are_tried_out_soon() {
    let long = Cause::GpuAppFatal.event_ms();
    for number in [13, 31, 43] {
        let out = |owners, instance| {
            let told = mig(owners, named(number, instance));
            out_for(&told, Cause::GpuAppFatal)
        };
        assert_eq!(out(1, Some(3)), long);
        // A time-sliced instance.
        assert_eq!(out(2, Some(3)), ANOTHERS_MS);
        // Anybody's on the board.
        assert_eq!(out(1, None), ANOTHERS_MS);
    }
    let owned_by = |owners: &Vec<Owner>| {
        let owners = move |gpu: &mut Gpu| gpu.owners.clone_from(owners);
        out_for(&told(1_000, owners).event(990, 31), Cause::GpuAppFatal)
    };
    let containers = vec![Default::default(); 2];
    let of = [pods(1), pods(2), containers];
    let out = of.each_ref().map(owned_by);
    assert_eq!(out, [long, ANOTHERS_MS, long]);
    // What takes the board takes it for long, whoever is named.
    let fatal = Cause::GpuFatal.event_ms();
    assert_eq!(out_for(&mig(2, named(95, Some(4))), Cause::GpuFatal), fatal);
}

#[test]
fn memory_that_failed_is_its_instances() {
    let failed = |instance| {
        causes(&mig(1, move |event| {
            event.kind = EventKind::EccUncorrected.into();
            event.gpu_instance = instance;
        }))
    };
    assert_eq!(failed(Some(3)), [Cause::GpuAppFatal]);
    assert_eq!(failed(Some(4)), []);
    // An XID will tell whose it is.
    assert_eq!(failed(None), []);
}

/// A board that tells what `with` sets, and the endpoint's instance, which tells nothing of it.
fn board(now: u64, with: impl Fn(&mut Gpu)) -> Told {
    let board = |gpu: &mut Gpu| {
        gpu.uuid = "GPU-b".to_owned();
        gpu.mig_enabled = true;
        with(gpu);
    };
    told(now, board).and(now, |gpu| {
        gpu.uuid = "MIG-a".to_owned();
        gpu.parent = "GPU-b".to_owned();
    })
}

#[test]
fn what_is_told_of_the_board_is_over_when_the_board_says_so() {
    let action = |action| errors(move |errors| errors.recovery_action = Some(action));
    for (before, cause) in [(1, Cause::GpuRecovery), (4, Cause::GpuDrain)] {
        let (told, well) = (board(1_000, action(before)), board(2_000, action(0)));
        let mut case = Case::new();
        assert_eq!(case.judge(&told, 1_000), [cause]);
        assert_eq!(case.judge(&well, 2_000), [cause]);
        let over = 2_000 + cause.hold_ms();
        well.heard(over);
        case.judge(&well, over);
        // Sooner than for want of word.
        let free = case.machine.next_trial(true);
        assert!(!case.machine.has(cause) || free == over, "{cause:?} {free}");
    }
}

#[test]
fn a_reset_that_the_driver_confirms_of_the_board_counts_for_its_instance() {
    let action = |action| errors(move |errors| errors.recovery_action = Some(action));
    let mut case = Case::new();
    let fatal = mig(1, named(79, None));
    assert_eq!(case.judge(&fatal, 1_000), [Cause::GpuFatal]);
    case.judge(&board(60_000, action(0)), 60_000);
    let free = 60_000 + Cause::GpuFatal.hold_ms();
    assert!(!case.machine.take_trial(free - 1) && case.machine.take_trial(free));
    // Without the board nobody tells.
    let mut case = Case::new();
    case.judge(&fatal, 1_000);
    let alone = told(60_000, |gpu| gpu.parent = "GPU-b".to_owned());
    case.judge(&alone, 60_000);
    assert!(!case.machine.take_trial(free));
}
