//! The thread that reads a source. NVML's calls block, and of a broken GPU they may block for long: a thread of its own
//! keeps that from everything else, and the ages of what it last read tell of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::periods::{CLASSES, Periods, place};
use super::state::{About, Node, Shared};
use crate::probe::{Class, EventSource, GpuProbe, ProbeError};
use crate::processes;
use crate::telemetry::{EventKind, Gpu};

/// Makes the source anew: what was missing when it was made last may be there now.
pub type Open = Box<dyn FnMut() -> Result<Box<dyn GpuProbe>, ProbeError> + Send>;

/// Between two looks at who is there.
const DISCOVER: Duration = Duration::from_secs(10);
/// A source in which nothing could be read for this long is made anew; until then its GPUs stay, and age.
const PATIENCE: Duration = Duration::from_secs(3);
const SHORTEST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// How soon an event thread sees that it is to end.
const EVENT_WAIT: Duration = Duration::from_millis(250);
/// Processes of a GPU that are told.
const MOST_PROCESSES: usize = 256;

/// After a look at who is there, a storm of events does not bring the next one sooner than this.
const CALM: Duration = Duration::from_millis(500);

/// What the sampler is asked for while it waits.
#[derive(Debug)]
pub(super) struct Waker {
    /// Something happened: the errors are to be read at once.
    read: AtomicBool,
    /// Who is there may be others.
    discover: AtomicBool,
    stop: AtomicBool,
    /// Holds one: more would say no more.
    bell: SyncSender<()>,
}

pub(super) struct Sampler {
    pub shared: Arc<Shared>,
    pub periods: Periods,
    /// Where /proc is.
    pub proc: PathBuf,
    pub waker: Arc<Waker>,
    pub bell: Receiver<()>,
}

/// The thread that waits for events.
struct Events {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Why a source is left.
enum Left {
    Stopped,
    Failed(ProbeError),
}

// === impl Waker ===

impl Waker {
    pub(super) fn new() -> (Arc<Self>, Receiver<()>) {
        let (bell, rung) = sync_channel(1);
        let waker = Self {
            read: AtomicBool::new(false),
            discover: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            bell,
        };
        (Arc::new(waker), rung)
    }

    pub(super) fn stop(&self) {
        self.set(&self.stop);
    }

    fn set(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
        // Full: it has been rung and not heard yet.
        let _ = self.bell.try_send(());
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn take(flag: &AtomicBool) -> bool {
        flag.swap(false, Ordering::AcqRel)
    }
}

// === impl Sampler ===

impl Sampler {
    pub(super) fn run(self, mut open: Open) {
        let mut backoff = SHORTEST_BACKOFF;
        loop {
            let left = match open() {
                Ok(probe) => self.follow(probe, &mut backoff),
                Err(error) => Left::Failed(error),
            };
            let Left::Failed(error) = left else {
                return;
            };
            let problem = error.to_string();
            if self.shared.read(|state| state.problem(Instant::now())) != problem {
                tracing::warn!(%error, "GPUs cannot be read; trying on.");
            }
            self.shared.update(|state| {
                state.publish(Node::default(), Instant::now());
                state.set_problem(problem);
            });
            let until = Instant::now() + backoff;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            // What else rings is of a source that is gone.
            while let Some(wait) = until.checked_duration_since(Instant::now()) {
                let _ = self.bell.recv_timeout(wait);
                if self.waker.is_stopped() {
                    return;
                }
            }
        }
    }

