#!/usr/bin/env bash
# A run under torchrun; on every node the same line, with the address of one of them:
#   HEAD=10.0.0.1 NODES=2 infra/deploy/torchrun.sh di3cl --data s3://bucket/corpus --out s3://bucket/run --device cuda
# On one machine HEAD and NODES may be left out. A rank that dies or hangs ends the others; all start again RESTARTS
# times and continue at the newest checkpoint. SIGTERM lets all save first.
set -euo pipefail
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)
export OMP_WAIT_POLICY=PASSIVE
# Else agents hand the ranks of a second start the store of the first, with the addresses of dead ranks in it (torch 2.13).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun \
  --nnodes="${NODES:-1}" \
  --nproc-per-node="${RANKS_HERE:-$((gpus > 0 ? gpus : 1))}" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="${HEAD:-127.0.0.1}:${PORT:-29400}" \
  --rdzv-id="${RUN_ID:-sarsense}" \
  ${ADDRESS:+--local-addr="$ADDRESS"} \
  --max-restarts="${RESTARTS:-3}" \
  -m -- pretrain "$@"  # after --, torchrun takes no option for its own: --run would be its --run-path
