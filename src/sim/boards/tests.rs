//! What is ordered of GPUs, how it looks to NVML and what becomes of the engines.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::*;
use crate::sim::step::{EngineSpec, MigProfile};
use crate::sim::{EngineConfig, EngineKind, Pace};

/// Boards of H100s and the engines on them.
struct Rig {
    boards: Arc<Boards>,
    engines: Vec<Arc<Engine>>,
}

impl Rig {
    fn new(servers: usize, tp: u32, division: Division) -> Self {
        let layout = Layout {
            gpu: "H100".to_owned(),
            servers,
            tp: tp as usize,
            division,
        };
        let mut spec = EngineSpec::new("H100", "llama3-8b", tp);
        spec.mig = layout.mig();
        let boards = Boards::new(layout).unwrap();
        let config = EngineConfig {
            kind: EngineKind::Vllm,
            pace: Pace::Steps(spec),
            speed: 1.0,
            max_num_seqs: 8,
            kv_blocks: 1000,
            block_size: 16,
            max_model_len: 131_072,
            max_loras: 0,
            lora_load: Duration::ZERO,
            tokens: 5,
        };
        let engines = (0..servers).map(|server| {
            let seat = boards.seat(server);
            let engine = Arc::new(Engine::new(config.clone(), seat.crowd()).unwrap());
            seat.occupy(&engine);
            engine
        });
        Self {
            engines: engines.collect(),
            boards,
        }
    }

    fn order(&self, server: usize, order: &str) -> Result<(), String> {
        let order = serde_json::from_str(order).map_err(|error| error.to_string())?;
        self.boards.seat(server).order(order)
    }

    fn gpu(&self, number: usize) -> fake_state::Gpu {
        self.boards.state().gpus.swap_remove(number)
    }

    /// Seconds that an answer takes.
    async fn answer(&self, server: usize) -> f64 {
        let begun = Instant::now();
        let mut generation = self.engines[server]
            .start(64.into(), Some(200), None)
            .unwrap();
        while !generation.is_done() {
            generation.more().await.unwrap();
        }
        begun.elapsed().as_secs_f64()
    }
}

fn turns(servers: usize) -> Division {
    Division::Turns(NonZeroUsize::new(servers).unwrap())
}

