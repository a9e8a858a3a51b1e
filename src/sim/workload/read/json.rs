//! Formats with one JSON object a line. Fields that are not read are let be: others' files have more of them.

use std::io::BufRead;

use serde::Deserialize;

use super::super::build::{Builder, NewRow};
use super::super::{Seen, WorkloadError};
use super::Lines;

const MOONCAKE: &str = "a Mooncake line is {\"timestamp\": 27482, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46, 47]}, with milliseconds, tokens and blocks of 512 tokens";
const BLOCKS16: &str = "a line is {\"arrival_ms\": 46.9, \"input_length\": 2358, \"output_length\": 531, \"block16_ids\": [0, 1]}, with blocks of 16 tokens";
const MEASURED: &str = "a line of a measured run is {\"input_toks\": 2358, \"output_toks\": 531, \"arrival_time\": 1787267980.08}, with seconds, and, if they are known, queued_ts, first_token_ts and last_token_ts";
const LENGTHS: &str = "a line is {\"t\": 0.25, \"in\": 1200, \"out\": 64}, with seconds and tokens, and, if there are any, \"session\": \"a\", \"think\": 5.0 and \"adapter\": \"b\"";

/// Tokens in a block of Mooncake's.
const MOONCAKE_BLOCK: u32 = 512;

#[derive(Deserialize)]
struct MooncakeRow {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

#[derive(Deserialize)]
struct Blocks16Row {
    arrival_ms: f64,
    input_length: u32,
    output_length: u32,
    block16_ids: Vec<u64>,
}

#[derive(Deserialize)]
struct MeasuredRow {
    input_toks: u32,
    output_toks: u32,
    arrival_time: f64,
    queued_ts: Option<f64>,
    first_token_ts: Option<f64>,
    last_token_ts: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LengthsRow {
    t: f64,
    r#in: u32,
    out: u32,
    #[serde(default)]
    session: Option<String>,
    #[serde(default)]
    think: Option<f32>,
    #[serde(default)]
    adapter: Option<String>,
}

pub(super) fn mooncake<R: BufRead>(
    lines: &mut Lines<R>,
    seed: u64,
) -> Result<Builder, WorkloadError> {
    let mut builder = Builder::new(MOONCAKE_BLOCK);
    while lines.advance()? {
        let row: MooncakeRow = lines.json(MOONCAKE)?;
        check(lines, row.hash_ids.len(), row.input_length, MOONCAKE_BLOCK)?;
        let keys = builder.keys(row.hash_ids.into_iter());
        let new = NewRow {
            at: lines.time("timestamp", row.timestamp / 1e3)?,
            prompt: row.input_length,
            output: row.output_length,
            keys: keys.map_err(|what| lines.full(what))?,
            ..NewRow::default()
        };
        lines.add(&mut builder, &new)?;
    }
    builder.spread(seed);
    Ok(builder)
}

pub(super) fn blocks16<R: BufRead>(lines: &mut Lines<R>) -> Result<Builder, WorkloadError> {
    let mut builder = Builder::new(16);
    while lines.advance()? {
        let row: Blocks16Row = lines.json(BLOCKS16)?;
        check(lines, row.block16_ids.len(), row.input_length, 16)?;
        let keys = builder.keys(row.block16_ids.into_iter());
        let new = NewRow {
            at: lines.time("arrival_ms", row.arrival_ms / 1e3)?,
            prompt: row.input_length,
            output: row.output_length,
            keys: keys.map_err(|what| lines.full(what))?,
            ..NewRow::default()
        };
        lines.add(&mut builder, &new)?;
    }
    Ok(builder)
}

/// With `blocks`, the prompts' blocks are taken from there, line by line.
pub(super) fn measured<R: BufRead>(
    lines: &mut Lines<R>,
    mut blocks: Option<Lines<R>>,
) -> Result<Builder, WorkloadError> {
    let mut builder = Builder::new(if blocks.is_some() { 16 } else { 0 });
    while lines.advance()? {
        let row: MeasuredRow = lines.json(MEASURED)?;
        let mut new = NewRow {
            at: lines.time("arrival_time", row.arrival_time)?,
            prompt: row.input_toks,
            output: row.output_toks,
            ..NewRow::default()
        };
        if let Some(blocks) = &mut blocks {
            if !blocks.advance()? {
                return Err(blocks.bad(
                    "it ends before the run does",
                    "give the file that was made of the same requests",
                ));
            }
            let other: Blocks16Row = blocks.json(BLOCKS16)?;
            if other.input_length != row.input_toks {
                return Err(blocks.bad(
                    format!(
                        "`input_length` is {} where the run has {} tokens",
                        other.input_length, row.input_toks
                    ),
                    "give the file that was made of the same requests, in their order",
                ));
            }
            let keys = builder.keys(other.block16_ids.into_iter());
            new.keys = keys.map_err(|what| lines.full(what))?;
        }
        lines.add(&mut builder, &new)?;
        let since = |at: Option<f64>| match (row.queued_ts, at) {
            (Some(queued), Some(at)) => at - queued,
            _ => f64::NAN,
        };
        builder.seen(Seen {
            ttft: since(row.first_token_ts),
            e2e: since(row.last_token_ts),
            cached: f64::NAN,
        });
    }
    Ok(builder)
}

pub(super) fn lengths<R: BufRead>(lines: &mut Lines<R>) -> Result<Builder, WorkloadError> {
    let mut builder = Builder::new(0);
    while lines.advance()? {
        let row: LengthsRow = lines.json(LENGTHS)?;
        row.add(lines, &mut builder)?;
    }
    Ok(builder)
}

/// A prompt has no more blocks than fit into it.
fn check<R: BufRead>(
    lines: &Lines<R>,
    blocks: usize,
    prompt: u32,
    tokens: u32,
) -> Result<(), WorkloadError> {
    if blocks as u64 <= u64::from(prompt.div_ceil(tokens)) {
        return Ok(());
    }
    Err(lines.bad(
        format!("there are {blocks} blocks of {tokens} tokens for a prompt of {prompt} tokens"),
        "name each block of the prompt once",
    ))
}

// === impl LengthsRow ===

impl LengthsRow {
    pub(super) fn add<R: BufRead>(
        &self,
        lines: &Lines<R>,
        builder: &mut Builder,
    ) -> Result<(), WorkloadError> {
        let think = self.think.unwrap_or_default();
        lines.time("think", f64::from(think))?;
        let new = NewRow {
            at: lines.time("t", self.t)?,
            prompt: self.r#in,
            output: self.out,
            session: self.session.as_deref().filter(|name| !name.is_empty()),
            think: Some(think),
            adapter: self.adapter.as_deref(),
            ..NewRow::default()
        };
        lines.add(builder, &new)
    }
}
