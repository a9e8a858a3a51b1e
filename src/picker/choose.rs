//! The choice itself: what is known of a request in, endpoints out. What serves and what simulates make it here, with the
//! same plugins over the same cells.

use std::time::Instant;

use rand::rngs::SmallRng;

use super::Policy;
use super::prompt::{Held, Prompt};
use super::retries::Retry;
use crate::admission::{Shed, View};
use crate::pool::gpu::Common;
use crate::pool::{LoadView, Snapshot, Tokens};
use crate::prefix::{Prediction, PrefixCache};
use crate::scheduling::{Context, Decision, RequestView, ScheduleError, Scratch, input_tokens};
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::{Metrics, Stage};

/// What a choice is made from, beside the request.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// How to choose.
    pub policy: &'a Policy,
    /// Among whom.
    pub snapshot: &'a Snapshot,
    /// What they have cached.
    pub prefix: &'a PrefixCache,
    /// What is counted of it.
    pub metrics: &'a Metrics,
    /// Where it is told why, if it is.
    pub decisions: Option<&'a Decisions>,
    /// When, in milliseconds of [`crate::pool::clock_ms`].
    pub now_ms: u64,
}

/// A request that wants an endpoint.
pub struct Asked<'a> {
    /// What plugins see of it.
    pub request: RequestView<'a>,
    /// Its id, for the record of the decision.
    pub id: &'a str,
    /// Its prompt, if it can be cached and a producer looks.
    pub prompt: Option<Prompt>,
    /// That it came before, and where it failed.
    pub retry: Option<Retry>,
    /// How much it matters; negative: it may be shed.
    pub priority: i32,
    /// The most that it lets the server generate.
    pub max_tokens: Option<u64>,
    /// It wants to be served only where its prompt is cached.
    pub only_if_cached: bool,
    /// Tell each candidate's total.
    pub scores: bool,
}

/// What is kept from one choice to the next.
pub struct Workspace {
    /// Who may be chosen: filled by the caller.
    pub candidates: Vec<u32>,
    /// By which equals are told apart.
    pub rng: SmallRng,
    load: LoadView,
    held: Held,
    failed: Vec<u32>,
    scratch: Scratch,
}

/// What was chosen.
#[derive(Debug)]
pub struct Chosen {
    /// Where the request goes.
    pub decision: Decision,
    /// What is cached of its prompt there, if that is known.
    pub prediction: Option<Prediction>,
    /// What it weighs there.
    pub tokens: Tokens,
    /// What it weighs at the endpoint of its prefill stage.
    pub prefill_tokens: Tokens,
    /// When, in real time.
    pub at: Instant,
}

/// Why nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotChosen {
    /// It may not go.
    Shed(Shed),
    /// There is nowhere to go.
    Schedule(ScheduleError),
    /// It is cached nowhere.
    NotCached,
}

// === impl Workspace ===

impl Workspace {
    /// An empty one.
    pub fn new(rng: SmallRng) -> Self {
        Self {
            candidates: Vec::new(),
            rng,
            load: LoadView::default(),
            held: Held::default(),
            failed: Vec::new(),
            scratch: Scratch::default(),
        }
    }
}

// === impl NotChosen ===

impl NotChosen {
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Shed(shed) => Some(shed.reason()),
            Self::Schedule(error) => Some(error.reason()),
            Self::NotCached => None,
        }
    }
}

// === impl Ground ===

