use super::super::SILENT_MS;
use super::super::testing::GB;
use super::super::testing::{
    agent, change, dcgm, endpoint, event, gpu, heartbeat, instance, snapshot,
};
use super::*;

struct Rig {
    gpus: Gpus,
    pool: Arc<Pool>,
}

impl Rig {
    fn new(endpoints: &[&str], sources: &[&SourceId]) -> Self {
        let agents = sources.iter().map(|&id| (id, SILENT_MS));
        Self::of(endpoints, &agents.collect::<Vec<_>>())
    }

    /// With sources that are silent after so many milliseconds.
    fn of(endpoints: &[&str], sources: &[(&SourceId, u64)]) -> Self {
        let pool = Arc::new(Pool::default());
        pool.replace(
            endpoints
                .iter()
                .map(|name| endpoint(name, None, &[]))
                .collect(),
        );
        let gpus = Gpus::new(Arc::clone(&pool));
        for (id, silent_ms) in sources {
            gpus.add(id, *silent_ms);
        }
        Self { gpus, pool }
    }

    fn report(&self, id: &SourceId, report: Report, now_ms: u64) {
        self.gpus.report(id, report, Vec::new(), now_ms);
    }

    /// Its GPUs as they are shown, by UUID.
    fn shown(&self, position: u32) -> Vec<Arc<Sight>> {
        let snapshot = self.pool.snapshot();
        let (s, i) = snapshot.cell(position);
        s.gpus[i]
            .load()
            .as_ref()
            .map_or_else(Vec::new, |gpus| gpus.gpus.clone())
    }

    fn uuids(&self, position: u32) -> Vec<String> {
        self.shown(position)
            .iter()
            .map(|s| s.gpu.uuid.clone())
            .collect()
    }

    /// GB that it holds, as far as is known and not older than a second.
    fn held(&self, position: u32, now_ms: u64) -> Option<u64> {
        let snapshot = self.pool.snapshot();
        let (s, i) = snapshot.cell(position);
        s.gpu_cells
            .memory(i, now_ms, 1_000)
            .map(|memory| memory.held / GB)
    }
}

#[test]
fn what_an_agent_tells_is_at_the_endpoint_at_once() {
    let id = agent("a:1");
    let rig = Rig::new(&["p", "q"], &[&id]);
    rig.report(
        &id,
        snapshot("n", "x", vec![gpu("GPU-1", &["p"], 10)], vec![]),
        1_000,
    );
    assert_eq!((rig.held(0, 1_000), rig.held(1, 1_000)), (Some(10), None));
    let told = change(
        "n",
        "x",
        vec![gpu("GPU-1", &["p"], 20)],
        &[],
        vec![event(1, "GPU-1", 79, 5)],
    );
    rig.report(&id, told, 1_010);
    let sight = &rig.shown(0)[0];
    assert_eq!((sight.events[0].0, sight.received_at), (1_005, 1_010));
    assert_eq!(rig.held(0, 1_010), Some(20));
    // Only heartbeats: what was told holds, until they end.
    assert_eq!(rig.held(0, 2_011), None);
    rig.report(&id, heartbeat("n", "x"), 2_010);
    assert_eq!(rig.held(0, 2_011), Some(20));
    assert_eq!(rig.shown(0)[0].age_ms(7, 2_020), 17);
    assert_eq!(rig.held(0, 3_011), None);
    // It is still there, and is as old as it is.
    rig.gpus.tick(60_000);
    assert!(rig.shown(0)[0].source.is_silent(60_000));
    assert_eq!(rig.uuids(0), ["GPU-1"]);
    // An agent that nobody listens to any more.
    rig.gpus.remove(&id);
    rig.gpus.tick(60_000);
    rig.report(&id, heartbeat("n", "x"), 60_001);
    assert!(rig.shown(0).is_empty());
}

