//! The page of a picker that served a request, held against what the llm-d picker's page has: names, types, labels and
//! buckets. Whoever reads that page must be able to read ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::decide::tests::picker_with;
use super::*;
use crate::dialect::Dialect;
use crate::extproc::{BodyBudget, Exchange, Headers, Held, Metadata, RequestBody, StreamMetrics};
use crate::pool::gauges::{OldPoolGauges, PoolGauges};
use crate::pool::slab::Scrape;
use crate::pool::{Endpoint, EndpointId, clock_ms};

const CONFIG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: inflight-load-producer
- type: always-disagg-pd-decider
- type: disagg-profile-handler
  parameters: {deciders: {prefill: always-disagg-pd-decider}}
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: queue-scorer}]}
- {name: prefill, plugins: [{pluginRef: queue-scorer}]}
";

const L: &str = "model_name target_model_name fairness_id priority";
const G: &str = ".005 .025 .05 .1 .2 .4 .6 .8 1 1.25 1.5 2 3 4 5 6 8 10 15 20 30 45 60 120 180 240 300 360 480 600 900 1200 1800 2700 3600";
const G_TO_120: &str = ".005 .025 .05 .1 .2 .4 .6 .8 1 1.25 1.5 2 3 4 5 6 8 10 15 20 30 45 60 120";
const S: &str = ".0001 .0002 .0005 .001 .002 .005 .01 .02 .05 .1";
const T: &str =
    "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32778 65536 131072 262144 524288 1048576";
const REQUEST: &str = "64 128 256 512 1024 2048 4096 8192 16384 32768 65536 131072 262144 524288 1048576 2097152 4194304 8388608 16777216 33554432 67108864 134217728 268435456 536870912 1073741824";
const RESPONSE: &str = "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32778 65536";
const OUTPUT: &str = "1 8 16 32 64 128 256 512 1024 2048 4096 8192";
const NTPOT: &str = ".001 .002 .005 .01 .02 .05 .1 .2 .5 1 2 5 10";
const PROCESSING: &str = ".0005 .001 .002 .005 .01 .015 .025 .04 .06 .1 .25 .5 1 2.5 5 10";
const RESPONSE_PROCESSING: &str =
    ".0001 .00025 .0005 .001 .0025 .005 .01 .025 .05 .1 .25 .5 1 2.5 5";
const TPOT: &str = ".0005 .00205 .005 .01 .02 .04 .06 .08 .1 .125 .15 .2 .3 .4 .5 .6 .8 1 2";
const ITL: &str = ".001 .005 .01 .02 .04 .06 .08 .1 .15 .2 .3 .5 .75 1 2";
const STREAM: &str = ".001 .005 .01 .05 .1 .5 1 5 10 30 60 120 300 600";
const PLUGIN: &str = "extension_point plugin_type plugin_name";
const STAGED: &str = "plugin_name plugin_type model_name decision_type";

/// Reference §7.3: name, labels, and the bounds of a histogram. A name's end tells a counter.
fn reference() -> Vec<(&'static str, String, &'static str)> {
    let l = |more: &str| format!("{L} {more}");
    let of = str::to_owned;
    vec![
        ("request_total", of(L), ""),
        ("request_error_total", l("error_code"), ""),
        ("request_duration_seconds", of(L), G),
        ("request_size_bytes", of(L), REQUEST),
        ("response_size_bytes", of(L), RESPONSE),
        ("request_input_tokens", of(L), T),
        ("request_cached_tokens", of(L), T),
        ("request_output_tokens", of(L), OUTPUT),
        ("request_running", of(L), ""),
        ("request_ntpot_seconds", of(L), NTPOT),
        ("request_ttft_seconds", l("streaming"), G_TO_120),
        ("request_streaming_tpot_seconds", of(L), TPOT),
        ("request_streaming_itl_seconds", of(L), ITL),
        ("average_kv_cache_utilization", of("name"), ""),
        ("average_queue_size", of("name"), ""),
        ("average_running_requests", of("name"), ""),
        ("std_dev_kv_cache_utilization", of("name"), ""),
        ("std_dev_queue_size", of("name"), ""),
        ("std_dev_running_requests", of("name"), ""),
        ("ready_endpoints", of("name"), ""),
        (
            "per_endpoint_queue_size",
            of("name model_server_endpoint"),
            "",
        ),
        ("scheduler_e2e_duration_seconds", of(""), S),
        (
            "scheduler_attempts_total",
            of("status target_model_name endpoint_name namespace port"),
            "",
        ),
        ("plugin_duration_seconds", of(PLUGIN), S),
        ("request_processing_duration_seconds", of(""), PROCESSING),
        (
            "response_processing_duration_seconds",
            of(""),
            RESPONSE_PROCESSING,
        ),
        ("info", of("commit build_ref"), ""),
        (
            "inflight_requests",
            of("endpoint_name namespace producer_name fairness_id priority"),
            "",
        ),
        (
            "inflight_tokens",
            of("endpoint_name namespace producer_name fairness_id priority"),
            "",
        ),
        ("disagg_decision_total", of(STAGED), ""),
        ("extproc_streams_inflight", of(""), ""),
        ("extproc_stream_duration_seconds", of(""), STREAM),
        ("extproc_streams_total", of("code"), ""),
    ]
}

