//! What reading 8 GPUs takes, all signals once a second, and waiting for their events: `cargo bench -p gpu-probes`.
//!
//! It is measured against the fake library, whose calls look at a file each; the driver's go to the kernel, and some of
//! them to the GPU. So the figures say what the probe itself costs at most, not what the driver adds.

use std::time::{Duration, Instant};

use fake_state::{Gpm, Gpu, Link, Process, State};
use gpu_probes::nvml::{NvmlProbe, Settings};
use gpu_probes::probe::{Class, EventSource, GpuProbe, ProbeError};
use rustix::time::{ClockId, clock_gettime};

const GPUS: usize = 8;
const ROUNDS: u32 = 200;
const ALL: [Class; 8] = [
    Class::Memory,
    Class::Processes,
    Class::Utilization,
    Class::Clocks,
    Class::Power,
    Class::Temperature,
    Class::Errors,
    Class::Profile,
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let library = directory.path().join("libnvidia-ml.so.1");
    std::fs::copy(fake_state::library()?, &library)?;
    let gpus = (0..GPUS).map(|index| Gpu {
        uuid: format!("GPU-{index}"),
        processes: vec![Process {
            pid: 1,
            memory: 1 << 30,
        }],
        links: vec![
            Link {
                active: true,
                errors: 0
            };
            18
        ],
        gpm: Some(Gpm::default()),
        ..Gpu::default()
    });
    let state = State {
        driver_version: "570.124.06".into(),
        gpus: gpus.collect(),
        ..State::default()
    };
    state.write(&directory.path().join("libnvidia-ml.so.1.json"))?;
    let mut probe = NvmlProbe::new(Settings {
        library: Some(library),
        kmsg: None,
    });

    let mut gpus = probe.discover()?;
    let mut round = || gpus.iter_mut().try_for_each(|gpu| probe.sample(gpu, &ALL));
    round()?;
    let before = cpu();
    for _ in 0..ROUNDS {
        round()?;
    }
    report("sampling 8 GPUs at 1 Hz", (cpu() - before) / ROUNDS);

    let mut events = probe.events().ok_or("no events")?;
    let waited = Duration::from_secs(3);
    let before = cpu();
    wait(events.as_mut(), waited)?;
    report(
        "waiting for events of 8 GPUs",
        (cpu() - before) / waited.as_secs() as u32,
    );
    Ok(())
}

fn wait(events: &mut dyn EventSource, time: Duration) -> Result<(), ProbeError> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        events.wait(end.saturating_duration_since(Instant::now()))?;
    }
    Ok(())
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn report(what: &str, a_second: Duration) {
    println!("{what}: {:.3} % of a core", a_second.as_secs_f64() * 100.0);
}
