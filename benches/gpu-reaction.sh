#!/usr/bin/env bash
# How long after a fault of its GPU a server still gets requests: four simulated servers, the fake NVML library, a node
# agent, a picker, 100 requests a second straight to the picker (no proxy: a decision is a pick).
#
#   benches/gpu-reaction.sh [ROUNDS]
#
# Each round lets one thing happen to sim-0, reads its counter of picks every 10 ms until it has stood still for 8 s, and
# takes the last time that it moved. POINTSMAN: another binary than target/debug/pointsman.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
bin=${POINTSMAN:-target/debug/pointsman}
library=${FAKE_NVML_LIBRARY:-target/debug/libfake_nvml.so}
for file in "$bin" "$library"; do
  [ -e "$file" ] || { echo "$file is missing: cargo build && cargo build -p fake-nvml" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
python3 - "$bin" "$library" "$work" "$rounds" <<'PY'
PY
