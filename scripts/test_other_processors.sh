#!/usr/bin/env bash
# Runs the fast tests with each lower instruction set of the compiled kernels. With the lowest, PyTorch, oneDNN and MKL
# are limited to an old processor's instructions too; with the others, three threads are used. Kernels in Triton are left
# out: its interpreter computes in NumPy, one number after another, whatever the processor.
# Usage: scripts/test_other_processors.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

sets=$(.venv/bin/python -c 'from matrixstate import _native; print(*_native.instruction_sets()[:-1])')
run() {
  echo "== $*"
  env OMP_NUM_THREADS=1 "$@" .venv/bin/python -m pytest -n auto -q -m "not slow" -k "not triton" "${arguments[@]}"
}

arguments=("$@")
old=(ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE)
for name in $sets; do
  run "${old[@]}" MATRIXSTATE_INSTRUCTION_SET="$name"
  old=(MATRIXSTATE_TEST_THREADS=3)
done
