//! gRPC health, on a port and an OS thread of its own, so that a busy picker does not look like a dead one.
//!
//! | Service | SERVING when |
//! |---|---|
//! | `liveness` | always |
//! | any other name (`readiness`, `envoy.service.ext_proc.v3.ExternalProcessor`, `inference-extension`, empty) | the pool is synced and the process is not draining |
//!
//! Where replicas elect a leader, `readiness`, `envoy.service.ext_proc.v3.ExternalProcessor` and the empty name are SERVING
//! only at the one that leads, and all others but `liveness` are unknown.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::listener::{self, Incoming};
use super::server::ServeError;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::{Health, HealthServer};
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};

/// The names that `List` reports.
const NAMES: [&str; 5] = [
    ELECTED[0],
    LIVENESS,
    ELECTED[1],
    "inference-extension",
    ELECTED[2],
];
/// The names that tell who leads, where replicas elect one.
const ELECTED: [&str; 3] = [
    "",
    "readiness",
    "envoy.service.ext_proc.v3.ExternalProcessor",
];
const LIVENESS: &str = "liveness";

/// Whether this process should be sent requests.
#[derive(Debug, Default)]
pub struct Readiness {
    synced: AtomicBool,
    draining: AtomicBool,
    /// Replicas elect a leader, and this is not the one.
    standby: AtomicBool,
    election: bool,
}

/// The health service over a [`Readiness`].
#[derive(Clone, Debug)]
pub struct HealthService(Arc<Readiness>);

/// Answers health checks on `socket` from a thread of its own until `stop`.
pub fn spawn(
    socket: TcpListener,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) -> Result<std::thread::JoinHandle<()>, ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Io)?;
    std::thread::Builder::new()
        .name("health".to_owned())
        .spawn(move || {
            let served = runtime.block_on(async {
                let incoming = Incoming::plain(listener::adopt(socket)?);
                tonic::transport::Server::builder()
                    .add_service(service(readiness))
                    .serve_with_incoming_shutdown(incoming.into_stream(), stop.cancelled_owned())
                    .await
                    .map_err(ServeError::from)
            });
            if let Err(error) = served {
                tracing::error!(%error, "The health server stopped.");
            }
        })
        .map_err(ServeError::Io)
}

/// The service, to be added to any tonic server.
pub fn service(readiness: Arc<Readiness>) -> HealthServer<HealthService> {
    HealthServer::new(HealthService(readiness))
}

// === impl Readiness ===

impl Readiness {
    /// Of one of several replicas, of which only the leader is to be sent requests.
    pub fn with_election() -> Self {
        Self {
            standby: true.into(),
            election: true,
            ..Self::default()
        }
    }

    /// Whether the pool is known.
    pub fn set_synced(&self, synced: bool) {
        self.synced.store(synced, Ordering::Release);
    }

    /// Whether this replica leads.
    pub fn set_leading(&self, leading: bool) {
        self.standby
            .store(self.election && !leading, Ordering::Release);
    }

    /// The process was asked to stop.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether requests should come.
    pub fn is_ready(&self) -> bool {
        self.synced.load(Ordering::Acquire)
            && !self.draining.load(Ordering::Acquire)
            && !self.standby.load(Ordering::Acquire)
    }
}

// === impl HealthService ===

impl HealthService {
    fn answer(&self, service: &str) -> HealthCheckResponse {
        let status = if service == LIVENESS {
            ServingStatus::Serving
        } else if self.0.election && !ELECTED.contains(&service) {
            ServingStatus::ServiceUnknown
        } else if self.0.is_ready() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        HealthCheckResponse {
            status: status as i32,
        }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(self.answer(&request.get_ref().service)))
    }

    async fn list(
        &self,
        _request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let statuses = NAMES
            .iter()
            .map(|&name| (name.to_owned(), self.answer(name)))
            .collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("Watch is not offered: poll Check"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_sync_and_drain_and_liveness_neither() {
        let readiness = Arc::new(Readiness::default());
        let health = HealthService(Arc::clone(&readiness));
        let status = |name: &str| health.answer(name).status();
        assert_eq!(status("inference-extension"), ServingStatus::NotServing);
        assert_eq!(status(LIVENESS), ServingStatus::Serving);
        readiness.set_synced(true);
        assert_eq!(status(""), ServingStatus::Serving);
        assert_eq!(status("any.Service"), ServingStatus::Serving);
        readiness.set_synced(false);
        assert_eq!(status("readiness"), ServingStatus::NotServing);
        readiness.set_synced(true);
        readiness.set_draining();
        assert_eq!(status("readiness"), ServingStatus::NotServing);
        assert_eq!(status(LIVENESS), ServingStatus::Serving);
    }

    #[test]
    fn with_an_election_the_leader_alone_is_ready() {
        let readiness = Arc::new(Readiness::with_election());
        let health = HealthService(Arc::clone(&readiness));
        let status = |name: &str| health.answer(name).status();
        readiness.set_synced(true);
        assert_eq!(ELECTED.map(status), [ServingStatus::NotServing; 3]);
        assert_eq!(status(LIVENESS), ServingStatus::Serving);
        assert_eq!(status("inference-extension"), ServingStatus::ServiceUnknown);
        readiness.set_leading(true);
        assert_eq!(ELECTED.map(status), [ServingStatus::Serving; 3]);
        readiness.set_leading(false);
        assert_eq!(status("readiness"), ServingStatus::NotServing);
    }
}
