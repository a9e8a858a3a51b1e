//! Profiles, and the scheduler that runs them.

use std::fmt;

use rand::rngs::SmallRng;

use super::timers::{Laps, Timers};
use super::{
    Context, Decision, Filter, Follow, Follows, GpuHealth, NEUTRAL, Picker, Producers,
    ProfileHandler, Reason, ScheduleError, Scorer, Scratch, Trace,
};
use crate::pool::Cause;
use crate::telemetry::metrics::Metrics;

/// Runs the profiles of a configuration, as its profile handler says.
#[derive(Debug)]
pub struct Scheduler {
    /// At least one.
    pub profiles: Vec<Profile>,
    /// The handler's name in the configuration, and its type.
    pub name: (String, &'static str),
    /// Which profiles run for a request.
    pub handler: Box<dyn ProfileHandler>,
    /// What is to be known of a request before and beside scheduling.
    pub producers: Producers,
}

/// The profiles, ready to be run for one request.
pub struct Stages<'a> {
    profiles: &'a [Profile],
    cx: Context<'a>,
    candidates: &'a [u32],
    scratch: &'a mut Scratch,
    rng: &'a mut SmallRng,
    want_scores: bool,
    ran: Vec<(usize, u32)>,
}

/// Filters, with health among them, then scorers, then a picker.
pub struct Profile {
    /// Its name in the configuration.
    pub name: String,
    /// Runs after the filters of the kind ([`Filter::is_of_kind`]), and before all others.
    pub health: GpuHealth,
    /// In the order in which they run: those of the kind come first.
    pub filters: Vec<(String, Box<dyn Filter>)>,
    /// With their weights.
    pub scorers: Vec<(String, f32, Box<dyn Scorer>)>,
    /// The last word.
    pub picker: (String, Box<dyn Picker>),
    /// Of all of them.
    pub timers: Timers,
}

// === impl Scheduler ===

impl Scheduler {
    /// The plugins that go with a request beyond the choice, each with the choice that it follows. `ran` is what profiles
    /// chose, by position, the destination first ([`Decision::ran`]).
    pub fn followers<'a, T: Copy>(
        &'a self,
        ran: &'a [(usize, T)],
    ) -> impl Iterator<Item = (&'a dyn Follow, T)> {
        let all = self.profiles.iter().enumerate();
        let all = all.flat_map(|(at, profile)| profile.followers().map(move |f| (at, f)));
        all.filter_map(|(at, follower)| {
            let of_profile = |at: usize| ran.iter().find(|(ran, _)| *ran == at);
            let found = match follower.follows() {
                Follows::Destination => ran.first(),
                Follows::Own => of_profile(at),
                Follows::Profile(name) => {
                    let named = self.profiles.iter().position(|p| p.name == name);
                    named.and_then(of_profile)
                }
            };
            found.map(|&(_, chosen)| (follower, chosen))
        })
    }

    /// What plugins hold now, for people, by profile and plugin; those that hold nothing are left out.
    pub fn state(&self) -> serde_json::Value {
        let plugins = self.profiles.iter().flat_map(|profile| {
            let filters = profile.filters.iter().map(|(name, f)| (name, f.follow()));
            let scorers = profile
                .scorers
                .iter()
                .map(|(name, _, s)| (name, s.follow()));
            let plugins = filters.chain(scorers);
            plugins.filter_map(|(name, follower)| {
                Some((format!("{}/{name}", profile.name), follower?.state()?))
            })
        });
        serde_json::Value::Object(plugins.collect())
    }

    /// Whether a scorer wants to know where requests failed before.
    pub fn minds_failures(&self) -> bool {
        let mut scorers = self.profiles.iter().flat_map(|profile| &profile.scorers);
        scorers.any(|(_, _, scorer)| scorer.minds_failures())
    }

    /// Has the plugins of all profiles timed.
    pub fn time(&mut self, metrics: &Metrics) {
        Timers::resolve(self.profiles.iter_mut().map(|p| &mut p.timers), metrics);
    }

    /// Decides among `candidates`; endpoints that are out are dealt with here. `want_scores`: tell each candidate's total.
    pub fn schedule(
        &self,
        cx: &Context<'_>,
        candidates: &[u32],
        scratch: &mut Scratch,
        rng: &mut SmallRng,
        want_scores: bool,
    ) -> Result<Decision, ScheduleError> {
        if candidates.is_empty() {
            return Err(ScheduleError::NoEndpoints);
        }
        scratch.sampling.next();
        let mut stages = Stages {
            profiles: &self.profiles,
            cx: *cx,
            candidates,
            scratch,
            rng,
            want_scores,
            ran: Vec::new(),
        };
        let decision = self.handler.handle(&mut stages)?;
        Ok(Decision {
            ran: stages.ran,
            ..decision
        })
    }
}

