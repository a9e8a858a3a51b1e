//! Why an agent is not heard: in words for the log, and as one of a few causes for the counter.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::super::failure::with_sources;
use super::super::SILENT_MS;

/// Why a stream could not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// That is no address.
    #[error("{0} is not host:port")]
    Address(String),
    /// There is no connection.
    #[error("connecting: {}", with_sources(.0))]
    Connect(tonic::transport::Error),
    /// The agent, or what answers in its place, refuses.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    /// It says nothing.
    #[error("nothing for {SILENT_MS} ms")]
    Silent,
    /// It is done.
    #[error("it ended the stream")]
    Ended,
    /// A report is missing.
    #[error("report {got} came where {expected} was to come")]
    Gap {
        /// The number that was to come.
        expected: u64,
        /// That which came.
        got: u64,
    },
    /// It does not begin with what there is.
    #[error("its first report is no snapshot")]
    NoSnapshot,
}

/// Causes for which a stream could not begin, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFault {
    /// No connection.
    Connect,
    /// A connection, and no TLS over it: certificates, or the other side does none.
    Tls,
    /// The agent, or what answers in its place, refuses.
    Status,
    /// It said nothing for [`SILENT_MS`].
    Silent,
    /// It ended the stream.
    Ended,
    /// A report that may not come there.
    Malformed,
}

/// How often streams failed, by cause.
#[derive(Debug, Default)]
pub struct FailedStreams([AtomicU64; StreamFault::ALL.len()]);

// === impl StreamFault ===

impl StreamFault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Tls,
        Self::Status,
        Self::Silent,
        Self::Ended,
        Self::Malformed,
    ];

    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Status => "status",
            Self::Silent => "silent",
            Self::Ended => "ended",
            Self::Malformed => "malformed",
        }
    }
}

// === impl FailedStreams ===

impl FailedStreams {
    pub(super) fn count(&self, fault: StreamFault) {
        self.0[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Since the process began.
    pub fn of(&self, fault: StreamFault) -> u64 {
        self.0[fault as usize].load(Ordering::Relaxed)
    }
}

// === impl StreamError ===

impl StreamError {
    /// As metrics have it.
    pub fn cause(&self) -> StreamFault {
        match self {
            Self::Address(_) => StreamFault::Connect,
            Self::Connect(error) if is_tls(error) => StreamFault::Tls,
            Self::Connect(_) => StreamFault::Connect,
            Self::Status(_) => StreamFault::Status,
            Self::Silent => StreamFault::Silent,
            Self::Ended => StreamFault::Ended,
            Self::Gap { .. } | Self::NoSnapshot => StreamFault::Malformed,
        }
    }
}

/// Whether there was a connection, but no TLS over it; or a refusal by TLS after that.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        let inner = error.downcast_ref::<std::io::Error>();
        let inner = inner.and_then(|error| error.get_ref());
        if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        source = error.source();
    }
    false
}
