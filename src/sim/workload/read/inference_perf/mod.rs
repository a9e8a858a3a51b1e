//! The YAML of inference-perf, as far as it says what is sent and when.
//!
//! | `data.type` | Here |
//! |---|---|
//! | `shared_prefix` | groups of prompts that share a system prompt, shuffled once, then sent round and round through all stages; with `enable_multi_turn_chat` each is a session, whose next turn has all before it |
//! | `random`, `synthetic` | lengths of `input_distribution` and `output_distribution`; nothing is shared |
//! | `conversation_replay` | sessions that share a system prompt, and begin anew when their turns are over |
//!
//! | `load.type` | Here |
//! |---|---|
//! | `constant` | so many arrivals as rate and duration come to, with exponential gaps, stretched to the duration |
//! | `poisson` | the same without the stretching |
//! | `concurrent` | `concurrency_level` clients, each of which sends its next request when the last one has ended |
//!
//! That is what inference-perf does (its `load_timer.py` and `datagen/`). Each stage is drained before the next begins, and sessions
//! begin anew in it. `lora_traffic_split` names adapters. What else there is in the file does not change what is sent, or is
//! refused. Answers are as long as they may be, and theirs are part of the next turn's prompt, but not of what is cached: no
//! format here names the blocks of an answer.

mod lengths;
mod prompts;
mod spec;
mod stages;
#[cfg(test)]
mod tests;

use std::io::BufRead;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::super::WorkloadError;
use super::super::build::{Builder, NewRow};
use super::{LONGEST_LINE, Lines, io_error};
use crate::config::read_yaml;
use prompts::Prompts;
use spec::Document;
use stages::Sends;

/// Tokens in a block of the prompts that are made up.
const BLOCK: u32 = 16;
/// Prompts, stages, tokens of a prompt, and requests of a stage.
const MOST: f64 = 10e6;

/// What is wrong with a file, and what to write instead.
struct Wrong {
    problem: String,
    remedy: &'static str,
}

/// What is wrong where nothing else needs to be told.
fn wrong<T>(problem: impl Into<String>, remedy: &'static str) -> Result<T, Wrong> {
    Err(Wrong {
        problem: problem.into(),
        remedy,
    })
}

pub(super) fn inference_perf<R: BufRead>(
    lines: &mut Lines<R>,
    seed: u64,
) -> Result<Builder, WorkloadError> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = (&mut lines.reader)
        .take(LONGEST_LINE)
        .read_to_string(&mut text);
    read.map_err(|source| io_error(&lines.file, source))?;
    let bad = |line, Wrong { problem, remedy }| WorkloadError::Bad {
        file: lines.file.clone(),
        line,
        problem,
        remedy: remedy.to_owned(),
    };
    let document: Document = read_yaml(&text).map_err(|problem| {
        let remedy = "give an inference-perf file with load.type constant, poisson or concurrent, load.stages, and data of type shared_prefix, random or conversation_replay";
        let line = problem.line;
        bad(
            line,
            Wrong {
                problem: problem.message,
                remedy,
            },
        )
    })?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let made = document
        .check()
        .and_then(|()| Prompts::of(&document.data, &mut rng))
        .and_then(|prompts| {
            let sends = Sends::of(&document.load, &prompts, &mut rng)?;
            Ok((prompts, sends))
        });
    let (mut prompts, sends) = made.map_err(|wrong| bad(0, wrong))?;
    let full = |what| WorkloadError::TooLarge {
        file: lines.file.clone(),
        what,
    };
    let mut builder = Builder::new(BLOCK);
    for (number, send) in sends.all.iter().enumerate() {
        let prompt = prompts.next(number as u64, send.stage, &mut rng);
        if f64::from(prompt.tokens) > MOST {
            let problem = "the prompts of a session grow beyond 10 million tokens";
            let remedy = "make stages shorter, or sessions more";
            return Err(bad(
                0,
                Wrong {
                    problem: problem.to_owned(),
                    remedy,
                },
            ));
        }
        let keys = builder.keys(prompt.names()).map_err(full)?;
        let client = send.client.map(|client| format!("{} {client}", send.stage));
        let session = prompt
            .session
            .map(|(stage, session)| format!("{stage} {session}"));
        let new = NewRow {
            at: send.at,
            prompt: prompt.tokens,
            output: prompt.output,
            keys,
            // A client that waits for its answers has one session at a time.
            session: client.as_deref().or(session.as_deref()),
            think: send.client.map(|_| prompt.think),
            adapter: send.adapter.as_deref(),
            stage: send.stage,
        };
        builder.row(&new).map_err(full)?;
    }
    builder.stages(sends.stages);
    Ok(builder)
}
