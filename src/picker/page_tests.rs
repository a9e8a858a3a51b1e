//! The page of a picker that served a request, held against what the llm-d picker's page has: names, types, labels and
//! buckets. Whoever reads that page must be able to read ours.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::decide::tests::picker_with;
use super::*;
use crate::dialect::Dialect;
use crate::extproc::{
    BodyBudget, Exchange, Headers, Held, Metadata, RequestBody, ResponseBody, StreamMetrics,
};
use crate::pool::gauges::{OldPoolGauges, PoolGauges};
use crate::pool::slab::Scrape;
use crate::pool::{Endpoint, EndpointId, clock_ms};

mod format;
mod reference;

use format::parse;
use reference::{old, reference};

const CONFIG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: inflight-load-producer
- type: approx-prefix-cache-producer
- type: always-disagg-pd-decider
- type: disagg-profile-handler
  parameters: {deciders: {prefill: always-disagg-pd-decider}}
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: queue-scorer}]}
- {name: prefill, plugins: [{pluginRef: queue-scorer}]}
";

fn headers(pairs: &[(&'static str, &str)]) -> Headers {
    pairs.iter().map(|&(k, v)| (k, v.to_owned())).collect()
}

/// One streamed request, from its headers to the end of its response.
async fn served(picker: &Arc<Picker>, model: &str) {
    let mut exchange = picker.open();
    exchange.request_headers(headers(&[(":path", "/v1/chat/completions")]), false);
    let prompt = "x".repeat(1000);
    let body = format!(
        r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    );
    let held = Held::new(&Arc::new(BodyBudget::new(1 << 20, 1 << 20)));
    let body = RequestBody::Whole(vec![body.into()], held);
    exchange.decide(body).await.unwrap();
    let response = headers(&[(":status", "200"), ("content-type", "text/event-stream")]);
    exchange.response_headers(&response, &Metadata::default(), ResponseBody::Editable);
    let token = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n";
    for chunk in [token, token, usage, "data: [DONE]\n\n"] {
        exchange.response_chunk(chunk.into(), false, &mut Vec::new());
    }
    exchange.response_ended();
}

/// As `serve` does it.
fn picker() -> Arc<Picker> {
    let picker = picker_with(CONFIG, vec![Dialect::OpenAi], Metrics::with_old_names());
    let staleness = Arc::new(u64::MAX.into());
    let gauges = PoolGauges::new("p".to_owned(), Arc::clone(&picker.pool), staleness);
    picker.metrics.register_old(|old| {
        old.register_collector(Box::new(OldPoolGauges(gauges.clone())));
    });
    picker.metrics.register(|registry| {
        registry.register_collector(Box::new(gauges));
        drop(StreamMetrics::register(registry).open());
    });
    scraped(&picker);
    let picker = Arc::new(picker);
    picker.metrics.register(|registry| {
        let gauges = PrefixGauges::new("p".to_owned(), Arc::clone(&picker));
        registry.register_collector(Box::new(gauges));
    });
    picker.metrics.register_old(|old| {
        old.register_collector(Box::new(OldPrefixGauges(Arc::clone(&picker))));
    });
    picker
}

fn scraped(picker: &Picker) {
    let page = Scrape {
        waiting: Some(2.0),
        running: Some(5.0),
        kv_usage: Some(0.25),
        ..Default::default()
    };
    for member in picker.pool.snapshot().members() {
        member.slot.record(&page, 0, clock_ms());
    }
}

#[tokio::test]
async fn the_page_has_what_the_references_has() {
    let picker = picker();
    // As many as one of which has its plugins timed.
    for _ in 0..8 {
        served(&picker, "m").await;
    }
    picker.metrics.series("m", "m", "f", 0).failed("Unknown");
    let page = picker.metrics.encode().unwrap();
    let families = parse(&page);
    let ours = reference()
        .into_iter()
        .map(|(name, labels, bounds)| (format!("llm_d_epp_{name}"), labels, bounds));
    let old = old()
        .into_iter()
        .map(|(name, labels, bounds)| (name.to_owned(), labels.to_owned(), bounds));
    for (name, labels, bounds) in ours.chain(old) {
        let family = families.get(&name).unwrap_or_else(|| {
            panic!("{name} is not in\n{page}");
        });
        let kind = match (name.ends_with("_total"), bounds) {
            (true, _) => "counter",
            (false, "") => "gauge",
            (false, _) => "histogram",
        };
        assert_eq!(family.kind, kind, "{name}");
        let labels: BTreeSet<String> = labels.split(' ').map(str::to_owned).collect();
        let labels: BTreeSet<String> = labels.into_iter().filter(|l| !l.is_empty()).collect();
        assert_eq!(family.labels, Some(labels), "{name}");
        let numbers: Vec<f64> = bounds
            .split(' ')
            .filter(|bound| !bound.is_empty())
            .map(|bound| bound.parse().unwrap())
            .collect();
        let mut shown: Vec<f64> = Vec::new();
        for bound in &family.bounds {
            shown.push(bound.parse().unwrap());
        }
        if !numbers.is_empty() {
            assert_eq!(shown.pop(), Some(f64::INFINITY), "{name}");
        }
        assert_eq!(shown, numbers, "{name}");
    }
    // Strings, not numbers, are what a query compares.
    let inputs = &families["llm_d_epp_request_input_tokens"].bounds;
    assert!(inputs.contains(&"32778".to_owned()) && inputs.contains(&"1.048576e+06".to_owned()));
}

#[tokio::test]
async fn a_request_is_counted_once_by_all_names() {
    let picker = picker();
    served(&picker, "m").await;
    let page = picker.metrics.encode().unwrap();
    let labels = r#"model_name="m",target_model_name="m",fairness_id="default-flow",priority="0""#;
    let old = r#"model_name="m",target_model_name="m""#;
    for line in [
        format!("llm_d_epp_request_total{{{labels}}} 1"),
        format!("inference_objective_request_total{{{old},priority=\"0\"}} 1"),
        format!("llm_d_epp_request_running{{{labels}}} 0"),
        "inference_objective_running_requests{model_name=\"m\"} 0".to_owned(),
        format!("llm_d_epp_request_input_tokens_sum{{{labels}}} 7.0"),
        format!("inference_objective_input_tokens_sum{{{old}}} 7.0"),
        format!("llm_d_epp_request_output_tokens_sum{{{labels}}} 2.0"),
        format!("llm_d_epp_request_cached_tokens_sum{{{labels}}} 4.0"),
        format!("inference_objective_prompt_cached_tokens_count{{{old}}} 1"),
        format!("llm_d_epp_request_ttft_seconds_count{{{labels},streaming=\"true\"}} 1"),
        format!("llm_d_epp_request_streaming_tpot_seconds_count{{{labels}}} 1"),
        format!("llm_d_epp_request_streaming_itl_seconds_count{{{labels}}} 3"),
        format!("llm_d_epp_request_ntpot_seconds_count{{{labels}}} 1"),
        format!("llm_d_epp_request_duration_seconds_count{{{labels}}} 1"),
        format!("llm_d_epp_response_size_bytes_count{{{labels}}} 1"),
        "llm_d_epp_scheduler_e2e_duration_seconds_count 1".to_owned(),
        "inference_extension_scheduler_e2e_duration_seconds_count 1".to_owned(),
        "llm_d_epp_request_processing_duration_seconds_count 1".to_owned(),
        "llm_d_epp_response_processing_duration_seconds_count 1".to_owned(),
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    for stage in ["receive", "wait", "parse", "schedule", "answer"] {
        let line = format!("llm_d_epp_pick_stage_duration_seconds_count{{stage=\"{stage}\"}} 1");
        assert!(page.contains(&line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn what_a_client_sends_cannot_break_the_page() {
    let picker = picker();
    let series = picker.metrics.series("a\"} 1\nevil 2\\", "m", "f", 0);
    series.total.inc();
    let page = picker.metrics.encode().unwrap();
    assert!(!page.lines().any(|line| line.starts_with("evil")), "{page}");
    assert!(page.contains(r#"model_name="a\"} 1\nevil 2\\""#), "{page}");
}

#[tokio::test]
async fn old_names_are_not_there_unless_asked_for() {
    let picker = Arc::new(picker_with(CONFIG, vec![Dialect::OpenAi], Metrics::new()));
    served(&picker, "m").await;
    for name in parse(&picker.metrics.encode().unwrap()).into_keys() {
        let ours = name.starts_with("llm_d_epp_") || name.starts_with("process_");
        assert!(ours, "{name}");
    }
}

#[tokio::test]
async fn the_page_of_a_thousand_endpoints_is_bounded() {
    let picker = picker();
    let endpoints = (0..1000u32).map(|n| Endpoint {
        id: EndpointId {
            namespace: "default".into(),
            name: format!("model-server-{n}"),
        },
        address: [10, 0, (n >> 8) as u8, n as u8].into(),
        port: 8000,
        hardware: Default::default(),
        labels: Default::default(),
    });
    picker.pool.replace(endpoints.collect());
    scraped(&picker);
    for _ in 0..3000 {
        served(&picker, "m").await;
    }
    let snapshot = picker.pool.snapshot();
    let (segment, at) = snapshot.cell(0);
    assert_eq!(segment.in_flight[at].load(Relaxed), 0);
    let page = picker.metrics.encode().unwrap();
    // A dozen lines an endpoint, of about a hundred bytes each; the rest is the same for any pool.
    assert!(page.len() < 1500 << 10, "{}", page.len());
    parse(&page);
}
