#!/usr/bin/env bash
# The road on real inputs: benchmarks/real_road.sh SHARED_DATA FOLDER [STEPS]
#
# One mixed corpus (48 real VH tiles, a real reduced IW scene, real Sentinel-1 and ALOS-2 metadata with simulated
# land behind it) in a real S3 server, built and pretrained on two Ray nodes of this machine; then water on
# Sen1Floods11 with two chips held out, from pretrained and from random weights. About an hour on two cores.
set -euo pipefail
data=$1 out=$2 steps=${3:-1000}
mkdir -p "$out"
PATH="$(dirname "$0")/../.venv/bin:$PATH"

step() { printf '\n== %s\n' "$1"; }
digest() { shards show "$1" --json | python -c 'import json, sys; print(json.load(sys.stdin)["digest"])'; }
finish() { infra cluster stop "$out/ray"; infra s3 stop "$out/s3"; }

step "a server and a cluster"
eval "$(infra s3 start "$out/s3")"
eval "$(infra cluster start "$out/ray" --nodes 2)"
trap finish EXIT

step "inputs, and their corpus on two nodes"
python "$(dirname "$0")/../tests/real_inputs.py" "$data" "$out/inputs"
time ingest build-sarsense "$out/inputs/radar" --out s3://sarsense/corpus
shards verify s3://sarsense/corpus --deep

step "the same corpus from one worker and a shuffled catalog"
python - "$out" <<'PY'
import pathlib, random, sys
out = pathlib.Path(sys.argv[1])
paths = [p for p in (out / "inputs/radar").iterdir()]
paths = [p / "chips.yaml" if (p / "chips.yaml").exists() else p for p in paths]
random.Random(1).shuffle(paths)
(out / "shuffled.csv").write_text("\n".join(["path", *map(str, paths)]) + "\n")
PY
ingest build-sarsense "$out/shuffled.csv" --out "$out/again" --workers 1
test "$(digest s3://sarsense/corpus)" = "$(digest "$out/again")"
echo "equal: $(digest "$out/again")"

step "a job whose cluster loses its power, submitted again to a new one, beside one left in peace"
short=(pretrain di3cl --data s3://sarsense/corpus --run di3cl_laptop --ranks 2 --steps 40 --checkpoint.every 10)
infra submit -- "${short[@]}" --out s3://sarsense/peace
infra submit -- "${short[@]}" --out s3://sarsense/killed & job=$!
until pretrain show s3://sarsense/killed --json 2>/dev/null |
  python -c 'import json, sys; sys.exit(not json.load(sys.stdin)["checkpoint_steps"])' 2>/dev/null; do sleep 1; done
sleep 5
python - "$out/ray" <<'PY'
import pathlib, sys
from infra import local_cluster
cluster = local_cluster.running(pathlib.Path(sys.argv[1]))
for number in range(len(cluster.nodes)):
    cluster.kill_node(number)
cluster.stop()
PY
wait "$job" || echo "the job is dead"
eval "$(infra cluster start "$out/ray" --nodes 2)"
infra submit -- "${short[@]}" --out s3://sarsense/killed
python - <<'PY'
from infra.log import read_lines
from infra.store import open_store
learned = ("step", "loss", "match", "top1", "spread", "grad_norm", "lr")  # all else is timing
runs = [read_lines(open_store(f"s3://sarsense/{name}"), "metrics") for name in ("peace", "killed")]
one, two = ([{k: v for k, v in line.items() if k.startswith(learned) and k != "step_s"} for line in run] for run in runs)
assert {"step", "loss", "loss_region", "grad_norm"} <= one[0].keys()
names = [[o.key for o in open_store(f"s3://sarsense/{n}").list("checkpoints/")][-1] for n in ("peace", "killed")]
assert one == two and names[0] == names[1], (one, two, names)
print(f"equal to the last digit: {len(one)} lines of losses, and the final state {names[0]}")
PY

step "pretraining"
infra submit -- pretrain di3cl --data s3://sarsense/corpus --out s3://sarsense/di3cl --run di3cl_laptop --ranks 2 \
  --steps "$steps"

step "water: pretrained against random, the same seeds"
ingest build-sarsense "$out/inputs/water" --out s3://sarsense/water
for encoder in s3://sarsense/di3cl/encoder.safetensors random; do
  finetune train --data s3://sarsense/water --encoder "$encoder" --out "s3://sarsense/water-${encoder##*/}" \
    --run few-labels-cpu --seeds 3 --steps 150 \
    --hold-out sen1floods11-India_900498,sen1floods11-USA_905409
done
finetune map s3://sarsense/water-encoder.safetensors/model.safetensors --data s3://sarsense/water \
  --scene sen1floods11-India_900498 --out "$out/india.tif"
