//! One gRPC stream to the picker, spoken as one of the clients speaks.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

use pointsman::proto::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use pointsman::proto::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use pointsman::proto::ext_proc::external_processor_client::ExternalProcessorClient;
use pointsman::proto::ext_proc::processing_request::Request;
use pointsman::proto::ext_proc::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration,
};

use super::clients::{BodyMode, Client};
use super::rig::PATIENCE;

/// A stream. Dropping it resets it, as Envoy does.
pub(crate) struct Link {
    outbound: Option<mpsc::UnboundedSender<ProcessingRequest>>,
    replies: mpsc::UnboundedReceiver<Result<ProcessingResponse, Status>>,
    reader: JoinHandle<()>,
    /// Goes with the first message.
    config: Option<ProtocolConfiguration>,
    observes: bool,
    first: bool,
    pseudo_in_value: bool,
}

/// What came next.
#[derive(Debug)]
pub(crate) enum Next {
    Reply(Box<ProcessingResponse>),
    /// The stream ended with OK.
    Ended,
    Failed(Status),
    /// Nothing, for as long as anybody waits.
    Nothing,
}

// === impl Link ===

impl Link {
    /// Opens a stream; `observes` as the observing filter.
    pub(crate) fn open(channel: &Channel, client: &Client, observes: bool) -> Self {
        let (outbound, mut messages) = mpsc::unbounded_channel();
        let (sender, replies) = mpsc::unbounded_channel();
        let mut stub = ExternalProcessorClient::new(channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        if client.gzip {
            stub = stub
                .send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip);
        }
        let reader = tokio::spawn(async move {
            let outbound = stream::poll_fn(move |cx| messages.poll_recv(cx));
            let mut inbound = match stub.process(outbound).await {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(sender.send(Err(status))),
            };
            loop {
                let reply = match inbound.message().await {
                    Ok(None) => return,
                    Ok(Some(reply)) => Ok(reply),
                    Err(status) => Err(status),
                };
                let failed = reply.is_err();
                if sender.send(reply).is_err() || failed {
                    return;
                }
            }
        });
        let (request, response) = match observes && client.observer {
            true => (BodyMode::None, BodyMode::Streamed),
            false => (client.request_body, client.response_body),
        };
        Self {
            outbound: Some(outbound),
            replies,
            reader,
            config: client.says_modes.then(|| ProtocolConfiguration {
                request_body_mode: request.number(),
                response_body_mode: response.number(),
                send_body_without_waiting_for_header_response: client.sends_body_without_waiting,
            }),
            observes,
            first: true,
            pseudo_in_value: client.pseudo_in_value,
        }
    }

    /// Sends a message. One that cannot be sent any more is lost: the reader tells how the stream ended.
    pub(crate) fn send(&mut self, request: Request, metadata: Option<Metadata>) {
        let message = ProcessingRequest {
            request: Some(request),
            metadata_context: metadata,
            observability_mode: self.observes,
            protocol_config: self.config.filter(|_| std::mem::take(&mut self.first)),
        };
        if let Some(outbound) = &self.outbound {
            let _ = outbound.send(message);
        }
    }

    /// Headers in this client's way; `both` go as they are.
    pub(crate) fn header_map(
        &self,
        headers: &[(String, String)],
        both: impl IntoIterator<Item = HeaderValue>,
    ) -> HeaderMap {
        let one = |(key, value): &(String, String)| {
            let in_value = self.pseudo_in_value && key.starts_with(':');
            let (value, raw_value) = match in_value {
                true => (value.clone(), Bytes::new()),
                false => (String::new(), Bytes::from(value.clone())),
            };
            HeaderValue {
                key: key.clone(),
                value,
                raw_value,
            }
        };
        HeaderMap {
            headers: headers.iter().map(one).chain(both).collect(),
        }
    }

    /// What comes next, if it comes in time.
    pub(crate) async fn next(&mut self) -> Next {
        self.next_within(PATIENCE).await
    }

    async fn next_within(&mut self, patience: Duration) -> Next {
        match timeout(patience, self.replies.recv()).await {
            Ok(Some(Ok(reply))) => Next::Reply(Box::new(reply)),
            Ok(Some(Err(status))) => Next::Failed(status),
            Ok(None) => Next::Ended,
            Err(_) => Next::Nothing,
        }
    }

    /// Whether a reply has come that nobody has taken.
    pub(crate) fn has_reply(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Sends no more.
    pub(crate) fn half_close(&mut self) {
        self.outbound = None;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

// === impl BodyMode ===

impl BodyMode {
    fn number(self) -> i32 {
        match self {
            Self::None => BodySendMode::None,
            Self::Streamed => BodySendMode::Streamed,
            Self::Buffered => BodySendMode::Buffered,
            Self::BufferedPartial => BodySendMode::BufferedPartial,
            Self::FullDuplexStreamed => BodySendMode::FullDuplexStreamed,
        }
        .into()
    }
}

pub(crate) fn headers(headers: HeaderMap, end_of_stream: bool) -> HttpHeaders {
    HttpHeaders {
        headers: Some(headers),
        end_of_stream,
    }
}

pub(crate) fn body(body: Bytes, end_of_stream: bool) -> HttpBody {
    HttpBody {
        body,
        end_of_stream,
        ..Default::default()
    }
}

pub(crate) fn trailers(trailers: HeaderMap) -> HttpTrailers {
    HttpTrailers {
        trailers: Some(trailers),
    }
}

/// Dynamic metadata; none if there are no namespaces.
pub(crate) fn metadata(namespaces: &BTreeMap<String, serde_json::Value>) -> Option<Metadata> {
    let structures = namespaces
        .iter()
        .map(|(name, value)| match to_value(value).kind {
            Some(Kind::StructValue(fields)) => (name.clone(), fields),
            _ => panic!("metadata namespace {name} must be a map"),
        });
    (!namespaces.is_empty()).then(|| Metadata {
        filter_metadata: structures.collect(),
    })
}

fn to_value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    Value {
        kind: Some(match json {
            Json::Null => Kind::NullValue(0),
            Json::Bool(flag) => Kind::BoolValue(*flag),
            Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
            Json::String(text) => Kind::StringValue(text.clone()),
            Json::Array(items) => Kind::ListValue(ListValue {
                values: items.iter().map(to_value).collect(),
            }),
            Json::Object(fields) => Kind::StructValue(Struct {
                fields: fields
                    .iter()
                    .map(|(key, value)| (key.clone(), to_value(value)))
                    .collect(),
            }),
        }),
    }
}
