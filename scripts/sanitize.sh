#!/usr/bin/env bash
# Builds the kernels with AddressSanitizer and UndefinedBehaviorSanitizer and runs them on random shapes.
# Usage: scripts/sanitize.sh [seconds, default 20] [seed]
set -euo pipefail
cd "$(dirname "$0")/.."
cmake -S csrc/fuzz -B build/fuzz > /dev/null
cmake --build build/fuzz --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-2}"
build/fuzz/fuzz "${1:-20}" "${2:-0}"
