//! Candidates in, decision out.
//!
//! A profile runs its filters one after another, adds up what its scorers say (each clamped to 0..1, times its weight),
//! and lets its picker order the candidates. Endpoints are positions in a snapshot (`u32`); scores are a slice beside
//! the candidates. Nothing is keyed by an endpoint and nothing is allocated for one.
//!
//! Unknown input (NaN in a [`LoadView`]) is neutral: an unknown number of requests is the mean of the known ones plus our
//! own in flight, an unknown share of a cache the mean of the known ones; where there is nothing to take a mean of,
//! and for any score that is NaN, [`NEUTRAL`]. So an endpoint that tells nothing neither attracts nor repels.
//!
//! An endpoint that is out ([`crate::pool::health`]) is no candidate, but when it is time to try it, one request that it may
//! serve (the subset and the filters allow it) is sent there first, whatever the scores say.
//!
//! There may be several profiles. A profile handler ([`handlers`]) says which of them run for a request, and what their
//! results come to: the one that a header names, or one for each stage (decode, prefill, encode) of a request that is served
//! by several endpoints, where a decider says which stages there are.

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;

use crate::config::{PluginUse, Problem, units};
use crate::pool::{LoadView, Member, Snapshot};

mod attributes;
mod deciders;
mod filters;
mod handlers;
mod per_endpoint;
mod pickers;
pub mod pipeline;
mod producers;
mod reason;
pub mod registry;
mod scorers;
mod session;
#[cfg(test)]
mod testing;
mod timers;
mod topology;
mod trace;

pub use filters::gpu_health::GpuHealth;
pub use handlers::ProfileHandler;
pub use pipeline::{Profile, Scheduler};
pub use producers::{ApproxPrefix, InflightLoad, Producers};
pub use reason::Reason;
pub use timers::Timers;
pub use trace::Trace;

/// What a scorer says of an endpoint that it knows nothing about.
pub const NEUTRAL: f32 = 0.5;

/// A request, as far as scheduling looks at it.
pub struct RequestView<'a> {
    /// The model that the model server will be asked for, which may be a LoRA adapter; empty if not known.
    pub model: &'a str,
    /// The LoRA adapter asked for: the one that the request names beside the model, else the model.
    pub adapter: &'a str,
    /// Bytes of prompt text in the body.
    pub prompt_bytes: usize,
    /// It has a body, seen or not.
    pub has_body: bool,
    /// It has an image, sound or a video.
    pub multimodal: bool,
    /// The request's headers.
    pub headers: &'a dyn RequestHeaders,
}

// === impl RequestView ===

impl RequestView<'_> {
    /// Tokens of the prompt, estimated: four bytes each.
    pub fn input_tokens(&self) -> u32 {
        input_tokens(self.prompt_bytes)
    }
}

/// Tokens of a prompt of so many bytes, estimated as the llm-d picker does where it has no tokenizer: four bytes each.
pub fn input_tokens(prompt_bytes: usize) -> u32 {
    u32::try_from(prompt_bytes / 4).unwrap_or(u32::MAX)
}

/// Headers, by lower-case name.
pub trait RequestHeaders {
    /// The first value of `name`.
    fn get(&self, name: &str) -> Option<&str>;
}

/// How much of the request's prompt each endpoint has in its cache already, as far as that is believed; by position.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrefixView<'a> {
    /// Tokens that match from the prompt's start on. Empty = not known of any endpoint.
    pub matched_tokens: &'a [u32],
    /// Tokens of the prompt that could match. 0 = not known, or the prompt is too short to be remembered.
    pub total_tokens: u32,
}

/// All that a decision may look at: one moment, for all plugins.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The request.
    pub request: &'a RequestView<'a>,
    /// The pool.
    pub snapshot: &'a Snapshot,
    /// Its load, by position.
    pub load: &'a LoadView,
    /// What is cached where.
    pub prefix: PrefixView<'a>,
    /// Where this very request failed a while ago: it is a retry. Empty = it is none, as far as is known.
    pub failed: &'a [u32],
    /// The endpoint that an earlier stage of the same request chose, for plugins that want to be near it.
    pub earlier: Option<u32>,
    /// When, in milliseconds of [`crate::pool::clock_ms`].
    pub now_ms: u64,
}