// === impl Stages ===

impl<'a> Stages<'a> {
    /// What may be looked at before a stage runs.
    pub fn cx(&self) -> &Context<'a> {
        &self.cx
    }

    /// The position of the profile called `name`.
    pub fn profile(&self, name: &str) -> Option<usize> {
        self.profiles
            .iter()
            .position(|profile| profile.name == name)
    }

    /// Runs the profile whose endpoint is where the request goes. `earlier`: what another stage chose.
    pub fn destination(
        &mut self,
        profile: usize,
        earlier: Option<u32>,
    ) -> Result<Decision, ScheduleError> {
        let cx = Context { earlier, ..self.cx };
        let decision = self.profiles[profile].run(
            &cx,
            self.candidates,
            self.scratch,
            self.rng,
            self.want_scores,
        )?;
        self.ran.insert(0, (profile, decision.endpoints[0]));
        Ok(decision)
    }

    /// Runs a profile for a stage beside that. It probes nobody: how such a stage ends is not seen. Empty if there is no
    /// endpoint for it.
    pub fn aside(&mut self, profile: usize, earlier: Option<u32>) -> Vec<u32> {
        let cx = Context { earlier, ..self.cx };
        let (at, profile) = (profile, &self.profiles[profile]);
        let mut decision = Decision::default();
        profile.choose(
            &cx,
            self.candidates,
            self.scratch,
            self.rng,
            false,
            &mut decision,
        );
        let picker = &profile.picker.0;
        self.scratch.tell(&cx, picker, &decision.endpoints, false);
        self.ran
            .extend(decision.endpoints.first().map(|&first| (at, first)));
        decision.endpoints
    }
}

// === impl Scratch ===

impl Scratch {
    /// Tells the trace what `picker` chose among the candidates that are left here.
    fn tell(&mut self, cx: &Context<'_>, picker: &str, chosen: &[u32], probe: bool) {
        let left = (&*self.candidates, &*self.totals);
        self.trace.picked(cx, picker, left, chosen, probe);
    }
}

// === impl Profile ===

impl Profile {
    fn followers(&self) -> impl Iterator<Item = &dyn Follow> {
        let filters = self.filters.iter().filter_map(|(_, f)| f.follow());
        filters.chain(self.scorers.iter().filter_map(|(_, _, s)| s.follow()))
    }

    fn run(
        &self,
        cx: &Context<'_>,
        all: &[u32],
        scratch: &mut Scratch,
        rng: &mut SmallRng,
        want_scores: bool,
    ) -> Result<Decision, ScheduleError> {
        let probe = self.probe(cx, all, &mut scratch.alone);
        let mut decision = Decision::default();
        self.choose(cx, all, scratch, rng, want_scores, &mut decision);
        if let Some(probe) = probe {
            decision.endpoints.retain(|&endpoint| endpoint != probe);
            decision.endpoints.insert(0, probe);
            decision.endpoints.truncate(self.picker.1.endpoints());
            decision.reason = Reason::Probe;
        }
        decision.rearranged = self.spread(cx, scratch, &mut decision.endpoints);
        scratch.tell(cx, &self.picker.0, &decision.endpoints, probe.is_some());
        if decision.endpoints.is_empty() {
            return Err(ScheduleError::Filtered);
        }
        Ok(decision)
    }

    /// Has scorers see to the fallbacks, if there are any. Whether something changed.
    fn spread(&self, cx: &Context<'_>, scratch: &mut Scratch, chosen: &mut Vec<u32>) -> bool {
        let mut rearranged = false;
        if chosen.len() < 2 {
            return rearranged;
        }
        let (candidates, totals) = (&scratch.candidates, &scratch.totals);
        for (name, _, scorer) in &self.scorers {
            if let Some(spread) = scorer.spread()
                && spread.rearrange(cx, candidates, totals, chosen)
            {
                scratch.trace.spread(name);
                rearranged = true;
            }
        }
        rearranged
    }

    /// The candidate that this request is to try out, if there is one: its probe is due, the filters would let it
    /// through, and no other request was faster.
    fn probe(&self, cx: &Context<'_>, candidates: &[u32], alone: &mut Vec<u32>) -> Option<u32> {
        let (snapshot, gpus) = (cx.snapshot, self.health.gpus);
        if !snapshot.any_out() {
            return None;
        }
        candidates.iter().copied().find(|&candidate| {
            if !snapshot.wants_probe(candidate, gpus, cx.now_ms) {
                return false;
            }
            alone.clear();
            alone.push(candidate);
            self.filter(cx, &self.filters, alone, None, &mut Laps::off());
            !alone.is_empty() && snapshot.take_probe(candidate, gpus, cx.now_ms)
        })
    }

