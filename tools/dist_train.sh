#!/usr/bin/env bash
# Train in several processes, one for each GPU; without GPUs they share the processor.
#
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
#
# Many machines: the same on each of them, with NNODES, NODE_RANK (0, 1, ...), MASTER_ADDR (of
# machine 0) and PORT in the environment. PYTHON is the interpreter. See docs/distributed.md.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    MEETING=(--standalone --local-addr=127.0.0.1) # at a free port
else
    MEETING=(--nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}")
    MEETING+=(--master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}")
fi

# exec: signals reach the launcher, which passes them on
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m torch.distributed.run "${MEETING[@]}" --nproc-per-node="$2" \
    "$TOOLS/train.py" "$1" --launcher pytorch "${@:3}"
