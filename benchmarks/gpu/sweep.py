"""The last stage: the core kernels with other numbers of rows and warps a program, so that the next version knows.

Constants of the kernels' modules are replaced; every variant is another program, so that nothing is compiled twice.
"""

import dataclasses
import itertools
from functools import partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

from against_float64 import with_halves

from gpu.speed import COPIES, Work, draw, forward_and_backward, forward_only, works
from gpu.stage import Stage
from matrixstate.ops.m2rnn import kernel_triton as m2rnn
from matrixstate.ops.mru import kernel_triton as mru

Constants = dict[str, Any]


def variants(tiny: bool) -> dict[str, tuple[ModuleType, list[Constants]]]:
    """By the beginning of a work's name: the module and the values of its constants."""
    rows, warps = ((16,), (1,)) if tiny else ((16, 32, 64), (1, 2, 4))
    same = lambda w: {"WARPS": dict.fromkeys((16, 32, 64), w)}  # noqa: E731
    chunks = [{"FEW_WARPS": few} for few in (0, 1 << 30)]  # never in chunks, and whenever the sequence is long
    return {
        "m2rnn_scan": (m2rnn, [{"ROWS": r} | same(w) for r, w in itertools.product(rows, warps)]),
        "mru_scan": (mru, [*map(same, warps), *chunks]),
    }


def time_variant(stage: Stage, work: Work, module: ModuleType, constants: Constants) -> dict[str, Any]:
    drawn = [draw(work.case, work.T) for _ in range(COPIES)]
    call = dataclasses.replace(work.case, backend="triton", call=with_halves(work.case.call)).run
    with patch.multiple(module, **constants):
        forward = stage.seconds([partial(forward_only, call, *inputs) for inputs in drawn])
        both = stage.seconds([forward_and_backward(call, *inputs) for inputs in drawn])
    return {"forward ms": 1e3 * forward, "forward and backward ms": 1e3 * both}


def main() -> None:
    stage = Stage("sweep", "Kernels with other numbers of rows and warps a program")
    for work, (beginning, (module, choices)) in itertools.product(works(stage.tiny), variants(stage.tiny).items()):
        if work.name.startswith(beginning):
            for constants in choices:
                words = ", ".join(f"{name} {value}" for name, value in constants.items())
                what = {"op": work.name, "constants": words}
                stage.attempt("times", what, partial(time_variant, stage, work, module, constants))


if __name__ == "__main__":
    main()
