#!/usr/bin/env bash
# Checks and measures all that needs a GPU: scripts/gpu_check.sh OUT [--only STAGE ...] [--tiny] [--minutes 8]
#
# Runs from a checkout, with the PyTorch and Triton of $PYTHON (default: python3); nothing is built. Packages that are
# missing there (pyyaml safetensors pytest pytest-xdist hypothesis, fla-core and einops for the backend `fla`) are
# taken from the wheels in $WHEELS, without a network. benchmarks/gpu/__main__.py says what the stages are; --tiny runs
# all of them on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -n "${WHEELS:-}" ]; then
  packages=$(mktemp -d)
  "$python" -m pip install --quiet --no-index --no-deps --target "$packages" "$WHEELS"/*.whl
  export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
PYTHONPATH="benchmarks${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m gpu "$@"
