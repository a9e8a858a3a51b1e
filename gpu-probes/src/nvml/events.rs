//! What happens to GPUs, at once.
//!
//! Each GPU has an event set and a thread that waits in it: a set with a lost GPU in it answers GPU_IS_LOST and nothing
//! else, and would take the other GPUs along. One more thread follows the kernel log. All of them fill one bounded queue.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{
    nvmlEventMigConfigChange, nvmlEventTypeDoubleBitEccError, nvmlEventTypeGpuRecoveryAction,
    nvmlEventTypeGpuUnavailableError, nvmlEventTypeXidCriticalError,
};

use super::kmsg::{Address, Kmsg, Line};
use super::library::{Handle, Library, Why};
use super::merge::{Merge, Told};
use super::raw::{EventSet, RawEvent};
use super::{KMSG, SOURCE, fields};
use crate::probe::{EventSource, ProbeError};
use crate::telemetry::{Event, EventKind};

const XID: u64 = nvmlEventTypeXidCriticalError as u64;
const DOUBLE_BIT: u64 = nvmlEventTypeDoubleBitEccError as u64;
const MIG_CHANGE: u64 = nvmlEventMigConfigChange as u64;
const UNAVAILABLE: u64 = nvmlEventTypeGpuUnavailableError as u64;
const RECOVERY: u64 = nvmlEventTypeGpuRecoveryAction as u64;

/// The kinds that are asked for, where the GPU has them.
pub(super) const KINDS: u64 = XID | DOUBLE_BIT | MIG_CHANGE | UNAVAILABLE | RECOVERY;

/// The XID that says that the recovery action changed.
const XID_RECOVERY_ACTION: u64 = 154;

/// How many events wait for whoever reads them; then NVML and the log wait.
const QUEUE: usize = 256;
/// How long a thread waits before it looks whether it is still wanted.
const TURN: Duration = Duration::from_millis(500);
/// How long until a GPU that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Board, GPU instance and compute instance, to the UUID of the MIG instance.
pub(super) type Instances = BTreeMap<(String, u32, u32), String>;

/// The MIG instances of all boards; discovery renews them.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(Arc<Mutex<Instances>>);

impl Names {
    pub(super) fn set(&self, names: Instances) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// The instance that an event names, where it can be told which.
    fn find(&self, board: &str, gpu: Option<u32>, compute: Option<u32>) -> Option<String> {
        let gpu = gpu?;
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fits = names.iter().filter(|((of, gi, ci), _)| {
            of == board && *gi == gpu && compute.is_none_or(|c| c == *ci)
        });
        let (_, name) = fits.next()?;
        fits.next().is_none().then(|| name.clone())
    }
}

/// A board to be watched.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) handle: Handle,
    pub(super) uuid: Arc<str>,
    pub(super) address: Option<Address>,
}

enum Message {
    Told(Told),
    /// The driver went.
    Failed(ProbeError),
    /// The log can no longer be read.
    LogEnded,
}

/// Events of all boards.
pub(super) struct Events {
    queue: Receiver<Message>,
    stop: Arc<AtomicBool>,
    merge: Merge,
    failed: Option<ProbeError>,
}

impl Events {
    /// Begins to watch: what happens from now on is told.
    pub(super) fn start(
        library: &Arc<Library>,
        boards: &[Watched],
        names: &Names,
        kmsg: Option<&Path>,
    ) -> Self {
        let (sender, queue) = sync_channel(QUEUE);
        let stop = Arc::new(AtomicBool::new(false));
        let teller = |board: &Watched| Teller {
            names: names.clone(),
            board: Arc::clone(&board.uuid),
            queue: sender.clone(),
            stop: Arc::clone(&stop),
        };
        for board in boards {
            // Registered here, so that nothing that happens from now on is missed.
            let first = EventSet::of(library, board.handle, KINDS);
            let (library, handle, teller) = (Arc::clone(library), board.handle, teller(board));
            spawn("gpu-events", move || teller.watch(&library, handle, first));
        }
        let log = kmsg.and_then(|path| Kmsg::open(path).ok());
        let merge = Merge::new(log.is_some());
        if let Some(log) = log {
            let boards: Vec<_> = boards
                .iter()
                .filter_map(|board| Some((board.address?, teller(board))))
                .collect();
            let (sender, stop) = (sender.clone(), Arc::clone(&stop));
            spawn("gpu-kmsg", move || {
                follow(log, &boards, &stop);
                let _ = sender.send(Message::LogEnded);
            });
        }
        Self {
            queue,
            stop,
            merge,
            failed: None,
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Told(told) => self.merge.add(told, Instant::now()),
            Message::LogEnded => self.merge.without_log(),
            Message::Failed(error) => self.failed = Some(error),
        }
    }
}

