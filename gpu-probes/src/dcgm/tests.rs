use super::*;
use crate::telemetry::{Architecture, EventKind, Gpu};

/// As dcgm-exporter 4 writes it, with a driver-version label and pods.
const NEW: &str = r#"# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-a",pci_bus_id="00000000:01:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1",DCGM_FI_DRIVER_VERSION="580.95.05",container="vllm",namespace="ml",pod="vllm-0",pod_uid=""} 1410
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-a",pod="vllm-0",namespace="ml",container="vllm"} 10000
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",pod="vllm-0",namespace="ml",container="vllm"} 70000
DCGM_FI_DEV_FB_RESERVED{gpu="0",UUID="GPU-a"} 600
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a"} 97
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a"} 412.5
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a"} 123456789
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a"} 61
DCGM_FI_DEV_MEMORY_TEMP{gpu="0",UUID="GPU-a"} 9223372036854775794
DCGM_FI_DEV_ROW_REMAP_FAILURE{gpu="0",UUID="GPU-a"} 0
DCGM_FI_PROF_DRAM_ACTIVE{gpu="0",UUID="GPU-a"} 0.42
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-a",err_code="0",err_msg="No Error"} 0
DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL{gpu="0",UUID="GPU-a",pod="vllm-0"} 3
DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL{gpu="0",UUID="GPU-a",pod="other-0",namespace="ml",container="c",vgpu="1"} 3
DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL{gpu="0",UUID="GPU-a"} 4
DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL{nvlink="2",gpu="0",gpu_uuid="GPU-a",hostname="node-1"} 4
DCGM_EXP_GPU_HEALTH_STATUS{gpu="0",UUID="GPU-a",health_watch="PCIE",health_error_code=""} 0
DCGM_EXP_GPU_HEALTH_STATUS{gpu="0",UUID="GPU-a",health_watch="MEM",health_error_code="DCGM_FR_X"} 20
DCGM_EXP_GPU_HEALTH_STATUS{gpu="0",UUID="GPU-a",health_watch="SM",health_error_code=""} 0
process_start_time_seconds 1
"#;

fn one(text: &str) -> Gpu {
    let page = parse(text);
    assert_eq!((page.gpus.len(), page.bad_lines), (1, 0), "{page:?}");
    page.gpus.into_iter().next().unwrap()
}

#[test]
fn the_spellings_of_today() {
    let page = parse(NEW);
    assert_eq!((page.node.as_str(), page.bad_lines), ("node-1", 0));
    let gpu = &page.gpus[0];
    assert_eq!(
        (gpu.uuid.as_str(), gpu.index, gpu.pci_bus_id.as_str()),
        ("GPU-a", 0, "00000000:01:00.0")
    );
    assert_eq!(
        (gpu.name.as_str(), gpu.architecture()),
        ("NVIDIA H100 80GB HBM3", Architecture::Hopper)
    );
    assert_eq!(gpu.driver_version, "580.95.05");
    let memory = gpu.memory.unwrap();
    assert_eq!((memory.total, memory.used), (80_600 << 20, 70_000 << 20));
    assert_eq!(
        (memory.free, memory.reserved),
        (10_000 << 20, Some(600 << 20))
    );
    assert_eq!(gpu.utilization.unwrap().gpu, Some(0.97));
    assert_eq!(gpu.clocks.unwrap().sm, Some(1410));
    let power = gpu.power.unwrap();
    assert_eq!(
        (power.draw, power.limit, power.energy),
        (Some(412.5), None, Some(123_456.789))
    );
    let temperature = gpu.temperature.unwrap();
    assert_eq!(
        (temperature.gpu, temperature.memory),
        (Some(61.0), None),
        "a blank is absent"
    );
    let errors = gpu.errors.unwrap();
    assert_eq!(
        (errors.remap_failed, errors.remap_pending),
        (Some(false), None)
    );
    assert_eq!(
        errors.nvlink_errors,
        Some(7),
        "each counter once, whoever shares the GPU"
    );
    assert_eq!(errors.dcgm_health, Some(20));
    assert_eq!(gpu.profile.unwrap().dram_active, Some(0.42));
    let owners: Vec<_> = gpu
        .owners
        .iter()
        .map(|o| (o.pod.as_str(), o.container.as_str(), o.replica))
        .collect();
    assert_eq!(
        owners,
        [
            ("vllm-0", "vllm", None),
            ("vllm-0", "", None),
            ("other-0", "c", Some(1))
        ]
    );
    let missing: Vec<_> = gpu.missing.iter().map(|m| m.field.as_str()).collect();
    assert_eq!(missing, ["clocks.event_reasons"]);
}

