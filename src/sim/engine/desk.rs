//! The requests in an engine: who waits for their tokens, and what the metrics count of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::crowd::{Crowd, Member};
use super::generation::{Lost, Ticket};
use super::lora::{Combination, History};
use super::model::Model;
use super::stats::Finished;
use super::{EngineConfig, LONGEST_QUEUE, NotTaken, Notice, Outbox, SleepLevel, Stats};
use crate::sim::step::{Event, Gauges, GpuState, Origin, Request, StepError};

/// An engine and its requests, at a moment of virtual time.
#[derive(Debug)]
pub(super) struct State {
    model: Model,
    life: Life,
    now: f64,
    last_id: u64,
    desk: Desk,
    /// How many times as long compute and memory take: as ordered, because of the GPUs, and as the model knows it.
    slow: [f64; 2],
    gpu_slow: [f64; 2],
    known_slow: [f64; 2],
    member: Member,
    asleep: Option<SleepLevel>,
    outbox: Option<Arc<Outbox>>,
    /// For a new life.
    config: EngineConfig,
}

#[derive(Clone, Copy, Debug)]
enum Life {
    Up,
    Hung(Gauges),
    Dead,
}

#[derive(Debug)]
struct Desk {
    requests: HashMap<u64, Served>,
    stats: Arc<Stats>,
    /// Steps and their tokens that `stats` knows.
    steps: u64,
    tokens: u64,
    /// With LoRA only.
    lora: Option<History>,
}

/// A request in the engine. Times are virtual seconds.
#[derive(Debug)]
struct Served {
    ticket: Arc<Ticket>,
    adapter: Option<Arc<str>>,
    prompt: u64,
    limit: u64,
    cached: u64,
    generated: u64,
    arrived: f64,
    scheduled: f64,
    first: f64,
    last: f64,
}

// === impl State ===

impl State {
    pub(super) fn new(config: &EngineConfig, crowd: Arc<Crowd>) -> Result<Self, StepError> {
        Ok(Self {
            model: Model::new(config)?,
            life: Life::Up,
            now: 0.0,
            last_id: 0,
            desk: Desk::new(config),
            slow: [1.0; 2],
            gpu_slow: [1.0; 2],
            known_slow: [1.0; 2],
            member: Member::new(crowd),
            asleep: None,
            outbox: None,
            config: config.clone(),
        })
    }

    /// When something happens next.
    pub(super) fn due(&mut self) -> Option<f64> {
        let works = matches!(self.life, Life::Up) && !self.desk.requests.is_empty();
        self.member.work(works);
        self.slow_down();
        match self.life {
            Life::Up => self.model.next_event(),
            Life::Hung(_) | Life::Dead => None,
        }
    }

    /// Tells what happened until then, step by step.
    pub(super) fn advance(&mut self, to: f64) {
        // Late clocks are no reason to go back.
        self.now = self.now.max(to);
        let mut happened = false;
        while let Some(due) = self.due()
            && due <= self.now
        {
            let desk = &mut self.desk;
            self.model.advance(due, &mut |event| desk.event(event));
            desk.stepped(self.model.gauges(due));
            happened = true;
        }
        if happened {
            self.desk.tell(&self.model);
            self.publish();
        }
    }

    /// Queues a request. The tokens that come are told on its ticket.
    pub(super) fn submit(
        &mut self,
        ticket: &Arc<Ticket>,
        mut request: Request,
        origin: Origin,
        adapter: Option<&str>,
    ) -> Result<u64, NotTaken> {
        if self.is_dead() {
            return Err(Lost.into());
        }
        if self.model.gauges(self.now).waiting >= LONGEST_QUEUE {
            return Err(NotTaken::Full);
        }
        self.last_id += 1;
        let id = self.last_id;
        let served = Served {
            ticket: Arc::clone(ticket),
            adapter: adapter.map(Arc::from),
            prompt: u64::from(request.prompt_tokens),
            limit: u64::from(request.output_tokens),
            cached: 0,
            generated: 0,
            arrived: self.now,
            scheduled: self.now,
            first: self.now,
            last: self.now,
        };
        if self.outbox.is_some() {
            request.keys = request.keys.with_origin(Arc::new(origin));
        }
        // Its length was looked at, so only a dead engine is left to refuse it.
        let taken = self.model.submit(Request { id, ..request }, self.now);
        taken.map_err(|_| Lost)?;
        self.desk.requests.insert(id, served);
        self.desk.tell(&self.model);
        Ok(id)
    }

    /// Nobody waits for that request any more.
    pub(super) fn cancel(&mut self, id: u64) {
        if self.desk.requests.remove(&id).is_some() {
            self.model.cancel(id, self.now);
            self.desk.tell(&self.model);
            self.publish();
        }
    }

    pub(super) fn set_slow(&mut self, slow: [f64; 2]) {
        self.slow = slow;
    }

    pub(super) fn slow(&self) -> [f64; 2] {
        self.slow
    }

    pub(super) fn set_gpu_slow(&mut self, slow: [f64; 2]) {
        self.gpu_slow = slow;
    }

    pub(super) fn withhold(&mut self, share: f64) {
        self.model.withhold(share, self.now);
        self.desk.tell(&self.model);
        self.publish();
    }

    pub(super) fn tell(&mut self, outbox: Arc<Outbox>) {
        self.model.log_blocks();
        self.outbox = Some(outbox);
    }

    pub(super) fn sleep(&mut self, level: SleepLevel) {
        if !matches!(self.life, Life::Up) {
            return;
        }
        self.model.sleep(level, self.now);
        self.asleep = Some(level);
        self.desk.abort();
        self.desk.tell(&self.model);
        self.publish();
    }