    /// Reads until it fails or is told to stop.
    fn follow(&self, mut probe: Box<dyn GpuProbe>, backoff: &mut Duration) -> Left {
        let mut node = Node {
            source: probe.source(),
            ..Node::default()
        };
        let mut events: Option<Events> = None;
        let mut discover_at = Instant::now();
        let mut discovered_at = discover_at;
        let mut due = [Instant::now(); CLASSES.len()];
        let mut good_at = Instant::now();
        loop {
            let now = Instant::now();
            if discover_at <= now {
                discover_at = now + DISCOVER;
                discovered_at = now;
                match probe.discover() {
                    Ok(gpus) => {
                        let changed = merge(&mut node, gpus, now);
                        let ended = events.as_ref().is_none_or(|e| e.thread.is_finished());
                        if changed || ended {
                            end(&mut events);
                            events = probe.events().and_then(|source| self.listen(source));
                        }
                        if changed {
                            due = [now; CLASSES.len()];
                            tracing::info!(
                                gpus = node.gpus.len(),
                                source = probe.source(),
                                "Found GPUs."
                            );
                        }
                    }
                    Err(error) if node.gpus.is_empty() => return Left::Failed(error),
                    // Reading tells whether the source is broken.
                    Err(error) => tracing::warn!(%error, "Looking for GPUs failed."),
                }
            }
            let classes: Vec<Class> = CLASSES
                .into_iter()
                .filter(|&class| due[place(class)] <= now)
                .collect();
            if !classes.is_empty() {
                match self.read(&mut *probe, &mut node, &classes) {
                    Ok(()) => {
                        good_at = Instant::now();
                        *backoff = SHORTEST_BACKOFF;
                    }
                    Err(error) if good_at.elapsed() >= PATIENCE => {
                        end(&mut events);
                        return Left::Failed(error);
                    }
                    Err(error) => tracing::debug!(%error, "Nothing could be read."),
                }
                let now = Instant::now();
                for class in classes {
                    let next = &mut due[place(class)];
                    // What was missed is not made up for.
                    *next = (*next + self.periods.of(class)).max(now);
                }
            }
            let next = due.iter().copied().fold(discover_at, Instant::min);
            let wait = next.saturating_duration_since(Instant::now());
            // Rung or not, it is time to look.
            let _ = self.bell.recv_timeout(wait);
            if self.waker.is_stopped() {
                end(&mut events);
                return Left::Stopped;
            }
            if Waker::take(&self.waker.read) {
                due[place(Class::Errors)] = Instant::now();
            }
            if Waker::take(&self.waker.discover) {
                discover_at = discovered_at + CALM;
            }
        }
    }

    /// Reads `classes` of all GPUs and tells them. An error if nothing could be read.
    fn read(
        &self,
        probe: &mut dyn GpuProbe,
        node: &mut Node,
        classes: &[Class],
    ) -> Result<(), ProbeError> {
        let mut failed = None;
        let mut good = node.gpus.is_empty();
        let mut processes_changed = false;
        for (gpu, about) in node.gpus.iter_mut().zip(&mut node.about) {
            let was = (gpu.lost, pids(gpu));
            if let Err(error) = probe.sample(gpu, classes) {
                failed = Some((gpu.uuid.clone(), error));
                continue;
            }
            good = true;
            if gpu.lost {
                forget(gpu);
            }
            if classes.contains(&Class::Processes) {
                gpu.processes.truncate(MOST_PROCESSES);
                self.look_at_processes(gpu, about);
            }
            processes_changed |= was.1 != pids(gpu);
            if gpu.lost != was.0 {
                self.waker.set(&self.waker.discover);
            }
            let now = Instant::now();
            for &class in classes {
                about.read[place(class)] = now;
            }
        }
        let problem = match failed {
            Some((_, error)) if !good => return Err(error),
            Some((uuid, error)) => format!("{uuid} cannot be read: {error}"),
            None => String::new(),
        };
        let readings = node.clone();
        self.shared.update(|state| {
            state.publish(readings, Instant::now());
            state.set_problem(problem);
        });
        if processes_changed {
            self.shared.processes.notify_one();
        }
        Ok(())
    }

    fn look_at_processes(&self, gpu: &mut Gpu, about: &mut About) {
        about.seats.clear();
        for process in &mut gpu.processes {
            about.seats.push(processes::seat(&self.proc, process.pid));
            process.name = processes::name(&self.proc, process.pid);
        }
    }