#[test]
fn the_spellings_of_old() {
    let gpu = one(
        r#"dcgm_sm_clock{gpu="3",uuid="GPU-b",device="nvidia3",modelName="Tesla T4",pod_name="p",pod_namespace="n",container_name="c"} 1590
dcgm_gpu_temp{gpu="3",uuid="GPU-b"} 50
dcgm_fb_free{gpu="3",uuid="GPU-b"} 1
dcgm_fb_used{gpu="3",uuid="GPU-b"} 2
dcgm_gpu_utilization{gpu="3",uuid="GPU-b"} 50
dcgm_ecc_dbe_volatile_total{gpu="3",uuid="GPU-b"} 1
dcgm_power_usage{gpu="3",uuid="GPU-b"} 40
"#,
    );
    assert_eq!(
        (gpu.uuid.as_str(), gpu.index, gpu.architecture()),
        ("GPU-b", 3, Architecture::Turing)
    );
    assert_eq!(gpu.memory.unwrap().total, 3 << 20);
    assert_eq!(gpu.errors.unwrap().ecc_uncorrected, Some(1));
    let owner = &gpu.owners[0];
    assert_eq!(
        (
            owner.namespace.as_str(),
            owner.pod.as_str(),
            owner.container.as_str()
        ),
        ("n", "p", "c")
    );
}

#[test]
fn instances_have_their_memory_and_the_board_its_health() {
    let page = parse(
        r#"DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="9",modelName="NVIDIA A100-SXM4-80GB",pod="p9",namespace="n",container="c"} 5
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="9"} 6
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",GPU_I_PROFILE="2g.20gb",GPU_I_ID="3"} 7
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-a",GPU_I_PROFILE="2g.20gb",GPU_I_ID="3"} 8
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="9"} 44
DCGM_FI_DEV_GPU_TEMP{gpu="1",UUID="GPU-0"} 45
"#,
    );
    assert_eq!(page.bad_lines, 0);
    let who: Vec<_> = page
        .gpus
        .iter()
        .map(|g| (g.uuid.as_str(), g.parent.as_str(), g.mig_profile.as_str()))
        .collect();
    assert_eq!(
        who,
        [
            ("GPU-a", "", ""),
            ("MIG-GPU-a/3", "GPU-a", "2g.20gb"),
            ("MIG-GPU-a/9", "GPU-a", "1g.10gb"),
            ("GPU-0", "", "")
        ]
    );
    let [board, _, instance, _] = &page.gpus[..] else {
        panic!()
    };
    assert!(board.mig_enabled && !instance.mig_enabled);
    assert_eq!(
        (board.memory, board.owners.len()),
        (None, 0),
        "the board's memory is not the last instance's"
    );
    assert_eq!(
        (board.temperature.unwrap().gpu, instance.temperature),
        (Some(44.0), None)
    );
    assert_eq!(
        (instance.gpu_instance, instance.memory.unwrap().total),
        (Some(9), 11 << 20)
    );
    assert_eq!(instance.owners[0].pod, "p9");
}

#[test]
fn bad_lines_are_counted_and_the_rest_is_read() {
    let page = parse(
        r#"DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a"} 44
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a"
DCGM_FI_DEV_GPU_TEMP{modelName="NVIDIA B200"} 17
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",GPU_I_ID="x"} 17
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a"} -1
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a"} NaN
<html>
"#,
    );
    assert_eq!((page.gpus.len(), page.bad_lines), (1, 4));
    assert_eq!(page.gpus[0].temperature.unwrap().gpu, Some(44.0));
    assert_eq!((page.gpus[0].power, page.gpus[0].memory), (None, None));
    assert!(parse("").gpus.is_empty());
}

#[test]
fn what_is_kept_of_a_page_is_bounded() {
    let lines = |n: usize, of: &dyn Fn(usize) -> String| (0..n).map(of).collect::<String>();
    let page = parse(&lines(MOST_GPUS + 10, &|i| {
        format!("dcgm_gpu_temp{{gpu=\"{i}\",UUID=\"GPU-{i}\"}} 1\n")
    }));
    assert_eq!((page.gpus.len(), page.bad_lines), (MOST_GPUS, 10));
    let page = parse(&lines(MOST_OWNERS + 10, &|i| {
        format!("dcgm_gpu_temp{{UUID=\"GPU-a\",pod=\"p{i}\"}} 1\n")
    }));
    assert_eq!(
        (page.gpus[0].owners.len(), page.bad_lines),
        (MOST_OWNERS, 0)
    );
}

/// The events with each page as (kind, value), and its clock-event reasons.
type Told = (Vec<(EventKind, u64)>, Option<u64>);

