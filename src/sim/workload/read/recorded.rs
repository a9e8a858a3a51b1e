//! What `pointsman serve --record` wrote: [`crate::telemetry::record::format`].

use std::collections::HashMap;
use std::io::BufRead;

use super::super::build::{Builder, NewRow};
use super::super::{Seen, WorkloadError};
use super::Lines;
use crate::telemetry::record::format::{AnswerLine, ArrivalLine, Line, VERSION};

const REMEDY: &str = "give a file that `pointsman serve --record` wrote, or cut the line out";
/// Output tokens of a request whose answer never came by, and that names no limit, where no other answer did either.
const GUESS: u32 = 128;

pub(super) fn recorded<R: BufRead>(lines: &mut Lines<R>) -> Result<Builder, WorkloadError> {
    let mut block_tokens = None;
    let mut arrivals: Vec<ArrivalLine> = Vec::new();
    let mut answers: HashMap<u64, AnswerLine> = HashMap::new();
    while lines.advance()? {
        let line = match lines.json(REMEDY) {
            Ok(line) => line,
            // A process that is killed leaves half a line.
            Err(_) if !lines.text.ends_with(b"\n") && block_tokens.is_some() => break,
            Err(error) => return Err(error),
        };
        match line {
            Line::Header(header) if header.pointsman_arrivals != VERSION => {
                let problem = format!("`pointsman_arrivals` is {}", header.pointsman_arrivals);
                let remedy = format!("this version reads captures of version {VERSION}");
                return Err(lines.bad(problem, remedy));
            }
            Line::Header(header) => {
                if block_tokens.replace(header.block_tokens).is_some() {
                    return Err(lines.bad("a second header", "give one capture at a time"));
                }
            }
            _ if block_tokens.is_none() => {
                return Err(lines.bad("the header is missing", REMEDY));
            }
            Line::Arrival(arrival) => {
                lines.time("t", arrival.t)?;
                arrivals.push(arrival);
            }
            Line::Answer(answer) => {
                answers.insert(answer.of, answer);
            }
            Line::End(_) => {}
        }
    }
    arrivals.sort_by(|a, b| a.t.total_cmp(&b.t));
    let mut builder = Builder::new(block_tokens.unwrap_or_default());
    let typical = typical(&answers);
    // When the answer before in the same session had ended.
    let mut ended: HashMap<u32, f64> = HashMap::new();
    for arrival in &arrivals {
        let numbers = arrival
            .blocks
            .iter()
            .flat_map(|&(first, length)| u64::from(first)..u64::from(first) + u64::from(length));
        // More blocks than the prompt has room for are a fault of the file; a run could be made of billions.
        let most = arrival.r#in / block_tokens.unwrap_or(1).max(1) + 1;
        let keys = builder.keys(numbers.take(most as usize));
        let answer = answers.get(&arrival.n);
        let tokens = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        let output = answer.and_then(|answer| answer.out).map(tokens);
        // Most answers end long before their limit.
        let guess = || arrival.max.map_or(typical, |max| tokens(max).min(typical));
        let adapter = (arrival.adapter > 0).then(|| arrival.adapter.to_string());
        let session = (arrival.session > 0).then(|| arrival.session.to_string());
        let end = answer.map(|answer| arrival.t + answer.e2e);
        let before = match end {
            Some(end) => ended.insert(arrival.session, end),
            None => ended.remove(&arrival.session),
        };
        let new = NewRow {
            at: arrival.t,
            prompt: arrival.r#in,
            output: output.unwrap_or_else(guess),
            keys: keys.map_err(|what| lines.full(what))?,
            adapter: adapter.as_deref(),
            session: session.as_deref(),
            // Of an answer that nobody saw the end of, only the time of the turn is known.
            think: before.map(|end| (arrival.t - end) as f32),
            ..NewRow::default()
        };
        lines.add(&mut builder, &new)?;
        builder.seen(Seen {
            ttft: answer.and_then(|a| a.ttft).unwrap_or(f64::NAN),
            e2e: answer.map_or(f64::NAN, |a| a.e2e),
            cached: answer
                .and_then(|a| a.cached)
                .map_or(f64::NAN, |cached| cached as f64),
        });
    }
    Ok(builder)
}

/// The median of the answers' lengths.
fn typical(answers: &HashMap<u64, AnswerLine>) -> u32 {
    let known = answers.values().filter_map(|answer| answer.out);
    let mut known: Vec<u64> = known.collect();
    known.sort_unstable();
    let middle = known.get(known.len() / 2);
    middle.map_or(GUESS, |&out| u32::try_from(out).unwrap_or(u32::MAX))
}
