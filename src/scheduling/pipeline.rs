//! Profiles, and the scheduler that runs them.

use std::fmt;

use rand::rngs::SmallRng;

use super::{Context, Decision, Filter, Picker, ScheduleError, Scorer, Scratch};

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
