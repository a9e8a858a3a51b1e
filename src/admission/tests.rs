use super::*;
use crate::config::{LoadOptions, load};
use crate::pool::stages::ROLE_LABEL;
use crate::pool::{
    Breaker, Endpoint, EndpointId, Outcome, Pool, Reservation, Tokens, breaker, slab::Scrape,
};
use rand::SeedableRng as _;
use std::sync::Arc;

const NAN: f32 = f32::NAN;

/// A configuration of these plugins, which must be right; the first detector is the one.
pub(super) fn plugins(plugins: &str) -> PickerConfig {
    let head = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";
    let detector = match plugins.contains("name: d") {
        true => "flowControl: {saturationDetector: {pluginRef: d}}\n",
        false => "",
    };
    load(
        &format!("{head}plugins: {plugins}\n{detector}"),
        LoadOptions::default(),
    )
    .unwrap()
}

fn detector(r#type: &str, parameters: &str) -> Detector {
    let config = plugins(&format!(
        "[{{type: {type}, name: d, parameters: {parameters}}}]"
    ));
    Detector::of(&config.detector).unwrap()
}

/// Endpoints with these roles, if they have any; nothing is known of them.
fn pool(roles: &[&str]) -> Arc<Snapshot> {
    let endpoints = (0u8..).zip(roles).map(|(n, role)| Endpoint {
        id: EndpointId {
            namespace: "default".into(),
            name: format!("e{n}"),
        },
        address: [10, 0, 0, n].into(),
        port: 8000,
        hardware: Default::default(),
        labels: [(ROLE_LABEL.to_owned(), (*role).to_owned())]
            .into_iter()
            .filter(|(_, role)| !role.is_empty())
            .collect(),
    });
    Pool::default().replace(endpoints.collect())
}

/// Puts queue and KV cache use onto the pages of all endpoints, scraped at 1; NaN, both: never.
fn scraped(snapshot: &Snapshot, pages: &[(f32, f32)]) -> LoadView {
    for (member, &(waiting, kv)) in snapshot.members().iter().zip(pages) {
        let known = |value: f32| (!value.is_nan()).then_some(value);
        let page = Scrape {
            waiting: known(waiting),
            kv_usage: known(kv),
            ..Default::default()
        };
        if page != Scrape::default() {
            member.slot.record(&page, 0, 1);
        }
    }
    let mut load = LoadView::default();
    load.gather(snapshot, 1, 1000);
    load
}

/// Endpoints without roles, and what is known of them.
pub(super) fn loads(pages: &[(f32, f32)]) -> (Arc<Snapshot>, LoadView) {
    let snapshot = pool(&vec![""; pages.len()]);
    let load = scraped(&snapshot, pages);
    (snapshot, load)
}

fn all(snapshot: &Snapshot) -> Vec<u32> {
    (0..snapshot.len() as u32).collect()
}

fn near(got: f32, expected: f32, what: &dyn std::fmt::Debug) {
    assert!(
        (got - expected).abs() < 1e-3,
        "{what:?}: {got}, not {expected}"
    );
}

#[test]
fn utilization_is_the_mean_of_what_is_known() {
    let detector = detector("utilization-detector", "{kvCacheUtilThreshold: 0.9}");
    for (pages, expected) in [
        (&[(2.0, 0.5)][..], 0.556),
        (&[(10.0, 0.1)], 2.0),
        (&[(5.0, 0.0), (20.0, 0.0), (5.5, 0.0)], 2.033),
        // Full in the reference; here left out.
        (&[(NAN, NAN)], 0.0),
        (&[(NAN, NAN), (10.0, 0.1)], 2.0),
        (&[(NAN, 0.45), (1.0, NAN)], 0.35),
        (&[], 1.0),
    ] {
        let (snapshot, load) = loads(pages);
        let view = View {
            snapshot: &snapshot,
            load: &load,
            now_ms: 1,
        };
        near(detector.saturation(view, &all(&snapshot)), expected, &pages);
    }
}

#[test]
fn a_burst_is_felt_before_the_next_scrape() {
    let detector = detector("utilization-detector", "{}");
    let (snapshot, _) = loads(&[(0.0, 0.0), (0.0, 0.0)]);
    let slots = snapshot.members().iter().map(|member| &member.slot);
    let _sent: Vec<_> = slots
        .flat_map(|slot| (0..5).map(move |_| Reservation::new(slot)))
        .collect();
    let mut load = LoadView::default();
    load.gather(&snapshot, 1, 1000);
    let view = View {
        snapshot: &snapshot,
        load: &load,
        now_ms: 1,
    };
    near(detector.saturation(view, &[0, 1]), 1.0, &"burst");
}

#[test]
fn a_scrape_is_old_once_its_successor_is_overdue_and_the_threshold_is_past() {
    let detector = detector("utilization-detector", "{}");
    let (snapshot, _) = loads(&[(10.0, 0.0), (0.0, 0.0)]);
    let page = Scrape {
        waiting: Some(0.0),
        ..Default::default()
    };
    snapshot.member(1).slot.record(&page, 0, 1000);
    for (turnover_ms, now_ms, expected) in [
        (0, 201, 1.0),
        (0, 202, 0.0),
        (300, 301, 1.0),
        (300, 302, 0.0),
        // Past what the whole view believes.
        (9000, 1002, 0.0),
    ] {
        let mut load = LoadView::default();
        load.gather(&snapshot, now_ms, 1000);
        load.turnover_ms = turnover_ms;
        let view = View {
            snapshot: &snapshot,
            load: &load,
            now_ms,
        };
        near(
            detector.saturation(view, &[0, 1]),
            expected,
            &(turnover_ms, now_ms),
        );
    }
}

