//! What is on the page of the llm-d picker.

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
const RATIO: &str = "0 .1 .2 .3 .4 .5 .6 .7 .8 .9 1";
const HIT_BYTES: &str = "0 16 32 64 128 256 512 1024 2048 4096 8192 16384 32768 65536";
const PLUGIN: &str = "extension_point plugin_type plugin_name";
const STAGED: &str = "plugin_name plugin_type model_name decision_type";

/// Reference §7.3: name, labels, and the bounds of a histogram. A name's end tells a counter.
pub(super) fn reference() -> Vec<(&'static str, String, &'static str)> {
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
        ("prefix_indexer_size", of("plugin_name plugin_type"), ""),
        (
            "prefix_indexer_hit_ratio",
            of("plugin_name plugin_type"),
            RATIO,
        ),
        (
            "prefix_indexer_hit_bytes",
            of("plugin_name plugin_type"),
            HIT_BYTES,
        ),
        ("extproc_streams_inflight", of(""), ""),
        ("extproc_stream_duration_seconds", of(""), STREAM),
        ("extproc_streams_total", of("code"), ""),
    ]
}

/// The deprecated twins, by their whole names.
pub(super) fn old() -> Vec<(&'static str, &'static str, &'static str)> {
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
        ("inference_extension_prefix_indexer_size", "", ""),
        ("inference_extension_prefix_indexer_hit_ratio", "", RATIO),
        (
            "inference_extension_prefix_indexer_hit_bytes",
            "",
            HIT_BYTES,
        ),
        (
            "llm_d_inference_scheduler_disagg_decision_total",
            "model_name decision_type",
            "",
        ),
    ]
}
