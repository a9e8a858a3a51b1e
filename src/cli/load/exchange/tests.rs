//! Exchanges with servers that use the freedoms of gRPC and of the protocol, and with servers that break them.

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Response as Reply};

use super::*;
use crate::cli::load::BodyMode;
use crate::extproc::listener::Incoming;
use crate::proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use crate::proto::envoy::r#type::v3::HttpStatus;
use crate::proto::ext_proc::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use crate::proto::ext_proc::processing_request::Request as In;
use crate::proto::ext_proc::{
    BodyMutation, BodyResponse, HeaderMutation, HeadersResponse, HttpBody, ImmediateResponse,
    StreamedBodyResponse, StreamedImmediateResponse, TrailersResponse,
};

type Messages = Streaming<ProcessingRequest>;
type Replies = BoxStream<'static, Result<ProcessingResponse, Status>>;
type Answer = fn(Messages) -> BoxFuture<'static, Result<Replies, Status>>;

/// A server that answers a stream as it is told. It sends gRPC's headers when `Answer` returns.
struct Double(Answer);

#[tonic::async_trait]
impl ExternalProcessor for Double {
    type ProcessStream = Replies;

    async fn process(&self, request: Request<Messages>) -> Result<Reply<Replies>, Status> {
        (self.0)(request.into_inner()).await.map(Reply::new)
    }
}

async fn exchange_with(answer: Answer, script: Script) -> Result<Duration, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Windows far below the bodies of these tests: who does not read must not be sent to.
    let server = Server::builder()
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(64 << 10)
        .add_service(ExternalProcessorServer::new(Double(answer)))
        .serve_with_incoming(Incoming::plain(listener).into_stream());
    let server = tokio::spawn(server);
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .initial_stream_window_size(64 << 10)
        .connect()
        .await
        .unwrap();
    let outcome = run(channel, Arc::new(script), Instant::now()).await;
    server.abort();
    assert!(outcome.lag.is_some() || outcome.decided.is_err());
    assert!(outcome.ended >= outcome.due);
    outcome.decided
}

fn script(mode: BodyMode, prompt: usize, chunks: u32) -> Script {
    Script::new("m", prompt, mode, chunks, Duration::ZERO)
}

fn duplex(prompt: usize, chunks: u32) -> Script {
    script(BodyMode::FullDuplex, prompt, chunks)
}

// --- replies ---

fn of(response: Response) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(response),
        ..Default::default()
    }
}

fn destination() -> HeadersResponse {
    let header = HeaderValue {
        key: DESTINATION.to_owned(),
        raw_value: "10.0.0.1:8000".into(),
        ..Default::default()
    };
    HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: vec![HeaderValueOption {
                    header: Some(header),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }),
    }
}

fn piece(body: HttpBody) -> BodyResponse {
    let mutation = Mutation::StreamedResponse(StreamedBodyResponse {
        body: body.body,
        end_of_stream: body.end_of_stream,
        ..Default::default()
    });
    BodyResponse {
        response: Some(CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(mutation),
            }),
            ..Default::default()
        }),
    }
}

fn echo(message: ProcessingRequest) -> ProcessingResponse {
    of(match message.request.unwrap() {
        In::RequestHeaders(_) => Response::RequestHeaders(destination()),
        In::RequestBody(body) => Response::RequestBody(piece(body)),
        In::ResponseHeaders(_) => Response::ResponseHeaders(HeadersResponse::default()),
        In::ResponseBody(body) => Response::ResponseBody(piece(body)),
        trailers => panic!("{trailers:?}"),
    })
}

fn ends(message: &ProcessingRequest) -> bool {
    match message.request.as_ref().unwrap() {
        In::RequestBody(body) | In::ResponseBody(body) => body.end_of_stream,
        _ => false,
    }
}

/// The echoes of everything up to the end of a body; `None` at the end of the stream.
async fn echoes_of_half(messages: &mut Messages) -> Option<Vec<ProcessingResponse>> {
    let mut echoes = Vec::new();
    loop {
        let message = messages.message().await.unwrap()?;
        let end = ends(&message);
        echoes.push(echo(message));
        if end {
            return Some(echoes);
        }
    }
}

// --- servers ---

fn fixed(replies: Vec<Result<ProcessingResponse, Status>>) -> Result<Replies, Status> {
    Ok(futures_util::stream::iter(replies).boxed())
}

/// Answers a half when all of it has come. It sends gRPC's headers only with its first reply, as grpc-go does.
fn at_the_end(mut messages: Messages) -> BoxFuture<'static, Result<Replies, Status>> {
    Box::pin(async move {
        let first = echoes_of_half(&mut messages).await.unwrap();
        let rest = futures_util::stream::unfold(messages, async |mut messages| {
            let echoes = echoes_of_half(&mut messages).await?;
            Some((futures_util::stream::iter(echoes), messages))
        });
        let replies = futures_util::stream::iter(first).chain(rest.flatten());
        Ok(replies.map(Ok).boxed())
    })
}

/// Answers each message at once, and takes no other while its reply is not taken.
fn at_once(mut messages: Messages) -> BoxFuture<'static, Result<Replies, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(Some(message)) = messages.message().await {
            if sender.send(Ok(echo(message))).await.is_err() {
                return;
            }
        }
    });
    Box::pin(async move { Ok(ReceiverStream::new(receiver).boxed()) })
}

// --- what has to work ---