    /// Waits for events on a thread of its own.
    fn listen(&self, mut source: Box<dyn EventSource>) -> Option<Events> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let shared = Arc::clone(&self.shared);
        let waker = Arc::clone(&self.waker);
        let listen = move || {
            while !stopped.load(Ordering::Relaxed) {
                match source.wait(EVENT_WAIT) {
                    Ok(events) if events.is_empty() => {}
                    Ok(events) => {
                        let changes = |kind| {
                            matches!(
                                kind,
                                EventKind::MigChanged
                                    | EventKind::GpuLost
                                    | EventKind::RecoveryAction
                            )
                        };
                        let discover = events.iter().any(|event| changes(event.kind()));
                        for event in &events {
                            let kind = event.kind().as_str_name();
                            tracing::warn!(
                                uuid = event.uuid,
                                kind,
                                value = event.value,
                                "A GPU reports."
                            );
                        }
                        shared.update(|state| state.happened(events, Instant::now()));
                        waker.set(&waker.read);
                        if discover {
                            waker.set(&waker.discover);
                        }
                    }
                    Err(error) => {
                        // The next discovery starts it anew.
                        tracing::warn!(%error, "Events cannot be waited for.");
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("gpu-events".to_owned());
        let thread = thread.spawn(listen);
        let thread = thread.inspect_err(|error| tracing::error!(%error, "No thread for events."));
        let thread = thread.ok()?;
        Some(Events { stop, thread })
    }
}

/// Ends the thread and waits for it, so that one event is not seen by two.
fn end(events: &mut Option<Events>) {
    if let Some(Events { stop, thread }) = events.take() {
        stop.store(true, Ordering::Relaxed);
        if thread.join().is_err() {
            tracing::error!("The thread for events panicked.");
        }
    }
}

fn pids(gpu: &Gpu) -> Vec<u32> {
    gpu.processes.iter().map(|process| process.pid).collect()
}

/// A GPU that answers no more has no readings: the last ones would look like those of a healthy one.
fn forget(gpu: &mut Gpu) {
    gpu.memory = None;
    gpu.processes.clear();
    gpu.utilization = None;
    gpu.clocks = None;
    gpu.power = None;
    gpu.temperature = None;
    gpu.errors = None;
    gpu.profile = None;
    gpu.links.clear();
}

/// Takes who is there now into `node`; whether that is another set. What was read of those that stay, stays. A lost GPU
/// stays even if it is no longer listed, and its instances with it: its going must not look as if it had been taken away.
fn merge(node: &mut Node, found: Vec<Gpu>, now: Instant) -> bool {
    let gpus = std::mem::take(&mut node.gpus).into_iter();
    let mut left: Vec<(Gpu, About)> = gpus.zip(std::mem::take(&mut node.about)).collect();
    let mut changed = false;
    for identity in found {
        match left.iter().position(|(gpu, _)| gpu.uuid == identity.uuid) {
            Some(at) => {
                let (gpu, about) = left.remove(at);
                changed |= gpu.mig_enabled != identity.mig_enabled;
                node.gpus.push(with_readings(identity, gpu));
                node.about.push(about);
            }
            None => {
                changed = true;
                node.gpus.push(identity);
                node.about.push(About {
                    read: [now; CLASSES.len()],
                    seats: Vec::new(),
                });
            }
        }
    }
    let lost: Vec<String> = left
        .iter()
        .filter(|(gpu, _)| gpu.lost && gpu.parent.is_empty())
        .map(|(gpu, _)| gpu.uuid.clone())
        .collect();
    for (mut gpu, about) in left {
        if lost.contains(&gpu.uuid) || lost.contains(&gpu.parent) {
            gpu.lost = true;
            node.gpus.push(gpu);
            node.about.push(about);
        } else {
            changed = true;
        }
    }
    changed
}

fn with_readings(identity: Gpu, gpu: Gpu) -> Gpu {
    Gpu {
        lost: gpu.lost,
        memory: gpu.memory,
        processes: gpu.processes,
        utilization: gpu.utilization,
        clocks: gpu.clocks,
        power: gpu.power,
        temperature: gpu.temperature,
        errors: gpu.errors,
        profile: gpu.profile,
        links: gpu.links,
        missing: gpu.missing,
        ..identity
    }
}
