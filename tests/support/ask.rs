//! A request to a picker over gRPC, by its headers alone.

use std::net::SocketAddr;

use futures_util::stream::{self, StreamExt as _};
use pointsman::proto::envoy::config::core::v3::{HeaderMap, HeaderValue};
use pointsman::proto::ext_proc::external_processor_client::ExternalProcessorClient;
use pointsman::proto::ext_proc::processing_request::Request;
use pointsman::proto::ext_proc::processing_response::Response;
use pointsman::proto::ext_proc::{HttpHeaders, ProcessingRequest};

/// Where the request with these `headers` should go, or with which status it is refused.
pub(crate) async fn ask(picker: SocketAddr, headers: &[(&str, &str)]) -> Result<String, i32> {
    let method = [(":method", "GET"), (":path", "/v1/models")];
    let headers = method
        .iter()
        .chain(headers)
        .map(|(key, value)| HeaderValue {
            key: (*key).to_owned(),
            value: String::new(),
            raw_value: value.as_bytes().to_vec().into(),
        });
    let request = ProcessingRequest {
        request: Some(Request::RequestHeaders(HttpHeaders {
            headers: Some(HeaderMap {
                headers: headers.collect(),
            }),
            end_of_stream: true,
        })),
        ..Default::default()
    };
    let mut client = ExternalProcessorClient::connect(format!("http://{picker}"))
        .await
        .unwrap();
    // It does not end: a client that went away is no client.
    let requests = stream::iter([request]).chain(stream::pending());
    let mut replies = client.process(requests).await.unwrap().into_inner();
    match replies.message().await.unwrap().unwrap().response.unwrap() {
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