/// Takes candidates away.
pub trait Filter: Send + Sync {
    /// Keeps those of `candidates` that may serve, in their order.
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>);

    /// Whether it says of each candidate by itself, by what that is, whether it can serve the request at all. Such filters
    /// run before health, which then has the others to compare with; what only prefers some endpoints runs after it.
    fn is_of_kind(&self) -> bool {
        false
    }

    /// Why the request goes to the one endpoint that this filter leaves, if it is for more than its fitness.
    fn reason(&self) -> Option<Reason> {
        None
    }

    /// What it does once an endpoint is chosen, if anything.
    fn follow(&self) -> Option<&dyn Follow> {
        None
    }
}

/// Says how good each candidate is.
pub trait Scorer: Send + Sync {
    /// Writes a score of 0 (worst) to 1 (best) for each candidate.
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]);

    /// What it has to say of fallbacks, if anything.
    fn spread(&self) -> Option<&dyn Spread> {
        None
    }

    /// Whether it wants to know where a request failed before ([`Context::failed`]).
    fn minds_failures(&self) -> bool {
        false
    }

    /// What it does once an endpoint is chosen, if anything.
    fn follow(&self) -> Option<&dyn Follow> {
        None
    }
}

/// Has a say in where a request is retried, which no score of a single endpoint can express.
pub trait Spread: Send + Sync {
    /// Puts other `candidates` in the place of fallbacks: `chosen` begins with where the request goes, which stays, and keeps
    /// its length. Whether something changed.
    fn rearrange(
        &self,
        cx: &Context<'_>,
        candidates: &[u32],
        totals: &[f32],
        chosen: &mut Vec<u32>,
    ) -> bool;
}

/// A plugin that goes with a request beyond the choice.
pub trait Follow: Send + Sync {
    /// Whose choice it wants to be told of.
    fn follows(&self) -> Follows<'_>;

    /// The endpoint at `endpoint` was chosen. A plugin of several profiles may be told several times.
    fn picked(&self, cx: &Context<'_>, endpoint: u32) {
        let _ = (cx, endpoint);
    }

    /// What it holds now, for people; `None`: nothing. Nothing in it is a client's.
    fn state(&self) -> Option<serde_json::Value> {
        None
    }

    /// A header for the response, where `served` is what was chosen, or what served in its place.
    fn stamp(&self, served: &Member) -> Option<Stamp> {
        let _ = served;
        None
    }
}

/// One of the endpoints that are chosen for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows<'a> {
    /// That where the request goes.
    Destination,
    /// What the plugin's own profile chose, if it ran.
    Own,
    /// What this profile chose, if it ran.
    Profile(&'a str),
}

/// A header of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// In lower case.
    pub name: String,
    /// A valid header value.
    pub value: Bytes,
}

impl<T: Filter + ?Sized> Filter for Arc<T> {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        (**self).filter(cx, candidates);
    }

    fn is_of_kind(&self) -> bool {
        (**self).is_of_kind()
    }

    fn reason(&self) -> Option<Reason> {
        (**self).reason()
    }

    fn follow(&self) -> Option<&dyn Follow> {
        (**self).follow()
    }
}

impl<T: Scorer + ?Sized> Scorer for Arc<T> {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        (**self).score(cx, candidates, out);
    }

    fn spread(&self) -> Option<&dyn Spread> {
        (**self).spread()
    }

    fn minds_failures(&self) -> bool {
        (**self).minds_failures()
    }

    fn follow(&self) -> Option<&dyn Follow> {
        (**self).follow()
    }
}

/// Orders candidates by their total scores.
pub trait Picker: Send + Sync {
    /// Puts the chosen candidates into `out`, best first: at least one, if there is a candidate. Says why that is the first.
    fn pick(
        &self,
        candidates: &[u32],
        scores: &[f32],
        rng: &mut SmallRng,
        out: &mut Vec<u32>,
    ) -> Reason;

