//! What watchers hear.

use gpu_probes::agent::Telemetry;
use gpu_probes::telemetry::gpu_telemetry_server::GpuTelemetry;
use gpu_probes::telemetry::{Clocks, Errors, EventKind, Power};
use tokio_stream::StreamExt as _;

use super::*;

fn busy(uuid: &str) -> Gpu {
    Gpu {
        power: Some(Power {
            draw: Some(300.0),
            limit: Some(700.0),
            ..Power::default()
        }),
        clocks: Some(Clocks {
            sm: Some(1980),
            sm_max: Some(1980),
            event_reasons: Some(0),
            ..Clocks::default()
        }),
        errors: Some(Errors {
            recovery_action: Some(0),
            ..Errors::default()
        }),
        ..gpu(uuid, 0)
    }
}

async fn agent_of(script: &Script) -> Agent {
    let agent = start(script, None, Path::new("/nonexistent"));
    let gpus = script.edit(|said| said.gpus.len());
    until(&agent, "GPUs", |seen| seen.gpus.len() == gpus).await;
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_then_changes_and_heartbeats_while_nothing_moves() {
    let script = Script::of(vec![busy("GPU-a"), gpu("GPU-b", 1)]);
    let agent = agent_of(&script).await;
    let mut stream = watch(&agent).await;
    let first = next(&mut stream).await;
    assert_eq!((first.node.as_str(), first.sequence), ("node-1", 1));
    let Some(Content::Snapshot(snapshot)) = first.content else {
        panic!("no snapshot first");
    };
    assert_eq!(snapshot.gpus.len(), 2);
    assert_eq!(snapshot.gpus[0].power.unwrap().draw, Some(300.0));
    // Not there is not 0.
    assert_eq!(snapshot.gpus[1].power, None);

    let noise = |said: &mut source::Said| said.gpus[0].power.as_mut().unwrap().draw = Some(310.0);
    script.edit(noise);
    let quiet = loop {
        let report = next(&mut stream).await;
        match &report.content {
            Some(Content::Heartbeat(_)) => break report,
            // A machine that is too slow for so short periods.
            Some(Content::Change(change)) if !change.problem.is_empty() => {}
            other => panic!("no heartbeat: {other:?}"),
        }
    };
    assert_eq!(quiet.agent, first.agent);
    assert!(quiet.sequence > first.sequence);

    script.edit(|said| {
        said.gpus[0].clocks.as_mut().unwrap().event_reasons = Some(0x40);
    });
    let throttled = |gpu: &Gpu| gpu.clocks.is_some_and(|c| c.event_reasons == Some(0x40));
    let moved = change(&mut stream, |change| change.gpus.iter().any(throttled)).await;
    assert_eq!(moved.gpus.len(), 1);
    // All of it, and as it is now.
    assert_eq!(moved.gpus[0].power.unwrap().draw, Some(310.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_at_once_and_have_numbers_that_stay() {
    let script = Script::of(vec![busy("GPU-a")]);
    let agent = agent_of(&script).await;
    let mut stream = watch(&agent).await;
    snapshot(&mut stream).await;
    script.edit(|said| said.events = vec![xid("GPU-a", 31), xid("GPU-a", 94)]);
    let told = change(&mut stream, |change| !change.events.is_empty()).await;
    let seen: Vec<_> = told.events.iter().map(|e| (e.number, e.value)).collect();
    assert_eq!(seen, [(1, 31), (2, 94)]);
    // A reading shows what no event said.
    script.edit(|said| said.gpus[0].errors.as_mut().unwrap().recovery_action = Some(2));
    let told = change(&mut stream, |change| !change.events.is_empty()).await;
    assert_eq!(told.events[0].kind(), EventKind::RecoveryAction);
    assert_eq!((told.events[0].number, told.events[0].value), (3, 2));
    assert_eq!(told.gpus[0].errors.unwrap().recovery_action, Some(2));

    let again = snapshot(&mut watch(&agent).await).await;
    let seen: Vec<_> = again.events.iter().map(|e| (e.number, e.value)).collect();
    assert_eq!(seen, [(1, 31), (2, 94), (3, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_missed_events_that_are_no_longer_kept_gets_a_snapshot() {
    let script = Script::of(vec![busy("GPU-a")]);
    let agent = agent_of(&script).await;
    // Polled by hand: a watcher that is slow.
    let request = tonic::Request::new(WatchRequest {});
    let mut stream = agent.telemetry().watch(request).await.unwrap().into_inner();
    let report = poll(&mut stream).await;
    assert!(matches!(report.content, Some(Content::Snapshot(_))));

    script.edit(|said| said.events = (0..10).map(|n| xid("GPU-a", n)).collect());
    until(&agent, "events", |seen| seen.events.len() == 10).await;
    let Some(Content::Change(late)) = poll(&mut stream).await.content else {
        panic!("no change");
    };
    // All of them in one.
    assert_eq!(late.events.len(), 10);

    script.edit(|said| said.events = (0..200).map(|n| xid("GPU-a", n)).collect());
    until(&agent, "a storm", |seen| {
        seen.events.last().is_some_and(|event| event.number == 210)
    })
    .await;
    let Some(Content::Snapshot(late)) = poll(&mut stream).await.content else {
        panic!("no snapshot");
    };
    assert_eq!(late.events.len(), 64);
    assert_eq!(late.events[0].number, 147);
}

async fn poll(stream: &mut <Telemetry as GpuTelemetry>::WatchStream) -> Report {
    let report = tokio::time::timeout(PATIENCE, stream.next()).await;
    report.unwrap().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_gpu_has_no_readings_and_stays_listed() {
    let script = Script::of(vec![busy("GPU-a"), busy("GPU-b")]);
    let agent = agent_of(&script).await;
    let mut stream = watch(&agent).await;
    snapshot(&mut stream).await;
    // It is neither read nor found any more.
    script.edit(|said| {
        said.gpus.remove(1);
        said.events = vec![xid("GPU-b", 79)];
    });
    let told = change(&mut stream, |change| change.gpus.iter().any(|gpu| gpu.lost)).await;
    assert_eq!(
        (told.gpus[0].uuid.as_str(), told.gpus[0].power),
        ("GPU-b", None)
    );
    assert!(told.gone.is_empty());
    let seen = until(&agent, "GPU_LOST", |seen| {
        seen.events
            .iter()
            .any(|event| event.kind() == EventKind::GpuLost)
    })
    .await;
    assert_eq!(seen.gpus.len(), 2);
    // It comes back.
    script.edit(|said| said.gpus.push(busy("GPU-b")));
    until(&agent, "recovery", |seen| {
        seen.gpus.len() == 2 && seen.gpus.iter().all(|gpu| !gpu.lost && gpu.power.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_a_lost_board_stay_listed_and_events_are_waited_for_anew_when_it_is_back() {
    let board = Gpu {
        mig_enabled: true,
        ..busy("GPU-a")
    };
    let script = Script::of(vec![board, instance("MIG-1", "GPU-a", 1)]);
    let agent = agent_of(&script).await;
    let listened = script.edit(|said| said.listened);
    let lose =
        |lost: bool| script.edit(|said| said.gpus.iter_mut().for_each(|gpu| gpu.lost = lost));
    lose(true);
    let all_lost = |seen: &Snapshot| seen.gpus.len() == 2 && seen.gpus.iter().all(|gpu| gpu.lost);
    until(&agent, "a loss", all_lost).await;
    let begun = |what: fn(&source::Said) -> usize| script.edit(|said| what(said));
    // The loss itself makes the agent look who is there.
    let discovered = begun(|said| said.discovered);
    until(&agent, "a look", |_| {
        begun(|said| said.discovered) > discovered
    })
    .await;
    // All are read twice at least, so what came of the look is told.
    let sampled = begun(|said| said.sampled);
    until(&agent, "readings", |_| {
        begun(|said| said.sampled) > sampled + 6
    })
    .await;
    let seen = agent.snapshot();
    assert!(all_lost(&seen), "{seen:?}");
    assert_eq!(begun(|said| said.listened), listened);
    lose(false);
    until(&agent, "recovery", |seen| {
        seen.gpus.len() == 2 && seen.gpus.iter().all(|gpu| !gpu.lost)
    })
    .await;
    // The GPU may be known by another handle now.
    let anew = |_: &Snapshot| begun(|said| said.listened) > listened;
    until(&agent, "somebody to wait for events anew", anew).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_and_go_with_mig() {
    let script = Script::of(vec![busy("GPU-a")]);
    let agent = agent_of(&script).await;
    let mut stream = watch(&agent).await;
    snapshot(&mut stream).await;
    let mig_changed = || Event {
        uuid: "GPU-a".into(),
        kind: EventKind::MigChanged.into(),
        ..Event::default()
    };
    script.edit(|said| {
        said.gpus[0].mig_enabled = true;
        said.gpus.push(instance("MIG-1", "GPU-a", 1));
        said.events = vec![mig_changed()];
    });
    let told = change(&mut stream, |change| change.gpus.len() == 2).await;
    assert!(told.gpus[0].mig_enabled);
    assert_eq!(told.gpus[1].parent, "GPU-a");
    script.edit(|said| {
        said.gpus.pop();
        said.events = vec![mig_changed()];
    });
    let told = change(&mut stream, |change| !change.gone.is_empty()).await;
    assert_eq!(told.gone, ["MIG-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_is_told_and_tried_again() {
    let script = Script::of(vec![busy("GPU-a")]);
    script.edit(|said| said.failing = Some("libnvidia-ml.so.1: not found".into()));
    let agent = start(&script, None, Path::new("/nonexistent"));
    let seen = until(&agent, "a problem", |seen| !seen.problem.is_empty()).await;
    assert_eq!(
        seen.problem,
        "no NVIDIA driver: libnvidia-ml.so.1: not found"
    );
    assert!(seen.gpus.is_empty());
    let mut stream = watch(&agent).await;
    assert_eq!(snapshot(&mut stream).await.problem, seen.problem);
    assert!(
        agent
            .page()
            .contains("pointsman_probe_problem{Hostname=\"node-1\"} 1\n")
    );

    script.edit(|said| said.failing = None);
    let told = change(&mut stream, |change| {
        change.problem.is_empty() && !change.gpus.is_empty()
    })
    .await;
    assert_eq!(told.gpus[0].uuid, "GPU-a");

    // A driver that goes takes its GPUs with it, and says why.
    script.edit(|said| said.failing = Some("gone".into()));
    let told = change(&mut stream, |change| !change.gone.is_empty()).await;
    assert_eq!(
        (told.gone, told.problem),
        (vec!["GPU-a".to_owned()], "no NVIDIA driver: gone".into())
    );
    assert!(script.edit(|said| said.opened) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_driver_hangs_there_is_no_heartbeat_but_ages() {
    let script = Script::of(vec![busy("GPU-a")]);
    let agent = agent_of(&script).await;
    let mut stream = watch(&agent).await;
    snapshot(&mut stream).await;
    script.edit(|said| said.hanging = true);
    let told = change(&mut stream, |change| !change.problem.is_empty()).await;
    assert!(
        told.problem.starts_with("GPU-a was last read"),
        "{}",
        told.problem
    );
    // Of clocks that were to be read each 100 ms.
    assert!(told.gpus[0].clocks.unwrap().age_ms > 1_000);
    let again = next(&mut stream).await;
    assert!(
        matches!(again.content, Some(Content::Change(_))),
        "{again:?}"
    );
    script.edit(|said| said.hanging = false);
    let healthy = |report: &Report| matches!(report.content, Some(Content::Heartbeat(_)));
    while !healthy(&next(&mut stream).await) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_ends_its_streams() {
    let script = Script::of(vec![busy("GPU-a")]);
    let agent = agent_of(&script).await;
    let mut stream = watch(&agent).await;
    snapshot(&mut stream).await;
    agent.stop();
    let end = async { while let Ok(Some(_)) = stream.message().await {} };
    tokio::time::timeout(PATIENCE, end).await.unwrap();
}
