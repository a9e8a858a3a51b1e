//! Why a request is not sent on, and what its client is told.

use crate::admission::Shed;
use crate::dialect::{self, DecodeError, Dialect, DialectError};
use crate::extproc::{Overrun, Refusal};
use crate::scheduling::ScheduleError;

use super::choose::NotChosen;
use super::control::DROPPED_REASON;
use super::desk::Late;

/// Asks clients to come back soon: what was short may be there in a second.
const RETRY_AFTER: &str = "1";

/// A request that gets no endpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denial {
    /// The body is not what its path says.
    #[error("{0}")]
    BadRequest(String),
    /// More bytes than we read.
    #[error("request body exceeds {0} bytes")]
    TooLarge(usize),
    /// The pool, or what the gateway's subset leaves of it, is empty.
    #[error("failed to find endpoint candidates for serving the request")]
    NoEndpoints,
    /// Filters left none.
    #[error("no endpoints available for the given request")]
    Saturated,
    /// It may be shed, and there is no room for it.
    #[error(transparent)]
    Shed(Shed),
    /// It was to go only where its KV cache is, and that is nowhere.
    #[error("no decode worker has the requested KV cache")]
    NotCached,
    /// All bodies together exceed the budget.
    #[error("too many request bodies are being read; try again")]
    NoBufferLeft,
    /// A part of the picker did not end in time.
    #[error("no decision in time: {0}")]
    Late(Late),
    /// Too many decisions do not end.
    #[error("too many decisions are under way; try again")]
    Stuck,
    /// No parser is configured for the path.
    #[error("no parser is configured for this path")]
    NoParser,
    /// A part of the picker panicked.
    #[error("internal error")]
    Broken,
}

// === impl Denial ===

impl Denial {
    fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) | Self::NoParser => 400,
            Self::NotCached => 412,
            Self::TooLarge(_) => 413,
            Self::Saturated | Self::Shed(_) => 429,
            Self::NoEndpoints | Self::NoBufferLeft | Self::Late(_) | Self::Stuck => 503,
            Self::Broken => 500,
        }
    }

    /// The word in the dropped-reason header, where the reference has one for it.
    fn dropped_reason(&self) -> Option<&'static str> {
        match self {
            Self::NoEndpoints => Some("rejected-no-endpoints"),
            // The reference gives no reason to what the detector sheds, and answers an admitter's no with 500.
            Self::Saturated | Self::Shed(Shed::NotAdmitted(_)) => Some("rejected-saturated"),
            _ => None,
        }
    }

    /// For the client's access log and for our metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::TooLarge(_) => "body_too_large",
            Self::NoEndpoints => "no_endpoints",
            Self::Saturated => "saturated",
            Self::Shed(Shed::Saturated) => "shed_saturated",
            Self::Shed(Shed::NotAdmitted(_)) => "shed_not_admitted",
            Self::NotCached => "not_cached",
            Self::NoBufferLeft => "no_buffer_left",
            Self::Late(Late::Parsing) => "parse_timeout",
            Self::Late(Late::Picking) => "pick_timeout",
            Self::Stuck => "stuck",
            Self::NoParser => "no_parser",
            Self::Broken => "internal",
        }
    }

    /// The reference's name of the error, as its `error_code` label has it.
    pub(super) fn error_code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::TooLarge(_) | Self::NoParser => "BadRequest",
            Self::NotCached => "PreconditionFailed",
            Self::Saturated | Self::Shed(_) => "ResourceExhausted",
            Self::NoEndpoints | Self::NoBufferLeft | Self::Late(_) | Self::Stuck => {
                "ServiceUnavailable"
            }
            Self::Broken => "Internal",
        }
    }

    /// Whether it was counted when it happened, for the model that the request asked for.
    pub(super) fn is_counted(&self) -> bool {
        matches!(
            self,
            Self::NoEndpoints | Self::Saturated | Self::Shed(_) | Self::NotCached
        )
    }

    /// The answer, in the envelope of the request's own dialect.
    pub(super) fn refusal(&self, dialect: Dialect) -> Refusal {
        let status = self.status();
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if let Some(reason) = self.dropped_reason() {
            headers.push((DROPPED_REASON, reason.to_owned()));
        }
        if matches!(status, 429 | 503) {
            headers.push(("retry-after", RETRY_AFTER.to_owned()));
        }
        Refusal {
            status,
            headers,
            body: dialect::error_body(dialect, status, &self.to_string()),
            details: self.reason(),
        }
    }
}

impl From<DialectError> for Denial {
    fn from(error: DialectError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl From<DecodeError> for Denial {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooLarge(limit) => Self::TooLarge(limit),
            DecodeError::Unsupported(_) | DecodeError::Corrupt { .. } => {
                Self::BadRequest(error.to_string())
            }
        }
    }
}

impl From<NotChosen> for Denial {
    fn from(not_chosen: NotChosen) -> Self {
        match not_chosen {
            NotChosen::Shed(shed) => Self::Shed(shed),
            NotChosen::Schedule(ScheduleError::NoEndpoints) => Self::NoEndpoints,
            NotChosen::Schedule(ScheduleError::Filtered) => Self::Saturated,
            NotChosen::NotCached => Self::NotCached,
        }
    }
}

impl From<Overrun> for Denial {
    fn from(overrun: Overrun) -> Self {
        match overrun {
            Overrun::BodyTooLarge(limit) => Self::TooLarge(limit),
            Overrun::NoBufferLeft => Self::NoBufferLeft,
        }
    }
}
