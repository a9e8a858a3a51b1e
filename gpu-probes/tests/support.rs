//! A fake library with a state file of its own.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fake_state::{Event, Gpu, Link, State};
use gpu_probes::nvml::{NvmlProbe, Settings};
use gpu_probes::probe::{Class, EventSource, GpuProbe};
use gpu_probes::telemetry;
use tempfile::TempDir;

/// All signals.
pub(crate) const ALL: [Class; 8] = [
    Class::Memory,
    Class::Processes,
    Class::Utilization,
    Class::Clocks,
    Class::Power,
    Class::Temperature,
    Class::Errors,
    Class::Profile,
];

/// How long anything may take that is to come.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A node with GPUs that are not there.
pub(crate) struct Node {
    directory: TempDir,
    pub(crate) state: State,
}

impl Node {
    /// With the driver loaded.
    pub(crate) fn new(state: State) -> Self {
        let node = Self::without_driver(state);
        node.write();
        node
    }

    /// Without: [`Node::write`] loads it.
    pub(crate) fn without_driver(state: State) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // A copy is a library of its own to the loader, with its own state file beside it.
        std::fs::copy(
            fake_state::library().unwrap(),
            directory.path().join("libnvidia-ml.so.1"),
        )
        .unwrap();
        Self { directory, state }
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.directory.path().join("libnvidia-ml.so.1")
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.directory.path().join("libnvidia-ml.so.1.json")
    }

    /// A kernel log, which is read once it is there.
    pub(crate) fn kmsg(&self) -> PathBuf {
        self.directory.path().join("kmsg")
    }

    pub(crate) fn write(&self) {
        self.state.write(&self.state_file()).unwrap();
    }

    /// Changes the state, and lets the library see it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.state);
        self.write();
    }

    /// Lets events happen: (GPU, NVML's bit, data), with the file written once.
    pub(crate) fn happen<const N: usize>(&mut self, events: [(usize, u64, u64); N]) {
        let last = self.state.events.last().map_or(0, |event| event.sequence);
        let events = events.into_iter().zip(last + 1..);
        let events = events.map(|((gpu, kind, data), sequence)| Event {
            sequence,
            gpu,
            kind,
            data,
            ..Event::default()
        });
        self.state.events.extend(events);
        self.write();
    }

    pub(crate) fn probe(&self) -> NvmlProbe {
        NvmlProbe::new(Settings {
            library: Some(self.library()),
            kmsg: Some(self.kmsg()),
        })
    }
}

/// A GPU that tells all there is.
pub(crate) fn gpu(uuid: &str) -> Gpu {
    Gpu {
        uuid: uuid.into(),
        links: vec![
            Link {
                active: true,
                errors: 3,
            },
            Link {
                active: false,
                errors: 0,
            },
        ],
        gpm: Some(fake_state::Gpm {
            sm: 0.5,
            tensor: 0.25,
            dram_bandwidth: 0.75,
        }),
        ..Gpu::default()
    }
}

pub(crate) fn state(gpus: Vec<Gpu>) -> State {
    State {
        driver_version: "570.124.06".into(),
        gpus,
        ..State::default()
    }
}

/// Discovers and samples all of all GPUs.
pub(crate) fn read(probe: &mut NvmlProbe) -> Vec<telemetry::Gpu> {
    let mut gpus = probe.discover().unwrap();
    for gpu in &mut gpus {
        probe.sample(gpu, &ALL).unwrap();
    }
    gpus
}

pub(crate) fn missing(gpu: &telemetry::Gpu) -> Vec<(&str, &str)> {
    gpu.missing
        .iter()
        .map(|missing| (missing.field.as_str(), missing.why.as_str()))
        .collect()
}

/// The next `count` events, however many calls that takes.
pub(crate) fn events(source: &mut dyn EventSource, count: usize) -> Vec<telemetry::Event> {
    let end = Instant::now() + SOON;
    let mut all = Vec::new();
    while all.len() < count {
        assert!(
            Instant::now() < end,
            "{} of {count} events came: {all:?}",
            all.len()
        );
        all.extend(source.wait(Duration::from_millis(100)).unwrap());
    }
    assert_eq!(all.len(), count, "{all:?}");
    all
}

/// Takes exported functions away from a library that is not loaded yet: those for which `keep` says no.
pub(crate) fn without_symbols(library: &Path, keep: impl Fn(&str) -> bool) {
    let file = OpenOptions::new().write(true).open(library).unwrap();
    for (name, places) in symbols().iter().filter(|(name, _)| !keep(name)) {
        for place in places {
            // The loader finds a name by its hash and then compares it: one letter changed, and it is not there.
            file.write_all_at(b"~", place + name.len() as u64 - 1)
                .unwrap();
        }
    }
}

/// The names that the library exports for NVML, and where they stand in the file.
pub(crate) fn symbols() -> &'static BTreeMap<String, Vec<u64>> {
    static SYMBOLS: OnceLock<BTreeMap<String, Vec<u64>>> = OnceLock::new();
    SYMBOLS.get_or_init(|| {
        let bytes = std::fs::read(fake_state::library().unwrap()).unwrap();
        let mut found = BTreeMap::<_, Vec<_>>::new();
        let mut place = 0;
        // In a table of strings each ends with a 0. There are two: the loader's, and the debugger's.
        for text in bytes.split(|byte| *byte == 0) {
            let is_name = |text: &&str| {
                text.starts_with("nvml")
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            if let Some(name) = std::str::from_utf8(text).ok().filter(is_name) {
                found.entry(name.to_owned()).or_default().push(place);
            }
            place += text.len() as u64 + 1;
        }
        found
    })
}
