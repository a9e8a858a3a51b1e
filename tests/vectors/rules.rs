//! What the protocol allows as a reply, and what a proxy does with it.

use bytes::Bytes;
use pointsman::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use pointsman::proto::ext_proc::body_mutation::Mutation;
use pointsman::proto::ext_proc::common_response::ResponseStatus;
use pointsman::proto::ext_proc::processing_response::Response;
use pointsman::proto::ext_proc::{
    BodyMutation, CommonResponse, HeaderMutation, ImmediateResponse, ProcessingResponse,
};
use prost_types::Struct;

use super::clients::{BodyMode, Client};

/// The largest body of one reply.
const CHUNK: usize = 62_000;

/// What is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    RequestBodyOrTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    ResponseBodyOrTrailers,
}

/// One half of the exchange, as it comes out of the proxy.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The piece that waits for its reply.
    pub(crate) pending: Bytes,
    pub(crate) ended: bool,
    pub(crate) trailed: bool,
    /// Metadata of the replies, and whether the headers changed with it.
    pub(crate) metadata: Vec<(Struct, bool)>,
}

/// A reply that is allowed.
#[derive(Debug)]
pub(crate) enum Taken {
    Refusal(ImmediateResponse),
    Request(Change),
    Response(Change),
}

/// What a reply does.
#[derive(Debug)]
pub(crate) struct Change {
    kind: Kind,
    common: CommonResponse,
    metadata: Option<Struct>,
}

/// Whether `reply` may be the answer to what is to be answered: what it does, or what is wrong.
pub(crate) fn take(reply: ProcessingResponse, due: Kind, client: &Client) -> Result<Taken, String> {
    if reply.mode_override.is_some() || reply.override_message_timeout.is_some() {
        return Err("a reply changes modes or timeouts".to_owned());
    }
    let metadata = reply.dynamic_metadata;
    let (kind, common) = match reply.response {
        None => return Err("a reply to nothing".to_owned()),
        Some(Response::ImmediateResponse(refusal)) => {
            return match due {
                due if due.on_request() => Ok(Taken::Refusal(refusal)),
                _ => Err("an immediate response after the response began".to_owned()),
            };
        }
        Some(Response::StreamedImmediateResponse(_)) => {
            return Err("a streamed immediate response".to_owned());
        }
        Some(Response::RequestHeaders(reply)) => (Kind::RequestHeaders, reply.response),
        Some(Response::ResponseHeaders(reply)) => (Kind::ResponseHeaders, reply.response),
        Some(Response::RequestBody(reply)) => (Kind::RequestBody, reply.response),
        Some(Response::ResponseBody(reply)) => (Kind::ResponseBody, reply.response),
        Some(Response::RequestTrailers(reply)) => {
            (Kind::RequestTrailers, of_trailers(reply.header_mutation)?)
        }
        Some(Response::ResponseTrailers(reply)) => {
            (Kind::ResponseTrailers, of_trailers(reply.header_mutation)?)
        }
    };
    if !due.takes(kind) {
        return Err(format!("{kind:?} was answered where {due:?} was due"));
    }
    let common = common.unwrap_or_default();
    if common.status() != ResponseStatus::Continue {
        return Err(format!("{kind:?} was answered with {:?}", common.status()));
    }
    if let Some(mutation) = &common.header_mutation {
        check_mutation(mutation)?;
    }
    let mode = match kind.on_request() {
        true => client.request_body,
        false => client.response_body,
    };
    check_body(kind, mode, common.body_mutation.as_ref())?;
    let change = Change {
        kind,
        common,
        metadata,
    };
    Ok(match kind.on_request() {
        true => Taken::Request(change),
        false => Taken::Response(change),
    })
}

fn of_trailers(mutation: Option<HeaderMutation>) -> Result<Option<CommonResponse>, String> {
    match mutation {
        None => Ok(None),
        Some(mutation) => Err(format!("trailers were changed: {mutation:?}")),
    }
}

/// `append_action` and `raw_value` as every version of Envoy takes them.
pub(crate) fn check_mutation(mutation: &HeaderMutation) -> Result<(), String> {
    for option in &mutation.set_headers {
        let header = option.header.clone().unwrap_or_default();
        if !header.value.is_empty() {
            return Err(format!("{} is set by value, not by raw_value", header.key));
        }
        if option.append_action() != HeaderAppendAction::OverwriteIfExistsOrAdd {
            return Err(format!(
                "{} is set with {:?}",
                header.key,
                option.append_action()
            ));
        }
        if header.key.starts_with(':') {
            return Err(format!("{} is set", header.key));
        }
    }
    match mutation
        .remove_headers
        .iter()
        .find(|name| name.starts_with(':'))
    {
        Some(name) => Err(format!("{name} is removed")),
        None => Ok(()),
    }
}

