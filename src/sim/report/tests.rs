use super::load::Stretch;
use super::*;

const SLO: Slo = Slo {
    ttft: 2.0,
    tpot: 0.05,
};

fn served(arrival: f64, endpoint: u32, ttft: f64, e2e: f64, output: u32) -> Served {
    Served {
        arrival,
        endpoint: Some(endpoint),
        prompt: 100,
        cached: 25,
        output,
        outcome: Outcome::Served { ttft, e2e },
    }
}

fn run(policy: &str, rate: f64, seed: u64, tally: Tally) -> Run {
    Run {
        case: Case {
            trace: "a <trace>".to_owned(),
            policy: policy.to_owned(),
            rate,
            seed,
        },
        tally,
    }
}

/// A made-up run, worse the higher the rate.
fn made_up(rate: f64, slowness: f64, seed: u64) -> Tally {
    let mut tally = Tally::new(SLO, 4);
    for i in 0..2_000u32 {
        let at = f64::from(i) / rate;
        let noise = f64::from(i.wrapping_mul(2_654_435_761) >> 16) / 65_536.0 + seed as f64 * 0.02;
        let ttft = 0.05 + slowness * noise.powi(3) * rate / 10.0;
        let endpoint = (i * i + i / 3) % 4;
        let e2e = ttft + (0.02 + 0.01 * slowness * noise) * 99.0;
        tally.add(&served(at, endpoint, ttft, e2e, 100));
    }
    tally
}

#[test]
fn good_is_what_keeps_both_promises_out_of_all_that_came() {
    let mut tally = Tally::new(SLO, 2);
    for it in [
        served(0.0, 0, 2.0, 2.5, 11),
        // Late; slow; one token only, which cannot be slow.
        served(1.0, 1, 2.1, 2.5, 11),
        served(2.0, 0, 0.5, 1.1, 11),
        served(3.0, 1, 0.5, 0.5, 1),
    ] {
        tally.add(&it);
    }
    for (arrival, outcome) in [
        (
            4.0,
            Outcome::Rejected {
                reason: "full",
                at: 4.0,
            },
        ),
        (
            5.0,
            Outcome::Rejected {
                reason: "full",
                at: 5.0,
            },
        ),
        (
            6.0,
            Outcome::Rejected {
                reason: "shed",
                at: 6.0,
            },
        ),
        (8.0, Outcome::Lost { at: 10.0 }),
    ] {
        tally.add(&Served {
            outcome,
            ..served(arrival, 0, 0.0, 0.0, 0)
        });
    }
    let numbers = tally.numbers();
    assert_eq!((numbers.requests, numbers.served, numbers.lost), (8, 4, 1));
    assert_eq!((numbers.good_share, numbers.goodput), (0.25, 0.25));
    assert_eq!((numbers.late_share, numbers.slow_share), (0.125, 0.125));
    assert_eq!(
        (numbers.rejected["full"], numbers.rejected_share),
        (2, 0.375)
    );
    assert_eq!((numbers.throughput, numbers.cache_hit), (3.4, 0.25));
    assert_eq!((numbers.ttft.mean, numbers.seconds), (1.275, 10.0));
    assert!((numbers.tpot.p99 / 0.06 - 1.0).abs() < 1e-3);
    let none = Tally::new(SLO, 0).numbers();
    assert!(none.good_share.is_nan() && none.ttft.p50.is_nan() && none.load_cv.is_nan());
}

#[test]
fn an_interval_is_as_wide_as_the_seeds_allow() {
    for (values, median, low, high, confidence) in [
        (vec![3.0], 3.0, 3.0, 3.0, 0.0),
        (vec![3.0, 1.0], 2.0, 1.0, 3.0, 0.5),
        (vec![3.0, 1.0, 2.0], 2.0, 1.0, 3.0, 0.75),
        (
            vec![5.0, 1.0, f64::NAN, 2.0, 3.0, 4.0],
            3.0,
            1.0,
            5.0,
            0.9375,
        ),
        ((1..=6).map(f64::from).collect(), 3.5, 1.0, 6.0, 0.96875),
        // From tables of the sign test: of 10 values the 2nd and the 9th, of 20 the 6th and the 15th.
        (
            (1..=10).map(f64::from).collect(),
            5.5,
            2.0,
            9.0,
            0.978_515_625,
        ),
        (
            (1..=20).map(f64::from).collect(),
            10.5,
            6.0,
            15.0,
            0.958_610_534_667_968_8,
        ),
    ] {
        let got = Estimate::of(values);
        assert_eq!((got.median, got.low, got.high), (median, low, high));
        assert!((got.confidence - confidence).abs() < 1e-12, "{got:?}");
    }
    assert!(Estimate::of(vec![f64::NAN]).median.is_nan());
}

