use super::attempts::ATTEMPT_SETS;
use super::*;

#[test]
fn names_are_the_references() {
    let metrics = Metrics::new();
    let series = metrics.series("m", "t", "default-flow", -1);
    series.total.inc();
    series.failed("BadRequest");
    let running = series.run();
    metrics.scheduled("t", "default", "a", 8000);
    let page = metrics.encode().unwrap();
    let labels = r#"model_name="m",target_model_name="t",fairness_id="default-flow",priority="-1""#;
    for line in [
        format!("llm_d_epp_request_total{{{labels}}} 1"),
        format!("llm_d_epp_request_error_total{{{labels},error_code=\"BadRequest\"}} 1"),
        format!("llm_d_epp_request_running{{{labels}}} 1"),
        "llm_d_epp_scheduler_attempts_total{status=\"success\",target_model_name=\"t\",endpoint_name=\"a\",namespace=\"default\",port=\"8000\"} 1".to_owned(),
    ] {
        assert!(page.contains(&line), "{line} is not in\n{page}");
    }
    drop(running);
    assert!(
        metrics
            .encode()
            .unwrap()
            .contains(&format!("llm_d_epp_request_running{{{labels}}} 0"))
    );
}

#[test]
fn made_up_model_names_do_not_grow_the_page() {
    let metrics = Metrics::new();
    for i in 0..3 * DISTINCT {
        metrics
            .series(&format!("model-{i}"), "t", "f", 0)
            .total
            .inc();
    }
    let page = metrics.encode().unwrap();
    let lines = page
        .lines()
        .filter(|l| l.starts_with("llm_d_epp_request_total"))
        .count();
    assert!(lines <= DISTINCT + 1, "{lines}");
    assert!(page.contains(r#"llm_d_epp_request_total{model_name="other""#));
}

#[test]
fn a_configured_model_keeps_its_name() {
    let metrics = Metrics::new();
    metrics.follow_models(|name| name.starts_with("ours-"));
    for i in 0..2 * SETS {
        let (model, flow) = (format!("made-up-{i}"), format!("f{i}"));
        metrics.series(&model, &model, &flow, 0).total.inc();
        metrics.scheduled(&model, "default", &format!("pod-{}", i % 4), 80);
    }
    for i in 0..2 * CONFIGURED {
        let target = format!("ours-{i}");
        metrics.series("made-up-0", &target, "f", 0).total.inc();
        metrics.rewritten("ours-rewrite", "made-up", &target);
        metrics.scheduled(&target, "default", "pod-0", 80);
    }
    let page = metrics.encode().unwrap();
    for line in [
        r#"request_total{model_name="other",target_model_name="ours-0",fairness_id="other",priority="0"} 1"#,
        r#"model_rewrite_decisions_total{model_rewrite_name="ours-rewrite",model_name="other",target_model="ours-0"} 1"#,
        r#"scheduler_attempts_total{status="success",target_model_name="ours-0",endpoint_name="pod-0",namespace="default",port="80"} 1"#,
    ] {
        assert!(page.contains(&format!("llm_d_epp_{line}\n")), "{line}");
    }
    // They are bounded too.
    let named = |line: &&str| line.contains(r#"{model_name="other",target_model_name="ours-"#);
    let requests = page
        .lines()
        .filter(|l| l.starts_with("llm_d_epp_request_total{"));
    assert!((CONFIGURED - 1..=CONFIGURED).contains(&requests.filter(named).count()));
}

#[test]
fn models_that_are_configured_no_more_make_room() {
    let metrics = Metrics::new();
    let generation = Arc::new(Mutex::new(0));
    let current = Arc::clone(&generation);
    metrics.follow_models(move |name| name.starts_with(&format!("g{}-", current.lock())));
    for i in 0..DISTINCT {
        metrics.series(&format!("made-up-{i}"), "made-up-0", "f", 0);
    }
    for now in 0..3 {
        *generation.lock() = now;
        for i in 0..CONFIGURED {
            metrics.rewritten("made-up-0", "made-up-0", &format!("g{now}-{i}"));
        }
        let last = format!("target_model=\"g{now}-{}\"", CONFIGURED - 1);
        assert!(metrics.encode().unwrap().contains(&last), "{last}");
    }
}

#[test]
fn neither_long_names_nor_many_pairs_of_names_grow_the_page() {
    let metrics = Metrics::new();
    let long = "x".repeat(LONGEST + 1);
    metrics.series(&long, &long, &long, 0).total.inc();
    assert!(!metrics.encode().unwrap().contains(&long));
    for i in 0..2 * SETS {
        let (model, flow) = (format!("m{}", i % 100), format!("f{}", i / 100));
        metrics.series(&model, &model, &flow, 0).total.inc();
    }
    let count = |page: &str, name: &str| page.lines().filter(|l| l.starts_with(name)).count();
    let page = metrics.encode().unwrap();
    let sets = count(&page, "llm_d_epp_request_total{");
    assert!(sets <= SETS + 1, "{sets}");
    for i in 0..ATTEMPT_SETS + 100 {
        metrics.scheduled("m", "default", &format!("pod-{i}"), 8000);
    }
    let page = metrics.encode().unwrap();
    assert_eq!(
        count(&page, "llm_d_epp_scheduler_attempts_total{"),
        ATTEMPT_SETS + 1
    );
    assert!(page.contains(r#"endpoint_name="other",namespace="other",port="other"} 100"#));
}

#[test]
fn an_endpoint_takes_its_series_along() {
    let metrics = Metrics::with_old_names();
    let present = Arc::new(Mutex::new(EndpointNames::new()));
    let shared = Arc::clone(&present);
    metrics.follow_endpoints(move || shared.lock().clone());
    let request = metrics.series("m", "m", "f", 0);
    let producer: Arc<str> = "p".into();
    let at = |name: &str| metrics.inflight.count(&producer, &request, ("ns", name), 1);
    let lines = || {
        let page = metrics.encode().unwrap();
        let of = |name| page.lines().filter(|line| line.contains(name)).count();
        (of("e-stays\""), of("e-goes-"))
    };
    let stays = HashSet::from(["e-stays".to_owned()]);
    present.lock().insert("ns".to_owned(), stays);
    metrics.scheduled("m", "ns", "e-stays", 80);
    let _stays = at("e-stays");
    for n in 0..=ATTEMPT_SETS + 4000 {
        let name = format!("e-goes-{n}");
        metrics.scheduled("m", "ns", &name, 80);
        let flying = at(&name);
        if n % 5000 == 0 {
            // Two of attempts, by both names, and two of what is in flight.
            let (stay, go) = lines();
            assert!(stay == 4 && go > 0 && go <= 18_000, "{stay} {go}");
            assert_eq!(lines(), (4, 0));
        }
        // Gone from the page, and no less than nothing in it.
        drop(flying);
    }
    lines();
    assert_eq!(lines(), (4, 0));
    assert!(!metrics.encode().unwrap().contains(" -"));
}

#[test]
fn priorities_are_bounded() {
    let metrics = Metrics::new();
    for priority in -100..100 {
        metrics.series("m", "m", "f", priority).total.inc();
    }
    let page = metrics.encode().unwrap();
    let lines = page
        .lines()
        .filter(|l| l.starts_with("llm_d_epp_request_total{"));
    assert_eq!(lines.count(), PRIORITIES + 1);
    assert!(page.contains(r#"priority="other"} 136"#), "{page}");
}
