//! Traffic as a cluster asks for it.

use std::collections::HashMap;
use std::sync::Arc;

use super::router::Chain;
use super::setting::{Arrival, Source};
use crate::sim::workload::{self, Arrivals, Traffic};

/// The arrivals of some traffic, and what follows from their ends.
#[derive(Debug)]
pub struct Walk<'a> {
    traffic: &'a Traffic,
    arrivals: Arrivals<'a>,
    /// Requests of sessions that go on, until they have ended.
    turns: HashMap<u64, workload::Arrival>,
    /// Tokens that an engine's key stands for; 0: nothing is shared.
    key_tokens: u32,
}

// === impl Walk ===

impl<'a> Walk<'a> {
    /// From the beginning, for engines with blocks of so many tokens.
    pub fn new(traffic: &'a Traffic, block_size: u32) -> Self {
        let of_file = traffic.trace().block_tokens();
        Self {
            traffic,
            arrivals: traffic.arrivals(),
            turns: HashMap::new(),
            key_tokens: of_file.next_multiple_of(block_size),
        }
    }

    /// As the cluster knows it.
    pub fn arrival(&self, arrival: &workload::Arrival) -> Arrival {
        let trace = self.traffic.trace();
        let mut names = Vec::new();
        trace.chain(arrival, Chain::BLOCK, usize::MAX, &mut names);
        let chain = Chain(Arc::from(&*names));
        match self.key_tokens {
            0 => names.clear(),
            tokens => trace.chain(arrival, tokens, usize::MAX, &mut names),
        }
        Arrival {
            number: arrival.number,
            at: arrival.at,
            not_before: 0.0,
            prompt_tokens: arrival.prompt,
            output_tokens: arrival.output,
            max_tokens: None,
            keys: names.into(),
            key_tokens: self.key_tokens.max(1),
            chain,
            adapter: u32::from(arrival.adapter).checked_sub(1),
            stage: arrival.stage,
        }
    }
}

impl Source for Walk<'_> {
    fn next(&mut self) -> Option<Arrival> {
        let arrival = self.arrivals.next()?;
        if arrival.session.is_some() {
            self.turns.insert(arrival.number, arrival);
        }
        Some(self.arrival(&arrival))
    }

    fn ended(&mut self, number: u64, now: f64) -> Option<Arrival> {
        let before = self.turns.remove(&number)?;
        let (think, turn) = self.traffic.next_turn(&before)?;
        self.turns.insert(turn.number, turn);
        let arrival = self.arrival(&turn);
        Some(Arrival {
            at: if think.is_some() { 0.0 } else { arrival.at },
            not_before: now + think.unwrap_or_default(),
            ..arrival
        })
    }
}
