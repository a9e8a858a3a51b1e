use super::super::filters::header_based_testing::HeaderBasedTesting;
use super::super::filters::roles::Role;
use super::super::pickers::max_score::MaxScore;
use super::super::registry;
use super::super::testing::{Given, labelled, snapshot};
use super::super::{PrefixView, RequestHeaders, RequestView};
use super::*;
use crate::config::{DEFAULT, LoadOptions, load};
use crate::pool::slab::Scrape;
use crate::pool::{Breaker, LoadView, Outcome, Reservation, Snapshot, breaker};
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

/// Keeps the first.
struct First;

impl Filter for First {
    fn filter(&self, _cx: &Context<'_>, candidates: &mut Vec<u32>) {
        candidates.truncate(1);
    }
}

struct Named(&'static str);

impl RequestHeaders for Named {
    fn get(&self, _name: &str) -> Option<&str> {
        Some(self.0)
    }
}

fn fixed(scores: Vec<f32>, endpoints: usize) -> Profile {
    Profile {
        name: "p".to_owned(),
        health: Default::default(),
        filters: Vec::new(),
        scorers: vec![("s".to_owned(), 2.0, Box::new(Fixed(scores)))],
        picker: ("max".to_owned(), Box::new(MaxScore { endpoints })),
        timers: Default::default(),
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
        has_body: true,
        multimodal: false,
        headers,
    };
    let cx = Context {
        request: &request,
        snapshot,
        load: &load,
        prefix: PrefixView::default(),
        failed: &[],
        earlier: None,
        now_ms,
    };
    let all: Vec<u32> = (0..snapshot.len() as u32).collect();
    let mut rng = SmallRng::seed_from_u64(now_ms);
    profile.run(&cx, &all, &mut Scratch::default(), &mut rng, true)
}

/// The endpoint at `position` failed at 100.
fn trip(snapshot: &Snapshot, position: u32) {
    for _ in 0..breaker::STREAK {
        let slot = &snapshot.member(position).slot;
        Breaker::observe(slot, Outcome::Failed, 50, 100);
    }
}

const PAUSE_OVER: u64 = 100 + breaker::PAUSE_MS;

#[test]
fn a_score_that_is_no_number_is_neutral() {
    let profile = fixed(vec![0.4, f32::NAN, 0.6, f32::INFINITY], 9);
    let decision = run(&profile, &snapshot(4), &Given(&[]), 1).unwrap();
    assert_eq!(decision.endpoints, [3, 2, 1, 0]);
    assert_eq!(decision.scores, [(0, 0.8), (1, 1.0), (2, 1.2), (3, 2.0)]);
    let profile = fixed(vec![f32::NAN; 3], 1);
    let decision = run(&profile, &snapshot(3), &Given(&[]), 1).unwrap();
    assert_eq!(decision.endpoints.len(), 1);
}

#[test]
fn a_probe_goes_to_the_worst_endpoint_once_and_the_others_are_its_fallbacks() {
    let snapshot = snapshot(4);
    let profile = fixed(vec![0.0, 0.2, 0.3, 0.1], 3);
    trip(&snapshot, 0);
    let endpoints = |now| {
        run(&profile, &snapshot, &Given(&[]), now)
            .unwrap()
            .endpoints
    };
    assert_eq!(endpoints(PAUSE_OVER - 1), [2, 1, 3]);
    assert_eq!(endpoints(PAUSE_OVER), [0, 2, 1]);
    assert_eq!(endpoints(PAUSE_OVER), [2, 1, 3]);
    // It told nothing.
    assert_eq!(endpoints(PAUSE_OVER + breaker::PROBE_MS), [0, 2, 1]);
    let one = fixed(vec![0.0, 0.2, 0.3, 0.1], 1);
    let later = PAUSE_OVER + 2 * breaker::PROBE_MS;
    let decision = run(&one, &snapshot, &Given(&[]), later).unwrap();
    assert_eq!(decision.endpoints, [0]);
    let slot = &snapshot.member(0).slot;
    Breaker::observe(slot, Outcome::Ok, later, later);
    assert_eq!(endpoints(later), [2, 1, 3]);
}

#[test]
fn every_open_endpoint_gets_its_probe_and_all_open_are_all_offered() {
    let snapshot = snapshot(2);
    let profile = fixed(vec![0.0, 1.0], 2);
    (0..2).for_each(|position| trip(&snapshot, position));
    let endpoints = |now| {
        run(&profile, &snapshot, &Given(&[]), now)
            .unwrap()
            .endpoints
    };
    assert_eq!(endpoints(200), [1, 0]);
    assert_eq!(endpoints(PAUSE_OVER), [0, 1]);
    assert_eq!(endpoints(PAUSE_OVER), [1, 0]);
    assert!(!snapshot.wants_probe(1, false, PAUSE_OVER));
}

#[test]
fn filters_keep_a_probe_from_an_endpoint_and_do_not_use_it_up() {
    let snapshot = snapshot(3);
    let mut profile = fixed(vec![0.0, 0.2, 0.3], 3);
    profile.filters = vec![("f".to_owned(), Box::new(HeaderBasedTesting))];
    trip(&snapshot, 0);
    let named = |name| run(&profile, &snapshot, &Named(name), PAUSE_OVER);
    assert_eq!(named("10.0.0.1,10.0.0.2").unwrap().endpoints, [2, 1]);
    assert_eq!(named("10.0.0.9"), Err(ScheduleError::Filtered));
    assert!(snapshot.wants_probe(0, false, PAUSE_OVER));
    // Nothing else is left by the filters, and nothing else is needed.
    assert_eq!(named("10.0.0.0").unwrap().endpoints, [0]);
    assert!(!snapshot.wants_probe(0, false, PAUSE_OVER));
    // Now it is not even a probe, but who wants only this gets it.
    assert_eq!(named("10.0.0.0").unwrap().endpoints, [0]);
}

#[test]
fn the_reason_is_told() {
    let snapshot = snapshot(3);
    let of = |profile: &Profile, headers: &dyn RequestHeaders| {
        run(profile, &snapshot, headers, 1).unwrap().reason
    };
    let mut profile = fixed(vec![0.1, 0.3, 0.2], 1);
    assert_eq!(of(&profile, &Given(&[])), Reason::Scored);
    assert_eq!(of(&fixed(vec![0.1, 0.2, 0.2], 1), &Given(&[])), Reason::Tie);
    profile.scorers.clear();
    assert_eq!(of(&profile, &Given(&[])), Reason::Random);
    profile.filters = vec![("f".to_owned(), Box::new(HeaderBasedTesting))];
    assert_eq!(of(&profile, &Named("10.0.0.1")), Reason::Named);
    assert_eq!(of(&profile, &Named("10.0.0.1,10.0.0.2")), Reason::Random);
    profile.filters = vec![("f".to_owned(), Box::new(First))];
    assert_eq!(of(&profile, &Given(&[])), Reason::OnlyCandidate);
    trip(&snapshot, 1);
    let decision = run(&profile, &snapshot, &Given(&[]), PAUSE_OVER).unwrap();
    assert_eq!(decision.reason, Reason::Probe);
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
        let decision = run(&scheduler.profiles[0], &snapshot, &Given(&[]), 1).unwrap();
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

/// Twelve endpoints for prefill, and four for decode, after them.
fn twelve_and_four() -> std::sync::Arc<Snapshot> {
    let role = |role| [(crate::pool::stages::ROLE_LABEL, role)];
    let (prefill, decode) = (role("prefill"), role("decode"));
    let mut labels = vec![&prefill[..]; 12];
    labels.resize(16, &decode[..]);
    labelled(&labels)
}

fn decode() -> Profile {
    let mut profile = fixed((0..16).map(|n| n as f32 / 16.0).collect(), 16);
    profile.filters = vec![("decode".to_owned(), Box::new(Role::decode()))];
    profile
}

/// The engine at `position` says that it does not work.
fn ail(snapshot: &Snapshot, position: u32) {
    let page = Scrape {
        healthy: Some(false),
        ..Default::default()
    };
    snapshot.member(position).slot.record(&page, 0, 100);
}

#[test]
fn the_share_that_may_be_out_is_one_of_those_that_fit() {
    let snapshot = twelve_and_four();
    let endpoints = || {
        let decision = run(&decode(), &snapshot, &Given(&[]), 200).unwrap();
        (decision.endpoints, snapshot.times_overruled())
    };
    ail(&snapshot, 13);
    ail(&snapshot, 14);
    assert_eq!(endpoints(), (vec![15, 12], 0));
    // Three of four: one of them is let in.
    ail(&snapshot, 15);
    assert_eq!(endpoints(), (vec![13, 12], 1));
    assert_eq!(snapshot.kept_out(), (3, 2));
    // That one fails is known, and it is not let in while there is another.
    trip(&snapshot, 12);
    assert_eq!(endpoints(), (vec![14, 13], 2));
    for position in 13..16 {
        for _ in 0..breaker::STREAK {
            let slot = &snapshot.member(position).slot;
            Breaker::observe(slot, Outcome::Failed, 150, 200);
        }
    }
    // All fail, and there is nothing else.
    assert_eq!(endpoints().0, [15, 14, 13, 12]);
}

/// Keeps these, as an affinity does.
struct Only(&'static [u32]);

impl Filter for Only {
    fn filter(&self, _cx: &Context<'_>, candidates: &mut Vec<u32>) {
        candidates.retain(|candidate| self.0.contains(candidate));
    }
}

#[test]
fn where_filters_leave_only_what_is_out_the_least_bad_of_it_gets_requests() {
    let snapshot = snapshot(4);
    let mut profile = fixed(vec![0.1, 0.2, 0.4, 0.3], 4);
    profile.filters = vec![("only".to_owned(), Box::new(Only(&[2, 3])))];
    ail(&snapshot, 3);
    trip(&snapshot, 2);
    let decision = run(&profile, &snapshot, &Given(&[]), 200).unwrap();
    assert_eq!(decision.endpoints, [3]);
    assert_eq!(snapshot.times_overruled(), 1);
}
