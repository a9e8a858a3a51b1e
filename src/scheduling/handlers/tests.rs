//! Which profiles run, and what becomes of their results.

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::super::deciders::always::Always;
use super::super::deciders::multimodal::Multimodal;
use super::super::deciders::prefix_based::PrefixBased;
use super::super::pickers::max_score::MaxScore;
use super::super::testing::snapshot;
use super::super::{
    Context, Decider, Decision, Filter, PrefixView, Producers, Profile, ProfileHandler,
    RequestHeaders, RequestView, ScheduleError, Scheduler, Scratch,
};
use super::data_parallel::DataParallel;
use super::disagg::Disagg;
use super::header::Header;
use super::single::Single;
use crate::config::params::StageOrder;
use crate::pool::{Breaker, LoadView, Outcome, Snapshot, breaker};

/// Keeps the given endpoints, and of those the ones after what an earlier stage chose.
struct Only(&'static [u32]);

impl Filter for Only {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        candidates.retain(|c| self.0.contains(c) && cx.earlier.is_none_or(|earlier| *c > earlier));
    }
}

struct Named(Option<&'static str>);

impl RequestHeaders for Named {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.filter(|_| name == "epp-profile")
    }
}

#[derive(Default)]
struct Request {
    header: Option<&'static str>,
    multimodal: bool,
    cached: &'static [u32],
}

/// Profiles decode, prefill and encode that keep these endpoints.
fn scheduler(handler: impl ProfileHandler + 'static, kept: [&'static [u32]; 3]) -> Scheduler {
    let profiles = ["decode", "prefill", "encode"].into_iter().zip(kept);
    let profiles = profiles.map(|(name, kept)| Profile {
        name: name.to_owned(),
        health: Default::default(),
        filters: vec![("only".to_owned(), Box::new(Only(kept)))],
        scorers: Vec::new(),
        picker: ("max".to_owned(), Box::new(MaxScore { endpoints: 2 })),
        timers: Default::default(),
    });
    Scheduler {
        profiles: profiles.collect(),
        name: ("h".to_owned(), "h"),
        handler: Box::new(handler),
        producers: Producers::default(),
    }
}

fn decide(
    scheduler: &Scheduler,
    snapshot: &Snapshot,
    asked: &Request,
) -> Result<Decision, ScheduleError> {
    let request = RequestView {
        model: "m",
        adapter: "m",
        prompt_bytes: 4_000,
        has_body: true,
        multimodal: asked.multimodal,
        headers: &Named(asked.header),
    };
    let cx = Context {
        request: &request,
        snapshot,
        load: &LoadView::default(),
        prefix: PrefixView {
            matched_tokens: asked.cached,
            ..Default::default()
        },
        failed: &[],
        earlier: None,
        now_ms: 1_000_000,
    };
    let candidates: Vec<u32> = (0..snapshot.len() as u32).collect();
    let mut rng = SmallRng::seed_from_u64(1);
    scheduler.schedule(&cx, &candidates, &mut Scratch::default(), &mut rng, true)
}

fn disagg(order: StageOrder, prefill: Option<Box<dyn Decider>>) -> Disagg {
    Disagg {
        order,
        decode: 0,
        prefill: Some((1, prefill)),
        encode: Some((2, Box::new(Multimodal))),
        primary_port: None,
    }
}

#[test]
fn one_profile_runs_where_there_is_one() {
    let scheduler = scheduler(Single, [&[3], &[0], &[0]]);
    let decision = decide(&scheduler, &snapshot(4), &Request::default()).unwrap();
    assert_eq!((decision.endpoints, decision.prefill), (vec![3], None));
    assert_eq!(decision.primary_port, None);
}

#[test]
fn a_header_names_the_profile() {
    let handler = Header {
        header: "epp-profile".to_owned(),
        default: 0,
    };
    let scheduler = scheduler(handler, [&[0], &[1], &[2]]);
    for (header, expected) in [
        (None, 0),
        (Some("prefill"), 1),
        (Some(" encode "), 2),
        (Some("  "), 0),
        // Names are exact.
        (Some("Prefill"), 0),
        (Some("nope"), 0),
    ] {
        let asked = Request {
            header,
            ..Default::default()
        };
        let decision = decide(&scheduler, &snapshot(4), &asked).unwrap();
        assert_eq!(decision.endpoints, [expected], "{header:?}");
        assert_eq!((decision.prefill, decision.encode), (None, vec![]));
    }
}

