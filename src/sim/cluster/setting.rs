//! What is simulated, and what comes of it.

use std::sync::Arc;

use super::faults::Fault;
use super::router::{Chain, Refused};
use crate::sim::step::Engine;

/// What lies between clients, router and engines. All in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wires {
    /// Between a request's arrival and its being sent on: reading it, deciding.
    pub decide: f64,
    /// From there to the engine's server, and what comes from the engine back to the client; the router sees it pass.
    pub network: f64,
    /// The mean of what the network takes longer at random, each way: exponential, and the same for a request whoever
    /// routes it.
    pub network_jitter: f64,
    /// A token of the prompt, from there to the engine: the server in front of it reads and tokenizes.
    pub front_end: f64,
    /// Between two scrapes of an engine.
    pub scrape_every: f64,
    /// From when an engine's page is read to when the router has it.
    pub scrape_takes: f64,
    /// Share of `scrape_every` by which a scrape comes early or late, at random.
    pub scrape_jitter: f64,
    /// Between two readings of the GPUs.
    pub gpu_every: f64,
    /// From such a reading, or an event of a GPU, to when the router has it.
    pub gpu_takes: f64,
    /// Clients that have no first token after so long give up; infinite: never.
    pub patience: f64,
    /// After a stage has drained, until the next one begins.
    pub stage_gap: f64,
}

/// A request that comes.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The source's number for it.
    pub number: u64,
    /// When: from the beginning of its stage,
    pub at: f64,
    /// and not before, from the beginning of all: an answer that it waits for, and what follows from that.
    pub not_before: f64,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens that it will generate; routers do not know them.
    pub output_tokens: u32,
    /// The most that it lets the engine generate, if it says so.
    pub max_tokens: Option<u32>,
    /// The names of its prompt's blocks: two prompts share a beginning as far as these are the same.
    pub keys: Arc<[u64]>,
    /// Tokens that each key stands for; a multiple of the engine's block size.
    pub key_tokens: u32,
    /// The names of its prompt's blocks, as routers know them.
    pub chain: Chain,
    /// The LoRA adapter it is for.
    pub adapter: Option<u32>,
    /// It comes only when all of the stages before have ended.
    pub stage: u32,
}

/// Where requests come from.
pub trait Source {
    /// The next one, in the order in which they come.
    fn next(&mut self) -> Option<Arrival>;

    /// The request with this number of its own has ended; another may follow from that, and not before.
    fn ended(&mut self, number: u64, now: f64) -> Option<Arrival> {
        let _ = (number, now);
        None
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Its number, in the order of arrival.
    pub id: u64,
    /// When it came.
    pub arrived: f64,
    /// Where it was sent.
    pub endpoint: Option<u32>,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Those of them that were cached.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// When its client had the first token.
    pub first: Option<f64>,
    /// When its client had the last, or the bad news.
    pub ended: f64,
    /// How it ended.
    pub fate: Fate,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All tokens came.
    Served,
    /// The router turned it away.
    Refused(Refused),
    /// Its engine failed it, or its client gave up.
    Lost,
}

/// Engines and what lies before them.
#[derive(Debug)]
pub struct Cluster {
    /// The engines, by endpoint.
    pub engines: Vec<Engine>,
    /// Tokens in a block of theirs.
    pub block_size: u32,
    /// Delays.
    pub wires: Wires,
    /// The timetable.
    pub faults: Vec<Fault>,
    /// What jitter follows from.
    pub seed: u64,
}