/// Full duplex wants pieces, all others want none.
fn check_body(kind: Kind, mode: BodyMode, body: Option<&BodyMutation>) -> Result<(), String> {
    let mutation = body.and_then(|body| body.mutation.as_ref());
    let is_body = matches!(kind, Kind::RequestBody | Kind::ResponseBody);
    match (mutation, is_body && mode == BodyMode::FullDuplexStreamed) {
        (Some(Mutation::StreamedResponse(piece)), true) if piece.body.len() > CHUNK => {
            Err(format!(
                "a piece of {} bytes; {CHUNK} is the limit",
                piece.body.len()
            ))
        }
        (Some(Mutation::StreamedResponse(_)), true) => Ok(()),
        (None, false) => Ok(()),
        (Some(Mutation::Body(_)), false) if is_body => Ok(()),
        (other, _) => Err(format!(
            "{kind:?} in mode {mode:?} was answered with {}",
            name(other)
        )),
    }
}

fn name(mutation: Option<&Mutation>) -> &'static str {
    match mutation {
        None => "no body",
        Some(Mutation::Body(_)) => "a whole body",
        Some(Mutation::ClearBody(_)) => "clear_body",
        Some(Mutation::StreamedResponse(_)) => "a piece of a body",
    }
}

// === impl Kind ===

impl Kind {
    fn on_request(self) -> bool {
        matches!(
            self,
            Self::RequestHeaders
                | Self::RequestBody
                | Self::RequestTrailers
                | Self::RequestBodyOrTrailers
        )
    }

    fn takes(self, kind: Self) -> bool {
        match self {
            Self::RequestBodyOrTrailers => {
                matches!(kind, Self::RequestBody | Self::RequestTrailers)
            }
            Self::ResponseBodyOrTrailers => {
                matches!(kind, Self::ResponseBody | Self::ResponseTrailers)
            }
            due => kind == due,
        }
    }
}

// === impl Part ===

impl Part {
    /// Does what a reply says.
    pub(crate) fn apply(&mut self, change: Change) -> Result<(), String> {
        let edits = change.common.header_mutation.unwrap_or_default();
        let edited = !edits.set_headers.is_empty() || !edits.remove_headers.is_empty();
        for option in edits.set_headers {
            let header = option.header.unwrap_or_default();
            let name = header.key.to_ascii_lowercase();
            let value = String::from_utf8(header.raw_value.to_vec());
            let value = value.map_err(|_| format!("{name} is set to what is no UTF-8"))?;
            self.headers.retain(|(known, _)| *known != name);
            self.headers.push((name, value));
        }
        for name in edits.remove_headers {
            self.headers
                .retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        }
        let on_response = !change.kind.on_request();
        if on_response
            && !self.metadata.is_empty()
            && !matches!(change.kind, Kind::ResponseTrailers)
        {
            return Err("another piece of the response after the metadata of the last".to_owned());
        }
        if let Some(metadata) = change.metadata {
            if change.kind == Kind::ResponseHeaders {
                return Err("metadata before the response is complete".to_owned());
            }
            self.metadata
                .push((metadata, edited && change.common.clear_route_cache));
        }
        match change.kind {
            Kind::RequestBody | Kind::ResponseBody => {
                let pending = std::mem::take(&mut self.pending);
                match change.common.body_mutation.and_then(|body| body.mutation) {
                    None => self.body.extend_from_slice(&pending),
                    Some(Mutation::Body(instead)) => self.body.extend_from_slice(&instead),
                    Some(Mutation::StreamedResponse(_)) if self.ended => {
                        return Err("a piece of a body after its end".to_owned());
                    }
                    Some(Mutation::StreamedResponse(piece)) => {
                        self.body.extend_from_slice(&piece.body);
                        self.ended = piece.end_of_stream;
                    }
                    Some(Mutation::ClearBody(_)) => {}
                }
            }
            Kind::RequestTrailers | Kind::ResponseTrailers if self.ended => {
                return Err("the body ended although trailers follow".to_owned());
            }
            Kind::RequestTrailers | Kind::ResponseTrailers => self.trailed = true,
            _ => {}
        }
        Ok(())
    }

    /// Nothing more of it will come.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended || self.trailed
    }
}
