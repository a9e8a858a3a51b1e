//! One request through the picker, message by message as Envoy sends them.
//!
//! In full duplex all of a half is sent while its replies are read: pickers may hold every reply, even gRPC's own
//! headers, until the body has ended, or send each piece back at once. Otherwise the reply to the headers comes before
//! the body, and then one reply a piece.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use futures_util::stream;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::failure::Failure;
use super::script::{Half, Script, Side};
use crate::proto::ext_proc::body_mutation::Mutation;
use crate::proto::ext_proc::external_processor_client::ExternalProcessorClient;
use crate::proto::ext_proc::processing_response::Response;
use crate::proto::ext_proc::{CommonResponse, ProcessingRequest, ProcessingResponse};

const DESTINATION: &str = "x-gateway-destination-endpoint";
/// Messages that wait for the transport: past it, the sender does.
const OUTBOX: usize = 8;

/// How an exchange went.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) due: Instant,
    pub(super) ended: Instant,
    /// From `due` until the transport took the first message: what the client itself is to blame for.
    pub(super) lag: Option<Duration>,
    /// From `due` until the destination was known.
    pub(super) decided: Result<Duration, Failure>,
}

/// A stream, which gets its replies' half when the server sends its first bytes.
struct Stream {
    outbox: mpsc::Sender<ProcessingRequest>,
    inbound: Inbound,
}

#[expect(
    clippy::large_enum_variant,
    reason = "it spends its life in the large one"
)]
enum Inbound {
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<ProcessingResponse>, Status>> + Send>>),
    Open(Streaming<ProcessingResponse>),
}

/// What came back of one half.
#[derive(Default)]
struct Heard {
    destination: Option<Instant>,
    bytes: usize,
    ended: bool,
}

/// Runs one exchange; the latency of the decision runs from `due`.
pub(super) async fn run(channel: Channel, script: Arc<Script>, due: Instant) -> Outcome {
    let taken = Arc::new(OnceLock::new());
    let stream = Stream::new(channel, Arc::clone(&taken));
    let exchange = tokio::time::timeout(script.deadline, exchange(stream, &script));
    let decided = exchange.await.unwrap_or(Err(Failure::Deadline));
    let since = |at: Instant| at.saturating_duration_since(due);
    Outcome {
        due,
        ended: Instant::now(),
        lag: taken.get().copied().map(since),
        decided: decided.map(since),
    }
}

/// Returns when the destination was known.
async fn exchange(mut stream: Stream, script: &Script) -> Result<Instant, Failure> {
    let heard = stream.half(script, &script.request).await?;
    let destination = heard.destination.ok_or(Failure::NoDestination)?;
    if let Some(response) = &script.response {
        stream.half(script, response).await?;
    }
    stream.close().await?;
    Ok(destination)
}

// === impl Stream ===

impl Stream {
    /// Opens a stream, as soon as it is read from. `taken`: when the transport took the first message.
    fn new(channel: Channel, taken: Arc<OnceLock<Instant>>) -> Self {
        let mut client = ExternalProcessorClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let (outbox, mut receiver) = mpsc::channel(OUTBOX);
        let outbound = stream::poll_fn(move |cx| {
            let message = ready!(receiver.poll_recv(cx));
            taken.get_or_init(Instant::now);
            Poll::Ready(message)
        });
        let opening = async move { Ok(client.process(outbound).await?.into_inner()) };
        Self {
            outbox,
            inbound: Inbound::Opening(Box::pin(opening)),
        }
    }

    async fn half(&mut self, script: &Script, half: &Half) -> Result<Heard, Failure> {
        let Self { outbox, inbound } = self;
        let mut heard = Heard::default();
        send(outbox, script.headers(half)).await;
        if script.duplex {
            let read = heard.until_end(half, inbound);
            both(half.side, send_body(outbox, half), read).await?;
        } else {
            heard.replies(half.side, 1, inbound).await?;
            let read = heard.replies(half.side, half.pieces.len(), inbound);
            both(half.side, send_body(outbox, half), read).await?;
        }
        Ok(heard)
    }

