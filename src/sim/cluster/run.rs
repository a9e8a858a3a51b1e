//! The simulation's loop.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::events::Events;
use super::network::{Leg, network};
use super::router::{Asked, Page, Router};
use super::setting::{Arrival, Cluster, Fate, Outcome, Source};
use super::sights::{Ailment, GpuReading};
use crate::pool::health::TICK_MS;
use crate::sim::step::{Event, Keys, Request};

/// Something that happens.
#[derive(Debug)]
pub(super) enum What {
    Arrive(Box<Arrival>),
    Deliver(u64),
    Wake(u32),
    First(u64, u32),
    Ended(u64),
    Failed(u64, bool),
    Patience(u64),
    Scrape(u32),
    Scraped(u32, Page),
    /// Tokens of these requests, each one of its own, came by.
    Tokens(Vec<u64>),
    /// The router looks after its endpoints.
    Tick,
    /// The agents read all GPUs.
    Sample,
    Sampled(Vec<GpuReading>),
    Xid(u32, u64),
    Fault(usize),
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) outcome: Outcome,
    arrival: Box<Arrival>,
    /// When the last of what is on its way back is there: nothing overtakes it.
    back: f64,
}

pub(super) struct Run<'a> {
    pub(super) cluster: &'a mut Cluster,
    router: &'a mut dyn Router,
    source: &'a mut dyn Source,
    sink: &'a mut dyn FnMut(&Outcome),
    pub(super) events: Events<What>,
    /// When each engine is to be looked at; infinite: not.
    pub(super) wake: Vec<f64>,
    /// Pages that cannot be read.
    pub(super) silent: Vec<bool>,
    /// Pages that do not tell what is true any more.
    pub(super) stuck: Vec<Option<Page>>,
    /// What is wrong with the GPUs.
    pub(super) ailments: Vec<Ailment>,
    pub(super) live: HashMap<u64, Live>,
    rng: SmallRng,
    arrived: u64,
    stage: u32,
    shift: f64,
    pub(super) faults_left: usize,
    /// The first request of the next stage, until this one has drained.
    held: Option<Box<Arrival>>,
    /// Requests that will come for sure.
    coming: usize,
    happened: Vec<Event>,
}

/// Runs `cluster` until all requests of `source` have ended, and tells `sink` how each did.
pub fn run(
    cluster: &mut Cluster,
    router: &mut dyn Router,
    source: &mut dyn Source,
    sink: &mut dyn FnMut(&Outcome),
) {
    let (endpoints, faults) = (cluster.engines.len(), cluster.faults.len());
    let mut run = Run {
        rng: SmallRng::seed_from_u64(cluster.seed),
        wake: vec![f64::INFINITY; endpoints],
        silent: vec![false; endpoints],
        stuck: vec![None; endpoints],
        ailments: vec![Ailment::default(); endpoints],
        cluster,
        router,
        source,
        sink,
        events: Events::new(),
        live: HashMap::new(),
        arrived: 0,
        stage: 0,
        shift: 0.0,
        faults_left: faults,
        held: None,
        coming: 0,
        happened: Vec::new(),
    };
    run.begin();
    while run.coming + run.live.len() > 0 || run.held.is_some() {
        let Some((now, what)) = run.events.next() else {
            break;
        };
        if run.is_stuck() {
            run.give_up(now);
        }
        run.happens(now, what);
    }
}

// === impl Run ===