    /// How many it chooses at most.
    fn endpoints(&self) -> usize;
}

/// Says whether a stage of a request gets an endpoint of its own.
pub trait Decider: Send + Sync {
    /// `decode` is the endpoint that was chosen for decode, if it was already.
    fn disaggregate(&self, cx: &Context<'_>, decode: Option<u32>) -> bool;
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Where the request goes, first; where to retry it, after. Never empty.
    pub endpoints: Vec<u32>,
    /// Why the first is the first.
    pub reason: Reason,
    /// A scorer put others in the place of fallbacks.
    pub rearranged: bool,
    /// Total scores of all candidates, if they were asked for. An endpoint that is probed is none.
    pub scores: Vec<(u32, f32)>,
    /// Where the prompt is worked on before that.
    pub prefill: Option<u32>,
    /// Where images, sound and videos are encoded before that.
    pub encode: Vec<u32>,
    /// The profiles that ran, by position, and the first that each chose. The one whose choice is the destination is first.
    pub ran: Vec<(usize, u32)>,
    /// The port that the request goes to in place of its endpoint's own: that of the first data-parallel rank, whose
    /// proxy passes it on.
    pub primary_port: Option<u16>,
}

/// Why nothing was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// There was nothing to choose from.
    #[error("{}", self.reason())]
    NoEndpoints,
    /// Filters took all candidates away.
    #[error("{}", self.reason())]
    Filtered,
}

/// Buffers that a caller keeps from one decision to the next. Stages run one after another and share them.
#[derive(Debug, Default)]
pub struct Scratch {
    candidates: Vec<u32>,
    scores: Vec<f32>,
    totals: Vec<f32>,
    alone: Vec<u32>,
    sampling: timers::Sampling,
    /// Told of each step, if it is on.
    pub trace: Trace,
}

// === impl ScheduleError ===

impl ScheduleError {
    /// What it says.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no endpoint candidates",
            Self::Filtered => "filters left no endpoint",
        }
    }
}

// === impl PrefixView ===

impl PrefixView<'_> {
    /// Tokens of the prompt that the endpoint at `position` has; 0 if not known.
    pub fn tokens(&self, position: u32) -> u32 {
        let at = position as usize;
        self.matched_tokens.get(at).copied().unwrap_or(0)
    }

    /// The same as a share of what could match, 0 to 1; 0 if not known.
    pub fn share(&self, position: u32) -> f32 {
        match self.total_tokens {
            0 => 0.0,
            total => self.tokens(position) as f32 / total as f32,
        }
    }

    /// One of `candidates` has some of the prompt.
    pub fn any(&self, candidates: &[u32]) -> bool {
        self.total_tokens > 0 && candidates.iter().any(|&c| self.tokens(c) > 0)
    }
}

impl RequestView<'_> {
    /// Tokens of the prompt that the endpoint at `position` has still to work through, estimated.
    pub fn uncached_tokens(&self, prefix: PrefixView<'_>, position: u32) -> u32 {
        self.input_tokens().saturating_sub(prefix.tokens(position))
    }
}

/// `text`, the parameter `field`, as how old something may be, in milliseconds.
fn age_ms(plugin: &PluginUse, field: &str, text: &str) -> Result<u64, Problem> {
    let age = units::duration(text).map_err(|e| plugin.parameters.field_problem(field, &e))?;
    if age.is_zero() {
        let message = "0 makes everything too old; write for instance 10s";
        return Err(plugin.parameters.field_problem(field, message));
    }
    Ok(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// `name`, the parameter `field`, as a header's name in lower case.
fn header_name(plugin: &PluginUse, field: &str, name: &str) -> Result<String, Problem> {
    match http::HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => {
            let message = format!("`{name}` is not the name of a header");
            Err(plugin.parameters.field_problem(field, &message))
        }
    }
}