    /// Stops sending; the server has to end the stream then, and well.
    async fn close(self) -> Result<(), Failure> {
        let Self {
            outbox,
            mut inbound,
        } = self;
        drop(outbox);
        match inbound.message().await {
            Ok(None) => Ok(()),
            Ok(Some(reply)) => Err(Failure::unexpected(reply.response.as_ref())),
            Err(status) => Err(Failure::Status(status.code())),
        }
    }
}

/// Whether the stream still takes messages; if not, the end of its replies tells why.
async fn send(outbox: &mpsc::Sender<ProcessingRequest>, message: ProcessingRequest) -> bool {
    outbox.send(message).await.is_ok()
}

async fn send_body(outbox: &mpsc::Sender<ProcessingRequest>, half: &Half) {
    let mut ticks = (!half.interval.is_zero()).then(|| tokio::time::interval(half.interval));
    for message in half.body() {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        if !send(outbox, message).await {
            return;
        }
    }
}

/// Sends and reads at once; what was read counts. All replies before all was sent is a failure.
async fn both(
    side: Side,
    send: impl Future<Output = ()>,
    read: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::pin!(send, read);
    tokio::select! {
        biased;
        () = &mut send => read.await,
        read = &mut read => read.and(Err(Failure::Early(side))),
    }
}

// === impl Inbound ===

impl Inbound {
    async fn message(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        loop {
            match self {
                Self::Opening(opening) => *self = Self::Open(opening.await?),
                Self::Open(replies) => return replies.message().await,
            }
        }
    }

    async fn next(&mut self) -> Result<ProcessingResponse, Failure> {
        match self.message().await {
            Ok(reply) => reply.ok_or(Failure::Unfinished),
            Err(status) => Err(Failure::Status(status.code())),
        }
    }
}

// === impl Heard ===

impl Heard {
    /// Full duplex: every reply until the end of the body.
    async fn until_end(&mut self, half: &Half, inbound: &mut Inbound) -> Result<(), Failure> {
        while !self.ended {
            self.take(half.side, inbound.next().await?)?;
        }
        if self.bytes == half.length {
            Ok(())
        } else {
            Err(Failure::Length(half.side))
        }
    }

    async fn replies(
        &mut self,
        side: Side,
        count: usize,
        inbound: &mut Inbound,
    ) -> Result<(), Failure> {
        for _ in 0..count {
            self.take(side, inbound.next().await?)?;
        }
        Ok(())
    }

    fn take(&mut self, side: Side, reply: ProcessingResponse) -> Result<(), Failure> {
        let common = match (side, reply.response) {
            (Side::Request, Some(Response::RequestHeaders(reply)))
            | (Side::Response, Some(Response::ResponseHeaders(reply))) => reply.response,
            (Side::Request, Some(Response::RequestBody(reply)))
            | (Side::Response, Some(Response::ResponseBody(reply))) => reply.response,
            (_, Some(Response::ImmediateResponse(reply))) => {
                return Err(Failure::Immediate(reply.status.unwrap_or_default().code));
            }
            (_, reply) => return Err(Failure::unexpected(reply.as_ref())),
        };
        let CommonResponse {
            header_mutation,
            body_mutation,
            ..
        } = common.unwrap_or_default();
        let set = header_mutation.into_iter().flat_map(|m| m.set_headers);
        let mut names = set.filter_map(|option| Some(option.header?.key));
        if self.destination.is_none() && names.any(|name| name == DESTINATION) {
            self.destination = Some(Instant::now());
        }
        if let Some(Mutation::StreamedResponse(piece)) = body_mutation.and_then(|b| b.mutation) {
            self.bytes += piece.body.len();
            self.ended |= piece.end_of_stream;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
