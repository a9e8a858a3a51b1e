#!/usr/bin/env bash
# The whole hop: `pointsman load` against `pointsman serve` and against the no-op server, in turns, on one machine.
#
#   benches/hop.sh [ROUNDS [SECONDS]]
#
# 100 simulated servers are scraped every 50 ms meanwhile. Each line is one run; the table at the end is of medians.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-5}
cargo build --release --locked --bin pointsman --example noop-extproc
bin=target/release
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT

$bin/pointsman sim --servers 100 --port 21000 --endpoints-file "$work/endpoints.yaml" >"$work/sim.log" &
until [ -e "$work/endpoints.yaml" ]; do sleep 0.1; done
# The default profile, except that every endpoint holds 31,250 blocks of prompts, whatever its engine says.
cat >"$work/picker.yaml" <<YAML
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: file-discovery, parameters: {path: $work/endpoints.yaml}}
- {type: approx-prefix-cache-producer, parameters: {autoTune: false, blockSizeTokens: 64, lruCapacityPerServer: 31250}}
- type: gpu-health-filter
- type: gpu-memory-filter
- type: work-scorer
- type: speed-scorer
- type: gpu-memory-scorer
- type: gpu-cotenant-scorer
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: gpu-health-filter
  - pluginRef: gpu-memory-filter
  - pluginRef: work-scorer
  - pluginRef: speed-scorer
  - {pluginRef: gpu-memory-scorer, weight: 0.2}
  - {pluginRef: gpu-cotenant-scorer, weight: 0.5}
dataLayer: {discovery: {pluginRef: file-discovery}}
YAML
$bin/pointsman serve --secure-serving=false --bind-address=127.0.0.1 --grpc-port 21902 --grpc-health-port 21903 \
  --metrics-port 21990 --config-file "$work/picker.yaml" 2>"$work/picker.log" &
picker=$!
$bin/examples/noop-extproc 127.0.0.1:21802 &
noop=$!
sleep 3

ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }
metric() { curl -s localhost:21990/metrics | awk -v name="$1" '$1 ~ "^" name "({|$)" {sum += $2} END {printf "%.0f", sum}'; }
resident() { awk '/^VmRSS/ {printf "%.0f", $2 / 1024}' "/proc/$picker/status"; }
row() { echo "| $1 | $2 | $3 | $4 | $5 |" >>"$work/table"; }

before=$(ticks $picker) polled=$(metric llm_d_epp_datalayer_polls_total)
sleep 10
idle=$(awk -v a="$before" -v b="$(ticks $picker)" -v hz="$(getconf CLK_TCK)" 'BEGIN {printf "%.3f", (b - a) / hz / 10}')
scrapes=$(((($(metric llm_d_epp_datalayer_polls_total) - polled)) / 10))
echo "idle: $idle cores at $scrapes scrapes a second"
row "100 endpoints scraped every 50 ms, $scrapes pages a second" "$idle cores" "" "" "≤ 0.25 cores"

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

scenario() { # title target-of-rate target-of-CPU parts arguments...
  local title=$1 rate_target=$2 cpu_target=$3 parts=$4
  shift 4
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
  # In brackets: without what scraping costs anyway.
  paste "$work/picker.rate" "$work/noop.rate" "$work/picker.CPU" "$work/noop.CPU" |
    awk -v idle="$idle" -v title="$title" -v rate="$rate_target" -v cpu="$cpu_target" -v parts="$parts" '{
      net = $3 - idle * 1000 / $1
      if (rate != "-") printf "| %s: rate | %.0f/s | %.0f/s | %.2f | %s |\n", title, $1, $2, $1 / $2, rate
      printf "| %s: CPU | %.1f µs (%.1f) | %.1f µs | %.2f (%.2f) | %s |\n", title, $3 * 1000 / parts, net * 1000 / parts, $4 * 1000 / parts, $3 / $4, net / $4, cpu
    }' | tee -a "$work/table"
}

scenario "small requests, 32 under way" "≥ 0.8" "" 1 --concurrency 32
scenario "small requests, 2,000/s" - "" 1 --rate 2000
scenario "400 KB requests, all matched, 8 under way" "" "≤ 2.5" 1 --concurrency 8 --prompt-bytes 400000
scenario "400 KB requests, all matched, 200/s" - "≤ 2.5" 1 --rate 200 --prompt-bytes 400000
scenario "a chunk of streamed answers, 16 streams as fast as they go" - "≤ 1.5" 2000 \
  --concurrency 16 --response-chunks 2000 --chunk-interval 0ms
scenario "a chunk of streamed answers, 10 ms apart, 40 streams begun a second" - "≤ 1.5" 200 --rate 40 --response-chunks 200

echo "== memory"
$bin/pointsman load --address 127.0.0.1:21902 --duration 20s --warmup 0s --concurrency 8 --prompt-bytes 400000 --prompts 20000 |
  grep -E '^(completed|errors)'
blocks=$(metric llm_d_epp_prefix_indexer_size)
row "memory, prefix index full: $(metric llm_d_epp_prefix_indexer_size) blocks" "$(resident) MiB" "" "" "≤ 200 MiB"
# 800 streams begin in a second, and each is 11 s long.
$bin/pointsman load --address 127.0.0.1:21902 --pid $picker --duration 4s --warmup 12s --rate 800 --response-chunks 12 \
  --chunk-interval 1s | tee "$work/flight" | grep -E '^(completed|errors)'
row "the same, and 8,800 requests in flight" "$(grep -oE '[0-9.]+ MiB' "$work/flight")" "" "" "≤ 200 MiB"

echo
echo "| Scenario | Pointsman | No-op | Ratio | Target |"
echo "|---|---|---|---|---|"
cat "$work/table"
uptime