/// The deprecated twins, by their whole names.
fn old() -> Vec<(&'static str, &'static str, &'static str)> {
    const M: &str = "model_name target_model_name";
    vec![
        (
            "inference_objective_request_total",
            "model_name target_model_name priority",
            "",
        ),
        (
            "inference_objective_request_error_total",
            "model_name target_model_name error_code",
            "",
        ),
        ("inference_objective_request_duration_seconds", M, G),
        ("inference_objective_request_sizes", M, REQUEST),
        ("inference_objective_response_sizes", M, RESPONSE),
        ("inference_objective_input_tokens", M, T),
        ("inference_objective_output_tokens", M, OUTPUT),
        ("inference_objective_prompt_cached_tokens", M, T),
        ("inference_objective_running_requests", "model_name", ""),
        (
            "inference_objective_normalized_time_per_output_token_seconds",
            M,
            NTPOT,
        ),
        ("inference_pool_average_kv_cache_utilization", "name", ""),
        ("inference_pool_average_queue_size", "name", ""),
        ("inference_pool_average_running_requests", "name", ""),
        ("inference_pool_ready_pods", "name", ""),
        (
            "inference_pool_per_pod_queue_size",
            "name model_server_pod",
            "",
        ),
        ("inference_extension_scheduler_e2e_duration_seconds", "", S),
        (
            "inference_extension_scheduler_attempts_total",
            "status target_model_name pod_name namespace port",
            "",
        ),
        ("inference_extension_plugin_duration_seconds", PLUGIN, S),
        ("inference_extension_info", "commit build_ref", ""),
        (
            "llm_d_inference_scheduler_disagg_decision_total",
            "model_name decision_type",
            "",
        ),
    ]
}

#[derive(Debug, Default)]
struct Family {
    kind: String,
    /// The same for all of its samples.
    labels: Option<BTreeSet<String>>,
    bounds: Vec<String>,
    /// Its samples: their names, labels and values.
    samples: Vec<String>,
}

/// Reads a page of Prometheus' text format 0.0.4, strictly.
fn parse(page: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut lines = page.lines();
    let mut current = String::new();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().unwrap();
            let kind = lines.next().unwrap();
            let kind = kind.strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(
                ["counter", "gauge", "histogram"].contains(&kind),
                "{line}: {kind}"
            );
            let fresh = Family {
                kind: kind.to_owned(),
                ..Default::default()
            };
            assert!(
                families.insert(name.to_owned(), fresh).is_none(),
                "{name} is there twice"
            );
            current = name.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (series, ""),
        };
        let family = families.get_mut(&current).unwrap();
        let suffix = name.strip_prefix(current.as_str()).unwrap();
        match family.kind.as_str() {
            "histogram" => assert!(["_sum", "_count", "_bucket"].contains(&suffix), "{line}"),
            "counter" => assert!(suffix.is_empty() && name.ends_with("_total"), "{line}"),
            _ => assert!(suffix.is_empty(), "{line}"),
        }
        let mut names = BTreeSet::new();
        // None of the values here has a comma or a quote.
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap();
            let value = value.strip_suffix('"').unwrap();
            assert!(!name.is_empty() && !value.contains('"'), "{line}");
            if name == "le" {
                if !family.bounds.iter().any(|known| known == value) {
                    family.bounds.push(value.to_owned());
                }
            } else {
                assert!(names.insert(name.to_owned()), "{line}");
            }
        }
        assert_eq!(*family.labels.get_or_insert(names.clone()), names, "{line}");
        family.samples.push(line.to_owned());
    }
    families
}

fn headers(pairs: &[(&'static str, &str)]) -> Headers {
    pairs.iter().map(|&(k, v)| (k, v.to_owned())).collect()
}

/// One streamed request, from its headers to the end of its response.
async fn served(picker: &Arc<Picker>, model: &str) {
    let mut exchange = picker.open();
    exchange.request_headers(headers(&[(":path", "/v1/chat/completions")]), false);
    let body = format!(
        r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"x"}}]}}"#
    );
    let held = Held::new(&Arc::new(BodyBudget::new(1 << 20, 1 << 20)));
    let body = RequestBody::Whole(vec![body.into()], held);
    exchange.decide(body).await.unwrap();
    let response = headers(&[(":status", "200"), ("content-type", "text/event-stream")]);
    exchange.response_headers(&response, &Metadata::default(), true);
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
    Arc::new(picker)
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
    // Two names of attempts and of the queue, and four gauges, of about a hundred bytes each; the rest is the same for
    // any pool.
    assert!(page.len() < 1 << 20, "{}", page.len());
    parse(&page);
}
