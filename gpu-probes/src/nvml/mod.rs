//! GPUs as NVIDIA's management library (NVML) tells of them.
//!
//! The library is loaded when it is there, through nvml-wrapper; what the wrapper does not have, or panics on, is called by
//! its symbol (`raw`). Whatever a GPU, a driver or our permissions do not give is absent, named in `missing` with the
//! reason, and not asked for again until the next discovery. A GPU that is lost is marked so. When the driver goes, all is
//! dropped, and the next discovery begins anew: it may be back, in another version.

mod events;
mod fields;
mod gpm;
mod identity;
mod kmsg;
mod layout;
mod library;
mod links;
mod merge;
mod missing;
mod raw;
mod sample;
mod selftest;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

pub use selftest::{Answer, self_test};

use self::events::{Events, Names, Watched};
use self::library::{Handle, Library, Why};
use self::sample::{End, Target};
use crate::probe::{Class, EventSource, GpuProbe, ProbeError};
use crate::telemetry::Gpu;

/// [`GpuProbe::source`], and the source of its events.
const SOURCE: &str = "nvml";
/// The source of events from the kernel log.
const KMSG: &str = "kmsg";
/// Where the kernel log is.
const KERNEL_LOG: &str = "/dev/kmsg";

/// Where to look.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The library; none = the system's `libnvidia-ml.so.1`.
    pub library: Option<PathBuf>,
    /// The kernel log, for the processes behind XIDs; none = it is not read. One that may not be read is done without.
    pub kmsg: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            library: None,
            kmsg: Some(KERNEL_LOG.into()),
        }
    }
}

/// Reads GPUs through NVML.
#[derive(Debug)]
pub struct NvmlProbe {
    settings: Settings,
    connection: Option<Connection>,
    problem: Option<String>,
}

/// What is had of a library that was loaded.
#[derive(Debug)]
struct Connection {
    library: Arc<Library>,
    /// By UUID.
    targets: HashMap<String, Target>,
    /// Boards as they were seen last, by NVML's index, and their handles.
    boards: BTreeMap<u32, (Handle, Gpu)>,
    names: Names,
}

impl NvmlProbe {
    /// Loads nothing as yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            connection: None,
            problem: None,
        }
    }

    fn connect(&mut self) -> Result<&mut Connection, ProbeError> {
        if self.connection.is_none() {
            let library = Library::open(self.settings.library.as_deref())?;
            self.connection = Some(Connection {
                library,
                targets: HashMap::new(),
                boards: BTreeMap::new(),
                names: Names::default(),
            });
        }
        self.connection
            .as_mut()
            .ok_or_else(|| ProbeError::NoDriver("not connected".into()))
    }
}

impl GpuProbe for NvmlProbe {
    fn source(&self) -> &'static str {
        SOURCE
    }

    fn discover(&mut self) -> Result<Vec<Gpu>, ProbeError> {
        let found = self.connect().and_then(|connection| connection.discover());
        match found {
            Ok((gpus, problem)) => {
                self.problem = problem;
                Ok(gpus)
            }
            Err(error) => {
                self.connection = None;
                self.problem = None;
                Err(error)
            }
        }
    }

    fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    fn sample(&mut self, gpu: &mut Gpu, classes: &[Class]) -> Result<(), ProbeError> {
        let Some(connection) = &mut self.connection else {
            return Err(ProbeError::NoDriver(
                "GPUs are to be discovered first".into(),
            ));
        };
        match connection.sample(gpu, classes) {
            Ok(()) => Ok(()),
            Err(End::Lost) => {
                gpu.lost = true;
                forget(gpu, classes);
                Ok(())
            }
            Err(End::Unknown) => Err(ProbeError::Failed(format!(
                "GPU {} is not there: discover anew",
                gpu.uuid
            ))),
            Err(End::Gone(why)) => {
                self.connection = None;
                Err(why.of_library())
            }
        }
    }

    fn events(&mut self) -> Option<Box<dyn EventSource>> {
        let connection = self.connection.as_ref()?;
        let boards: Vec<Watched> = connection
            .boards
            .values()
            .map(|(handle, gpu)| Watched {
                handle: *handle,
                uuid: gpu.uuid.as_str().into(),
                address: kmsg::address(&gpu.pci_bus_id),
            })
            .collect();
        if boards.is_empty() {
            return None;
        }
        let kmsg = self.settings.kmsg.as_deref();
        Some(Box::new(Events::start(
            &connection.library,
            &boards,
            &connection.names,
            kmsg,
        )))
    }
}

