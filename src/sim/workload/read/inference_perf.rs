//! The YAML of inference-perf, as far as it says what is sent: groups of prompts that share a system prompt, in stages of a
//! rate each. As inference-perf does it, the prompts are shuffled once and then sent round and round, through all stages; `constant`
//! is a fixed number of arrivals with exponential gaps, stretched to the stage's duration, `poisson` the same without the
//! stretching; each stage is drained before the next begins.

use std::io::BufRead;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;
use serde_json::Value;

use super::super::build::{Builder, NewRow};
use super::super::{Stage, WorkloadError};
use super::{LONGEST_LINE, Lines, io_error};
use crate::config::read_yaml;

/// Tokens in a block of the prompts that are made up.
const BLOCK: u32 = 16;
/// Prompts, stages, and requests of a stage.
const MOST: f64 = 10e6;

#[derive(Deserialize)]
struct Document {
    load: Load,
    data: Data,
}

#[derive(Deserialize)]
struct Load {
    #[serde(rename = "type")]
    kind: Kind,
    stages: Vec<StageSpec>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Constant,
    Poisson,
}

#[derive(Deserialize)]
struct StageSpec {
    rate: f64,
    duration: f64,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "type")]
    kind: String,
    shared_prefix: Option<SharedPrefix>,
}

#[derive(Deserialize)]
struct SharedPrefix {
    num_groups: u32,
    num_prompts_per_group: u32,
    system_prompt_len: u32,
    question_len: u32,
    output_len: u32,
    #[serde(default)]
    enable_multi_turn_chat: bool,
    question_distribution: Option<Value>,
    output_distribution: Option<Value>,
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
    let bad = |line, problem: String, remedy: &str| WorkloadError::Bad {
        file: lines.file.clone(),
        line,
        problem,
        remedy: remedy.to_owned(),
    };
    let remedy = "give an inference-perf file with load.type constant or poisson, load.stages of rate and duration, and data.shared_prefix";
    let document: Document = read_yaml(&text).map_err(|problem| {
        let line = problem.line;
        bad(line, problem.message, remedy)
    })?;
    let kind = &document.data.kind;
    let shape = match document.data.shared_prefix {
        Some(shape) if kind == "shared_prefix" => shape,
        _ => return Err(bad(0, format!("data.type is `{kind}`"), remedy)),
    };
    for (field, is_there) in [
        ("enable_multi_turn_chat", shape.enable_multi_turn_chat),
        (
            "question_distribution",
            shape.question_distribution.is_some(),
        ),
        ("output_distribution", shape.output_distribution.is_some()),
    ] {
        if is_there {
            let problem = format!("data.shared_prefix.{field} is not understood");
            return Err(bad(0, problem, "use fixed lengths and single turns"));
        }
    }
    let prompts = f64::from(shape.num_groups) * f64::from(shape.num_prompts_per_group);
    let tokens = u64::from(shape.system_prompt_len) + u64::from(shape.question_len);
    let fits = |count: f64| (1.0..=MOST).contains(&count);
    let prompt = match u32::try_from(tokens) {
        Ok(prompt) if fits(prompts) && fits(f64::from(prompt)) => prompt,
        _ => {
            let problem = "data.shared_prefix: there are no prompts, or more than 10 million";
            return Err(bad(
                0,
                problem.to_owned(),
                "say how many groups, prompts and tokens",
            ));
        }
    };
    let full = |what| WorkloadError::TooLarge {
        file: lines.file.clone(),
        what,
    };
    let mut builder = Builder::new(BLOCK);
    let mut keys = Vec::new();
    let shared = u64::from(shape.system_prompt_len / BLOCK);
    let own = u64::from(prompt.div_ceil(BLOCK)) - shared;
    for group in 0..u64::from(shape.num_groups) {
        for number in 0..u64::from(shape.num_prompts_per_group) {
            let number = group * u64::from(shape.num_prompts_per_group) + number;
            // Two ranges of names that never meet.
            let of_group = (group * shared..(group + 1) * shared).map(|name| name << 1);
            let of_prompt = (number * own..(number + 1) * own).map(|name| name << 1 | 1);
            keys.push(builder.keys(of_group.chain(of_prompt)).map_err(full)?);
        }
    }
    let mut rng = SmallRng::seed_from_u64(seed);
    keys.shuffle(&mut rng);
    let mut prompts = keys.iter().cycle();
    let mut stages = Vec::new();
    for (number, stage) in document.load.stages.iter().enumerate() {
        let requests = (stage.rate * stage.duration).floor();
        let number =
            u16::try_from(number).map_err(|_| full("there are more than 65,536 stages"))?;
        if !fits(requests) {
            let problem =
                format!("load.stages[{number}]: no request in it, or more than 10 million");
            return Err(bad(
                0,
                problem,
                "write a rate and a duration (seconds) of more than 0",
            ));
        }
        let mut at = 0.0;
        let mut times: Vec<f64> = (0..requests as u32)
            .map(|_| {
                at -= (1.0 - rng.random::<f64>()).ln() / stage.rate;
                at
            })
            .collect();
        if document.load.kind == Kind::Constant {
            let stretch = stage.duration / at;
            times.iter_mut().for_each(|at| *at *= stretch);
        }
        for (at, &keys) in times.into_iter().zip(&mut prompts) {
            let new = NewRow {
                at,
                prompt,
                output: shape.output_len,
                keys,
                stage: number,
                ..NewRow::default()
            };
            builder.row(&new).map_err(full)?;
        }
        stages.push(Stage {
            rate: stage.rate,
            duration: stage.duration,
            requests: requests as u32,
        });
    }
    builder.stages(stages);
    Ok(builder)
}
