#!/usr/bin/env python3
"""The weights of work-scorer, by grid, on the first half of each trace and on two shapes that are no trace.

usage: fit-default.py POINTSMAN TRACES    (the binary, and the folder of traces)

Each set of weights is held against the best of four policies, at 80 %, 95 % and 110 % of the saturation load: the share of requests that
are good, as a ratio. The least of these ratios, and their mean, are printed, best mean first. What is reported in
docs/simulation.md comes from the second halves and other seeds.
"""
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

SEED = "11"
LOADS = ["0.8", "0.95", "1.1"]
BASELINES = ["least-request", "lmetric", "dynamo", "llm-d-default"]
GRID = {"delayWeight": [0.5, 1, 2, 4], "queueWeight": [1, 2], "requestTokens": [400, 1000, 2000]}
PROFILE = """apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: work-scorer
  parameters: {%s}
- type: metrics-data-source
- type: core-metrics-extractor
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: work-scorer
"""
CHAT = """load: {type: poisson, stages: [{rate: 5, duration: 1200}]}
data:
  type: random
  input_distribution: {type: lognormal, mean: 650, std_dev: 800, min: 20, max: 8000}
  output_distribution: {type: lognormal, mean: 280, std_dev: 260, min: 5, max: 1500}
"""
RAG = """load: {type: poisson, stages: [{rate: 5, duration: 1200}]}
data:
  type: shared_prefix
  shared_prefix:
    num_groups: 60
    num_prompts_per_group: 100
    system_prompt_len: {type: lognormal, mean: 4000, std_dev: 2000, min: 500, max: 16000}
    question_len: {mean: 500, std_dev: 200, min: 50, max: 1500}
    output_len: {type: lognormal, mean: 200, std_dev: 200, min: 10, max: 1000}
"""


def cases(traces, folder):
    mooncake = traces / "mooncake/conversation_trace.first6000.jsonl"
    conv = traces / "azure-llm-2023/AzureLLMInferenceTrace_conv.csv"
    code = traces / "azure-llm-2023/AzureLLMInferenceTrace_code.csv"
    half = ["--until", "50%"]
    for trace, endpoints, more in [
        (mooncake, 8, half), (conv, 8, half + ["--requests", "8000"]), (code, 8, half),
        (mooncake, 64, half + ["--requests", "10000"]), (conv, 64, half + ["--requests", "24000"]),
        (code, 64, half + ["--requests", "16000"]),
    ]:
        yield trace.name, endpoints, [str(trace), *more]
    for name, text, requests in [("chat", CHAT, "12000"), ("rag", RAG, "6000")]:
        path = folder / f"{name}.yaml"
        path.write_text(text)
        yield name, 16, [str(path), "--requests", requests]


def main():
    binary, traces = sys.argv[1], pathlib.Path(sys.argv[2])
    folder = pathlib.Path(tempfile.mkdtemp())
    profiles, ratios = [], {}
    for weights in itertools.product(*GRID.values()):
        named = dict(zip(GRID, weights))
        path = folder / ("_".join(map(str, weights)) + ".yaml")
        path.write_text(PROFILE % ", ".join(f"{name}: {value}" for name, value in named.items()))
        profiles += ["--profile", str(path)]
    for name, endpoints, arguments in cases(traces, folder):
        command = [binary, "replay", *arguments, "--endpoints", str(endpoints), "--seeds", "1", "--seed", SEED, "--json"]
        for load in LOADS:
            command += ["--load", load]
        for policy in BASELINES:
            command += ["--policy", policy]
        results = json.loads(subprocess.run(command + profiles, check=True, capture_output=True).stdout)["results"]
        for rate in sorted({result["rate"] for result in results}):
            at = [result for result in results if result["rate"] == rate]
            good = {result["policy"]: result["estimates"]["good_share"]["median"] for result in at}
            best = max(good[policy] for policy in BASELINES)
            for policy, share in good.items():
                ratios.setdefault(policy, []).append(share / best)
        print(f"{name}, {endpoints} endpoints", file=sys.stderr)
    print("delayWeight_queueWeight_requestTokens   least    mean   each")
    for policy, of in sorted(ratios.items(), key=lambda item: -statistics.mean(item[1])):
        each = " ".join(f"{ratio:.3f}" for ratio in of)
        print(f"{policy:37} {min(of):7.4f} {statistics.mean(of):7.4f}   {each}")


main()
