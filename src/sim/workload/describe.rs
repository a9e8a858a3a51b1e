//! What a trace is, in numbers.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{Scale, Trace, Traffic};

/// What traffic is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// How many.
    pub requests: u64,
    /// Seconds from the first arrival to the last; of stages, the sum.
    pub seconds: f64,
    /// Requests a second.
    pub rate: Option<f64>,
    /// Coefficient of variation of the gaps between arrivals, within stages; a Poisson process has 1.
    pub gap_cv: Option<f64>,
    /// Of prompts, in tokens.
    pub prompt: Lengths,
    /// Of answers, in tokens.
    pub output: Lengths,
    /// Share of all prompt tokens that a cache that never forgets would have; `None`: the file tells nothing of prefixes.
    pub ideal_hit: Option<f64>,
    /// Tokens in a block of the file.
    pub block_tokens: u32,
    /// Stages.
    pub stages: usize,
    /// Requests that wait for an answer first.
    pub later_turns: u64,
    /// LoRA adapters.
    pub adapters: u16,
}

/// Lengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: u32,
    /// 99 of 100 are not longer.
    pub p99: u32,
    /// The longest.
    pub max: u32,
}

// === impl Lengths ===

impl Lengths {
    /// Of some.
    fn of(mut lengths: Vec<u32>) -> Self {
        lengths.sort_unstable();
        let at = |quantile: f64| {
            let rank = (quantile * lengths.len() as f64).ceil() as usize;
            lengths.get(rank.max(1) - 1).copied().unwrap_or_default()
        };
        let sum: f64 = lengths.iter().map(|&length| f64::from(length)).sum();
        Self {
            mean: sum / lengths.len() as f64,
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

// === impl Description ===

impl Description {
    /// Of a trace as it is.
    pub fn of(trace: &Arc<Trace>) -> Self {
        let open_loop = Scale {
            open_loop: true,
            ..Scale::default()
        };
        let traffic = Traffic::new(Arc::clone(trace), open_loop)
            .unwrap_or_else(|error| unreachable!("nothing is scaled: {error}"));
        let (mut count, mut sum, mut squares) = (0u64, 0.0, 0.0);
        let (mut seen, mut chain) = (HashSet::new(), Vec::new());
        let (mut tokens, mut cached) = (0u64, 0u64);
        let mut before: Option<super::Arrival> = None;
        for arrival in traffic.arrivals() {
            if let Some(before) = before.filter(|before| before.stage == arrival.stage) {
                let gap = arrival.at - before.at;
                (count, sum, squares) = (count + 1, sum + gap, squares + gap * gap);
            }
            tokens += u64::from(arrival.prompt);
            if trace.block_tokens > 0 {
                // The last block is not full; the file names it all the same, so it counts for what it has.
                let whole = trace.named(&arrival);
                let padded = super::Arrival {
                    prompt: whole.saturating_mul(trace.block_tokens),
                    ..arrival
                };
                trace.chain(&padded, trace.block_tokens, usize::MAX, &mut chain);
                let known = chain.iter().take_while(|hash| seen.contains(*hash)).count();
                cached += (known as u64 * u64::from(trace.block_tokens)).min(arrival.prompt.into());
                seen.extend(chain.drain(known..));
            }
            before = Some(arrival);
        }
        let mean = sum / count as f64;
        let variance = squares / count as f64 - mean * mean;
        let rows = &trace.rows;
        Self {
            requests: rows.len() as u64,
            seconds: trace.span(),
            rate: trace.rate(),
            gap_cv: (count > 0 && mean > 0.0).then(|| variance.max(0.0).sqrt() / mean),
            prompt: Lengths::of(rows.iter().map(|row| row.prompt).collect()),
            output: Lengths::of(rows.iter().map(|row| row.output).collect()),
            ideal_hit: (trace.block_tokens > 0).then(|| cached as f64 / tokens as f64),
            block_tokens: trace.block_tokens,
            stages: trace.stages.len(),
            later_turns: rows
                .iter()
                .filter(|row| row.think != super::FIRST_TURN)
                .count() as u64,
            adapters: trace.adapters,
        }
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>10.1} mean {:>8} p50 {:>8} p99 {:>8} max",
            self.mean, self.p50, self.p99, self.max
        )
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "requests        {:>10}", self.requests)?;
        writeln!(f, "seconds         {:>10.1}", self.seconds)?;
        if let Some(rate) = self.rate {
            writeln!(f, "rate            {rate:>10.2} a second")?;
        }
        if let Some(cv) = self.gap_cv {
            writeln!(f, "gap CV          {cv:>10.2} (Poisson: 1)")?;
        }
        writeln!(f, "prompt tokens   {}", self.prompt)?;
        writeln!(f, "output tokens   {}", self.output)?;
        match self.ideal_hit {
            Some(hit) => writeln!(
                f,
                "ideal hit       {:>10.1} % of prompt tokens, in blocks of {}, in a cache that never forgets",
                hit * 100.0,
                self.block_tokens
            )?,
            None => writeln!(
                f,
                "ideal hit                - (the file tells nothing of prefixes)"
            )?,
        }
        if self.stages > 1 {
            writeln!(f, "stages          {:>10}", self.stages)?;
        }
        if self.later_turns > 0 {
            writeln!(
                f,
                "later turns     {:>10} wait for the answer before",
                self.later_turns
            )?;
        }
        if self.adapters > 0 {
            writeln!(f, "adapters        {:>10}", self.adapters)?;
        }
        Ok(())
    }
}
