//! What goes into a simulation: traffic, as requests with their times, lengths and prefixes, and no text.
//!
//! A [`Trace`] is what a file says ([`read()`]), held in 40 bytes a request and 8 bytes a run of blocks. [`Traffic`] is a
//! trace scaled to a rate, a number of requests or a duration; it is walked, never held: a million requests out of a trace
//! of six thousand cost nothing more.
//!
//! # Prefixes
//!
//! Traces name blocks of their prompts by number: Mooncake those of 512 tokens, the measured vLLM runs those of 16, our own
//! captures those of 64. Here a prompt has numbers in the order in which blocks were first met, kept as runs: what is new is
//! always one run. [`Trace::chain`] makes of them, when it is asked to, the chain of hashes for blocks of any size: two
//! prompts share as many of those as fit into what they share of the file's. What a file does not tell of a prompt is its
//! own: shared with nobody.
//!
//! # Sessions and stages
//!
//! A turn that answers to an answer cannot come before it. [`Traffic::arrivals`] has the first turns of sessions only;
//! [`Traffic::next_turn`] has what follows when an answer has ended. Of a load test in stages, times are from the beginning
//! of the stage, which begins when all of the one before has ended ([`Traffic::drains`]).

mod adapters;
mod build;
mod chain;
mod describe;
mod error;
mod part;
mod read;
#[cfg(test)]
mod tests;
mod traffic;

pub use adapters::Adapters;
pub use describe::{Description, Lengths};
pub use error::WorkloadError;
pub use part::Part;
pub use read::{Format, ReadOptions, read};
pub use traffic::{Arrival, Arrivals, Rate, Scale, Traffic};

/// No session, or no next turn.
const NONE: u32 = u32::MAX;

/// It waits for no answer.
const FIRST_TURN: f32 = -1.0;
/// It waits for the answer before it, and for its time.
const AS_TRACED: f32 = -2.0;

/// What a file says.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Tokens in a block of the file; 0: it tells nothing of prefixes.
    block_tokens: u32,
    /// By stage, then by time.
    rows: Vec<Row>,
    runs: Vec<Run>,
    /// One at least.
    stages: Vec<Stage>,
    /// Empty, or one a row.
    seen: Vec<Seen>,
    adapters: u16,
}

/// A request as the file has it.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Seconds from the first request of the file, or from the beginning of its stage.
    at: f64,
    prompt: u32,
    output: u32,
    runs: u32,
    runs_end: u32,
    /// [`NONE`]: no session.
    session: u32,
    /// The row of the session's next turn; [`NONE`]: there is none.
    next: u32,
    /// Seconds from the end of the answer before to this turn, or [`FIRST_TURN`], or [`AS_TRACED`].
    think: f32,
    stage: u16,
    /// 0: none.
    adapter: u16,
}

/// Blocks whose numbers follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    length: u32,
}

/// A part of a load test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// Requests a second.
    pub rate: f64,
    /// Seconds in which they are sent.
    pub duration: f64,
    /// How many.
    pub requests: u32,
}

/// What was measured of a request when it was served for real. Seconds; NaN: not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// To the first token.
    pub ttft: f64,
    /// To the end.
    pub e2e: f64,
    /// Prompt tokens that were cached; NaN: not known.
    pub cached: f64,
}

// === impl Stage ===

impl Stage {
    /// All of `rows`, which are in the order of their times, the first at 0.
    fn whole(rows: &[Row]) -> Self {
        let duration = rows.last().map_or(0.0, |row| row.at);
        let gaps = rows.len().saturating_sub(1) as f64;
        Self {
            rate: if duration > 0.0 { gaps / duration } else { 0.0 },
            duration,
            requests: rows.len() as u32,
        }
    }
}

// === impl Trace ===

impl Trace {
    /// Requests in it.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never: a file without requests is an error.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens in a block of the file; 0: it tells nothing of prefixes.
    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// Its parts; one, unless it is a load test in stages.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// LoRA adapters in it: [`Arrival::adapter`] goes from 1 to this.
    pub fn adapters(&self) -> u16 {
        self.adapters
    }

    /// What was measured of the requests, in the order of [`Arrival::row`]; empty where the file does not tell.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Seconds from the first request to the last; of several stages, the sum of theirs.
    fn span(&self) -> f64 {
        match (&self.stages[..], self.rows.first(), self.rows.last()) {
            ([_], Some(first), Some(last)) => last.at - first.at,
            (stages, ..) => stages.iter().map(|stage| stage.duration).sum(),
        }
    }

    /// Requests a second, over all of it; `None`: there are too few to tell.
    pub fn rate(&self) -> Option<f64> {
        let gaps = match self.stages.len() {
            1 => self.len() - 1,
            _ => self.len(),
        };
        let span = self.span();
        (gaps > 0 && span > 0.0).then(|| gaps as f64 / span)
    }
}