#[test]
fn load_is_kept_in_stretches_that_grow() {
    let mut load = LoadOverTime::new(2);
    load.add(0, 0.5, 2.0);
    load.add(0, 1.0, 2.0);
    load.add(1, 1.25, 1.5);
    // Nobody's, and never.
    load.add(7, 0.0, 1.0);
    load.add(0, 1.0, f64::INFINITY);
    let stretches: Vec<_> = load.stretches().collect();
    assert_eq!(
        (stretches[0].mean, stretches[0].max, stretches[0].cv),
        (0.25, 0.5, 1.0)
    );
    assert_eq!(
        (stretches[1].mean, stretches[1].min, stretches[1].max),
        (1.125, 0.25, 2.0)
    );
    let (cv, max) = load.imbalance();
    assert!((cv - (0.25 + 0.875) / 1.375).abs() < 1e-9 && (max - 2.5 / 1.375).abs() < 1e-9);
    // 1,000 s need stretches of 8.
    load.add(1, 992.0, 1_000.0);
    let stretches: Vec<_> = load.stretches().collect();
    assert_eq!(stretches.len(), 126);
    let first = Stretch {
        at: 0.0,
        mean: (2.5 + 0.25) / 8.0 / 2.0,
        min: 0.25 / 8.0,
        max: 2.5 / 8.0,
        cv: 1.125 / 1.375,
    };
    assert_eq!(stretches[0].at, first.at);
    assert!((stretches[0].mean - first.mean).abs() < 1e-9);
    assert!((stretches[0].cv - first.cv).abs() < 1e-9);
    assert_eq!((stretches[124].max, stretches[124].min), (1.0, 0.0));
}

fn report() -> Report {
    let mut runs = Vec::new();
    for (policy, slowness) in [("random", 6.0), ("ours & theirs", 1.5)] {
        for rate in [5.0, 10.0, 20.0] {
            for seed in 1..=3 {
                // The rate of a seed is its own by a little.
                let own = rate * (1.0 + seed as f64 * 1e-3);
                runs.push(run(policy, own, seed, made_up(own, slowness, seed)));
            }
        }
    }
    Report::new(
        SLO,
        vec![("endpoints".to_owned(), "4 × H100".to_owned())],
        runs,
    )
}

#[test]
fn programs_get_json() {
    let json = report().to_json();
    assert_eq!(
        (&json["version"], &json["slo"]["ttft"]),
        (&1.into(), &2.0.into())
    );
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 6);
    let first = &results[0];
    assert_eq!(
        (&first["policy"], &first["trace"]),
        (&"random".into(), &"a <trace>".into())
    );
    assert_eq!(first["seeds"].as_array().unwrap().len(), 3);
    assert_eq!(first["seeds"][1]["seed"], 2);
    let goodput = &first["estimates"]["goodput"];
    assert_eq!(goodput["confidence"], 0.75);
    assert!(goodput["low"].as_f64() <= goodput["median"].as_f64());
    let nothing = Report::new(SLO, Vec::new(), vec![run("x", 1.0, 1, Tally::new(SLO, 1))]);
    let json = nothing.to_json();
    assert!(json["results"][0]["estimates"]["ttft_mean"]["median"].is_null());
}

#[test]
fn people_get_a_table_with_what_was_rejected_beside_what_was_fast() {
    let table = report().to_string();
    assert!(
        table.contains("a <trace>: 5.00 requests a second"),
        "{table}"
    );
    let heads = "policy          good/s        ±   good %    rej %   lost %     TTFT";
    assert!(table.contains(heads), "{table}");
    // Both policies stand together under each of the three rates.
    assert_eq!(table.matches("requests a second").count(), 3, "{table}");
    assert_eq!(table.matches("\nours & theirs").count(), 3, "{table}");
    assert!(
        table.contains("3 seeds: median over seeds") && table.contains("75.0 %"),
        "{table}"
    );
}

#[test]
fn browsers_get_one_page_that_needs_nothing_else() {
    let page = report().to_html();
    for absent in [
        "<script",
        "http://",
        "https://",
        "url(",
        "NaN",
        "inf",
        "a <trace>",
    ] {
        assert!(!page.contains(absent), "{absent}");
    }
    assert!(page.contains("<h2>a &lt;trace&gt;</h2>"));
    // Against load; of each of three rates, the distributions and two policies over time.
    assert_eq!(page.matches("<figure>").count(), 6 + 3 * (3 + 2));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new");
    report().write(&folder).unwrap();
    let json = std::fs::read(folder.join("report.json")).unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
    assert_eq!(
        std::fs::read_to_string(folder.join("report.html")).unwrap(),
        page
    );
    // Nothing was served: there is nothing to draw.
    let nothing = Report::new(SLO, Vec::new(), vec![run("x", 1.0, 1, Tally::new(SLO, 1))]);
    assert!(!nothing.to_html().contains("<figure>"));
}
