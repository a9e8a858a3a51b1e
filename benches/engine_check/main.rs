//! The step model against the world: `engine-check measured|capacity|speed DATA`, DATA = the folder of traces.
//!
//! `measured`: the same requests as two measured vLLM runs, figure by figure. `capacity`: llm-d's 37-capacity benchmark.
//! `speed`: simulated requests a second of one core, with Mooncake's conversations on 64 engines.
#![allow(missing_docs, reason = "a program, not an interface")]

mod capacity;
mod measured;
mod speed;

use std::path::PathBuf;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, data] = &args[..] else {
        bail!("usage: engine-check measured|capacity|speed DATA");
    };
    let data = PathBuf::from(data);
    match &**what {
        "measured" => measured::run(&data),
        "capacity" => capacity::run(&data),
        "speed" => speed::run(&data),
        _ => bail!("measured, capacity or speed, not {what:?}"),
    }
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len().max(1) as f64
}

/// The smallest value that a share of all do not exceed.
fn quantile(of: &[f64], share: f64) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (share * sorted.len() as f64) as usize;
    sorted
        .get(at)
        .or(sorted.last())
        .copied()
        .unwrap_or(f64::NAN)
}
