#!/usr/bin/env bash
# Evaluate a checkpoint in several processes under slurm, one for each GPU.
#
#   [GPUS=4] [GPUS_PER_NODE=4] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#       tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
#
# GPUS_PER_NODE=0 takes GPUS processes on nodes without a GPU. PYTHON is the interpreter.
# See docs/distributed.md.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]" >&2
    exit 2
fi
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
GPUS_PER_NODE=${GPUS_PER_NODE:-4}
PLACES=()
if [ "$GPUS_PER_NODE" != 0 ]; then
    PLACES=(--gres="gpu:$GPUS_PER_NODE" --ntasks-per-node="$GPUS_PER_NODE")
fi

export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
# SRUN_ARGS are words
# shellcheck disable=SC2086
exec srun -p "$1" --job-name="$2" --ntasks="${GPUS:-4}" ${PLACES[@]+"${PLACES[@]}"} \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$TOOLS/test.py" "$3" "$4" --launcher slurm "${@:5}"