impl Connection {
    /// All GPUs, and why some are not there.
    fn discover(&mut self) -> Result<(Vec<Gpu>, Option<String>), ProbeError> {
        let count = self
            .library
            .nvml()
            .device_count()
            .map_err(|error| Why::from(error).of_library())?;
        let driver_version = self.library.nvml().sys_driver_version().unwrap_or_default();
        let (mut gpus, mut problems, mut forbidden) = (Vec::new(), Vec::new(), 0);
        let (mut boards, mut targets, mut names) =
            (BTreeMap::new(), HashMap::new(), BTreeMap::new());
        for index in 0..count {
            match identity::board(&self.library, index) {
                Ok((handle, mut board, instances)) => {
                    board.driver_version.clone_from(&driver_version);
                    targets.insert(board.uuid.clone(), Target::new(handle, None));
                    boards.insert(index, (handle, board.clone()));
                    gpus.push(board);
                    for (instance_handle, mut instance) in instances {
                        instance.driver_version.clone_from(&driver_version);
                        let ids = (
                            instance.gpu_instance.unwrap_or(0),
                            instance.compute_instance.unwrap_or(0),
                        );
                        names.insert(
                            (instance.parent.clone(), ids.0, ids.1),
                            instance.uuid.clone(),
                        );
                        targets.insert(
                            instance.uuid.clone(),
                            Target::new(instance_handle, Some((handle, ids.0))),
                        );
                        gpus.push(instance);
                    }
                }
                Err(why @ Why::Gone(_)) => return Err(why.of_library()),
                Err(Why::Lost) => {
                    let (handle, lost) = self.lost(index);
                    if let Some(handle) = handle {
                        targets.insert(lost.uuid.clone(), Target::new(handle, None));
                        boards.insert(index, (handle, lost.clone()));
                    }
                    gpus.push(lost);
                }
                Err(why) => {
                    forbidden += u32::from(why == Why::NoPermission);
                    problems.push(format!("GPU {index}: {}", why.text()));
                }
            }
        }
        if count > 0 && forbidden == count {
            return Err(Why::NoPermission.of_library());
        }
        // GPM needs its last sample.
        for (uuid, target) in &mut targets {
            if let Some(known) = self.targets.remove(uuid) {
                target.inherit(known);
            }
        }
        self.targets = targets;
        self.boards = boards;
        self.names.set(names);
        Ok((gpus, (!problems.is_empty()).then(|| problems.join("; "))))
    }

    /// A board that is lost: the one that was at this index, else nobody knows who it is.
    fn lost(&self, index: u32) -> (Option<Handle>, Gpu) {
        match self.boards.get(&index) {
            Some((handle, known)) => (
                Some(*handle),
                Gpu {
                    lost: true,
                    ..known.clone()
                },
            ),
            None => {
                let unknown = Gpu {
                    uuid: format!("lost-{index}"),
                    index,
                    lost: true,
                    ..Gpu::default()
                };
                (None, unknown)
            }
        }
    }

    fn sample(&mut self, gpu: &mut Gpu, classes: &[Class]) -> Result<(), End> {
        let Some(target) = self.targets.get_mut(&gpu.uuid) else {
            // One that was lost before we came has no handle.
            return Err(if gpu.lost { End::Lost } else { End::Unknown });
        };
        // After a reset, the old handle may be no good.
        if gpu.lost
            && target.inside.is_none()
            && let Ok(device) = self
                .library
                .nvml()
                .device_by_pci_bus_id(gpu.pci_bus_id.as_str())
            && device.uuid().is_ok_and(|uuid| uuid == gpu.uuid)
        {
            target.handle = Handle::of(&device);
        }
        sample::sample(&self.library, target, gpu, classes)?;
        gpu.lost = false;
        Ok(())
    }
}

/// Takes out what would have been read: of a lost GPU the last numbers say nothing.
fn forget(gpu: &mut Gpu, classes: &[Class]) {
    for class in classes {
        match class {
            Class::Memory => gpu.memory = None,
            Class::Processes => gpu.processes.clear(),
            Class::Utilization => gpu.utilization = None,
            Class::Clocks => gpu.clocks = None,
            Class::Power => gpu.power = None,
            Class::Temperature => gpu.temperature = None,
            Class::Errors => {
                gpu.errors = None;
                gpu.links.clear();
            }
            Class::Profile => gpu.profile = None,
        }
    }
}
