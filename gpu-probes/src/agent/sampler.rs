//! The thread that reads a source. NVML's calls block, and of a broken GPU they may block for long: a thread of its own
//! keeps that from everything else, and the ages of what it last read tell of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::listener::Listener;
use super::node::{self, About, Node, Seen};
use super::periods::{CLASSES, Periods, place};
use super::state::Shared;
use crate::probe::{Class, EventSource, GpuProbe, ProbeError};
use crate::processes;
use crate::telemetry::Gpu;

/// Makes the source anew: what was missing when it was made last may be there now.
pub type Open = Box<dyn FnMut() -> Result<Box<dyn GpuProbe>, ProbeError> + Send>;

/// Between two looks at who is there.
const DISCOVER: Duration = Duration::from_secs(10);
/// A source in which nothing could be read for this long is made anew; until then its GPUs stay, and age.
const PATIENCE: Duration = Duration::from_secs(3);
const SHORTEST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// What is wrong when nothing else is.
const NO_GPUS: &str = "the driver has no GPUs";
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

    pub(super) fn read(&self) {
        self.set(&self.read);
    }

    pub(super) fn discover(&self) {
        self.set(&self.discover);
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
        let mut listener = Listener::default();
        let mut discover_at = Instant::now();
        let mut discovered_at = discover_at;
        let mut due = [Instant::now(); CLASSES.len()];
        let mut good_at = Instant::now();
        // A GPU that was lost answers again, perhaps not to who waits for its events.
        let mut is_back = false;
        loop {
            let now = Instant::now();
            if discover_at <= now {
                discover_at = now + DISCOVER;
                discovered_at = now;
                match probe.discover() {
                    Ok(gpus) => {
                        let changed = node::merge(&mut node, gpus, now);
                        if changed || is_back || listener.has_ended() {
                            is_back = false;
                            // First, so that one event is not heard by two.
                            listener.end();
                            listener = self.listen(probe.events());
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
                    Err(error) => tracing::debug!(%error, "Looking for GPUs failed."),
                }
            }
            let classes: Vec<Class> = CLASSES
                .into_iter()
                .filter(|&class| due[place(class)] <= now)
                .collect();
            if !classes.is_empty() {
                match self.read(&mut *probe, &mut node, &classes) {
                    Ok(back) => {
                        is_back |= back;
                        good_at = Instant::now();
                        *backoff = SHORTEST_BACKOFF;
                    }
                    Err(error) if good_at.elapsed() >= PATIENCE => {
                        listener.end();
                        return Left::Failed(error);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "Nothing could be read.");
                        // A driver that was loaded again is found so.
                        discover_at = discovered_at + CALM;
                    }
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
                listener.end();
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

    /// Reads `classes` of all GPUs and tells them; whether a board that was lost is not any more. An error if nothing could be
    /// read.
    fn read(
        &self,
        probe: &mut dyn GpuProbe,
        node: &mut Node,
        classes: &[Class],
    ) -> Result<bool, ProbeError> {
        let mut failed = None;
        let mut good = node.gpus.is_empty();
        let (mut processes_changed, mut back) = (false, false);
        for (gpu, about) in node.gpus.iter_mut().zip(&mut node.about) {
            let was = (gpu.lost, pids(gpu));
            if let Err(error) = probe.sample(gpu, classes) {
                failed = Some((gpu.uuid.clone(), error));
                continue;
            }
            good = true;
            if gpu.lost {
                node::forget(gpu, about);
            }
            if classes.contains(&Class::Processes) {
                gpu.processes.truncate(MOST_PROCESSES);
                self.look_at_processes(gpu, about, &was.1);
            }
            processes_changed |= was.1 != pids(gpu);
            if gpu.lost != was.0 {
                back |= was.0 && gpu.parent.is_empty();
                self.waker.discover();
            }
            let now = Instant::now();
            for &class in classes {
                about.read[place(class)] = now;
            }
        }
        let problem = match failed {
            Some((_, error)) if !good => return Err(error),
            Some((uuid, error)) => format!("{uuid} cannot be read: {error}"),
            None if node.gpus.is_empty() => probe.problem().unwrap_or_else(|| NO_GPUS.to_owned()),
            None => probe.problem().unwrap_or_default(),
        };
        let readings = node.clone();
        self.shared.update(|state| {
            state.publish(readings, Instant::now());
            state.set_problem(problem);
        });
        if processes_changed {
            self.shared.processes.notify_one();
        }
        Ok(back)
    }

    fn listen(&self, source: Option<Box<dyn EventSource>>) -> Listener {
        let (shared, waker) = (Arc::clone(&self.shared), Arc::clone(&self.waker));
        source.map_or_else(Listener::default, |source| {
            Listener::start(source, shared, waker)
        })
    }

    /// `before`: the processes that were there.
    fn look_at_processes(&self, gpu: &mut Gpu, about: &mut About, before: &[u32]) {
        let seen = std::mem::take(&mut about.seen);
        let known = before.iter().zip(seen);
        let known: HashMap<u32, Seen> = known.map(|(pid, seen)| (*pid, seen)).collect();
        let now = Instant::now();
        for process in &mut gpu.processes {
            process.name = processes::name(&self.proc, process.pid);
            about.seen.push(Seen {
                seat: processes::seat(&self.proc, process.pid),
                since: known.get(&process.pid).map_or(now, |seen| seen.since),
            });
        }
    }
}

fn pids(gpu: &Gpu) -> Vec<u32> {
    gpu.processes.iter().map(|process| process.pid).collect()
}
