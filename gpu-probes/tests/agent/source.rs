//! A source that says what the test wants.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gpu_probes::agent::Open;
use gpu_probes::probe::{Class, EventSource, GpuProbe, ProbeError};
use gpu_probes::telemetry::{Event, Gpu};

#[derive(Default)]
pub(super) struct Said {
    pub(super) gpus: Vec<Gpu>,
    /// The source cannot be opened, found or read.
    pub(super) failing: Option<String>,
    /// A call does not return while this holds.
    pub(super) hanging: bool,
    pub(super) events: Vec<Event>,
    pub(super) opened: usize,
    /// How often was looked who is there, how often GPUs were read, and how often events were begun to be waited for.
    pub(super) discovered: usize,
    pub(super) sampled: usize,
    pub(super) listened: usize,
}

/// What the source says; the test changes it while the agent reads.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<(Mutex<Said>, Condvar)>);

struct Probe(Script);

struct Events(Script);

impl Script {
    pub(super) fn of(gpus: Vec<Gpu>) -> Self {
        let script = Self::default();
        script.edit(|said| said.gpus = gpus);
        script
    }

    pub(super) fn edit<T>(&self, edit: impl FnOnce(&mut Said) -> T) -> T {
        let result = edit(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        result
    }

    pub(super) fn open(&self) -> Open {
        let script = self.clone();
        Box::new(move || {
            script.edit(|said| said.opened += 1);
            script.check()?;
            Ok(Box::new(Probe(script.clone())))
        })
    }

    fn check(&self) -> Result<(), ProbeError> {
        let said = self.0.0.lock().unwrap();
        let said = self.0.1.wait_while(said, |said| said.hanging).unwrap();
        match &said.failing {
            Some(why) => Err(ProbeError::NoDriver(why.clone())),
            None => Ok(()),
        }
    }
}

impl GpuProbe for Probe {
    fn source(&self) -> &'static str {
        "script"
    }

    fn discover(&mut self) -> Result<Vec<Gpu>, ProbeError> {
        self.0.check()?;
        let bare = |gpu: &Gpu| Gpu {
            uuid: gpu.uuid.clone(),
            parent: gpu.parent.clone(),
            index: gpu.index,
            gpu_instance: gpu.gpu_instance,
            compute_instance: gpu.compute_instance,
            mig_profile: gpu.mig_profile.clone(),
            mig_enabled: gpu.mig_enabled,
            lost: gpu.lost,
            ..Gpu::default()
        };
        Ok(self.0.edit(|said| {
            said.discovered += 1;
            // A board that is lost does not tell what is on it.
            let is_lost = |uuid: &str| said.gpus.iter().any(|gpu| gpu.lost && gpu.uuid == uuid);
            let all = said.gpus.iter().filter(|gpu| !is_lost(&gpu.parent));
            all.map(bare).collect()
        }))
    }

    fn sample(&mut self, gpu: &mut Gpu, classes: &[Class]) -> Result<(), ProbeError> {
        self.0.check()?;
        self.0.edit(|said| {
            said.sampled += 1;
            let Some(now) = said.gpus.iter().find(|now| now.uuid == gpu.uuid) else {
                gpu.lost = true;
                return;
            };
            gpu.lost = now.lost;
            for class in classes {
                match class {
                    Class::Memory => gpu.memory = now.memory,
                    Class::Processes => gpu.processes.clone_from(&now.processes),
                    Class::Utilization => gpu.utilization = now.utilization,
                    Class::Clocks => gpu.clocks = now.clocks,
                    Class::Power => gpu.power = now.power,
                    Class::Temperature => gpu.temperature = now.temperature,
                    Class::Errors => gpu.errors = now.errors,
                    Class::Profile => gpu.profile = now.profile,
                }
            }
        });
        Ok(())
    }

    fn events(&mut self) -> Option<Box<dyn EventSource>> {
        self.0.edit(|said| said.listened += 1);
        Some(Box::new(Events(self.0.clone())))
    }
}

impl EventSource for Events {
    fn wait(&mut self, timeout: Duration) -> Result<Vec<Event>, ProbeError> {
        let said = self.0.0.0.lock().unwrap();
        let quiet = |said: &mut Said| said.events.is_empty();
        let (mut said, _) = self.0.0.1.wait_timeout_while(said, timeout, quiet).unwrap();
        Ok(std::mem::take(&mut said.events))
    }
}