    pub(super) fn wake_up(&mut self) {
        if self.asleep.take().is_some() {
            self.model.wake_up(self.now);
        }
    }

    pub(super) fn asleep(&self) -> Option<SleepLevel> {
        self.asleep
    }

    pub(super) fn die(&mut self) {
        self.life = Life::Dead;
        self.asleep = None;
        self.model.die();
        self.desk.lose();
        self.desk.tell(&self.model);
    }

    pub(super) fn hang(&mut self) {
        if let Life::Up = self.life {
            self.life = Life::Hung(self.model.gauges(self.now));
            self.model.hang(self.now);
        }
    }

    pub(super) fn restart(&mut self) {
        self.life = Life::Up;
        self.asleep = None;
        self.model.restart(self.now);
        // What had become of the cache of the old process interests nobody any more.
        self.model.block_changes();
        if let Some(outbox) = &self.outbox {
            outbox.push([Notice::Restarted]);
        }
        self.desk.lose();
        self.desk = Desk::new(&self.config);
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.life, Life::Dead)
    }

    pub(super) fn is_hung(&self) -> bool {
        matches!(self.life, Life::Hung(_))
    }

    pub(super) fn gauges(&self) -> Gauges {
        match self.life {
            Life::Up => self.model.gauges(self.now),
            Life::Hung(gauges) => gauges,
            Life::Dead => Gauges::default(),
        }
    }

    pub(super) fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.desk.stats)
    }

    pub(super) fn adapters(&self) -> Vec<Combination> {
        let lora = self.desk.lora.as_ref();
        lora.map(|lora| lora.seen().to_vec()).unwrap_or_default()
    }

    pub(super) fn gpu(&self) -> Option<GpuState> {
        self.model.gpu()
    }

    /// Whether there is a prefix cache.
    pub(super) fn caches(&self) -> bool {
        self.model.caches()
    }

    /// Tells what has become of the prefix cache.
    fn publish(&mut self) {
        let Some(outbox) = &self.outbox else { return };
        let changes = self.model.block_changes();
        if !changes.is_empty() {
            outbox.push(changes.into_iter().map(Notice::Change));
        }
    }

    /// Before a step is put together: how slow it will be.
    fn slow_down(&mut self) {
        let turns = self.member.slow();
        let slow = [0, 1].map(|n| self.slow[n] * self.gpu_slow[n] * turns);
        if slow != self.known_slow {
            self.known_slow = slow;
            self.model.set_slow(slow[0], slow[1], self.now);
        }
    }
}

// === impl Desk ===

impl Desk {
    fn new(config: &EngineConfig) -> Self {
        Self {
            requests: HashMap::new(),
            stats: Arc::new(Stats::new(config.kind, config.longest())),
            steps: 0,
            tokens: 0,
            lora: (config.max_loras > 0).then(History::default),
        }
    }

    /// Those whose client has left are not there any more.
    fn event(&mut self, event: Event) {
        match event {
            Event::FirstToken {
                id,
                at,
                cached_tokens,
                scheduled,
            } => {
                let Some(request) = self.requests.get_mut(&id) else {
                    return;
                };
                request.cached = u64::from(cached_tokens);
                request.scheduled = scheduled;
                (request.first, request.last) = (at, at);
                let after = at - request.arrived;
                self.stats.first_token(
                    request.prompt,
                    request.cached,
                    after,
                    request.ticket.streams,
                );
                request
                    .ticket
                    .cached
                    .store(cached_tokens, Ordering::Relaxed);
                request.told();
            }
            Event::Token { id, at } => {
                if let Some(request) = self.requests.get_mut(&id) {
                    self.stats.next_token(at - request.last);
                    request.last = at;
                    request.told();
                }
            }
            Event::Finished { id, .. } => {
                if let Some(request) = self.requests.remove(&id) {
                    self.stats.finished(request.finished());
                }
            }
            Event::Preempted { .. } => {}
        }
    }

    /// Right after a step.
    fn stepped(&mut self, gauges: Gauges) {
        if gauges.iterations > self.steps {
            self.stats.stepped(gauges.tokens - self.tokens);
            (self.steps, self.tokens) = (gauges.iterations, gauges.tokens);
        }
    }

    /// All requests are lost.
    fn lose(&mut self) {
        for (_, request) in self.requests.drain() {
            request.ticket.lose();
        }
    }

    /// All requests are given up.
    fn abort(&mut self) {
        for (_, request) in self.requests.drain() {
            self.stats.aborted.fetch_add(1, Ordering::Relaxed);
            request.ticket.abort();
        }
    }

    /// vLLM tells its adapters at every step, whoever the step was for.
    fn tell(&mut self, model: &Model) {
        let Some(lora) = &mut self.lora else { return };
        let waiting: HashSet<u64> = model.waiting().into_iter().collect();
        let list = |waits: bool| {
            let those = self.requests.iter();
            let those = those.filter(|(id, _)| waiting.contains(id) == waits);
            let names: BTreeSet<&str> = those.filter_map(|(_, r)| r.adapter.as_deref()).collect();
            names.into_iter().collect::<Vec<_>>().join(",")
        };
        let (running, waiting) = (list(false), list(true));
        lora.record(running, waiting);
    }
}

// === impl Served ===

impl Served {
    /// One token more.
    fn told(&mut self) {
        self.generated += 1;
        self.ticket.token(self.generated);
    }

    fn finished(&self) -> Finished {
        Finished {
            streams: self.ticket.streams,
            prompt_tokens: self.prompt,
            cached_tokens: self.cached,
            generated: self.generated,
            max_tokens: self.limit,
            queued: self.scheduled - self.arrived,
            prefill: self.first - self.scheduled,
            decode: self.last - self.first,
        }
    }
}
