#!/usr/bin/env bash
# Checks that code compiled for newer processors defines no symbol that another file could be linked against: of a
# function that several files define the linker keeps one copy, and an older processor could run newer instructions.
# Usage: scripts/check_isa.sh BUILD_DIRECTORY
set -euo pipefail
found=0
while IFS= read -r object; do
  name="$(sed -E 's/^.*kernels_([a-z0-9_]+)\.dir.*$/\1/' <<< "$object")"
  if nm -C --defined-only "$object" | grep -E ' [WVu] ' | grep -vE "matrixstate::${name}::|DW\.ref\.__gxx_personality"; then
    echo "defined in $object"
    found=1
  fi
done < <(find "$1" -path '*kernels_*' -name '*.o')
[ "$found" = 0 ] && echo "no shared symbols"
exit "$found"
