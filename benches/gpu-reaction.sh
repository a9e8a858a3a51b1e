#!/usr/bin/env bash
# From a fault of a GPU, or of an engine, to the last new pick of its server.
#
#   benches/gpu-reaction.sh [ROUNDS]
#
# Four simulated servers, the fake NVML library, the node agent, the picker and a real Envoy, at 50 requests a second;
# times are those of the decision records. Unoptimised unless CARGO_PROFILE says release.
set -euo pipefail
cd "$(dirname "$0")/.."
uptime
ROUNDS=${1:-5} cargo test --locked --profile "${CARGO_PROFILE:-dev}" --test blackbox -- \
  --ignored --nocapture --exact gpu::reaction::from_a_fault_to_the_last_new_pick