#[test]
fn endpoints_that_come_and_go_lose_nothing_of_what_is_known() {
    let id = agent("a:1");
    let rig = Rig::new(&["p"], &[&id]);
    let gpus = vec![gpu("GPU-1", &["p"], 1), gpu("GPU-2", &["late"], 2)];
    rig.report(
        &id,
        snapshot("n", "x", gpus, vec![event(1, "GPU-2", 63, 0)]),
        1_000,
    );
    // Of a pod that is no endpoint: known, shown, without effect.
    let nobodys = |gpus: &Gpus| {
        gpus.look(|inner| {
            let all = inner.all();
            let of_nobody = all.iter().filter(|shown| shown.endpoints.is_empty());
            of_nobody
                .map(|shown| shown.known.gpu.uuid.clone())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(nobodys(&rig.gpus), ["GPU-2"]);
    rig.pool
        .replace(vec![endpoint("late", None, &[]), endpoint("p", None, &[])]);
    rig.gpus.tick(1_100);
    assert_eq!(
        (rig.uuids(0), rig.uuids(1)),
        (vec!["GPU-2".to_owned()], vec!["GPU-1".to_owned()])
    );
    assert_eq!(rig.shown(0)[0].events.len(), 1);
    assert!(nobodys(&rig.gpus).is_empty());
    let before = rig.pool.snapshot();
    rig.pool.replace(vec![endpoint("late", None, &[])]);
    rig.gpus.tick(1_200);
    let (s, i) = before.cell(1);
    assert!(s.gpus[i].load().is_none());
    assert_eq!(nobodys(&rig.gpus), ["GPU-1"]);
}

#[test]
fn of_two_agents_that_claim_one_gpu_the_first_keeps_it_until_it_is_silent() {
    let (first, second) = (agent("b:1"), agent("a:1"));
    let rig = Rig::new(&["p"], &[&first, &second]);
    let conflicts = || {
        let now = rig.gpus.look(|inner| inner.claims.disputed());
        (rig.gpus.conflicts.load(Ordering::Relaxed), now)
    };
    rig.report(
        &first,
        snapshot("n1", "x", vec![gpu("GPU-1", &["p"], 1)], vec![]),
        1_000,
    );
    for at in [1_100, 1_200] {
        rig.report(
            &second,
            snapshot("n2", "y", vec![gpu("GPU-1", &["p"], 2)], vec![]),
            at,
        );
        assert_eq!((rig.held(0, at), conflicts()), (Some(1), (1, 1)));
    }
    // The second is heard alone.
    let mut now = 1_200;
    while now < 1_000 + SILENT_MS + 500 {
        rig.gpus.tick(now);
        rig.report(&second, heartbeat("n2", "y"), now);
        now += 100;
    }
    assert_eq!((rig.held(0, now), conflicts()), (Some(2), (1, 0)));
    // Where the first comes back it is the second to claim it.
    rig.report(&first, heartbeat("n1", "x"), now);
    rig.report(
        &first,
        snapshot("n1", "x", vec![gpu("GPU-1", &["p"], 3)], vec![]),
        now,
    );
    rig.gpus.tick(now);
    assert_eq!((rig.held(0, now), conflicts()), (Some(2), (2, 1)));
    // It is silent once more, and so is then who has it.
    let silent = now + SILENT_MS + 1;
    rig.report(&second, heartbeat("n2", "y"), silent);
    rig.gpus.tick(silent);
    assert_eq!(conflicts(), (2, 0));
    let silent = silent + SILENT_MS + 1;
    rig.gpus.tick(silent);
    let heard = |id: &SourceId, node: &str, life: &str| {
        rig.report(id, heartbeat(node, life), silent);
        rig.gpus.tick(silent);
        (rig.held(0, silent), conflicts())
    };
    assert_eq!(heard(&first, "n1", "x"), (Some(3), (2, 0)));
    assert_eq!(heard(&second, "n2", "y"), (Some(3), (3, 1)));
    // If it goes, nothing is lost, and nobody is left to dispute it.
    rig.gpus.remove(&first);
    rig.gpus.tick(silent);
    assert_eq!((rig.held(0, silent), conflicts()), (Some(2), (3, 0)));
}

#[test]
fn one_agent_at_two_addresses_is_no_conflict() {
    let (one, other) = (agent("a:1"), agent("b:1"));
    let rig = Rig::new(&["p"], &[&one, &other]);
    for id in [&one, &other] {
        rig.report(
            id,
            snapshot("n", "x", vec![gpu("GPU-1", &["p"], 1)], vec![]),
            1_000,
        );
    }
    assert_eq!(rig.gpus.conflicts.load(Ordering::Relaxed), 0);
}

#[test]
fn an_agent_counts_before_an_exporter_for_as_long_as_it_is_heard() {
    let (exporter, node) = (dcgm("d:9400"), agent("a:1"));
    let rig = Rig::new(&["p", "q"], &[&exporter, &node]);
    let page = || {
        snapshot(
            "n",
            "",
            vec![gpu("GPU-1", &["p"], 1), gpu("GPU-2", &["q"], 1)],
            vec![],
        )
    };
    rig.report(&exporter, page(), 1_000);
    rig.report(
        &node,
        snapshot("n", "x", vec![gpu("GPU-1", &["p"], 7)], vec![]),
        1_100,
    );
    rig.gpus.tick(1_200);
    assert_eq!((rig.held(0, 1_200), rig.held(1, 1_200)), (Some(7), Some(1)));
    let mut now = 1_200;
    while now < 1_100 + SILENT_MS + 500 {
        rig.gpus.tick(now);
        rig.report(&exporter, page(), now);
        now += 100;
    }
    assert_eq!(rig.held(0, now), Some(1));
    assert_eq!(rig.gpus.conflicts.load(Ordering::Relaxed), 0);
    // It is heard again, and told of the GPU before: it counts with its next snapshot.
    rig.report(
        &node,
        snapshot("n", "y", vec![gpu("GPU-1", &["p"], 8)], vec![]),
        now,
    );
    rig.gpus.tick(now + 100);
    assert_eq!(rig.held(0, now), Some(8));
}

#[test]
fn an_exporter_that_is_asked_seldom_is_heard_between_two_pages() {
    let (seldom, often) = (dcgm("a:9400"), dcgm("b:9400"));
    // Every 30 s, and every 100 ms.
    let rig = Rig::of(&["p"], &[(&seldom, 91_000), (&often, 1_300)]);
    let page = || snapshot("n", "", vec![gpu("GPU-1", &["p"], 1)], vec![]);
    rig.report(&seldom, page(), 1_000);
    rig.report(&often, page(), 1_000);
    let silent = |now_ms| {
        rig.gpus.tick(now_ms);
        let silent = |inner: &Inner, id| inner.sources[id].source.is_silent(now_ms);
        rig.gpus
            .look(|inner| [silent(inner, &seldom), silent(inner, &often)])
    };
    assert_eq!(silent(1_000 + SILENT_MS), [false, false]);
    assert_eq!(silent(1_001 + SILENT_MS), [false, true]);
    assert_eq!(silent(92_000), [false, true]);
    assert_eq!(silent(92_001), [true, true]);
}

#[test]
fn instances_are_counted_once_whatever_agent_and_exporter_call_them() {
    let (exporter, node) = (dcgm("d:9400"), agent("a:1"));
    let rig = Rig::new(&["p", "q"], &[&exporter, &node]);
    let of = |names: [&str; 2]| {
        let instances = names.iter().zip(["p", "q"]);
        let instances = instances.map(|(name, pod)| instance(name, "GPU-1", &[pod]));
        [gpu("GPU-1", &[], 2)]
            .into_iter()
            .chain(instances)
            .collect::<Vec<_>>()
    };
    rig.report(
        &exporter,
        snapshot("n", "", of(["MIG-GPU-1/1", "MIG-GPU-1/2"]), vec![]),
        1_000,
    );
    assert_eq!(rig.uuids(1), ["GPU-1", "MIG-GPU-1/2"]);
    rig.report(
        &node,
        snapshot("n", "x", of(["MIG-a", "MIG-b"]), vec![]),
        1_100,
    );
    rig.gpus.tick(1_200);
    assert_eq!(
        (rig.uuids(0), rig.uuids(1)),
        (
            vec!["GPU-1".into(), "MIG-a".into()],
            vec!["GPU-1".into(), "MIG-b".into()]
        )
    );
    // The board's memory is not the instance's.
    assert_eq!(rig.held(0, 1_200), Some(1));
    let shown = rig.shown(0);
    let neighbour = rig.pool.snapshot().numbers()[1];
    assert!(shown.iter().all(|sight| sight.neighbours == [neighbour]));
}

#[test]
fn nodes_that_start_together_are_joined_together() {
    let ids: Vec<_> = (0..50).map(|n| agent(&format!("a{n}:1"))).collect();
    let rig = Rig::new(&["p49"], &ids.iter().collect::<Vec<_>>());
    for (n, id) in ids.iter().enumerate() {
        let (uuid, pod) = (format!("GPU-{n}"), format!("p{n}"));
        let told = snapshot(
            &format!("n{n}"),
            &format!("x{n}"),
            vec![gpu(&uuid, &[&pod], 1)],
            vec![],
        );
        rig.report(id, told, 1_000);
    }
    assert!(rig.shown(0).is_empty());
    rig.gpus.tick(1_050);
    assert_eq!(rig.uuids(0), ["GPU-49"]);
}

#[test]
fn what_a_silent_source_told_is_nothing_that_a_later_endpoint_has() {
    let (dead, other) = (agent("a:1"), agent("b:1"));
    let rig = Rig::new(&["p", "q"], &[&dead, &other]);
    let gpus = vec![gpu("GPU-1", &["p"], 1), gpu("GPU-2", &["q"], 2)];
    let lost = vec![event(1, "GPU-1", 79, 0)];
    rig.report(&dead, snapshot("n1", "x", gpus, lost), 1_000);
    // Its node is gone; the pod comes to another one under its old name.
    let mut moved = endpoint("p", None, &[]);
    moved.address = [127, 0, 0, 2].into();
    rig.pool.replace(vec![moved, endpoint("q", None, &[])]);
    rig.gpus.tick(60_000);
    assert_eq!(
        (rig.uuids(0), rig.uuids(1)),
        (vec![], vec!["GPU-2".to_owned()])
    );
    rig.report(
        &other,
        snapshot("n2", "y", vec![gpu("GPU-7", &["p"], 3)], vec![]),
        60_100,
    );
    rig.gpus.tick(60_200);
    assert_eq!(rig.uuids(0), ["GPU-7"]);
    // It is heard again, and knows no better yet: all counts.
    rig.report(&dead, heartbeat("n1", "x"), 60_300);
    rig.gpus.tick(60_400);
    assert_eq!(rig.uuids(0), ["GPU-1", "GPU-7"]);
}

#[test]
fn what_went_is_nobodys_and_no_endpoints_before_all_is_joined_anew() {
    let (one, other) = (agent("n1"), agent("n2"));
    let rig = Rig::new(&["a", "b"], &[&one, &other]);
    for (id, gpu) in [
        (&one, gpu("GPU-a", &["a"], 1)),
        (&other, gpu("GPU-b", &["b"], 1)),
    ] {
        rig.report(id, snapshot("n", "life", vec![gpu], vec![]), 1_000);
    }
    rig.gpus.tick(1_100);
    let counts = || rig.gpus.look(Inner::counts);
    assert_eq!(counts(), (2, 2));
    rig.gpus.remove(&one);
    assert_eq!(counts(), (1, 1));
    rig.gpus.tick(1_200);
    assert_eq!(counts(), (1, 1));
}
