//! Requests to a picker over gRPC, with this side in the proxy's place: both bodies in full duplex.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream;
use pointsman::proto::envoy::config::core::v3::{HeaderMap, HeaderValue};
use pointsman::proto::ext_proc::external_processor_client::ExternalProcessorClient;
use pointsman::proto::ext_proc::processing_request::Request;
use pointsman::proto::ext_proc::processing_response::Response;
use pointsman::proto::ext_proc::{HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Where the request with these `headers`, and no body, should go, or with which status it is refused.
pub(crate) async fn ask(picker: SocketAddr, headers: &[(&str, &str)]) -> Result<String, i32> {
    let pseudo = [(":method", "GET"), (":path", "/v1/models")];
    let headers: Vec<_> = pseudo.iter().chain(headers).copied().collect();
    let mut exchange = Exchange::begin(&channel(picker), &headers, true).await;
    exchange.destination().await
}

/// A connection to a picker.
pub(crate) fn channel(picker: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{picker}"));
    endpoint.unwrap().connect_lazy()
}

/// One request. It is under way for as long as this lives: a client that went away is no client.
pub(crate) struct Exchange {
    outbound: mpsc::UnboundedSender<ProcessingRequest>,
    inbound: Streaming<ProcessingResponse>,
}

// === impl Exchange ===

impl Exchange {
    /// Begins a request, whose body is to follow unless the headers are its end.
    pub(crate) async fn begin(channel: &Channel, headers: &[(&str, &str)], end: bool) -> Self {
        Self::try_begin(channel, headers, end).await.unwrap()
    }

    /// The same, with the picker's word if it takes no request.
    pub(crate) async fn try_begin(
        channel: &Channel,
        headers: &[(&str, &str)],
        end: bool,
    ) -> Result<Self, Status> {
        let (outbound, mut messages) = mpsc::unbounded_channel();
        let headers = Request::RequestHeaders(http_headers(headers, end));
        outbound.send(message(headers)).unwrap();
        let requests = stream::poll_fn(move |cx| messages.poll_recv(cx));
        let mut client = ExternalProcessorClient::new(channel.clone());
        Ok(Self {
            inbound: client.process(requests).await?.into_inner(),
            outbound,
        })
    }

    /// Begins a request with a JSON body for `path`, with more `headers`, and sends it whole.
    pub(crate) async fn post(
        channel: &Channel,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Self {
        let pseudo = [(":method", "POST"), (":path", path)];
        let headers: Vec<_> = pseudo.iter().chain(headers).copied().collect();
        let exchange = Self::begin(channel, &headers, false).await;
        exchange.body(body, true);
        exchange
    }

    /// Sends more of the body.
    pub(crate) fn body(&self, body: impl Into<Bytes>, end: bool) {
        self.send(Request::RequestBody(http_body(body, end)));
    }

    /// Waits for where it should go, or with which status it is refused.
    pub(crate) async fn destination(&mut self) -> Result<String, i32> {
        let reply = self.inbound.message().await.unwrap().unwrap();
        match reply.response.unwrap() {
            Response::RequestHeaders(reply) => {
                let mutation = reply.response.unwrap().header_mutation.unwrap();
                let mut set = mutation.set_headers.into_iter().flat_map(|o| o.header);
                let destination = set
                    .find(|header| header.key == "x-gateway-destination-endpoint")
                    .unwrap();
                Ok(String::from_utf8(destination.raw_value.to_vec()).unwrap())
            }
            Response::ImmediateResponse(reply) => Err(reply.status.unwrap().code),
            other => panic!("{other:?}"),
        }
    }

    /// The model server answers with this JSON, and it ends: returns when the picker has done with it.
    pub(crate) async fn answer(self, json: String) {
        self.answer_with("200", json).await;
    }

    /// The same, with another `status`.
    pub(crate) async fn answer_with(mut self, status: &str, json: String) {
        let headers = [(":status", status), ("content-type", "application/json")];
        self.send(Request::ResponseHeaders(http_headers(&headers, false)));
        self.send(Request::ResponseBody(http_body(json, true)));
        drop(self.outbound);
        while self.inbound.message().await.unwrap().is_some() {}
    }

    fn send(&self, request: Request) {
        self.outbound.send(message(request)).unwrap();
    }
}

fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(request),
        ..Default::default()
    }
}

fn http_body(body: impl Into<Bytes>, end_of_stream: bool) -> HttpBody {
    HttpBody {
        body: body.into(),
        end_of_stream,
        ..Default::default()
    }
}

fn http_headers(headers: &[(&str, &str)], end_of_stream: bool) -> HttpHeaders {
    let headers = headers.iter().map(|(key, value)| HeaderValue {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec().into(),
    });
    HttpHeaders {
        headers: Some(HeaderMap {
            headers: headers.collect(),
        }),
        end_of_stream,
    }
}