    /// Runs `filters`, which are some of the profile's. Says why the endpoint that is left is left, if there is one and a
    /// filter knows more than that it fits.
    fn filter(
        &self,
        cx: &Context<'_>,
        filters: &[(String, Box<dyn Filter>)],
        candidates: &mut Vec<u32>,
        mut trace: Option<&mut Trace>,
        laps: &mut Laps<'_>,
    ) -> Option<Reason> {
        let mut reason = None;
        for (name, filter) in filters {
            let before = candidates.len();
            laps.time(|| filter.filter(cx, candidates));
            if let Some(trace) = &mut trace {
                trace.filtered(cx, name, candidates);
            }
            if before > 1 && candidates.len() == 1 {
                reason = filter.reason();
            }
        }
        reason
    }

    /// Keeps those of `candidates` that are not out.
    fn keep_healthy(
        &self,
        cx: &Context<'_>,
        candidates: &mut Vec<u32>,
        trace: &mut Trace,
        laps: &mut Laps<'_>,
    ) {
        let mut health = || self.health.filter(cx, candidates);
        if self.health.gpus {
            laps.time(health);
        } else {
            // It is nobody's plugin.
            health();
        }
        trace.filtered_for(cx, &self.health.name, candidates, |position| {
            cx.snapshot.word(position).cause().map(Cause::name)
        });
    }

    /// Filters, scorers and picker, over those of `all` that are not out: so many of those that can serve the request at
    /// all may be. If the filters leave none of them, what they want is out, and health has its say on that alone.
    fn choose(
        &self,
        cx: &Context<'_>,
        all: &[u32],
        scratch: &mut Scratch,
        rng: &mut SmallRng,
        want_scores: bool,
        decision: &mut Decision,
    ) {
        let Scratch {
            candidates,
            scores,
            totals,
            trace,
            sampling,
            ..
        } = scratch;
        let mut laps = self.timers.laps(sampling);
        candidates.clear();
        candidates.extend_from_slice(all);
        totals.clear();
        trace.run(&self.name, candidates);
        let kinds = self.filters.partition_point(|(_, f)| f.is_of_kind());
        let (kinds, others) = self.filters.split_at(kinds);
        let by_kind = self.filter(cx, kinds, candidates, Some(&mut *trace), &mut laps);
        let fitting = candidates.len();
        self.keep_healthy(cx, candidates, trace, &mut laps);
        let healthy = candidates.len();
        let mut filtered = self.filter(cx, others, candidates, Some(&mut *trace), &mut laps);
        filtered = filtered.or(by_kind);
        if candidates.is_empty() && healthy < fitting {
            let off = &mut Laps::off();
            candidates.extend_from_slice(all);
            trace.run(&self.name, candidates);
            filtered = self.filter(cx, &self.filters, candidates, Some(&mut *trace), off);
            self.keep_healthy(cx, candidates, trace, off);
        }
        if candidates.is_empty() {
            return;
        }
        totals.resize(candidates.len(), 0.0);
        scores.clear();
        scores.resize(candidates.len(), 0.0);
        for (name, weight, scorer) in &self.scorers {
            laps.time(|| scorer.score(cx, candidates, scores));
            trace.scored(name, *weight, scores);
            for (total, score) in totals.iter_mut().zip(scores.iter()) {
                // NaN would poison the total, and no comparison with it is ever true.
                let score = if score.is_nan() { NEUTRAL } else { *score };
                *total += score.clamp(0.0, 1.0) * weight;
            }
        }
        let picker = &self.picker.1;
        let picked = laps.time(|| picker.pick(candidates, totals, rng, &mut decision.endpoints));
        decision.reason = match (candidates.len(), picked) {
            (1, _) => filtered.unwrap_or(Reason::OnlyCandidate),
            (_, Reason::Tie) if self.scorers.is_empty() => Reason::Random,
            (_, picked) => picked,
        };
        if want_scores {
            decision.scores = candidates
                .iter()
                .copied()
                .zip(totals.iter().copied())
                .collect();
        }
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filters: Vec<_> = self.filters.iter().map(|(name, _)| name).collect();
        let scorers: Vec<_> = self
            .scorers
            .iter()
            .map(|(name, weight, _)| (name, weight))
            .collect();
        f.debug_struct("Profile")
            .field("name", &self.name)
            .field("filters", &filters)
            .field("scorers", &scorers)
            .field("picker", &self.picker.0)
            .finish()
    }
}

#[cfg(test)]
mod tests;