#[test]
fn concurrency_is_what_is_in_flight_by_what_may_be() {
    let (snapshot, _) = loads(&[(NAN, NAN), (NAN, NAN)]);
    let tokens = |input| Tokens { input, output: 0 };
    let [first, second] = [0, 1].map(|position| &snapshot.member(position).slot);
    let _sent = [
        Reservation::of(first, tokens(80)),
        Reservation::of(first, tokens(0)),
        Reservation::of(second, tokens(10)),
    ];
    let mut load = LoadView::default();
    load.gather(&snapshot, 1, 1000);
    let view = View {
        snapshot: &snapshot,
        load: &load,
        now_ms: 1,
    };
    for (parameters, candidates, expected) in [
        ("{}", &[0, 1][..], 0.015),
        ("{maxConcurrency: 2}", &[0, 1], 0.75),
        ("{maxConcurrency: 2}", &[0], 1.0),
        (
            "{concurrencyMode: tokens, maxTokenConcurrency: 100}",
            &[0, 1],
            0.45,
        ),
        (
            "{concurrencyMode: hybrid, maxConcurrency: 10, maxTokenConcurrency: 100}",
            &[0],
            0.8,
        ),
        (
            "{concurrencyMode: hybrid, maxConcurrency: 2, maxTokenConcurrency: 100}",
            &[0, 1],
            0.75,
        ),
        ("{}", &[], 1.0),
    ] {
        let got = detector("concurrency-detector", parameters).saturation(view, candidates);
        near(got, expected, &parameters);
    }
}

#[test]
fn the_fullest_stage_counts() {
    let detector = detector("utilization-detector", "{}");
    for (roles, expected) in [
        (["", "", ""], 1.0),
        (["prefill", "decode", "decode"], 2.0),
        (["decode", "prefill", "decode"], 1.5),
        (["both", "prefill", "decode"], 1.5),
        // Encoding is no part of either.
        (["encode", "prefill", "decode"], 1.0),
        (["encode", "encode", "encode"], 0.0),
        // A role of the user's own.
        (["batch", "batch", "batch"], 1.0),
    ] {
        let snapshot = pool(&roles);
        let load = scraped(&snapshot, &[(10.0, 0.0), (0.0, 0.0), (5.0, 0.0)]);
        let view = View {
            snapshot: &snapshot,
            load: &load,
            now_ms: 1,
        };
        near(detector.saturation(view, &[0, 1, 2]), expected, &roles);
    }
}

#[test]
fn an_endpoint_that_gets_nothing_has_no_room() {
    let detector = detector("utilization-detector", "{}");
    let (snapshot, load) = loads(&[(10.0, 0.0), (0.0, 0.0)]);
    let view = View {
        snapshot: &snapshot,
        load: &load,
        now_ms: 1,
    };
    let open = |position: u32| {
        for _ in 0..breaker::STREAK {
            let slot = &snapshot.member(position).slot;
            Breaker::observe(slot, Outcome::Failed, 1, 1);
        }
    };
    near(detector.saturation(view, &[0, 1]), 1.0, &"both");
    open(1);
    near(detector.saturation(view, &[0, 1]), 2.0, &"one");
    open(0);
    near(detector.saturation(view, &[0, 1]), 1.0, &"none");
}

#[test]
fn only_what_may_be_shed_is_and_the_detector_comes_first() {
    let config = plugins(
        "[{type: probabilistic-admitter, name: a, parameters: {power: 1, k: 1000}}, {type: latency-slo-admitter}, {type: queue-scorer}]",
    );
    let admission = Admission::of(&config).unwrap();
    let mut rng = SmallRng::seed_from_u64(1);
    let not_admitted = || Err(Shed::NotAdmitted("a".to_owned()));
    for (pages, priority, expected) in [
        (&[(10.0, 0.0)][..], -1, Err(Shed::Saturated)),
        (&[(5.0, 0.0)], i32::MIN, Err(Shed::Saturated)),
        (&[(4.0, 0.0)], -1, not_admitted()),
        (&[(0.0, 0.0)], -1, Ok(())),
        (&[(NAN, NAN)], -1, Ok(())),
        (&[], -1, Err(Shed::Saturated)),
        (&[(10.0, 0.0)], 0, Ok(())),
        (&[], 0, Ok(())),
    ] {
        let (snapshot, load) = loads(pages);
        let view = View {
            snapshot: &snapshot,
            load: &load,
            now_ms: 1,
        };
        let got = admission.admit(priority, view, &all(&snapshot), &mut rng);
        assert_eq!(got, expected, "{pages:?} {priority}");
    }
}

#[test]
fn what_is_wrong_is_told_at_once() {
    let config = plugins(
        "[{type: utilization-detector, name: d, parameters: {headroom: -1}}, {type: latency-slo-admitter, parameters: {x: 1}}, {type: queue-scorer}]",
    );
    let got = Admission::of(&config).unwrap_err().to_string();
    assert_eq!(got.lines().count(), 2, "{got}");
    assert!(
        got.contains("parameters.headroom") && got.contains("unknown field `x`"),
        "{got}"
    );
}
