use std::sync::Arc;

use super::super::Description;
use super::super::tests::STAGES;
use super::*;

#[test]
fn what_is_wrong_is_told_with_its_place_and_a_remedy() {
    for (text, said) in [
        ("", "t: its format cannot be told"),
        ("t,in,out\n", "t: there is no request in it"),
        (
            "t,in,out\n0,1,1\n\n1,x,1\n",
            "t: line 4: value 2: invalid digit found in string; the columns are t,in,out",
        ),
        ("t,in,out\n0,1\n", "t: line 2: 2 values for 3 columns"),
        ("t,in,out,adaptor\n0,1,1,x\n", "unknown field `adaptor`"),
        ("t,in,out\n-1,1,1\n", "t: line 2: `t` is not a time"),
        (
            "{\"t\":1,\"in\":1,\"out\":1}\n{\"t\":1,\"in\":-1,\"out\":1}\n",
            "t: line 2: `in`: invalid value: integer `-1`, expected u32; a line is {\"t\"",
        ),
        (
            "{\"t\":1,\"in\":1,\"out\":1} x",
            "t: line 1: there is something after the object",
        ),
        (
            "{\"timestamp\": 0, \"input_length\": 5}",
            "t: line 1: missing field `output_length`",
        ),
        (
            "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1,2]}",
            "there are 2 blocks of 512 tokens for a prompt of 5 tokens",
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n",
            "t: line 2: `TIMESTAMP` is `yesterday`",
        ),
        (
            "{\"pointsman_arrivals\":9,\"block_tokens\":64,\"started_ms\":1}\n",
            "`pointsman_arrivals` is 9; this version reads captures of version 1",
        ),
        (
            &STAGES.replace("type: constant", "type: trace"),
            "t: line 2: load.type: ",
        ),
        (
            &STAGES.replace("rate: 4", "rate: 0"),
            "t: load.stages[0]: no request in it",
        ),
        (
            &STAGES.replace("type: shared_prefix", "type: shareGPT"),
            "data.type is `shareGPT`; write data.type shared_prefix, random",
        ),
        (
            &STAGES.replace("question_len: 40", "question_len: {min: 9, max: 8}"),
            "data.shared_prefix.question_len has no such distribution",
        ),
        (
            &STAGES.replace("output_len: 8", "output_length: 8"),
            "unknown field `output_length`; did you mean `output_len`?",
        ),
        (
            &STAGES.replace("type: constant", "type: concurrent"),
            "load.stages[0]: num_requests or concurrency_level is missing",
        ),
        (
            &STAGES.replace("api:", "  sweep: {type: linear}\napi:"),
            "load.sweep is not understood; write load.stages",
        ),
        (
            &STAGES.replace(
                "api:",
                "  lora_traffic_split: [{name: a, split: 0.5}]\napi:",
            ),
            "load.lora_traffic_split adds up to 0.5",
        ),
    ] {
        let error = read_text(text, None, None, 1).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// Beside the samples above, what is known of real traces, where they are at hand.
#[test]
fn real_traces_are_what_is_known_of_them() {
    let folder = std::path::Path::new("/work/shared/data/traces");
    if !folder.exists() {
        eprintln!(
            "There are no traces at {}; the samples alone were tested.",
            folder.display()
        );
        return;
    }
    for (file, requests, rate, cv) in [
        (
            "azure-llm-2023/AzureLLMInferenceTrace_conv.csv",
            19_366,
            5.53,
            1.09,
        ),
        (
            "azure-llm-2023/AzureLLMInferenceTrace_code.csv",
            8_819,
            2.57,
            13.2,
        ),
    ] {
        let trace = read(&folder.join(file), &ReadOptions::default()).unwrap();
        let got = Description::of(&Arc::new(trace));
        assert_eq!(got.requests, requests);
        assert!((got.rate.unwrap() / rate - 1.0).abs() < 0.005, "{got}");
        assert!((got.gap_cv.unwrap() / cv - 1.0).abs() < 0.01, "{got}");
    }
    let file = folder.join("mooncake/conversation_trace.first6000.jsonl");
    let trace = read(&file, &ReadOptions::default()).unwrap();
    let got = Description::of(&Arc::new(trace));
    // Those of the whole trace are known: 3.4 requests a second, 12,035 tokens, 36.6 %.
    assert_eq!(got.requests, 6_000);
    assert!((got.rate.unwrap() / 3.4 - 1.0).abs() < 0.1, "{got}");
    assert!((got.prompt.mean / 12_035.0 - 1.0).abs() < 0.1, "{got}");
    assert!((got.ideal_hit.unwrap() - 0.366).abs() < 0.02, "{got}");
    // Spread within three seconds, they are nearly as independent as a Poisson process.
    assert!((got.gap_cv.unwrap() - 1.0).abs() < 0.4, "{got}");
}
