use super::*;
use serde_json::{Value, json};

fn name(name: &str) -> Name<'_> {
    Name {
        namespace: "ns",
        name,
        address: "10.0.0.1:80",
    }
}

fn seen(rank: u32, total: f32) -> Seen {
    Seen {
        rank,
        total,
        waiting: f32::NAN,
        running: 1.0,
        kv_usage: 0.5,
        in_flight: 3,
        scrape_age_ms: Some(12),
        health: ("ok", None),
        speed: 1.0,
        gpu: None,
    }
}

fn put(decisions: &Decisions, record: &mut Record, id: &str) {
    record.begin(id, "m", 2, 2);
    decisions.put(record);
}

fn json_of(page: &DecisionPage) -> Value {
    serde_json::to_value(page).unwrap()
}

fn ids(decisions: &Decisions, limit: usize) -> Vec<Value> {
    let pages = decisions.latest(limit);
    pages
        .iter()
        .map(|p| json_of(p)["requestId"].clone())
        .collect()
}

#[test]
fn the_last_ones_are_kept() {
    let decisions = Decisions::new(3);
    let mut record = Record::default();
    assert!(decisions.latest(9).is_empty() && decisions.find("").is_none());
    for id in ["a", "b", "c", "d", "c"] {
        put(&decisions, &mut record, id);
    }
    assert_eq!(ids(&decisions, 9), ["c", "d", "c"]);
    assert_eq!(ids(&decisions, 1), ["c"]);
    assert!(decisions.find("c").is_some() && decisions.find("a").is_none());
}

#[test]
fn those_of_several_pools_are_kept_together_and_say_whose_they_are() {
    let all = Decisions::new(1);
    let mut record = Record::default();
    let llama = all.of_pool(Some("models/llama".into()));
    // What the last one is written into had been the first one's.
    for (decisions, id, pool) in [
        (&llama, "a", Some(json!("models/llama"))),
        (&all, "b", None),
        (&all, "c", None),
    ] {
        put(decisions, &mut record, id);
        let found = json_of(&all.find(id).unwrap());
        assert_eq!(found.get("poolId"), pool.as_ref(), "{id}");
    }
}

#[test]
fn a_retry_says_of_what_and_where_that_failed() {
    let mut record = Record::default();
    record.begin("second", "m", 9, 9);
    record.retry("first", ["a", "b", "c", "d", "e"].map(name).into_iter());
    let page = json_of(&record.page());
    assert_eq!(page["retryOf"], "first");
    assert_eq!(page["failedAt"], json!(["ns/a", "ns/b", "ns/c", "ns/d"]));
    record.begin("third", "m", 9, 9);
    let page = json_of(&record.page());
    assert!(page.get("retryOf").is_none() && page.get("failedAt").is_none());
}

#[test]
fn each_profile_has_its_own() {
    let mut record = Record::default();
    // What was there before leaves no trace.
    for _ in 0..2 {
        record.begin("r", "m", 5, 4);
        record.run("first", 4);
        record.filtered("health", 1, [(name("gone"), Some("wedged"))].into_iter());
        record.filtered("f", 0, std::iter::empty());
        assert!(record.scorer("s", 2.0) && record.scorer("t", 1.0));
        record.saw(name("probed"), seen(1, f32::NAN), std::iter::empty());
        record.saw(name("x"), seen(2, 2.5), [1.0, f32::NAN].into_iter());
        record.saw(name("y"), seen(0, 0.5), [0.25, 0.0].into_iter());
        record.picked("p", true);
        record.run("second", 3);
        record.filtered(
            "g",
            2,
            [name("h"), name("i")].map(|name| (name, None)).into_iter(),
        );
        record.saw(name("z"), seen(1, 0.0), std::iter::empty());
        record.picked("q", false);
        record.end(Duration::from_micros(7), None);
    }
    let page = json_of(&record.page());
    let first = &page["profiles"][0];
    assert_eq!(
        first["filters"],
        json!([
            {"name": "health", "removed": 1, "endpoints": ["ns/gone"], "causes": ["wedged"]},
            {"name": "f", "removed": 0, "endpoints": []},
        ])
    );
    assert_eq!(first["reason"], "probe");
    assert_eq!(first["runnerUp"], "ns/y");
    assert_eq!(first["endpoints"][0]["terms"], json!([]));
    assert_eq!(
        first["endpoints"][1],
        json!({
            "name": "ns/x", "address": "10.0.0.1:80", "rank": 2, "total": 2.5,
            "terms": [
                {"scorer": "s", "score": 1.0, "weight": 2.0},
                {"scorer": "t", "score": null, "weight": 1.0},
            ],
            "waiting": null, "running": 1.0, "kvUsage": 0.5, "inFlight": 3, "scrapeAgeMs": 12,
            "health": "ok", "speed": null,
        })
    );
    let second = &page["profiles"][1];
    assert_eq!(second["filters"][0]["endpoints"], json!(["ns/h", "ns/i"]));
    assert_eq!(second["endpoints"][0]["name"], "ns/z");
    assert_eq!(second["runnerUp"], Value::Null);
    assert_eq!(page["destinations"], json!(["10.0.0.1:80"]));
    assert_eq!(page["schedulingUs"], 7.0);
}

#[test]
fn a_record_does_not_grow_past_its_bounds() {
    let mut record = Record::default();
    let long = "é".repeat(10_000);
    record.begin(&long, &long, 1, 1);
    for _ in 0..100 {
        record.run(&long, 1);
        record.filtered(&long, 100, (0..100).map(|_| (name("gone"), None)));
        record.scorer("s", 1.0);
        record.saw(name(&long), seen(0, 1.0), [1.0; 40].into_iter());
        record.picked(&long, false);
    }
    assert!(record.text.len() <= TEXT);
    assert!(record.runs.len() <= STEPS && record.steps.len() <= STEPS);
    assert!(record.gone.len() <= GONE && record.scorers.len() <= STEPS);
    assert!(record.endpoints.len() <= ENDPOINTS && record.terms.len() <= TERMS);
    let page = json_of(&record.page());
    assert_eq!(page["requestId"].as_str().unwrap().len(), NAME - 1);
    let decisions = Decisions::new(1);
    decisions.put(&mut record);
    assert!(decisions.find(&long).is_some());
}