fn follow<const N: usize>(pages: [&str; N]) -> Vec<Told> {
    let mut tracker = Tracker::default();
    let mut told = Vec::new();
    for lines in pages {
        let text: String = lines
            .split(' ')
            .filter(|l| !l.is_empty())
            .map(full)
            .collect();
        let mut page = parse(&(text + "dcgm_gpu_temp{UUID=\"GPU-a\"} 1\n"));
        assert_eq!(page.bad_lines, 0);
        let events = tracker.observe(&mut page);
        assert!(
            events
                .iter()
                .all(|event| event.uuid == "GPU-a" && event.source == "dcgm")
        );
        let reasons = page.gpus[0].clocks.and_then(|clocks| clocks.event_reasons);
        told.push((
            events
                .iter()
                .map(|event| (event.kind(), event.value))
                .collect(),
            reasons,
        ));
    }
    told
}

/// `xid=79`, `count/79=2`, `thermal=5`, `event/hw_thermal=1`, `dbe=1`, `reasons=8` as lines.
fn full(short: &str) -> String {
    let (name, value) = short.split_once('=').unwrap();
    let (name, label) = name.split_once('/').unwrap_or((name, ""));
    let (metric, label) = match name {
        "xid" => ("DCGM_FI_DEV_XID_ERRORS", String::new()),
        "count" if label.is_empty() => ("DCGM_EXP_XID_ERRORS_COUNT", String::new()),
        "count" => ("DCGM_EXP_XID_ERRORS_COUNT", format!(",xid=\"{label}\"")),
        "event" => (
            "DCGM_EXP_CLOCK_EVENTS_COUNT",
            format!(",clock_event=\"{label}\""),
        ),
        "thermal" => ("DCGM_FI_DEV_THERMAL_VIOLATION", String::new()),
        "power" => ("DCGM_FI_DEV_POWER_VIOLATION", String::new()),
        "dbe" => ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", String::new()),
        "reasons" => ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", String::new()),
        _ => panic!("{name}"),
    };
    format!("{metric}{{UUID=\"GPU-a\"{label}}} {value}\n")
}

#[test]
fn an_xid_is_an_event_when_it_changes() {
    use EventKind::Xid;
    let told = follow([
        "xid=13", "xid=13", "xid=79", "xid=0", "xid=79", "", "xid=31",
    ]);
    let events: Vec<_> = told.into_iter().map(|(events, _)| events).collect();
    let one = |xid| vec![(Xid, xid)];
    assert_eq!(
        events,
        [vec![], vec![], one(79), vec![], one(79), vec![], one(31)],
        "the first page may be weeks old"
    );
}

#[test]
fn counts_of_xids_tell_the_same_one_twice_and_no_more_than_that() {
    use EventKind::Xid;
    let told = follow([
        "count=0 xid=0",
        "count/31=1 count/45=2 xid=45",
        "count/31=2 count/45=2 xid=31",
        "count/45=1 xid=31",
        "count=0 xid=31",
        "count/31=1 xid=31",
    ]);
    let events: Vec<_> = told.into_iter().map(|(events, _)| events).collect();
    assert_eq!(
        events,
        [
            vec![],
            vec![(Xid, 31), (Xid, 45)],
            vec![(Xid, 31)],
            vec![],
            vec![],
            vec![(Xid, 31)]
        ],
        "a window that passes is no event"
    );
}

#[test]
fn a_counter_that_falls_is_a_restart() {
    use EventKind::EccUncorrected;
    let told = follow(["dbe=5", "dbe=7", "dbe=0", "dbe=1", "", "dbe=9"]);
    let events: Vec<_> = told.into_iter().map(|(events, _)| events).collect();
    assert_eq!(
        events,
        [
            vec![],
            vec![(EccUncorrected, 2)],
            vec![],
            vec![(EccUncorrected, 1)],
            vec![],
            vec![]
        ]
    );
}

#[test]
fn counters_that_rise_say_why_clocks_are_low() {
    let reasons = |told: Vec<(_, Option<u64>)>| {
        told.into_iter()
            .map(|(_, reasons)| reasons)
            .collect::<Vec<_>>()
    };
    let violations = follow([
        "thermal=5 power=1",
        "thermal=9 power=1",
        "thermal=9 power=1",
        "thermal=0 power=2",
    ]);
    assert_eq!(
        reasons(violations),
        [None, Some(0x20), Some(0), Some(0x4)],
        "one that falls is a restart"
    );
    let counts = follow([
        "event/gpu_idle=10",
        "event/gpu_idle=9 event/hw_thermal=1",
        "event/gpu_idle=9 event/hw_thermal=1",
        "event/hw_thermal=0",
        "",
    ]);
    assert_eq!(
        reasons(counts),
        [None, Some(0x40), Some(0x40), Some(0), Some(0)]
    );
    let told = follow(["thermal=5 reasons=0", "thermal=9 reasons=8"]);
    assert_eq!(
        reasons(told),
        [Some(0), Some(8)],
        "the bits themselves go first"
    );
}
