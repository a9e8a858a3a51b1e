//! Profiles, and the scheduler that runs them.

use std::fmt;

use rand::rngs::SmallRng;

use super::{Context, Decision, Filter, NEUTRAL, Picker, ScheduleError, Scorer, Scratch};

/// Runs the profiles of a configuration, as its profile handler says. There is one handler so far,
/// `single-profile-handler`: the one profile's result is the decision.
#[derive(Debug)]
pub struct Scheduler {
    profile: Profile,
}

/// Filters, then scorers, then a picker.
pub struct Profile {
    /// Its name in the configuration.
    pub name: String,
    /// In the order in which they run.
    pub filters: Vec<(String, Box<dyn Filter>)>,
    /// With their weights.
    pub scorers: Vec<(String, f32, Box<dyn Scorer>)>,
    /// The last word.
    pub picker: (String, Box<dyn Picker>),
}

// === impl Scheduler ===

impl Scheduler {
    /// A scheduler of one profile.
    pub fn single(profile: Profile) -> Self {
        Self { profile }
    }

    /// Decides among `candidates`, which is used up. `want_scores`: tell each candidate's total.
    pub fn schedule(
        &self,
        cx: &Context<'_>,
        candidates: &mut Vec<u32>,
        scratch: &mut Scratch,
        rng: &mut SmallRng,
        want_scores: bool,
    ) -> Result<Decision, ScheduleError> {
        if candidates.is_empty() {
            return Err(ScheduleError::NoEndpoints);
        }
        self.profile.run(cx, candidates, scratch, rng, want_scores)
    }
}

// === impl Profile ===

impl Profile {
    fn run(
        &self,
        cx: &Context<'_>,
        candidates: &mut Vec<u32>,
        scratch: &mut Scratch,
        rng: &mut SmallRng,
        want_scores: bool,
    ) -> Result<Decision, ScheduleError> {
        for (_, filter) in &self.filters {
            filter.filter(cx, candidates);
        }
        if candidates.is_empty() {
            return Err(ScheduleError::Filtered);
        }
        let Scratch { scores, totals } = scratch;
        totals.clear();
        totals.resize(candidates.len(), 0.0);
        scores.clear();
        scores.resize(candidates.len(), 0.0);
        for (_, weight, scorer) in &self.scorers {
            scorer.score(cx, candidates, scores);
            for (total, score) in totals.iter_mut().zip(scores.iter()) {
                // NaN would poison the total, and no comparison with it is ever true.
                let score = if score.is_nan() { NEUTRAL } else { *score };
                *total += score.clamp(0.0, 1.0) * weight;
            }
        }
        let mut decision = Decision::default();
        self.picker
            .1
            .pick(candidates, totals, rng, &mut decision.endpoints);
        if want_scores {
            decision.scores = candidates
                .iter()
                .copied()
                .zip(totals.iter().copied())
                .collect();
        }
        if decision.endpoints.is_empty() {
            return Err(ScheduleError::Filtered);
        }
        Ok(decision)
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
mod tests {
    use super::super::pickers::max_score::MaxScore;
    use super::super::registry;
    use super::super::scorers::tests::{NoHeaders, snapshot};
    use super::super::{RequestHeaders, RequestView};
    use super::*;
    use crate::config::{DEFAULT, LoadOptions, load};
    use crate::pool::slab::Scrape;
    use crate::pool::{LoadView, Reservation, Snapshot};
    use rand::SeedableRng as _;

    /// Says of each endpoint what it was given.
    struct Fixed(Vec<f32>);

    impl Scorer for Fixed {
        fn score(&self, _cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
            for (out, &candidate) in out.iter_mut().zip(candidates) {
                *out = self.0[candidate as usize];
            }
        }
    }

    fn fixed(scores: Vec<f32>, endpoints: usize) -> Profile {
        Profile {
            name: "p".to_owned(),
            filters: Vec::new(),
            scorers: vec![("s".to_owned(), 2.0, Box::new(Fixed(scores)))],
            picker: ("max".to_owned(), Box::new(MaxScore { endpoints })),
        }
    }

    fn run(
        profile: &Profile,
        snapshot: &Snapshot,
        headers: &dyn RequestHeaders,
        now_ms: u64,
    ) -> Result<Decision, ScheduleError> {
        let mut load = LoadView::default();
        load.gather(snapshot, now_ms, u64::MAX);
        let request = RequestView {
            model: "m",
            adapter: "m",
            prompt_bytes: 0,
            body_bytes: 0,
            headers,
        };
        let cx = Context {
            request: &request,
            snapshot,
            load: &load,
        };
        let mut candidates = (0..snapshot.len() as u32).collect();
        let mut rng = SmallRng::seed_from_u64(now_ms);
        profile.run(
            &cx,
            &mut candidates,
            &mut Scratch::default(),
            &mut rng,
            true,
        )
    }

    #[test]
    fn a_score_that_is_no_number_is_neutral() {
        let profile = fixed(vec![0.4, f32::NAN, 0.6, f32::INFINITY], 9);
        let decision = run(&profile, &snapshot(4), &NoHeaders, 1).unwrap();
        assert_eq!(decision.endpoints, [3, 2, 1, 0]);
        assert_eq!(decision.scores, [(0, 0.8), (1, 1.0), (2, 1.2), (3, 2.0)]);
        let profile = fixed(vec![f32::NAN; 3], 1);
        let decision = run(&profile, &snapshot(3), &NoHeaders, 1).unwrap();
        assert_eq!(decision.endpoints.len(), 1);
    }

    #[test]
    fn a_burst_that_no_scrape_shows_yet_is_spread() {
        let config = load(DEFAULT, LoadOptions::default()).unwrap();
        let scheduler = registry::build(&config).unwrap();
        let snapshot = snapshot(8);
        // All idle; what is left in their caches makes the first look best for as long as nothing else is known.
        let scrape_all = || {
            for (n, member) in snapshot.members().iter().enumerate() {
                let page = Scrape {
                    waiting: Some(0.0),
                    running: Some(0.0),
                    kv_usage: Some(n as f32 / 100.0),
                    ..Default::default()
                };
                let begun = member.slot.scrape_begins();
                member.slot.record(&page, begun, 1);
            }
        };
        let mut live = Vec::new();
        for n in 0..200 {
            if n % 10 == 0 {
                scrape_all();
            }
            let decision = run(&scheduler.profile, &snapshot, &NoHeaders, 1).unwrap();
            live.push(Reservation::new(
                &snapshot.member(decision.endpoints[0]).slot,
            ));
        }
        let mut view = LoadView::default();
        view.gather(&snapshot, 1, 1);
        let mean = live.len() as f32 / snapshot.len() as f32;
        let most = view.in_flight.iter().max().copied().unwrap() as f32;
        assert!(most / mean <= 1.5, "{:?}", view.in_flight);
    }
}
