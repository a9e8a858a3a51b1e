#!/usr/bin/env bash
# The whole hop: `pointsman load` against `pointsman serve` and against the no-op server, in turns, on one machine.
#
#   benches/hop.sh [ROUNDS [SECONDS]]
#
# 100 simulated servers are scraped every 50 ms meanwhile. Each line is one run; the ratios at the end are of medians.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-5}
cargo build --release --locked --bins --example noop-extproc
bin=target/release
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT

$bin/pointsman sim --servers 100 --port 21000 --endpoints-file "$work/endpoints.yaml" >"$work/sim.log" &
until [ -e "$work/endpoints.yaml" ]; do sleep 0.1; done
cat >"$work/picker.yaml" <<YAML
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: file-discovery, parameters: {path: $work/endpoints.yaml}}
- type: queue-scorer
- type: kv-cache-utilization-scorer
dataLayer: {discovery: {pluginRef: file-discovery}}
YAML
$bin/pointsman serve --secure-serving=false --bind-address=127.0.0.1 --grpc-port 21902 --grpc-health-port 21903 \
  --metrics-port 21990 --config-file "$work/picker.yaml" 2>"$work/picker.log" &
picker=$!
$bin/examples/noop-extproc 127.0.0.1:21802 &
noop=$!
sleep 3

ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }
polls() { curl -s localhost:21990/metrics | awk '/^llm_d_epp_datalayer_polls_total/ {print $2}'; }
before=$(ticks $picker) polled=$(polls)
sleep 10
awk -v a="$before" -v b="$(ticks $picker)" -v p="$polled" -v q="$(polls)" -v hz="$(getconf CLK_TCK)" \
  'BEGIN {printf "idle: %.3f cores at %.0f scrapes a second\n", (b - a) / hz / 10, (q - p) / 10}'
idle=$(awk -v a="$before" -v b="$(ticks $picker)" -v hz="$(getconf CLK_TCK)" 'BEGIN {print (b - a) / hz / 10}')

run() { # what port pid arguments...
  local what=$1 port=$2 pid=$3
  shift 3
  $bin/pointsman load --address "127.0.0.1:$port" --pid "$pid" --duration "${seconds}s" --warmup 1s "$@" |
    awk -v what="$what" '
      /^completed/ {rate = $3} /^errors/ {errors = $2} /^decision latency/ {p50 = $3; p99 = $5}
      /CPU seconds/ {for (i = 2; i <= NF; i++) if ($i == "ms") ms = $(i - 1)}
      END {printf "%-6s rate %9.1f  errors %d  p50 %.3f ms  p99 %.3f ms  CPU %.4f ms a request\n", what, rate, errors, p50, p99, ms}'
}
median() { sort -n | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

scenario() { # title arguments...
  local title=$1
  shift
  echo "== $title: $*"
  : >"$work/runs"
  for _ in $(seq "$rounds"); do
    run noop 21802 $noop "$@" | tee -a "$work/runs"
    run picker 21902 $picker "$@" | tee -a "$work/runs"
  done
  local what field
  for what in noop picker; do
    for field in rate CPU; do
      awk -v what=$what -v field=$field '$1 == what {for (i = 2; i < NF; i++) if ($i == field) print $(i + 1)}' "$work/runs" |
        median >"$work/$what.$field"
    done
  done
  paste "$work/picker.rate" "$work/noop.rate" "$work/picker.CPU" "$work/noop.CPU" | awk -v idle="$idle" '{
    net = $3 - idle * 1000 / $1
    printf "median rate: picker %.0f, no-op %.0f, ratio %.2f\n", $1, $2, $1 / $2
    printf "median CPU a request: picker %.4f ms (%.4f without what scraping costs anyway), no-op %.4f ms, ratio %.2f (%.2f)\n", $3, net, $4, $3 / $4, net / $4
  }'
}

scenario "small requests" --concurrency 32
scenario "small requests at a rate" --rate 2000
scenario "400 KB requests" --rate 200 --prompt-bytes 400000
scenario "streamed answers, full duplex" --rate 40 --response-chunks 200