impl Run<'_> {
    fn begin(&mut self) {
        let (faults, every) = (self.cluster.faults.len(), self.cluster.wires.scrape_every);
        for at in 0..faults {
            self.events.put(self.cluster.faults[at].at, What::Fault(at));
        }
        for endpoint in 0..self.cluster.engines.len() as u32 {
            // All are known at the beginning, and then each has its own turn.
            let page = self.page(endpoint, 0.0);
            self.router.scrape_begins(endpoint, 0.0);
            self.router.scraped(endpoint, page, 0.0);
            let phase = self.rng.random_range(0.0..1.0) * every;
            self.events.put(phase, What::Scrape(endpoint));
        }
        if self.router.watches() {
            for engine in &mut self.cluster.engines {
                engine.each_token(true);
            }
            self.events.put(0.0, What::Tick);
        }
        if self.router.sees_gpus() {
            self.events.put(0.0, What::Sample);
        }
        self.next_arrival();
    }

    /// Nothing but scrapes and looks will happen: what is under way is at engines that hang, and its clients never give up.
    fn is_stuck(&self) -> bool {
        let looks = usize::from(self.router.watches()) + usize::from(self.router.sees_gpus());
        let scrapes = self.cluster.engines.len() + looks;
        self.coming == 0
            && !self.live.is_empty()
            && self.events.len() < scrapes
            && self.faults_left == 0
    }

    fn give_up(&mut self, now: f64) {
        let mut stuck: Vec<u64> = self.live.keys().copied().collect();
        stuck.sort_unstable();
        for id in stuck {
            self.happens(now, What::Failed(id, false));
        }
    }

    fn next_arrival(&mut self) {
        if let Some(arrival) = self.source.next() {
            self.announce(Box::new(arrival), f64::NEG_INFINITY);
        }
    }

    /// `arrival` will come, not before `now`; but first its stage must.
    fn announce(&mut self, arrival: Box<Arrival>, now: f64) {
        if arrival.stage > self.stage {
            self.held = Some(arrival);
            self.drained(now);
            return;
        }
        self.coming += 1;
        let at = (arrival.at + self.shift).max(arrival.not_before);
        self.events.put(at.max(now), What::Arrive(arrival));
    }

    /// Something of a request is on its way back since `at`.
    pub(super) fn comes_back(&mut self, id: u64, leg: Leg, at: f64, what: What) {
        let Some(live) = self.live.get(&id) else {
            return;
        };
        let there = (at + network(self.cluster, live.arrival.number, leg)).max(live.back);
        if let Some(live) = self.live.get_mut(&id) {
            live.back = there;
        }
        self.events.put(there, what);
    }

    /// If all is over, the next stage begins.
    fn drained(&mut self, now: f64) {
        if self.coming + self.live.len() > 0 {
            return;
        }
        let Some(arrival) = self.held.take() else {
            return;
        };
        self.stage = arrival.stage;
        let begins = now.max(0.0) + self.cluster.wires.stage_gap;
        self.shift = self.shift.max(begins - arrival.at);
        self.announce(arrival, now);
    }

    fn happens(&mut self, now: f64, what: What) {
        match what {
            What::Arrive(arrival) => self.arrive(arrival, now),
            What::Deliver(id) => self.deliver(id, now),
            What::Wake(endpoint) => self.wake(endpoint, now),
            What::First(id, cached) => {
                if let Some(live) = self.live.get_mut(&id) {
                    live.outcome.first = Some(now);
                    live.outcome.cached_tokens = cached;
                    self.router.first_token(id, now);
                }
            }
            What::Ended(id) => {
                if let Some(live) = self.live.get(&id) {
                    let cached = live.outcome.cached_tokens;
                    self.router.ended(id, cached, now);
                    self.over(id, Fate::Served, now);
                }
            }
            What::Failed(id, fault) => {
                if self.live.contains_key(&id) {
                    self.router.failed(id, fault, now);
                    self.over(id, Fate::Lost, now);
                }
            }
            What::Patience(id) => {
                let waits = |live: &Live| live.outcome.first.is_none();
                if self.live.get(&id).is_some_and(waits) {
                    let endpoint = self.live[&id].outcome.endpoint;
                    if let Some(endpoint) = endpoint {
                        self.cluster.engines[endpoint as usize].cancel(id, now);
                        self.look(endpoint);
                    }
                    self.happens(now, What::Failed(id, false));
                }
            }
            What::Scrape(endpoint) => self.scrape(endpoint, now),
            What::Scraped(endpoint, page) => self.router.scraped(endpoint, page, now),
            What::Tokens(ids) => self.router.tokens(&ids, now),
            What::Tick => {
                self.router.tick(now);
                self.events.put(now + TICK_MS as f64 / 1000.0, What::Tick);
            }
            What::Sample => self.sample(now),
            What::Sampled(readings) => {
                for (endpoint, reading) in (0..).zip(&readings) {
                    self.router.gpu(endpoint, reading, now);
                }
            }
            What::Xid(endpoint, xid) => self.router.xid(endpoint, xid, now),
            What::Fault(at) => self.fault(self.cluster.faults[at], now),
        }
    }

    fn arrive(&mut self, arrival: Box<Arrival>, now: f64) {
        self.coming -= 1;
        let id = self.arrived;
        self.arrived += 1;
        let asked = Asked {
            id,
            prompt_tokens: arrival.prompt_tokens,
            max_tokens: arrival.max_tokens,
            chain: arrival.chain.clone(),
            adapter: arrival.adapter,
        };
        let decided = now + self.cluster.wires.decide;
        let picked = self.router.pick(&asked, decided);
        let outcome = Outcome {
            id,
            arrived: now,
            endpoint: picked.ok(),
            prompt_tokens: arrival.prompt_tokens,
            cached_tokens: 0,
            output_tokens: arrival.output_tokens,
            first: None,
            ended: decided,
            fate: Fate::Served,
        };
        let wires = self.cluster.wires;
        let there = decided + network(self.cluster, arrival.number, Leg::There);
        let delivered = there + wires.front_end * f64::from(arrival.prompt_tokens);
        let live = Live {
            outcome,
            arrival,
            back: f64::NEG_INFINITY,
        };
        self.live.insert(id, live);
        match picked {
            Err(refused) => self.over(id, Fate::Refused(refused), decided),
            Ok(_) => {
                self.events.put(delivered, What::Deliver(id));
                if wires.patience.is_finite() {
                    self.events.put(now + wires.patience, What::Patience(id));
                }
            }
        }
        self.next_arrival();
    }

    fn deliver(&mut self, id: u64, now: f64) {
        let Some(live) = self.live.get(&id) else {
            return;
        };
        let Some(endpoint) = live.outcome.endpoint else {
            return;
        };
        let engine = &mut self.cluster.engines[endpoint as usize];
        let arrival = &live.arrival;
        let block = self.cluster.block_size;
        let request = Request {
            id,
            prompt_tokens: arrival.prompt_tokens,
            output_tokens: arrival.output_tokens,
            keys: Keys::new(
                arrival.keys.iter().copied(),
                arrival.key_tokens / block,
                arrival.prompt_tokens / block,
            ),
            adapter: arrival.adapter,
        };
        match engine.submit(request, now) {
            Ok(()) => self.look(endpoint),
            Err(_) => self.comes_back(id, Leg::Last, now, What::Failed(id, true)),
        }
    }

    /// Has the engine looked at when it changes next.
    pub(super) fn look(&mut self, endpoint: u32) {
        let at = endpoint as usize;
        if let Some(next) = self.cluster.engines[at].next_event()
            && next < self.wake[at]
        {
            self.wake[at] = next;
            self.events.put(next, What::Wake(endpoint));
        }
    }

    fn wake(&mut self, endpoint: u32, now: f64) {
        let at = endpoint as usize;
        if self.wake[at] != now {
            return;
        }
        self.wake[at] = f64::INFINITY;
        let mut happened = std::mem::take(&mut self.happened);
        self.cluster.engines[at].advance(now, &mut |event| happened.push(event));
        let mut tokens = Vec::new();
        for event in happened.drain(..) {
            match event {
                Event::FirstToken {
                    id,
                    at,
                    cached_tokens,
                    ..
                } => self.comes_back(id, Leg::First, at, What::First(id, cached_tokens)),
                Event::Finished { id, at } => {
                    self.comes_back(id, Leg::Last, at, What::Ended(id));
                }
                Event::Token { id, .. } => tokens.push(id),
                Event::Preempted { .. } => {}
            }
        }
        self.happened = happened;
        if !tokens.is_empty() {
            let back = now + self.cluster.wires.network;
            self.events.put(back, What::Tokens(tokens));
        }
        self.look(endpoint);
    }

    fn over(&mut self, id: u64, fate: Fate, now: f64) {
        let Some(live) = self.live.remove(&id) else {
            return;
        };
        let Live {
            mut outcome,
            arrival,
            ..
        } = live;
        outcome.fate = fate;
        outcome.ended = now;
        (self.sink)(&outcome);
        if let Some(arrival) = self.source.ended(arrival.number, now) {
            self.announce(Box::new(arrival), now);
        }
        self.drained(now);
    }

    fn sample(&mut self, now: f64) {
        let all = self.cluster.engines.iter().zip(&self.ailments);
        let readings = all.map(|(engine, &ailment)| GpuReading::of(engine, ailment));
        let readings = readings.collect();
        let wires = self.cluster.wires;
        let told = now + wires.gpu_takes;
        self.events.put(told, What::Sampled(readings));
        self.events.put(now + wires.gpu_every, What::Sample);
    }

    pub(super) fn page(&self, endpoint: u32, now: f64) -> Page {
        if let Some(page) = &self.stuck[endpoint as usize] {
            return page.clone();
        }
        let engine = &self.cluster.engines[endpoint as usize];
        let gauges = engine.gauges(now);
        Page {
            waiting: gauges.waiting,
            running: gauges.running,
            kv_usage: gauges.kv_usage as f32,
            progress: gauges.tokens as f64,
            kv_blocks: engine.kv_blocks(),
            block_size: self.cluster.block_size,
            loras: engine.loras().map(Box::new),
        }
    }

    fn scrape(&mut self, endpoint: u32, now: f64) {
        let wires = self.cluster.wires;
        if !self.silent[endpoint as usize] {
            self.router.scrape_begins(endpoint, now);
            let page = self.page(endpoint, now);
            if wires.scrape_takes > 0.0 {
                let at = now + wires.scrape_takes;
                self.events.put(at, What::Scraped(endpoint, page));
            } else {
                self.router.scraped(endpoint, page, now);
            }
        }
        let jitter = self.rng.random_range(-1.0..=1.0) * wires.scrape_jitter;
        let next = now + wires.scrape_every * (1.0 + jitter);
        self.events.put(next, What::Scrape(endpoint));
    }
}
