"""Times the modes of cell_scan: `python benchmarks/deer.py [--rounds 3] [--table FILE]`.

CPU seconds at one thread, the least of the rounds, forward and backward, in float32. The steps are those of plain
PyTorch; where `rnn_scan`, `gru_scan` or `lstm_scan` has the cell, its kernel is timed too.
"""

import argparse
import time
import warnings
from pathlib import Path

import torch
from tables import made_with, markdown, write_section
from timing import let_allocator_settle

from matrixstate.ops import CELLS, cell_scan, gru_scan, lstm_scan, rnn_scan

MODES = ("steps", "deer", "quasi_deer")
KERNELS = {"rnn": rnn_scan, "gru": gru_scan, "lstm": lstm_scan}
CASES = [  # cell, B, T, H, d, gain of the recurrent weights
    ("gru", 1, 256, 1, 4, 1.0),
    ("gru", 1, 4096, 1, 4, 1.0),
    ("gru", 1, 1024, 1, 16, 1.0),
    ("gru", 1, 1024, 1, 64, 1.0),
    ("gru", 8, 512, 1, 16, 1.0),
    ("gru", 8, 512, 8, 8, 1.0),
    ("lstm", 1, 1024, 1, 16, 1.0),
    ("lem", 1, 1024, 1, 16, 1.0),
    ("elstm", 1, 1024, 1, 16, 1.0),
    ("rnn", 1, 1024, 1, 16, 0.5),
    ("rnn", 1, 1024, 1, 16, 4.0),
]


def draw(name, B, T, H, d, gain):
    torch.manual_seed(0)
    cell = CELLS[name]
    inputs = {n: torch.randn(B, T, H, d).requires_grad_() for n in cell.inputs}
    weights = {n: (gain * torch.randn(H, d, d) / d**0.5).requires_grad_() for n in cell.matrices}
    return inputs, weights | {n: torch.rand(H, d).requires_grad_() for n in cell.vectors}


def both(run, inputs, weights):
    y = run(inputs, weights)[0]
    return y, *torch.autograd.grad(y.square().sum(), [*inputs.values(), *weights.values()])


def by_mode(name, mode):
    return lambda inputs, weights: cell_scan(name, inputs, weights, mode=mode, backend="reference")


def seconds(run, tensors, rounds):
    times = []
    for _ in range(rounds + 1):  # the first one warms up
        begin = time.process_time()
        both(run, *tensors)
        times.append(time.process_time() - begin)
    return min(times[1:])


def converges(run, tensors, exact):
    """Whether the iterations converge, which they say otherwise; then the outputs must be those of the steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.no_grad():
            y = run(*tensors)[0]
    torch.testing.assert_close(y, exact, rtol=0, atol=1e-3 * exact.abs().max().item())
    return not any("has not converged" in str(w.message) for w in caught)


def row(name, B, T, H, d, gain, rounds):
    tensors = draw(name, B, T, H, d, gain)
    with torch.no_grad():
        exact = cell_scan(name, *tensors)[0]
    cells = [name if gain == 1 else f"{name}, weights times {gain:g}", *(f"{size:,}" for size in (B, T, H, d))]
    kernel = KERNELS.get(name)
    cells.append("–" if kernel is None else f"{1e3 * seconds(lambda x, w: kernel(**x, **w), tensors, rounds):,.1f}")
    for mode in MODES:
        run = by_mode(name, mode)
        note = "" if mode == "steps" or converges(run, tensors, exact) else " (falls back)"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            cells.append(f"{1e3 * seconds(run, tensors, rounds):,.0f}{note}")
    return cells


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", type=Path, help="put the table between the marks <!-- deer --> of this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    let_allocator_settle()
    rows = []
    for case in CASES:
        rows.append(row(*case, options.rounds))
        print(*rows[-1], sep="  ", flush=True)
    if options.table is not None:
        head = ["cell", "B", "T", "H", "d", "kernel of the cell", *MODES]
        command = made_with("python benchmarks/deer.py --table src/matrixstate/ops/cells/README.md")
        write_section(options.table, "deer", [*markdown(head, rows), "", command])
