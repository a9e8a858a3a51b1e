use std::sync::Arc;

use super::super::node::Seen;
use super::*;
use crate::telemetry::{Errors, Process};

fn state() -> State {
    State::new(Arc::new(|_| None), Periods::default())
}

fn node(gpus: Vec<Gpu>, now: Instant) -> Node {
    let about = |_: &Gpu| About {
        read: [now; CLASSES.len()],
        seen: Vec::new(),
    };
    Node {
        source: "nvml",
        about: gpus.iter().map(about).collect(),
        gpus,
    }
}

fn gpu(uuid: &str, recovery_action: u32) -> Gpu {
    Gpu {
        uuid: uuid.into(),
        errors: Some(Errors {
            recovery_action: Some(recovery_action),
            ..Errors::default()
        }),
        ..Gpu::default()
    }
}

fn event(kind: EventKind, value: u64) -> Event {
    Event {
        uuid: "GPU-a".into(),
        kind: kind.into(),
        value,
        ..Event::default()
    }
}

#[test]
fn what_an_event_and_a_reading_both_say_is_told_once() {
    let (mut state, now) = (state(), Instant::now());
    let told = |state: &State| -> Vec<_> {
        let events = state.snapshot(now).events.into_iter();
        events.map(|event| (event.kind(), event.value)).collect()
    };
    state.publish(node(vec![gpu("GPU-a", 0)], now), now);
    state.happened(vec![event(EventKind::RecoveryAction, 2)], now);
    state.publish(node(vec![gpu("GPU-a", 2)], now), now);
    let mut lost = gpu("GPU-a", 2);
    lost.lost = true;
    state.publish(node(vec![lost], now), now);
    state.happened(vec![event(EventKind::GpuLost, 7)], now);
    let mut expected = vec![(EventKind::RecoveryAction, 2), (EventKind::GpuLost, 0)];
    assert_eq!(told(&state), expected);
    // What comes again is told again.
    state.publish(node(vec![gpu("GPU-a", 0)], now), now);
    state.publish(node(vec![gpu("GPU-a", 2)], now), now);
    state.happened(
        vec![event(EventKind::Xid, 31), event(EventKind::Xid, 31)],
        now,
    );
    expected.extend([
        (EventKind::RecoveryAction, 0),
        (EventKind::RecoveryAction, 2),
        (EventKind::Xid, 31),
        (EventKind::Xid, 31),
    ]);
    assert_eq!(told(&state), expected);
}

#[test]
fn xids_are_counted_by_number_up_to_a_bound() {
    let (mut state, now) = (state(), Instant::now());
    let storm = (1..=100).map(|xid| event(EventKind::Xid, xid));
    state.happened(storm.collect(), now);
    state.happened(vec![event(EventKind::Xid, 1)], now);
    let xids = &state.xids()["GPU-a"];
    assert_eq!(xids.counts.len(), MOST_XIDS + 1);
    assert_eq!((xids.counts[&1], xids.counts[&0], xids.last), (2, 68, 1));
}

#[test]
fn whoever_missed_too_many_that_went_gets_a_snapshot() {
    let (mut state, now) = (state(), Instant::now());
    let names = |of: std::ops::Range<usize>| of.map(|n| gpu(&format!("MIG-{n}"), 0)).collect();
    let mut cursor = Cursor::default();
    assert!(matches!(
        state.news(&mut cursor, now),
        Some(Content::Snapshot(_))
    ));
    assert_eq!(state.news(&mut cursor, now), None);

    state.publish(node(names(0..MOST_GONE), now), now);
    let Some(Content::Change(change)) = state.news(&mut cursor, now) else {
        panic!("no change");
    };
    assert_eq!(change.gpus.len(), MOST_GONE);
    let before = cursor;
    state.publish(node(Vec::new(), now), now);
    let Some(Content::Change(change)) = state.news(&mut cursor, now) else {
        panic!("no change");
    };
    assert_eq!(change.gone.len(), MOST_GONE);

    state.publish(node(names(200..201), now), now);
    state.publish(node(Vec::new(), now), now);
    let mut behind = before;
    assert!(matches!(
        state.news(&mut behind, now),
        Some(Content::Snapshot(_))
    ));
    let Some(Content::Change(change)) = state.news(&mut cursor, now) else {
        panic!("no change");
    };
    assert_eq!(change.gone, ["MIG-200"]);
}

#[test]
fn one_that_is_back_has_not_gone() {
    let (mut state, now) = (state(), Instant::now());
    let mut cursor = Cursor::default();
    state.publish(node(vec![gpu("GPU-a", 0)], now), now);
    state.news(&mut cursor, now);
    state.publish(node(Vec::new(), now), now);
    state.publish(node(vec![gpu("GPU-a", 0)], now), now);
    let Some(Content::Change(change)) = state.news(&mut cursor, now) else {
        panic!("no change");
    };
    assert_eq!((change.gpus.len(), change.gone.len()), (1, 0));
}

#[test]
fn a_process_is_foreign_only_once_its_owner_could_have_been_told_of() {
    let (mut state, now) = (state(), Instant::now());
    let later = now + Duration::from_secs(1);
    let mut owned = gpu("GPU-a", 0);
    owned.processes = vec![Process::default()];
    let mut node = node(vec![owned], now);
    node.about[0].seen = vec![Seen {
        seat: Seat::NoPod,
        since: later,
    }];
    let asked = |at: Instant| {
        move |owners: &mut Owners| {
            owners.kubelet = Some(Vec::new());
            owners.asked = Some(at);
        }
    };
    let foreign = |state: &State| state.snapshot(now).gpus[0].processes[0].foreign;
    state.set_owners(asked(now));
    state.publish(node, now);
    assert_eq!(foreign(&state), None);
    state.set_owners(asked(later + Duration::from_millis(1)));
    assert_eq!(foreign(&state), Some(true));
}
