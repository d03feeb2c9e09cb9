"""The cost of training on long sequences: one layer, forward and backward, against the length of the sequence.

    python benchmarks/length.py [--longest 32768] [--seconds 4] [--table docs/speed.md] [--figure FILE]

One mixer of each model of configs/shakespeare (width 128, batch 1), with random weights and inputs, and gradients of
all weights and of the input. One thread, CPU time of the process; the mixers take turns at every length, at least two
and for at least --seconds each. A recurrence costs the same for every token; attention costs more per token the longer
the sequence is. The length from which it costs more in all is interpolated between two measured ones.
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from figures import bare, logarithmic
from tables import made_with, markdown, write_section
from timing import ROOT

from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure
from matrixstate.layers.mixer import Mixer
from matrixstate.ops import prefer
from matrixstate.training import load_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

CONFIGS = {"mru": "MRU", "m2rnn": "M²RNN", "conv": "gated convolution", "rotary": "attention"}
ATTENTION = "rotary"
Times = dict[str, dict[int, float]]  # seconds by mixer and length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=32_768, help="the lengths are 512, 1024, ... up to this one")
    parser.add_argument("--seconds", type=float, default=4.0, help="turns of each mixer at each length")
    parser.add_argument("--table", type=Path, help="put the table between its marks in this Markdown file")
    parser.add_argument("--figure", type=Path, help="draw the figure there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mixers = {name: make(name) for name in CONFIGS}
    for name, mixer in mixers.items():
        check(name, mixer)
    lengths = [512 * 2**i for i in range(int(math.log2(options.longest // 512)) + 1)]
    times: Times = {name: {} for name in mixers}
    for length in lengths:
        for name, seconds in measure(mixers, length, options.seconds).items():
            times[name][length] = seconds
        print(f"{length:,}: " + ", ".join(f"{CONFIGS[n]} {times[n][length]:.3f} s" for n in times), flush=True)
    lines = table(mixers, times)
    print("\n".join(lines))
    if options.table is not None:
        command = f"python benchmarks/length.py --longest {options.longest} --seconds {options.seconds:g}"
        write_section(options.table, "length", [*lines, "", made_with(command)])
    if options.figure is not None:
        draw(times, options.figure)


def make(name: str) -> Mixer:
    torch.manual_seed(0)
    config = load_config(ROOT / "configs" / "shakespeare" / f"{name}.yaml").model
    block = config.blocks[0]
    assert block.mixer is not None
    mixer = block.mixer.make(config.width)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return mixer


def train(mixer: Mixer, x: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    y, _ = mixer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *mixer.parameters()], dy)]


def check(name: str, mixer: Mixer) -> None:
    """Checks output and gradients against the definition, by the rule of `evaluation.closeness`."""
    x, dy = torch.randn(1, 40, mixer.width, requires_grad=True), torch.randn(1, 40, mixer.width)
    got = train(mixer, x, dy)
    with prefer("reference"):
        plain = train(mixer, x, dy)
        exact = train(mixer.double(), x.detach().double().requires_grad_(), dy.double())
    mixer.float()
    for i, values in enumerate(zip(got, plain, exact, strict=True)):
        assert_as_good_as(*values, f"{name}, {i}")


def measure(mixers: dict[str, Mixer], length: int, seconds: float) -> dict[str, float]:
    """The seconds of the fastest turn of each mixer."""
    turns: dict[str, Callable[[], Any]] = {}
    for name, mixer in mixers.items():
        x, dy = torch.randn(1, length, mixer.width, requires_grad=True), torch.randn(1, length, mixer.width)
        turns[name] = partial(train, mixer, x, dy)
    times: dict[str, list[float]] = {name: [] for name in mixers}
    while any(len(t) < 2 or sum(t) < seconds for t in times.values()):
        for name, turn in turns.items():
            if len(times[name]) < 2 or sum(times[name]) < seconds:
                begun = time.process_time()
                turn()
                times[name].append(time.process_time() - begun)
    return {name: min(t) for name, t in times.items()}


def crossing(times: Times, name: str) -> float | None:
    """The length from which attention costs more than the mixer, interpolated linearly in logarithms; None if none."""
    lengths = sorted(times[name])
    gaps = [math.log(times[ATTENTION][n] / times[name][n]) for n in lengths]
    for (low, high), (before, after) in zip(itertools.pairwise(lengths), itertools.pairwise(gaps), strict=True):
        if before < 0 <= after:
            return low * (high / low) ** (before / (before - after))
    return None


def crossings(times: Times) -> dict[str, float]:
    found = {name: crossing(times, name) for name in times if name != ATTENTION}
    return {name: length for name, length in found.items() if length is not None}


def table(mixers: dict[str, Mixer], times: Times) -> list[str]:
    head = ["T", *(f"{CONFIGS[name]}, ms (µs per token)" for name in times)]
    rows = []
    for length in times[ATTENTION]:
        cells = [f"{t[length] * 1e3:,.1f} ({t[length] / length * 1e6:.1f})" for t in times.values()]
        rows.append([f"{length:,}", *cells])
    sizes = ", ".join(f"{CONFIGS[n]} {sum(p.numel() for p in m.parameters()):,}" for n, m in mixers.items())
    said = [f"dearer than {CONFIGS[name]} from T = {_rounded(length)}" for name, length in crossings(times).items()]
    for name in times:
        if name != ATTENTION and name not in crossings(times):
            always = all(times[ATTENTION][n] > s for n, s in times[name].items())
            said.append(f"{'always' if always else 'never'} dearer than {CONFIGS[name]} here")
    return [*markdown(head, rows), "", f"Attention is {'; '.join(said)}. Parameters of the layer: {sizes}."]


def _rounded(length: float) -> str:
    return f"{float(f'{length:.2g}'):,.0f}"


def draw(times: Times, path: Path) -> None:
    """Plots seconds per sequence (left) and per token (right), with rings where attention begins to cost more."""
    figure = new_figure(10.5, 4.8)
    for axes, title, per_token in zip(
        figure.subplots(1, 2), ("seconds for the sequence", "microseconds per token"), (False, True), strict=True
    ):
        scale = (lambda length: 1e6 / length) if per_token else (lambda length: 1.0)
        for (name, points), colour in zip(times.items(), COLOURS, strict=False):
            values = [seconds * scale(length) for length, seconds in points.items()]
            axes.plot(list(points), values, "o-", color=colour, markersize=4, linewidth=1.8, label=CONFIGS[name])
        for name, length in crossings(times).items():
            height = _at(times[name], length) * scale(length)
            axes.plot([length], [height], "o", markersize=11, markerfacecolor="none", markeredgecolor="black")
            if per_token:
                axes.annotate(
                    f"dearer than {CONFIGS[name]}\nfrom T = {_rounded(length)}", (length, height), (7, -13),
                    textcoords="offset points", va="top", fontsize=8.5,
                )  # fmt: skip
        logarithmic(axes, list(times[ATTENTION]))
        bare(axes)
        axes.tick_params(axis="x", rotation=30)
        axes.set_xlabel("T, tokens of the sequence")
        axes.set_title(title, fontsize=10)
    figure.axes[0].legend(frameon=False)
    title = "Training one layer of width 128, forward and backward, one thread. Rings: attention becomes dearer"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save_figure(figure, path)


def _at(points: dict[int, float], length: float) -> float:
    """The seconds at a length between two measured ones, interpolated linearly in logarithms."""
    low = max(n for n in points if n <= length)
    high = min(n for n in points if n >= length)
    share = 0.0 if low == high else math.log(length / low) / math.log(high / low)
    return points[low] ** (1 - share) * points[high] ** share


if __name__ == "__main__":
    main()
