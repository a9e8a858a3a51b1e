use super::super::control::{ENCODE, OBJECTIVE, PREFILL};
use super::*;
use crate::admission::Admission;
use crate::config::{self, LoadOptions};
use crate::dialect::Dialect;
use crate::extproc::BodyBudget;
use crate::picker::{Desk, PickerOptions};
use crate::pool::slab::{LoraState, Scrape, lora_key};
use crate::pool::{Endpoint, EndpointId, LoadView, Pool};
use crate::prefix::PrefixCache;
use crate::scheduling::{input_tokens, registry};
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::Metrics;
use std::sync::atomic::Ordering;
use std::time::Duration;

const CONFIG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: lora-affinity-scorer}]
";

/// Of three endpoints, each with an adapter.
pub(in crate::picker) fn picker_of(config: &str) -> Picker {
    picker_with(config, Vec::new(), Metrics::new())
}

pub(in crate::picker) fn picker_with(
    config: &str,
    parsers: Vec<Dialect>,
    metrics: Metrics,
) -> Picker {
    let pool = Arc::new(Pool::default());
    let endpoints = (0..3).map(|n| Endpoint {
        id: EndpointId {
            namespace: "default".into(),
            name: format!("e{n}"),
        },
        address: [10, 0, 0, n].into(),
        port: 80,
        hardware: Default::default(),
        labels: Default::default(),
    });
    let snapshot = pool.replace(endpoints.collect());
    for (member, adapter) in snapshot.members().iter().zip(["a", "b", "m"]) {
        let page = Scrape {
            lora: Some(LoraState {
                max: 1,
                running: [lora_key(adapter)].into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        member.slot.record(&page, 0, clock_ms());
    }
    let options = LoadOptions {
        allow_experimental: true,
    };
    let config = config::load(config, options).unwrap();
    let minute = Duration::from_secs(60);
    let options = PickerOptions {
        pool_id: None,
        subset_filter: true,
        emit_scores: false,
        max_body: 1 << 20,
        tenant_header: Some("x-tenant".to_owned()),
        strict_headers: false,
    };
    let policy = Policy {
        admission: Admission::of(&config).unwrap(),
        scheduler: registry::build(&config).unwrap(),
        parsers,
        metrics_staleness: minute,
        reporters: crate::picker::Reporters::of(&config.reporters).unwrap(),
        metrics_turnover: minute,
    };
    let decisions = Some(Decisions::new(2));
    let desk = Desk::new(1, minute, minute);
    let prefix = Arc::new(PrefixCache::new(1 << 20));
    Picker::new(
        pool,
        policy,
        options,
        Arc::new(metrics),
        desk,
        decisions,
        prefix,
    )
}

fn destination(picker: &Picker, api: Api, body: &str) -> String {
    let facts = dialect::inspect(api, body.as_bytes()).unwrap();
    let model = facts.model.clone().unwrap_or_default();
    let question = Question {
        policy: picker.policy.load_full(),
        headers: Arc::default(),
        metadata: Arc::default(),
        api,
        body: RequestBody::None,
        request_id: None,
        asked: std::time::Instant::now(),
    };
    let read = Read {
        facts,
        ..Default::default()
    };
    let picked = DESKTOP.with_borrow_mut(|desktop| {
        picker.pick(&question, 0, &model, &read, !body.is_empty(), desktop)
    });
    let (snapshot, chosen, _) = picked.unwrap();
    snapshot
        .member(chosen.decision.endpoints[0])
        .address
        .to_string()
}

#[test]
fn the_adapter_is_the_one_beside_the_model_or_else_the_model() {
    let picker = picker_of(CONFIG);
    let sglang = |body| destination(&picker, Api::SglangGenerate, body);
    assert_eq!(
        sglang(r#"{"text":"x","model":"a","lora_path":"b"}"#),
        "10.0.0.1:80"
    );
    assert_eq!(
        sglang(r#"{"text":"x","model":"m","lora_path":""}"#),
        "10.0.0.2:80"
    );
    let chat = r#"{"model":"a","messages":[{"role":"user","content":"x"}]}"#;
    assert_eq!(
        destination(&picker, Api::ChatCompletions, chat),
        "10.0.0.0:80"
    );
}

const DISAGG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: always-disagg-pd-decider
- type: always-disagg-multimodal-decider
- type: disagg-profile-handler
  parameters: {deciders: {prefill: always-disagg-pd-decider, encode: always-disagg-multimodal-decider}}
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: queue-scorer}]}
- {name: prefill, plugins: [{pluginRef: queue-scorer}]}
- {name: encode, plugins: [{pluginRef: queue-scorer}]}
";

fn ask(picker: &Picker, headers: &[(&str, &str)]) -> Result<Answer, Denial> {
    ask_with(picker, headers, RequestBody::None)
}

fn ask_with(
    picker: &Picker,
    headers: &[(&str, &str)],
    body: RequestBody,
) -> Result<Answer, Denial> {
    let question = Question {
        policy: picker.policy.load_full(),
        headers: Arc::new(headers.iter().map(|(k, v)| (*k, v.to_string())).collect()),
        metadata: Arc::default(),
        api: Api::ChatCompletions,
        body,
        request_id: None,
        asked: std::time::Instant::now(),
    };
    picker.decide(question, &Progress::default())
}

#[test]
fn every_stage_is_in_flight_where_it_was_picked() {
    let picker = picker_of(DISAGG);
    let in_flight = || -> u32 {
        let snapshot = picker.pool.snapshot();
        let cells = (0..snapshot.len() as u32).map(|position| {
            let (s, i) = snapshot.cell(position);
            s.in_flight[i].load(Ordering::Relaxed)
        });
        cells.sum()
    };
    let answer = ask(&picker, &[(PREFILL, "evil:80"), (ENCODE, "evil:80")]).unwrap();
    let set = &answer.verdict.headers.set;
    let prefill = set.iter().find(|(name, _)| *name == PREFILL).unwrap();
    assert!(prefill.1.starts_with(b"10.0.0."), "{set:?}");
    assert_eq!(answer.verdict.headers.remove, [ENCODE]);
    assert_eq!((answer.before.len(), in_flight()), (1, 2));
    drop(answer);
    assert_eq!(in_flight(), 0);
    let page = picker.metrics.encode().unwrap();
    assert!(page.contains("picks_total{reason=\"tie\"} 1"), "{page}");
    assert!(
        page.contains("decision_type=\"prefill-decode\"} 1"),
        "{page}"
    );
}

#[test]
fn the_prompt_weighs_at_every_stage_that_reads_it_and_the_answer_where_it_is_generated() {
    let picker = picker_of(&DISAGG.replace(
        "plugins:\n- type: queue",
        "plugins:\n- {type: inflight-load-producer, parameters: {addEstimatedOutputTokens: true}}\n- type: queue",
    ));
    let prompt = "x".repeat(400);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{prompt}"}}]}}"#);
    let facts = dialect::inspect(Api::ChatCompletions, body.as_bytes()).unwrap();
    let input = u64::from(input_tokens(facts.prompt_bytes));
    assert!(input >= 100);
    let weigh = || {
        let mut load = LoadView::default();
        load.gather(&picker.pool.snapshot(), clock_ms(), 1);
        let page = picker.metrics.encode().unwrap();
        let gauge = |name: &str| -> u64 {
            let lines = page.lines().filter(|line| line.starts_with(name));
            let values = lines.map(|line| line.rsplit(' ').next().unwrap());
            values.map(|value| value.parse::<u64>().unwrap()).sum()
        };
        let (requests, tokens) = (
            gauge("llm_d_epp_inflight_requests{"),
            gauge("llm_d_epp_inflight_tokens{"),
        );
        assert_eq!(tokens, load.tokens.iter().sum::<u64>());
        (requests, tokens)
    };
    let held = Held::new(&Arc::new(BodyBudget::new(1 << 20, 1 << 20)));
    let body = RequestBody::Whole(vec![body.into()], held);
    let answer = ask_with(&picker, &[], body).unwrap();
    assert_eq!(weigh(), (2, 2 * input + input * 3 / 2));
    drop(answer);
    assert_eq!(weigh(), (0, 0));
}

#[test]
fn a_request_that_wants_its_cache_is_refused_where_there_is_none() {
    let picker = picker_of(CONFIG);
    for (prefer, refused) in [
        ("if-available", true),
        ("respond-async, If-Available ; x=1", true),
        ("respond-async", false),
        ("if-available-not", false),
        ("", false),
    ] {
        let headers = [("prefer", "wait=5"), ("prefer", prefer)];
        match ask(&picker, &headers) {
            Err(denial @ Denial::NotCached) => {
                assert!(refused, "{prefer}");
                let refusal = denial.refusal(dialect::Dialect::OpenAi);
                let body = String::from_utf8_lossy(&refusal.body);
                assert_eq!(refusal.status, 412);
                assert!(body.contains("no decode worker has the requested KV cache"));
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => assert!(!refused, "{prefer}"),
        }
    }
}

#[test]
fn what_may_be_shed_is_while_all_is_full_and_leaves_a_trace() {
    let picker = picker_of(CONFIG);
    picker
        .pool
        .objectives
        .replace([("batch".to_owned(), -1), ("chat".to_owned(), 0)].into());
    let queues = |waiting| {
        for member in picker.pool.snapshot().members() {
            let page = Scrape {
                waiting: Some(waiting),
                ..Default::default()
            };
            member.slot.record(&page, 0, clock_ms());
        }
    };
    let [new, old] = OBJECTIVE;
    for (waiting, header, objective, shed) in [
        (5.0, new, "batch", true),
        (5.0, old, "batch", true),
        (5.0, new, "chat", false),
        (5.0, new, "nobody", false),
        (0.0, new, "batch", false),
    ] {
        queues(waiting);
        match ask(&picker, &[(header, objective)]) {
            Err(denial @ Denial::Shed(_)) => {
                assert!(shed, "{waiting} {objective}");
                let refusal = denial.refusal(dialect::Dialect::OpenAi);
                assert_eq!((refusal.status, refusal.details), (429, "shed_saturated"));
                let latest = picker.decisions.as_ref().unwrap().latest(1);
                let latest = serde_json::to_value(&latest).unwrap();
                let error = "system saturated, sheddable request dropped";
                assert_eq!(latest[0]["error"], error);
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => assert!(!shed, "{waiting} {objective}"),
        }
    }
    let page = picker.metrics.encode().unwrap();
    assert!(page.contains("priority=\"-1\"} 3"), "{page}");
    // What was shed was no attempt at scheduling.
    assert!(
        !page.contains("attempts_total{status=\"failure\""),
        "{page}"
    );
}

#[test]
fn a_decision_is_kept_with_what_it_was_made_from() {
    let picker = picker_of(CONFIG);
    destination(
        &picker,
        Api::Completions,
        r#"{"model":"b","prompt":"a secret"}"#,
    );
    let pages = picker.decisions.as_ref().unwrap().latest(9);
    let page = serde_json::to_value(&pages).unwrap();
    assert!(!page.to_string().contains("secret"));
    assert_eq!(page[0]["model"], "b");
    assert_eq!(page[0]["destinations"], serde_json::json!(["10.0.0.1:80"]));
    let profile = &page[0]["profiles"][0];
    let endpoints = profile["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 3);
    assert_eq!(endpoints[0]["name"], "default/e1");
    assert_eq!(endpoints[0]["terms"][0]["scorer"], "lora-affinity-scorer");
    assert_eq!(endpoints[0]["terms"][0]["score"], 1.0);
    assert_eq!(endpoints[1]["terms"][0]["score"], 0.0);
    assert!(endpoints[0]["scrapeAgeMs"].is_u64());
    assert!(profile["runnerUp"].is_string());
}
