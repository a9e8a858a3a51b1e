//! The tonic server that streams come in by.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::Stream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

use super::BodyBudget;
use super::health::{self, Readiness};
use super::listener::Incoming;
use super::session::Session;
use super::streams::StreamMetrics;
use super::switch::{Call, Switch};
use crate::proto::ext_proc::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use crate::proto::ext_proc::{ProcessingRequest, ProcessingResponse};

/// A stream lives as long as its response does; the proxy, not we, decides how many requests it has in flight.
const STREAMS_PER_CONNECTION: u32 = 100_000;
/// Envoy sends body pieces of up to 1 MiB: a window that holds one lets it arrive without a round trip.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Fewer, larger frames for prompts; the largest that HTTP/2 peers take without asking.
const FRAME: u32 = 64 << 10;

/// What a server takes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest gRPC message taken, in bytes.
    pub receive: usize,
    /// The largest gRPC message sent, in bytes.
    pub send: usize,
    /// The byte budgets of request bodies.
    pub bodies: Arc<BodyBudget>,
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket or a thread.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server itself.
    #[error("gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] super::tls::TlsError),
}

/// Counts the streams that are open now and that somebody waits for: observed ones do not count.
#[derive(Clone, Debug, Default)]
pub struct OpenStreams(Arc<AtomicUsize>);

struct Service<S> {
    switch: S,
    bodies: Arc<BodyBudget>,
    open: OpenStreams,
    metrics: Option<StreamMetrics>,
}

/// How a call was addressed, which tonic does not tell.
#[derive(Clone, Debug)]
struct Authority(http::uri::Authority);

/// Serves what `switch` chooses until `stop` completes; then lets the open streams finish. With `health`, the same port
/// answers health checks too; with `metrics`, streams are counted.
pub async fn serve<S: Switch>(
    incoming: Incoming,
    switch: S,
    limits: Limits,
    open: OpenStreams,
    health: Option<Arc<Readiness>>,
    metrics: Option<StreamMetrics>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let of_several = switch.is_of_several();
    let service = ExternalProcessorServer::new(Service {
        switch,
        bodies: limits.bodies,
        open,
        metrics,
    })
    .max_decoding_message_size(limits.receive)
    .max_encoding_message_size(limits.send)
    .accept_compressed(CompressionEncoding::Gzip);
    let addressed =
        tower::ServiceBuilder::new().map_request(move |mut request: http::Request<_>| {
            if let (true, Some(authority)) = (of_several, request.uri().authority().cloned()) {
                request.extensions_mut().insert(Authority(authority));
            }
            request
        });
    Server::builder()
        .layer(addressed)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        // A proxy whose clients leave in a burst resets as many streams: that is no attack, and no reason to close the
        // connection that all the others are on.
        .http2_max_pending_accept_reset_streams(Some(STREAMS_PER_CONNECTION as usize))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(service)
        .add_optional_service(health.map(health::service))
        .serve_with_incoming_shutdown(incoming.into_stream(), stop)
        .await?;
    Ok(())
}

// === impl OpenStreams ===

impl OpenStreams {
    /// How many.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    fn enter(&self) -> OpenStream {
        self.0.fetch_add(1, Ordering::AcqRel);
        OpenStream(self.clone())
    }
}

#[derive(Debug)]
pub(super) struct OpenStream(OpenStreams);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Service ===

#[tonic::async_trait]
impl<S: Switch> ExternalProcessor for Service<S> {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (metadata, extensions, inbound) = request.into_parts();
        let authority = extensions.get::<Authority>();
        let processor = self.switch.processor(Call {
            authority: authority.map_or("", |authority| authority.0.as_str()),
            metadata: metadata.as_ref(),
        })?;
        let session = Session::new(inbound, processor, &self.bodies, self.open.enter());
        let counted = self.metrics.as_ref().map(StreamMetrics::open);
        let state = (Box::new(session), counted);
        let replies =
            futures_util::stream::unfold(state, |(mut session, mut counted)| async move {
                let reply = session.next().await;
                let code = match &reply {
                    None => Some(Code::Ok),
                    Some(Err(status)) => Some(status.code()),
                    Some(Ok(_)) => None,
                };
                if let (Some(counted), Some(code)) = (&mut counted, code) {
                    counted.ends(code);
                }
                Some((reply?, (session, counted)))
            });
        Ok(Response::new(Box::pin(replies)))
    }
}
