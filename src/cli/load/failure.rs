//! How an exchange fails: each way is one line of the report.

use std::fmt;

use tonic::Code;

use super::script::Side;
use crate::proto::ext_proc::processing_response::Response;

/// Why a request did not get through the picker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The picker answered the client itself.
    #[error("immediate response {0}")]
    Immediate(i32),
    /// gRPC's own status; a connection that failed has one too.
    #[error("stream ended with {0:?}")]
    Status(Code),
    #[error("stream ended with Ok before its last reply")]
    Unfinished,
    #[error("timed out")]
    Deadline,
    #[error("no destination in the replies")]
    NoDestination,
    #[error("{0} body was answered before all of it was sent")]
    Early(Side),
    #[error("{0} body came back with another length")]
    Length(Side),
    #[error("{0} reply where none or another was due")]
    Unexpected(&'static str),
}

// === impl Failure ===

impl Failure {
    pub(super) fn unexpected(reply: Option<&Response>) -> Self {
        Self::Unexpected(match reply {
            None => "empty",
            Some(Response::RequestHeaders(_)) => "request headers",
            Some(Response::RequestBody(_)) => "request body",
            Some(Response::RequestTrailers(_)) => "request trailers",
            Some(Response::ResponseHeaders(_)) => "response headers",
            Some(Response::ResponseBody(_)) => "response body",
            Some(Response::ResponseTrailers(_)) => "response trailers",
            Some(Response::ImmediateResponse(_)) => "immediate",
            Some(Response::StreamedImmediateResponse(_)) => "streamed immediate",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Response => "response",
        })
    }
}