#[tokio::test]
async fn replies_may_wait_for_the_end_of_the_body() {
    let ended = exchange_with(at_the_end, duplex(4 << 20, 0)).await;
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn replies_may_come_while_the_body_is_sent() {
    let ended = exchange_with(at_once, duplex(4 << 20, 0)).await;
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn so_may_those_of_the_response() {
    // 5000 chunks are more than a window, too.
    for server in [at_the_end as Answer, at_once] {
        let ended = exchange_with(server, duplex(100, 5000)).await;
        assert!(ended.is_ok(), "{ended:?}");
    }
}

#[tokio::test]
async fn chunks_may_have_a_pace() {
    let interval = Duration::from_millis(1);
    let script = Script::new("m", 100, BodyMode::FullDuplex, 20, interval);
    assert!(exchange_with(at_once, script).await.is_ok());
}

#[tokio::test]
async fn other_modes_get_a_reply_a_message() {
    for mode in [BodyMode::Buffered, BodyMode::Streamed] {
        let script = script(mode, 1 << 20, 1000);
        let pieces = if mode == BodyMode::Buffered { 1 } else { 17 };
        assert_eq!(script.request.pieces.len(), pieces);
        let ended = exchange_with(at_once, script).await;
        assert!(ended.is_ok(), "{mode:?}: {ended:?}");
    }
}

// --- what has to be told apart ---

#[tokio::test]
async fn failures() {
    let cases: [(Failure, Answer); 12] = [
        (Failure::Immediate(503), |_| {
            Box::pin(async {
                fixed(vec![Ok(of(Response::ImmediateResponse(
                    ImmediateResponse {
                        status: Some(HttpStatus { code: 503 }),
                        ..Default::default()
                    },
                )))])
            })
        }),
        (Failure::Status(Code::Unavailable), |_| {
            Box::pin(async { Err(Status::unavailable("draining")) })
        }),
        (Failure::Status(Code::Internal), |_| {
            let headers = of(Response::RequestHeaders(destination()));
            Box::pin(async { fixed(vec![Ok(headers), Err(Status::internal("bug"))]) })
        }),
        (Failure::Status(Code::Aborted), |messages| {
            // All is well, but for the end.
            let end = futures_util::stream::iter([Err(Status::aborted("late"))]);
            Box::pin(async move { Ok(at_once(messages).await?.chain(end).boxed()) })
        }),
        (Failure::Unfinished, |_| {
            Box::pin(async { fixed(vec![Ok(of(Response::RequestHeaders(destination())))]) })
        }),
        (Failure::Unexpected("request trailers"), |_| {
            let trailers = of(Response::RequestTrailers(TrailersResponse::default()));
            Box::pin(async { fixed(vec![Ok(trailers)]) })
        }),
        (Failure::Unexpected("streamed immediate"), |_| {
            let streamed = StreamedImmediateResponse::default();
            Box::pin(async { fixed(vec![Ok(of(Response::StreamedImmediateResponse(streamed)))]) })
        }),
        (Failure::Unexpected("empty"), |_| {
            Box::pin(async { fixed(vec![Ok(ProcessingResponse::default())]) })
        }),
        // One that comes after the exchange is over.
        (Failure::Unexpected("response trailers"), |messages| {
            let trailers = of(Response::ResponseTrailers(TrailersResponse::default()));
            let end = futures_util::stream::iter([Ok(trailers)]);
            Box::pin(async move { Ok(at_once(messages).await?.chain(end).boxed()) })
        }),
        (Failure::Early(Side::Request), |messages| {
            let last = piece(HttpBody {
                end_of_stream: true,
                body: vec![b'x'; duplex(1 << 20, 0).request.length].into(),
                ..Default::default()
            });
            let reply = Ok(of(Response::RequestBody(last)));
            // The messages are kept, so that the stream stays open, and not read, so that sending cannot end.
            let open = futures_util::stream::pending().map(move |()| {
                let _ = &messages;
                unreachable!("pending")
            });
            let replies = futures_util::stream::iter([reply]).chain(open).boxed();
            Box::pin(async { Ok(replies) })
        }),
        (Failure::Length(Side::Request), |messages| {
            Box::pin(async move {
                let shortened = at_once(messages).await?.map(|reply| {
                    let mut reply = reply?;
                    if let Some(Response::RequestBody(body)) = &mut reply.response {
                        let end_of_stream = matches!(
                            body.response.take().unwrap().body_mutation.unwrap().mutation,
                            Some(Mutation::StreamedResponse(piece)) if piece.end_of_stream
                        );
                        *body = piece(HttpBody {
                            body: "x".into(),
                            end_of_stream,
                            ..Default::default()
                        });
                    }
                    Ok(reply)
                });
                Ok(shortened.boxed())
            })
        }),
        (Failure::NoDestination, |messages| {
            Box::pin(async move {
                let without = at_once(messages).await?.map(|reply| {
                    let mut reply = reply?;
                    if let Some(Response::RequestHeaders(headers)) = &mut reply.response {
                        headers.response = None;
                    }
                    Ok(reply)
                });
                Ok(without.boxed())
            })
        }),
    ];
    for (failure, server) in cases {
        let ended = exchange_with(server, duplex(1 << 20, 0)).await;
        assert_eq!(ended.map(|_| ()), Err(failure));
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent: Answer = |messages| {
        Box::pin(async move {
            let _messages = messages;
            std::future::pending().await
        })
    };
    let mut script = duplex(100, 0);
    script.deadline = Duration::from_millis(200);
    let ended = exchange_with(silent, script).await;
    assert_eq!(ended.map(|_| ()), Err(Failure::Deadline));
}