impl EventSource for Events {
    fn wait(&mut self, timeout: Duration) -> Result<Vec<Event>, ProbeError> {
        let end = Instant::now() + timeout;
        loop {
            while let Ok(message) = self.queue.try_recv() {
                self.take(message);
            }
            let now = Instant::now();
            let events = self.merge.take(now);
            if !events.is_empty() {
                return Ok(events);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            if now >= end {
                return Ok(events);
            }
            let until = self.merge.due().map_or(end, |due| due.min(end));
            match self
                .queue
                .recv_timeout(until.saturating_duration_since(now))
            {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                // No GPU has events: there is nothing to wait for but the time.
                Err(RecvTimeoutError::Disconnected) => sleep(until.saturating_duration_since(now)),
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A thread that cannot be had is one GPU's events less; the next source tries again.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    let _ = Builder::new().name(name.into()).spawn(body);
}

/// Puts the events of one board into the queue.
struct Teller {
    names: Names,
    board: Arc<str>,
    queue: SyncSender<Message>,
    stop: Arc<AtomicBool>,
}

impl Teller {
    /// Tells what happens to the board until nobody listens any more.
    fn watch(&self, library: &Arc<Library>, handle: Handle, first: Result<EventSet, Why>) {
        let mut set = first;
        let mut lost = false;
        while !self.stop.load(Ordering::Relaxed) {
            let why = match &set {
                Ok(registered) => match registered.wait(TURN.as_millis() as u32) {
                    Ok(event) => {
                        lost = false;
                        if !self.happened(library, handle, &event) {
                            return;
                        }
                        continue;
                    }
                    Err(Why::Timeout) => {
                        lost = false;
                        continue;
                    }
                    Err(why) => why,
                },
                Err(why) => why.clone(),
            };
            match why {
                Why::Lost if !lost => {
                    lost = true;
                    if !self.tell(EventKind::GpuLost, 0, None, None) {
                        return;
                    }
                }
                // Told of a loss already, or an error that may pass: the set is made anew.
                Why::Lost | Why::Timeout | Why::Other(_) => {}
                Why::Gone(_) => {
                    let _ = self.queue.send(Message::Failed(why.of_library()));
                    return;
                }
                // This GPU has no events.
                Why::NotSupported | Why::NoFunction | Why::NoPermission => return,
            }
            self.rest();
            set = EventSet::of(library, handle, KINDS);
        }
    }

    /// Waits a while, unless it is to stop.
    fn rest(&self) {
        let end = Instant::now() + AGAIN;
        while Instant::now() < end && !self.stop.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(50));
        }
    }

    /// Tells an event of NVML's; false = nobody listens.
    fn happened(&self, library: &Library, handle: Handle, event: &RawEvent) -> bool {
        let (gpu, compute) = (event.gpu_instance, event.compute_instance);
        let recovery = || fields::recovery_action(library, handle);
        match event.kind {
            XID => {
                if !self.tell(EventKind::Xid, event.data, gpu, compute) {
                    return false;
                }
                // Drivers that have no event of its own for it have the XID.
                match event.data {
                    XID_RECOVERY_ACTION => recovery().map_or(true, |action| {
                        self.tell(EventKind::RecoveryAction, action, None, None)
                    }),
                    _ => true,
                }
            }
            DOUBLE_BIT => self.tell(EventKind::EccUncorrected, event.data, gpu, compute),
            MIG_CHANGE => self.tell(EventKind::MigChanged, event.data, None, None),
            UNAVAILABLE => self.tell(EventKind::GpuLost, event.data, None, None),
            RECOVERY => self.tell(
                EventKind::RecoveryAction,
                recovery().unwrap_or(event.data),
                None,
                None,
            ),
            _ => true,
        }
    }

    fn tell(&self, kind: EventKind, value: u64, gpu: Option<u32>, compute: Option<u32>) -> bool {
        self.send(Event {
            kind: kind.into(),
            value,
            gpu_instance: gpu,
            compute_instance: compute,
            source: SOURCE.to_owned(),
            ..Event::default()
        })
    }

    fn line(&self, line: &Line) -> bool {
        self.send(Event {
            kind: EventKind::Xid.into(),
            value: line.xid,
            gpu_instance: line.gpu_instance,
            compute_instance: line.compute_instance,
            pid: line.pid,
            source: KMSG.to_owned(),
            ..Event::default()
        })
    }

    fn send(&self, mut event: Event) -> bool {
        let instance = self
            .names
            .find(&self.board, event.gpu_instance, event.compute_instance);
        event.uuid = instance.unwrap_or_else(|| self.board.to_string());
        self.queue
            .send(Message::Told(Told {
                board: Arc::clone(&self.board),
                event,
            }))
            .is_ok()
    }
}

/// Tells the XIDs in the log until it ends or nobody listens.
fn follow(mut log: Kmsg, boards: &[(Address, Teller)], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(lines) = log.wait(TURN) else { return };
        for line in lines {
            // A GPU that is not ours to watch is somebody else's.
            if let Some((_, teller)) = boards.iter().find(|(address, _)| *address == line.address)
                && !teller.line(&line)
            {
                return;
            }
        }
    }
}