#[test]
fn a_data_parallel_rank_is_reached_by_the_primary_port() {
    let scheduler = scheduler(DataParallel { primary_port: 8000 }, [&[2], &[0], &[0]]);
    let decision = decide(&scheduler, &snapshot(4), &Request::default()).unwrap();
    assert_eq!(decision.endpoints, [2]);
    assert_eq!(decision.primary_port, Some(8000));
    assert_eq!(decision.scores, [(2, 0.0)]);
}

#[test]
fn stages_run_as_their_deciders_say() {
    let prefix = || -> Option<Box<dyn Decider>> {
        Some(Box::new(PrefixBased {
            non_cached_tokens: 16,
            prompt_tokens: 0,
        }))
    };
    let always = || -> Option<Box<dyn Decider>> { Some(Box::new(Always)) };
    let text = Request::default();
    let image = Request {
        multimodal: true,
        ..Default::default()
    };
    let cached = Request {
        cached: &[1_000, 0, 0, 0],
        ..Default::default()
    };
    // Case 91: the prompt is not cached, then it is.
    for (decider, asked, prefill, encode) in [
        (always(), &text, Some(1), vec![]),
        (prefix(), &text, Some(1), vec![]),
        (prefix(), &cached, None, vec![]),
        (prefix(), &image, Some(1), vec![2, 3]),
    ] {
        let handler = disagg(StageOrder::DecodeFirst, decider);
        let scheduler = scheduler(handler, [&[0], &[1], &[2, 3]]);
        let mut decision = decide(&scheduler, &snapshot(4), asked).unwrap();
        decision.encode.sort_unstable();
        assert_eq!(decision.endpoints, [0]);
        assert_eq!((decision.prefill, decision.encode), (prefill, encode));
    }
}

#[test]
fn the_second_stage_knows_what_the_first_chose() {
    // Only endpoints after the earlier stage's are kept.
    let first = scheduler(
        disagg(StageOrder::DecodeFirst, Some(Box::new(Always))),
        [&[1], &[0, 2], &[0]],
    );
    let decision = decide(&first, &snapshot(4), &Request::default()).unwrap();
    assert_eq!((decision.endpoints, decision.prefill), (vec![1], Some(2)));
    let second = scheduler(
        disagg(StageOrder::PrefillFirst, None),
        [&[0, 3], &[1], &[0]],
    );
    let asked = Request {
        multimodal: true,
        ..Default::default()
    };
    let decision = decide(&second, &snapshot(4), &asked).unwrap();
    assert_eq!((decision.endpoints, decision.prefill), (vec![3], Some(1)));
    // Encode is near to nobody.
    assert_eq!(decision.encode, [0]);
}

#[test]
fn decode_can_do_without_the_other_stages_and_nothing_without_decode() {
    for order in [StageOrder::DecodeFirst, StageOrder::PrefillFirst] {
        let handler = || disagg(order, Some(Box::new(Always)));
        let asked = Request {
            multimodal: true,
            ..Default::default()
        };
        let alone = scheduler(handler(), [&[0], &[], &[]]);
        let decision = decide(&alone, &snapshot(4), &asked).unwrap();
        assert_eq!(decision.endpoints, [0]);
        assert_eq!((decision.prefill, decision.encode), (None, vec![]));
        let without = scheduler(handler(), [&[], &[1], &[2]]);
        let got = decide(&without, &snapshot(4), &asked);
        assert_eq!(got, Err(ScheduleError::Filtered));
    }
}

#[test]
fn stages_beside_the_destination_probe_nobody() {
    let snapshot = snapshot(4);
    for position in [1, 2] {
        for _ in 0..breaker::STREAK {
            let slot = &snapshot.member(position).slot;
            Breaker::observe(slot, Outcome::Failed, 50, 100);
        }
    }
    let handler = disagg(StageOrder::DecodeFirst, Some(Box::new(Always)));
    let scheduler = scheduler(handler, [&[0], &[1, 2], &[]]);
    let decision = decide(&scheduler, &snapshot, &Request::default()).unwrap();
    // Both are open, but there are no others for this stage.
    assert!(matches!(decision.prefill, Some(1 | 2)), "{decision:?}");
    assert!(
        [1, 2]
            .iter()
            .all(|&at| snapshot.wants_probe(at, false, 1_000_000))
    );
}
