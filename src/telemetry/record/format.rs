//! What is in a capture: JSON lines, version 1.
//!
//! ```text
//! {"pointsman_arrivals":1,"block_tokens":64,"started_ms":1790000000000}
//! {"n":0,"t":0.001234,"in":1230,"blocks":[[0,19]],"max":512,"model":1}
//! {"n":1,"t":0.020100,"in":1310,"blocks":[[0,12],[19,8]],"model":1,"adapter":1}
//! {"of":0,"out":140,"in":1244,"cached":0,"ttft":0.081,"e2e":2.503}
//! {"end":"closed","dropped":0}
//! ```
//!
//! `blocks` are the full blocks of the prompt, in runs of `[first, length]`, by numbers that are given out in the order in which
//! blocks are met. A number stands for a block *and all before it*, so equal numbers mean equal beginnings. Nothing is in
//! the file that was computed from text: not even a salted hash could be guessed back out of it. The price is that the writer
//! must remember which number a block has, and it remembers [`super::writer::REMEMBERED`] at least: a beginning that comes back later
//! than that gets new numbers.
//!
//! | Field | Is |
//! |---|---|
//! | `started_ms` | when recording began, in ms since 1970 |
//! | `n` | which request, from 0; one that was dropped leaves a gap |
//! | `t` | when it was to be decided on, in s since the beginning |
//! | `in` | prompt tokens: bytes of text / 4; in an answer, as the server counted them |
//! | `max` | the most tokens that it lets the server generate, if it says |
//! | `model`, `adapter` | numbers from 1, in the order in which names were met; 0 or nothing: none, or no number was left |
//! | `session` | the session that it says it is of, by number from 1, in the order in which sessions were met; nothing: none |
//! | `refused` | it was sent nowhere |
//! | `of` | the request that was answered; lines are written as things happen, so answers follow much later |
//! | `out`, `cached` | tokens, by the answer's usage, if it has any |
//! | `ttft`, `e2e` | s from the request's first byte, if its answer came by |
//! | `end` | why nothing follows: `closed`, or `full` (`--record-max-bytes`). No such line: the process was killed |
//! | `dropped` | lines that are missing because the writer was behind |

use serde::{Deserialize, Serialize};

/// What this program writes and reads.
pub const VERSION: u32 = 1;

/// The first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderLine {
    /// [`VERSION`].
    pub pointsman_arrivals: u32,
    /// Tokens in a block.
    pub block_tokens: u32,
    /// In milliseconds since 1970.
    pub started_ms: u64,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArrivalLine {
    /// Which one.
    pub n: u64,
    /// In seconds.
    pub t: f64,
    /// Prompt tokens, estimated.
    pub r#in: u32,
    /// First and length of each run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<(u32, u32)>,
    /// The most tokens of its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Its model's number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub model: u16,
    /// Its adapter's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub adapter: u16,
    /// Its session's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub session: u32,
    /// It was sent nowhere.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refused: bool,
}

/// An answer that came by to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerLine {
    /// To which request.
    pub of: u64,
    /// Tokens generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<u64>,
    /// Prompt tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#in: Option<u64>,
    /// Prompt tokens that were cached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<u64>,
    /// Seconds to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft: Option<f64>,
    /// Seconds to the end.
    pub e2e: f64,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndLine {
    /// Why.
    pub end: String,
    /// Lines that are missing.
    pub dropped: u64,
}

/// Any line.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The first.
    Header(HeaderLine),
    /// A request.
    Arrival(ArrivalLine),
    /// An answer.
    Answer(AnswerLine),
    /// The last.
    End(EndLine),
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero<N: Copy + Into<u32>>(number: &N) -> bool {
    (*number).into() == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
}