#[tokio::test(start_paused = true)]
async fn nvml_reads_what_the_engine_does() {
    let rig = Rig::new(2, 1, turns(1));
    let idle = rig.gpu(1);
    assert_eq!(idle.uuid, "GPU-706f696e-7473-6d61-6e00-000000000001");
    assert_eq!((idle.power, idle.utilization), (70_000, 0));
    assert_eq!(idle.clock_event_reasons, 0x1);
    assert_eq!(idle.processes[0].pid, std::process::id());
    assert_eq!(idle.processes[0].memory, idle.memory_used);
    assert!(
        (18e9..22e9).contains(&(idle.memory_used as f64)),
        "weights and 1,000 blocks"
    );
    let running = rig.engines[1].start(64.into(), Some(2000), None).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let busy = rig.gpu(1);
    assert!(
        busy.power > 200_000 && busy.power < 700_000,
        "{}",
        busy.power
    );
    assert_eq!((busy.utilization, busy.clock_event_reasons), (100, 0));
    assert!(
        busy.gpm.unwrap().dram_bandwidth > 0.5,
        "decoding reads memory"
    );
    assert_eq!(busy.memory_used, idle.memory_used);
    // A second at no less than idle and no more than now.
    let joules = (busy.energy - idle.energy) as f64 / 1e3;
    assert!((70.0..700.0).contains(&joules), "{joules}");
    assert!(busy.temperature >= idle.temperature);
    assert_eq!(rig.gpu(0).utilization, 0, "the other server has its own");
    drop(running);
    rig.engines[1].die();
    let dead = rig.gpu(1);
    assert!(dead.memory_used == 0 && dead.processes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn errors_mark_the_board_and_end_whom_they_must() {
    // XID, engine of the server that it was ordered for, of its neighbour on the board, recovery action.
    let (up, dead, hung) = ((false, false), (true, false), (false, true));
    for (xid, own, neighbour, action) in [
        (13, dead, up, 0),
        (31, dead, up, 0),
        (94, dead, up, 0),
        (48, dead, dead, 1),
        (95, dead, dead, 1),
        (63, up, up, 0),
        (64, up, up, 0),
        (74, up, up, 0),
        (92, up, up, 0),
        (119, hung, hung, 1),
        (7, up, up, 0),
    ] {
        let rig = Rig::new(3, 1, turns(2));
        rig.order(0, &format!("{{\"xid\":{xid}}}")).unwrap();
        let life = |server: usize| (rig.engines[server].is_dead(), rig.engines[server].is_hung());
        assert_eq!(
            (life(0), life(1), life(2)),
            (own, neighbour, up),
            "XID {xid}"
        );
        let state = rig.boards.state();
        let (gpu, event) = (&state.gpus[0], state.events.last().unwrap());
        assert_eq!((event.gpu, event.kind, event.data), (0, 8, xid));
        assert_eq!(gpu.recovery_action, action, "XID {xid}");
        let seen = (
            gpu.ecc_uncorrected,
            gpu.remap_pending,
            gpu.remap_failed,
            gpu.links[0].errors,
            gpu.ecc_corrected,
        );
        let both = xid == 48 || xid == 95;
        let expected = (
            u64::from(both),
            xid == 63,
            xid == 64,
            u64::from(xid == 74),
            u64::from(xid == 92),
        );
        assert_eq!(seen, expected, "XID {xid}");
        assert_eq!(state.events.len(), if both { 2 } else { 1 });
        rig.order(0, r#"{"clear":true}"#).unwrap();
        let healed = rig.gpu(0);
        assert_eq!((healed.recovery_action, healed.ecc_uncorrected), (0, 0));
        assert!(!healed.remap_pending && !healed.remap_failed);
        assert_eq!(life(0), own, "a reset starts no process");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_gpu_ends_its_process_after_a_timeout() {
    let rig = Rig::new(1, 2, turns(1));
    rig.order(0, r#"{"xid":79,"rank":1,"timeout_ms":500}"#)
        .unwrap();
    assert_eq!((rig.gpu(0).lost, rig.gpu(1).lost), (false, true));
    assert!(rig.boards.seat(0).is_lost() && rig.engines[0].is_hung());
    tokio::time::sleep(Duration::from_millis(501)).await;
    assert!(rig.engines[0].is_dead());
    // A process that was started again meanwhile stays.
    rig.order(0, r#"{"clear":true,"xid":79}"#).unwrap();
    rig.order(0, r#"{"clear":true}"#).unwrap();
    rig.engines[0].restart();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(!rig.engines[0].is_dead() && !rig.gpu(1).lost);
}

#[tokio::test(start_paused = true)]
async fn heat_caps_and_neighbours_slow_an_engine_down() {
    let rig = Rig::new(1, 1, turns(1));
    let healthy = rig.answer(0).await;
    let check = async |order: &str, factor: f64, reasons, clock, processes| {
        rig.order(0, order).unwrap();
        let gpu = rig.gpu(0);
        assert_eq!(gpu.clock_event_reasons & !1, reasons, "{order}");
        assert_eq!(
            (gpu.sm_clock, gpu.processes.len()),
            (clock, processes),
            "{order}"
        );
        let found = rig.answer(0).await / healthy;
        assert!((found / factor - 1.0).abs() < 0.15, "{order}: {found}");
        rig.order(0, r#"{"clear":true}"#).unwrap();
        gpu
    };
    // Decoding waits for memory: slower compute hardly shows.
    let hot = check(
        r#"{"thermal":{"compute":4,"memory":1.2}}"#,
        1.25,
        0x48,
        495,
        1,
    )
    .await;
    assert!(hot.temperature > hot.temperature_slowdown);
    let capped = check(r#"{"power_cap":350}"#, 1.0, 0x4, 1523, 1).await;
    assert_eq!(capped.power_limit, 350_000);
    let shared = check(
        r#"{"cotenant":{"memory_gib":20,"slow":2}}"#,
        2.0,
        0,
        1980,
        2,
    )
    .await;
    assert_eq!(shared.processes[1].memory, 20 << 30);
    assert_eq!(shared.utilization, 100);
    assert!((rig.answer(0).await / healthy - 1.0).abs() < 1e-9);
    rig.order(0, r#"{"cotenant":{"memory_gib":1000}}"#).unwrap();
    let full = rig.gpu(0);
    assert_eq!(full.memory_used + full.memory_reserved, full.memory_total);
}

#[tokio::test(start_paused = true)]
async fn servers_on_one_gpu_take_turns() {
    let rig = Rig::new(2, 1, turns(2));
    let alone = rig.answer(0).await;
    let (one, other) = tokio::join!(rig.answer(0), rig.answer(1));
    assert!(
        one > 1.7 * alone && other > 1.7 * alone,
        "{alone} {one} {other}"
    );
    let state = rig.boards.state();
    assert_eq!(state.gpus.len(), 1);
    assert_eq!(
        state.gpus[0].processes.len(),
        1,
        "one process, with the memory of both"
    );
    let memory = rig.engines[0].gpu().unwrap().memory_used;
    assert_eq!(state.gpus[0].memory_used, 2 * memory);
}

#[tokio::test(start_paused = true)]
async fn instances_of_a_board_are_apart_but_for_its_health() {
    let mig = MigProfile::find("3g.40gb").unwrap();
    let rig = Rig::new(2, 1, Division::Mig(mig));
    let whole = Rig::new(1, 1, turns(1)).answer(0).await;
    let (one, other) = tokio::join!(rig.answer(0), rig.answer(1));
    assert_eq!(one, other);
    assert!((1.7..2.3).contains(&(one / whole)), "half the bandwidth");
    rig.order(1, r#"{"cotenant":{"memory_gib":2,"slow":2}}"#)
        .unwrap();
    rig.order(1, r#"{"xid":31}"#).unwrap();
    let state = rig.boards.state();
    let gpu = &state.gpus[0];
    let seen: Vec<_> = gpu
        .mig
        .iter()
        .map(|mig| (&*mig.uuid, mig.gpu_instance, mig.processes.len()))
        .collect();
    assert_eq!(
        seen,
        [
            ("MIG-706f696e-7473-6d61-6e00-000000000000", 1, 1),
            ("MIG-706f696e-7473-6d61-6e00-000000000001", 2, 1),
        ],
        "the process died, the neighbour came"
    );
    assert_eq!(gpu.mig[0].memory_total, gpu.memory_total / 2);
    let event = state.events.last().unwrap();
    assert_eq!(
        (event.gpu_instance, event.compute_instance),
        (Some(2), Some(0))
    );
    assert!(rig.engines[1].is_dead() && !rig.engines[0].is_dead());
    rig.order(1, r#"{"xid":48}"#).unwrap();
    assert!(rig.engines[0].is_dead(), "it is one board");
}

#[tokio::test(start_paused = true)]
async fn orders_that_make_no_sense_are_refused_with_the_reason() {
    let rig = Rig::new(1, 2, turns(1));
    let before = rig.boards.state();
    for (order, words) in [
        ("{}", "one of xid, thermal"),
        (r#"{"rank":1}"#, "one of xid, thermal"),
        (r#"{"xid":79,"rank":2}"#, "rank: the server has 2 GPUs"),
        (r#"{"xid":0}"#, "from 1"),
        (r#"{"xid":154}"#, "XID 154 has one"),
        (r#"{"xid":48,"action":1}"#, "no other XID has"),
        (r#"{"xid":154,"action":5}"#, "2 node reboot"),
        (r#"{"xid":48,"timeout_ms":1}"#, "only XID 79"),
        (r#"{"thermal":{"compute":0}}"#, "thermal: factors"),
        (r#"{"power_cap":701}"#, "more than 70 and at most 700"),
        (r#"{"cotenant":{"slow":0.5}}"#, "slow is 1 or more"),
        (
            r#"{"cotenant":{"memory_gib":-1}}"#,
            "memory_gib is 0 or more",
        ),
        (
            r#"{"heat":1}"#,
            "unknown field `heat`, expected one of `clear`, `rank`, `xid`",
        ),
        (r#"{"thermal":{"sm":1}}"#, "expected `compute` or `memory`"),
    ] {
        let error = rig.order(0, order).unwrap_err();
        assert!(error.contains(words), "{order}: {error}");
    }
    assert_eq!(rig.boards.state(), before);
    rig.order(0, r#"{"xid":154,"action":4}"#).unwrap();
    assert_eq!(rig.gpu(0).recovery_action, 4);
}

#[tokio::test(start_paused = true)]
async fn events_are_bounded_and_their_numbers_rise() {
    let rig = Rig::new(1, 1, turns(1));
    for _ in 0..300 {
        rig.order(0, r#"{"xid":63}"#).unwrap();
    }
    let events = rig.boards.state().events;
    assert_eq!(events.len(), MOST_EVENTS);
    let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
    assert_eq!((numbers[0], numbers[MOST_EVENTS - 1]), (45, 300));
}

#[tokio::test]
async fn the_file_follows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let rig = Rig::new(1, 1, turns(1));
    let boards = Arc::clone(&rig.boards);
    let file = path.clone();
    let writer = tokio::spawn(async move { follow(&boards, &file).await });
    let until = async |what: &dyn Fn(&State) -> bool| loop {
        if State::read(&path).is_ok_and(|state| what(&state)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    until(&|state| state.gpus.len() == 1 && !state.gpus[0].lost).await;
    rig.order(0, r#"{"xid":79}"#).unwrap();
    until(&|state| state.gpus[0].lost && state.events.len() == 1).await;
    let first = State::read(&path).unwrap().gpus[0].energy;
    until(&|state| state.gpus[0].energy > first).await;
    // It ends, and says why, when it cannot write any more.
    folder.close().unwrap();
    assert!(writer.await.unwrap().is_err());
}
