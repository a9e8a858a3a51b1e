//! What can be wrong with a trace, in words that say where and what to do.

use std::io;

/// Why there is no traffic.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The file cannot be read.
    #[error("{file}: {source}; give the path of a file that this process may read")]
    Io {
        /// As it was given.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// Something in the file is not what its format has there.
    #[error("{file}: {}{problem}; {remedy}", place(*line))]
    Bad {
        /// As it was given.
        file: String,
        /// From 1; 0 where there is no line to name.
        line: u64,
        /// The field, and what is wrong with it.
        problem: String,
        /// What to write instead.
        remedy: String,
    },
    /// It cannot be told what the file is.
    #[error(
        "{file}: its format cannot be told from its beginning; say which it is with --format: mooncake, azure, lengths, inference-perf, measured, blocks16 or recorded"
    )]
    UnknownFormat {
        /// As it was given.
        file: String,
    },
    /// There is nothing in it.
    #[error("{file}: there is no request in it; give a trace with one request at least")]
    Empty {
        /// As it was given.
        file: String,
    },
    /// There is more in it than can be held.
    #[error("{file}: {what}; cut the trace into several files")]
    TooLarge {
        /// As it was given.
        file: String,
        /// What there is too much of.
        what: &'static str,
    },
    /// It cannot be scaled so.
    #[error("{0}")]
    Scale(String),
}

fn place(line: u64) -> String {
    match line {
        0 => String::new(),
        line => format!("line {line}: "),
    }
}
