use super::super::SILENT_MS;
use super::super::testing::{change, event, gpu, heartbeat, snapshot};
use super::*;

fn xids(told: &Told, uuid: &str) -> Vec<(u64, u64)> {
    let events = told.gpus[uuid].events.iter();
    events.map(|(at, event)| (*at, event.value)).collect()
}

fn take(told: &mut Told, report: Report, now_ms: u64) -> (Changed, [u64; 3]) {
    let refused = Refused::default();
    let changed = told.report(report, Vec::new(), now_ms, &refused);
    let counts = [
        &refused.nameless,
        &refused.too_many,
        &refused.strange_events,
    ];
    (changed, counts.map(|count| count.load(Ordering::Relaxed)))
}

#[test]
fn events_have_the_receivers_time_and_come_once_over_reconnects() {
    let mut told = Told::new(SILENT_MS);
    let first = snapshot(
        "n",
        "life",
        vec![gpu("GPU-1", &[], 1)],
        vec![event(1, "GPU-1", 79, 400)],
    );
    take(&mut told, first, 10_000);
    take(
        &mut told,
        change("n", "life", vec![], &[], vec![event(2, "GPU-1", 13, 0)]),
        11_000,
    );
    assert_eq!(xids(&told, "GPU-1"), [(9_600, 79), (11_000, 13)]);
    // Over another connection the agent tells them once more, and what happened meanwhile.
    let again = vec![
        event(1, "GPU-1", 79, 9_000),
        event(2, "GPU-1", 13, 8_000),
        event(3, "GPU-1", 31, 500),
    ];
    take(
        &mut told,
        snapshot("n", "life", vec![gpu("GPU-1", &[], 1)], again),
        19_000,
    );
    let all = [(9_600, 79), (11_000, 13), (18_500, 31)];
    assert_eq!(xids(&told, "GPU-1"), all);
    // Another life of the agent counts anew, and has read some of it from the kernel's log.
    let again = vec![event(1, "GPU-1", 31, 10_600), event(2, "GPU-1", 31, 0)];
    take(
        &mut told,
        snapshot("n", "other", vec![gpu("GPU-1", &[], 1)], again),
        29_000,
    );
    assert_eq!(xids(&told, "GPU-1"), [&all[..], &[(29_000, 31)]].concat());
    // An age that reaches back before the process began.
    take(
        &mut told,
        change(
            "n",
            "other",
            vec![],
            &[],
            vec![event(3, "GPU-1", 8, u32::MAX)],
        ),
        30_000,
    );
    assert_eq!(xids(&told, "GPU-1").last(), Some(&(0, 8)));
}

#[test]
fn what_happens_to_an_instance_is_known_of_its_board_too() {
    let mut told = Told::new(SILENT_MS);
    let mut instance = gpu("MIG-1", &["a"], 1);
    instance.parent = "GPU-1".to_owned();
    let gpus = vec![gpu("GPU-1", &[], 1), instance];
    let first = snapshot("n", "life", gpus, vec![event(1, "MIG-1", 62, 0)]);
    take(&mut told, first, 10_000);
    for uuid in ["GPU-1", "MIG-1"] {
        assert_eq!(xids(&told, uuid), [(10_000, 62)], "{uuid}");
    }
}

#[test]
fn a_snapshot_is_all_there_is_and_a_change_is_what_it_names() {
    let mut told = Told::new(SILENT_MS);
    let gpus = vec![gpu("GPU-1", &["a"], 1), gpu("GPU-2", &[], 1)];
    let (changed, _) = take(&mut told, snapshot("n", "x", gpus, vec![]), 1);
    assert_eq!(
        (changed.came.len(), changed.went.len(), changed.places),
        (2, 0, true)
    );
    let (changed, _) = take(
        &mut told,
        change("n", "x", vec![gpu("GPU-1", &["a"], 2)], &[], vec![]),
        2,
    );
    assert_eq!((&*changed.gpus[0], changed.places), ("GPU-1", false));
    assert_eq!(told.gpus["GPU-2"].received_at, 1);
    // It is another's now.
    let (changed, _) = take(
        &mut told,
        change("n", "x", vec![gpu("GPU-1", &["b"], 2)], &[], vec![]),
        3,
    );
    assert!(changed.places);
    let (changed, _) = take(&mut told, heartbeat("n", "x"), 4);
    assert!(changed.gpus.is_empty() && !changed.places);
    assert_eq!(told.age_ms(10), Some(6));
    let (changed, _) = take(
        &mut told,
        change("n", "x", vec![], &["GPU-2", "GPU-9"], vec![]),
        5,
    );
    assert_eq!(changed.went, ["GPU-2".into()]);
    let (changed, _) = take(&mut told, snapshot("n", "y", vec![], vec![]), 6);
    assert_eq!(changed.went, ["GPU-1".into()]);
}

#[test]
fn garbage_and_floods_are_bounded() {
    let mut told = Told::new(SILENT_MS);
    let mut gpus = vec![gpu("", &[], 1), gpu("two words", &[], 1)];
    gpus.extend((0..sane::MOST_GPUS + 10).map(|n| gpu(&format!("GPU-{n}"), &[], 1)));
    let events = (0..10_000).map(|n| event(n + 1, "GPU-0", n, 0)).collect();
    let (_, refused) = take(
        &mut told,
        snapshot(&"n".repeat(9_999), "x", gpus, events),
        1,
    );
    assert_eq!(refused, [2, 10, 0]);
    assert_eq!(
        (told.gpus.len(), told.source.node.len()),
        (sane::MOST_GPUS, 256)
    );
    assert_eq!(xids(&told, "GPU-0").len(), sane::MOST_EVENTS);
    let strange = vec![event(20_000, "GPU-of-nobody", 79, 0)];
    let (_, refused) = take(&mut told, change("n", "x", vec![], &[], strange), 2);
    assert_eq!(refused, [0, 0, 1]);
}