impl Ground<'_> {
    /// Chooses among the candidates in `space`. The request is taken to be on its way to where it goes: its prompt counts as
    /// cached there. Its load is left to the caller to reserve.
    pub fn choose(&self, asked: &Asked<'_>, space: &mut Workspace) -> Result<Chosen, NotChosen> {
        let begun = Instant::now();
        let (policy, snapshot) = (self.policy, self.snapshot);
        let Workspace {
            candidates,
            rng,
            load,
            held,
            failed,
            scratch,
        } = space;
        let staleness = policy.metrics_staleness.as_millis() as u64;
        load.gather(snapshot, self.now_ms, staleness);
        load.turnover_ms = policy.metrics_turnover.as_millis() as u64;
        held.look_up(self.prefix, snapshot, asked.prompt.as_ref());
        failed.clear();
        if let Some(retry) = &asked.retry {
            retry.positions(snapshot, failed);
        }
        let cx = Context {
            request: &asked.request,
            snapshot,
            load,
            prefix: held.view(),
            failed,
            earlier: None,
            now_ms: self.now_ms,
        };
        if self.decisions.is_some() {
            scratch.trace.begin(&cx, asked.id, candidates);
            if let Some(retry) = &asked.retry {
                scratch.trace.retry(&cx, &retry.of);
            }
        }
        let view = View {
            snapshot,
            load,
            now_ms: self.now_ms,
        };
        let admitted = policy
            .admission
            .admit(asked.priority, view, candidates, rng);
        let decided = admitted.map_err(NotChosen::Shed).and_then(|()| {
            let scheduler = &policy.scheduler;
            let decided = scheduler.schedule(&cx, candidates, scratch, rng, asked.scores);
            decided.map_err(NotChosen::Schedule)
        });
        if let (Some(decisions), Some(record)) = (self.decisions, scratch.trace.end()) {
            let error = decided.as_ref().err().and_then(NotChosen::reason);
            record.end(begun.elapsed(), error);
            decisions.put(record);
        }
        let decision = decided?;
        if decision.rearranged {
            self.metrics.fallbacks_rearranged().inc();
        }
        let at = Instant::now();
        let took = at.duration_since(begun).as_secs_f64();
        self.metrics.scheduling.observe(took);
        self.metrics.stage(Stage::Schedule, took);
        let destination = decision.endpoints[0];
        if !cx.failed.is_empty() {
            let common = Common::most(snapshot, destination, cx.failed);
            self.metrics.retried(common.name());
        }
        if cx.prefix.tokens(destination) == 0 && asked.only_if_cached {
            return Err(NotChosen::NotCached);
        }
        for (follower, endpoint) in policy.scheduler.followers(&decision.ran) {
            follower.picked(&cx, endpoint);
        }
        let tokens = self.weigh(asked, cx.prefix.tokens(destination));
        let prefilled = decision.prefill.map(|prefill| {
            let weight = self.weigh(asked, cx.prefix.tokens(prefill));
            Tokens {
                output: 0,
                ..weight
            }
        });
        let prediction = self.remember(asked, held, destination);
        if let Some(prefill) = decision.prefill {
            self.remember(asked, held, prefill);
        }
        Ok(Chosen {
            prediction,
            tokens,
            prefill_tokens: prefilled.unwrap_or_default(),
            at,
            decision,
        })
    }

    /// What the request weighs where so many of its tokens are cached.
    fn weigh(&self, asked: &Asked<'_>, cached: u32) -> Tokens {
        let inflight = self.policy.scheduler.producers.inflight.as_ref();
        let input = input_tokens(asked.request.prompt_bytes);
        let weigh = |inflight: &crate::scheduling::InflightLoad| {
            inflight.weigh(input, cached, asked.max_tokens)
        };
        inflight.map(weigh).unwrap_or_default()
    }

    /// The prompt is sent to the endpoint at `position`.
    fn remember(&self, asked: &Asked<'_>, held: &Held, position: u32) -> Option<Prediction> {
        let prompt = asked.prompt.as_ref()?;
        let approx = self.policy.scheduler.producers.prefix.as_ref()?;
        let blocks = held.blocks(position);
        let (bytes, ratio) = prompt.hit(blocks);
        approx.hits(self.metrics).observe(bytes, ratio);
        Some(prompt.sent(self.prefix, approx, self.snapshot, position, blocks))
    }
}
