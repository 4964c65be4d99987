#!/usr/bin/env bash
# The whole road on simulated scenes, on this machine: infra/demo.sh FOLDER (default: demo). Called by `make demo`.
set -euo pipefail
out=${1:-demo}
rm -rf "$out"

step() { printf '\n\033[1m%s\033[0m\n' "$1"; printf '$ %s\n' "${*:2}"; "${@:2}"; }

step "1. Simulate: Sentinel-1 (IW GRD, VV+VH) and ALOS-2 (L1.5, HH+HV) over the same ground" \
  ingest simulate catalog "$out/scenes" --scenes 6 --rows 1100 --cols 1400

step "2. Ingest: calibrate, remove noise, tile, write shards and their manifest" \
  ingest build-sarsense "$out/scenes/catalog.csv" --out "$out/corpus"

step "3. Verify every byte" shards verify "$out/corpus" --deep

step "4. Pretrain: DI3CL on two ranks under Ray" \
  pretrain di3cl --data "$out/corpus" --out "$out/pretrain" --run di3cl_laptop --ranks 2 --steps 60

# The last place: its Sentinel-1 scene is mapped; both its scenes stay out of training.
read -r scene twin < <(shards show "$out/corpus" --json | python -c '
import json, sys
sources = json.load(sys.stdin)["sources"]
last = [[s["id"] for s in sources if s["sensor"] == sensor][-1] for sensor in ("sentinel-1", "alos-2")]
print(*last)')

step "5. Fine-tune: land cover, the two scenes of one place held out" \
  finetune train --data "$out/corpus" --encoder "$out/pretrain/encoder.safetensors" --out "$out/landcover" \
  --run few-labels-cpu --steps 120 --hold-out "$scene,$twin"

step "6. Map the held-out Sentinel-1 scene" \
  finetune map "$out/landcover/model.safetensors" --data "$out/corpus" --scene "$scene" --out "$out/map.tif"

printf '\nWhat to look at:\n  corpus    %s/corpus/report.html\n  training  tensorboard --logdir %s/pretrain\n' "$out" "$out"
printf '  scores    %s/landcover/scores.json\n  map       %s/map.tif, %s/map.png\n' "$out" "$out" "$out"
