//! The thread that waits for events, and tells them at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::sampler::Waker;
use super::state::Shared;
use crate::probe::EventSource;
use crate::telemetry::{Event, EventKind};

/// How soon the thread sees that it is to end.
const WAIT: Duration = Duration::from_millis(250);
/// Of one fault there may be hundreds: so many are logged at a time.
const MOST_LOGGED: usize = 8;

/// The thread, if there is one: not all sources have events.
#[derive(Debug, Default)]
pub(super) struct Listener(Option<Running>);

#[derive(Debug)]
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

// === impl Listener ===

impl Listener {
    pub(super) fn start(
        source: Box<dyn EventSource>,
        shared: Arc<Shared>,
        waker: Arc<Waker>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("gpu-listener".to_owned());
        let thread = thread.spawn(move || listen(source, &shared, &waker, &stopped));
        let thread = thread.inspect_err(|error| tracing::error!(%error, "No thread for events."));
        Self(thread.ok().map(|thread| Running { stop, thread }))
    }

    /// Whether nobody listens.
    pub(super) fn has_ended(&self) -> bool {
        let thread = self.0.as_ref();
        thread.is_none_or(|running| running.thread.is_finished())
    }

    /// Returns when it has ended.
    pub(super) fn end(&mut self) {
        if let Some(Running { stop, thread }) = self.0.take() {
            stop.store(true, Ordering::Relaxed);
            if thread.join().is_err() {
                tracing::error!("The thread for events panicked.");
            }
        }
    }
}

fn listen(mut source: Box<dyn EventSource>, shared: &Shared, waker: &Waker, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match source.wait(WAIT) {
            Ok(events) if events.is_empty() => {}
            Ok(events) => {
                for event in events.iter().take(MOST_LOGGED) {
                    let kind = event.kind().as_str_name();
                    tracing::warn!(
                        uuid = event.uuid,
                        kind,
                        value = event.value,
                        "A GPU reports."
                    );
                }
                let discover = events.iter().any(may_change_who_is_there);
                shared.update(|state| state.happened(events, Instant::now()));
                waker.read();
                if discover {
                    waker.discover();
                }
            }
            Err(error) => {
                // The next discovery starts another.
                tracing::warn!(%error, "Events cannot be waited for.");
                return;
            }
        }
    }
}

fn may_change_who_is_there(event: &Event) -> bool {
    matches!(
        event.kind(),
        EventKind::MigChanged | EventKind::GpuLost | EventKind::RecoveryAction
    )
}
