//! The yardstick: an ext_proc server that decides nothing, written as tonic's users write one that is meant to be fast.
//!
//! It answers the headers of a full-duplex request with a fixed destination when the body has ended, and gives every
//! byte back. No task and no channel of its own; the same allocator, window and frame sizes as Pointsman.
//!
//! `cargo run --release --example noop-extproc -- 127.0.0.1:9102`

use std::collections::VecDeque;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use pointsman::proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use pointsman::proto::ext_proc::body_mutation::Mutation;
use pointsman::proto::ext_proc::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use pointsman::proto::ext_proc::processing_request::Request as In;
use pointsman::proto::ext_proc::processing_response::Response as Out;
use pointsman::proto::ext_proc::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ProcessingRequest,
    ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Noop;

struct State {
    inbound: Streaming<ProcessingRequest>,
    chunks: Vec<Bytes>,
    outbox: VecDeque<ProcessingResponse>,
}

#[tonic::async_trait]
impl ExternalProcessor for Noop {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let state = State {
            inbound: request.into_inner(),
            chunks: Vec::new(),
            outbox: VecDeque::new(),
        };
        let replies = futures_util::stream::unfold(Box::new(state), |mut state| async move {
            loop {
                if let Some(reply) = state.outbox.pop_front() {
                    return Some((Ok(reply), state));
                }
                let message = state.inbound.message().await.ok()??;
                state.take(message);
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

impl State {
    fn take(&mut self, message: ProcessingRequest) {
        match message.request {
            Some(In::RequestBody(body)) => {
                self.chunks.push(body.body);
                if body.end_of_stream {
                    self.push(Out::RequestHeaders(HeadersResponse {
                        response: Some(destination()),
                    }));
                    let mut chunks = std::mem::take(&mut self.chunks).into_iter().peekable();
                    while let Some(chunk) = chunks.next() {
                        let end = chunks.peek().is_none();
                        self.push(Out::RequestBody(echo(chunk, end)));
                    }
                }
            }
            Some(In::ResponseHeaders(_)) => {
                self.push(Out::ResponseHeaders(HeadersResponse::default()));
            }
            Some(In::ResponseBody(body)) => {
                self.push(Out::ResponseBody(echo(body.body, body.end_of_stream)));
            }
            Some(In::ResponseTrailers(_)) => {
                self.push(Out::ResponseTrailers(TrailersResponse::default()));
            }
            _ => {}
        }
    }

    fn push(&mut self, response: Out) {
        self.outbox.push_back(ProcessingResponse {
            response: Some(response),
            ..Default::default()
        });
    }
}

fn destination() -> CommonResponse {
    CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: vec![HeaderValueOption {
                header: Some(HeaderValue {
                    key: "x-gateway-destination-endpoint".to_owned(),
                    value: String::new(),
                    raw_value: Bytes::from_static(b"127.0.0.1:8000"),
                }),
                ..Default::default()
            }],
            remove_headers: Vec::new(),
        }),
        clear_route_cache: true,
        ..Default::default()
    }
}

fn echo(body: Bytes, end_of_stream: bool) -> BodyResponse {
    BodyResponse {
        response: Some(CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(Mutation::StreamedResponse(StreamedBodyResponse {
                    body,
                    end_of_stream,
                    ..Default::default()
                })),
            }),
            ..Default::default()
        }),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or("127.0.0.1:9102".to_owned());
    let service = ExternalProcessorServer::new(Noop).max_decoding_message_size(64 << 20);
    Server::builder()
        .max_concurrent_streams(100_000)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(64 << 10)
        .tcp_nodelay(true)
        .add_service(service)
        .serve(address.parse()?)
        .await?;
    Ok(())
}
