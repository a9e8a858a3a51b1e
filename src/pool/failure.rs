//! Why a poll of an endpoint failed, in words for the log and as one of a few causes for the gauge.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Member;

/// The sources that poll endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// For metrics pages.
    Metrics,
    /// For lists of models.
    Models,
    /// For what exporters tell of GPUs.
    Dcgm,
}

/// Causes of a failed poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// No connection.
    Connect = 1,
    /// A connection, and no TLS over it: the certificates, or the other side does none.
    Tls,
    /// No answer in time, or not all of it.
    Timeout,
    /// The connection ended before the answer was whole.
    Closed,
    /// Another status than 2xx.
    Status,
    /// A page of more bytes than such a page has.
    TooLarge,
    /// No HTTP, or a page in no form that such a page has.
    Malformed,
    /// A page of nothing.
    Empty,
    /// A page in the right form without anything that is looked for: renamed, or of another engine.
    Missing,
}

/// Of one endpoint: the cause for which the last poll of each source failed; 0 = it did not.
#[derive(Debug)]
pub struct Faults([AtomicU8; SourceType::ALL.len()]);

/// What went wrong with a poll.
#[derive(Debug, thiserror::Error)]
pub(super) enum PollError {
    #[error("connecting: {0}")]
    Connect(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("{}", with_sources(.0))]
    Http(#[from] hyper::Error),
    #[error("no answer: {}", with_sources(.0))]
    NoAnswer(hyper::Error),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("status {0}")]
    Status(http::StatusCode),
    #[error("the page is larger than {0} bytes")]
    TooLarge(usize),
    #[error("{1}")]
    Page(Fault, String),
    #[error("no answer in time")]
    Late,
}

/// Errors of hyper, and of what is built on it, do not say what they come from.
pub(super) fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// What is to blame for an error of HTTP.
fn blame(error: &hyper::Error) -> Fault {
    if error.is_parse() {
        return Fault::Malformed;
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if error
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>())
            {
                return Fault::Tls;
            }
            // As hyper says that a body is not framed as it should be.
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
            ) {
                return Fault::Malformed;
            }
        }
        source = error.source();
    }
    Fault::Closed
}

// === impl SourceType ===

impl SourceType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Models, Self::Dcgm];

    /// As configurations and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics-data-source",
            Self::Models => "models-data-source",
            Self::Dcgm => "dcgm-data-source",
        }
    }
}

// === impl Fault ===

impl Fault {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Closed,
        Self::Status,
        Self::TooLarge,
        Self::Malformed,
        Self::Empty,
        Self::Missing,
    ];

    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Status => "status",
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::Empty => "empty",
            Self::Missing => "missing",
        }
    }
}

// === impl Faults ===

impl Faults {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU8::new(0) }; SourceType::ALL.len()])
    }

    /// Why the last poll of it failed, if it did.
    pub fn of(&self, source: SourceType) -> Option<Fault> {
        let now = self.0[source as usize].load(Ordering::Relaxed);
        Fault::ALL.into_iter().find(|fault| *fault as u8 == now)
    }

    /// A poll failed. Whether that begins with it.
    pub(super) fn failed(&self, source: SourceType, fault: Fault) -> bool {
        self.0[source as usize].swap(fault as u8, Ordering::Relaxed) == 0
    }

    /// A poll went well, or there are to be no more. Whether the last one had failed.
    pub(super) fn ended(&self, source: SourceType) -> bool {
        let cell = &self.0[source as usize];
        // Nearly always there is nothing to write.
        cell.load(Ordering::Relaxed) != 0 && cell.swap(0, Ordering::Relaxed) != 0
    }

    pub(super) fn clear(&self) {
        for source in SourceType::ALL {
            self.ended(source);
        }
    }
}

// === impl Member ===

impl Member {
    /// Why polls of it fail now.
    pub fn faults(&self) -> &Faults {
        &self.slot.segment().faults[self.slot.index()]
    }
}

// === impl PollError ===

impl PollError {
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Connect(_) => Fault::Connect,
            Self::Tls(_) => Fault::Tls,
            Self::Http(error) | Self::NoAnswer(error) => blame(error),
            Self::Request(_) => Fault::Malformed,
            Self::Status(_) => Fault::Status,
            Self::TooLarge(_) => Fault::TooLarge,
            Self::Page(fault, _) => *fault,
            Self::Late => Fault::Timeout,
        }
    }

    /// The page was fetched; it is what it says that is wrong.
    pub(super) fn is_of_the_page(&self) -> bool {
        matches!(self, Self::Page(..))
    }
}
