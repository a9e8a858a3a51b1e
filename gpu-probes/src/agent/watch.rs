//! The gRPC service: what is known first, then what changes; a heartbeat after a second of silence.
//!
//! A report is made when the connection has room for it, of what the watcher has not heard until then. So a slow watcher
//! costs no memory: it hears less often, and of events that are no longer kept it learns by a new snapshot.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::state::{Cursor, Shared};
use crate::telemetry::gpu_telemetry_server::GpuTelemetry;
use crate::telemetry::report::Content;
use crate::telemetry::{Heartbeat, Report, WatchRequest};

/// Silence for this long is broken by a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Watchers at a time.
pub(super) const MOST_WATCHERS: usize = 256;

/// Tells what the agent knows.
#[derive(Clone, Debug)]
pub struct Telemetry {
    shared: Arc<Shared>,
    node: String,
    agent: String,
    watchers: Arc<Semaphore>,
    stop: CancellationToken,
}

/// One watcher's stream.
struct Watcher {
    telemetry: Telemetry,
    changes: watch::Receiver<()>,
    cursor: Cursor,
    sequence: u64,
    _permit: OwnedSemaphorePermit,
}

// === impl Telemetry ===

impl Telemetry {
    pub(super) fn new(
        shared: Arc<Shared>,
        node: String,
        agent: String,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared,
            node,
            agent,
            watchers: Arc::new(Semaphore::new(MOST_WATCHERS)),
            stop,
        }
    }

    pub(super) fn watchers(&self) -> usize {
        MOST_WATCHERS - self.watchers.available_permits()
    }

    fn stream(
        &self,
        permit: OwnedSemaphorePermit,
    ) -> impl Stream<Item = Result<Report, Status>> + Send + use<> {
        let watcher = Watcher {
            telemetry: self.clone(),
            changes: self.shared.changes(),
            cursor: Cursor::default(),
            sequence: 0,
            _permit: permit,
        };
        futures_util::stream::unfold(watcher, |mut watcher| async move {
            let report = watcher.next().await?;
            Some((Ok(report), watcher))
        })
    }
}

#[tonic::async_trait]
impl GpuTelemetry for Telemetry {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Report, Status>> + Send>>;

    async fn watch(
        &self,
        _request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let permit = Arc::clone(&self.watchers)
            .try_acquire_owned()
            .map_err(|_| {
                Status::resource_exhausted(format!(
                    "{MOST_WATCHERS} watch already, which is the most"
                ))
            })?;
        Ok(Response::new(Box::pin(self.stream(permit))))
    }
}

// === impl Watcher ===

impl Watcher {
    /// The next report; `None` when the agent ends.
    async fn next(&mut self) -> Option<Report> {
        let stop = self.telemetry.stop.clone();
        let content = stop.run_until_cancelled(self.content()).await?;
        self.sequence += 1;
        Some(Report {
            node: self.telemetry.node.clone(),
            agent: self.telemetry.agent.clone(),
            sequence: self.sequence,
            content: Some(content),
        })
    }

    async fn content(&mut self) -> Content {
        let silent = tokio::time::sleep(HEARTBEAT);
        let mut silent = std::pin::pin!(silent);
        loop {
            // Before the look, so that what changes after it is seen by the next.
            self.changes.mark_unchanged();
            let shared = &self.telemetry.shared;
            let cursor = &mut self.cursor;
            if let Some(news) = shared.read(|state| state.news(cursor, Instant::now())) {
                return news;
            }
            let changed = tokio::select! {
                changed = self.changes.changed() => changed.is_ok(),
                () = &mut silent => false,
            };
            if !changed {
                let stalled = shared.read(|state| state.stalled(Instant::now()));
                return stalled.unwrap_or(Content::Heartbeat(Heartbeat {}));
            }
        }
    }
}
