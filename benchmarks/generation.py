"""Tokens per second of generation, at several positions of the text, for every mixer in the same model.

    python benchmarks/generation.py [--turns 20] [--positions 100 1000 10000] [--table docs/speed.md] [--figure FILE]

The models of configs/shakespeare (equal width, depth and parameters), with random weights; attention has rotary
positions, so that its context has no limit. The text up to a position is read in parallel; then tokens are sampled
one by one, by the loop of `matrixstate.models.generate`. The models take turns of a few tokens in one process with one
thread; times are CPU times. On a shared machine the fastest token is the number to trust.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from figures import bare, label_ends, logarithmic
from tables import made_with, markdown, write_section
from timing import ROOT

from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure
from matrixstate.models import Generation, LanguageModel, Sampling, SavedState, begin
from matrixstate.models.counts import count
from matrixstate.ops import prefer
from matrixstate.training import load_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

CONFIGS = {"mru": "MRU", "m2rnn": "M²RNN", "conv": "gated convolution", "rotary": "attention", "mlp": "no mixer"}
TOKENS, WARM = 10, 2  # of a turn: timed, and before that untimed, which bring the model back into the caches
VOCABULARY = 65
Times = dict[int, dict[str, list[float]]]  # seconds by position and model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20, help=f"turns of {TOKENS} tokens for each model and position")
    parser.add_argument("--positions", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--table", type=Path, help="put the table between its marks in this Markdown file")
    parser.add_argument("--figure", type=Path, help="draw the figure there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: make(name) for name in CONFIGS}
    for name, model in models.items():
        check(name, model)
    times = measure(models, options.positions, options.turns)
    copying = {position: seconds_to_copy(models["rotary"], position) for position in options.positions}
    lines = table(models, times, copying)
    print("\n".join(lines))
    if options.table is not None:
        command = f"python benchmarks/generation.py --turns {options.turns}"
        write_section(options.table, "generation", [*lines, "", made_with(command)])
    if options.figure is not None:
        draw(times, copying, options.figure)


def make(name: str) -> LanguageModel:
    torch.manual_seed(0)
    config = load_config(ROOT / "configs" / "shakespeare" / f"{name}.yaml", [f"model.vocabulary={VOCABULARY}"]).model
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def check(name: str, model: LanguageModel) -> None:
    """Checks the logits token by token against the definition for the whole text, by the rule of `closeness`."""
    tokens, state, steps = torch.randint(VOCABULARY, (1, 40)), None, []
    for t in range(tokens.shape[1]):
        logits, state = model(tokens[:, t : t + 1], state)
        steps.append(logits)
    with prefer("reference"):
        plain, _ = model(tokens)
        exact, _ = model.double()(tokens)
    model.float()
    assert_as_good_as(torch.cat(steps, dim=1), plain, exact, name)


def measure(models: dict[str, LanguageModel], positions: list[int], turns: int) -> Times:
    """The CPU times of all tokens, of every model at every position."""
    saved = {(position, name): _read(model, position) for position in positions for name, model in models.items()}
    times: Times = {position: {name: [] for name in models} for position in positions}
    for _ in range(turns):
        for (position, name), start in saved.items():
            going = Generation(models[name], start, Sampling())
            for _ in range(WARM):
                next(going)
            for _ in range(TOKENS):
                begun = time.process_time()
                next(going)
                times[position][name].append(time.process_time() - begun)
    return times


def _read(model: LanguageModel, position: int) -> SavedState:
    """The state of a text whose next token has the given position."""
    text = torch.randint(VOCABULARY, (position - 1,), generator=torch.Generator().manual_seed(1)).tolist()
    going = Generation(model, begin(model, [text]), Sampling())
    next(going)
    return going.saved()


def seconds_to_copy(model: LanguageModel, position: int) -> float:
    """Seconds per token in which attention copies keys and values, since states are not changed in place."""
    G, K = model.layers[0].mixer.key_heads, model.layers[0].mixer.head_size  # type: ignore[union-attr]
    caches = [torch.zeros(1, position, G, K) for _ in range(2 * len(model.layers))]
    new, times = torch.zeros(1, 1, G, K), []
    for _ in range(20):
        start = time.process_time()
        caches = [torch.cat([cache[:, :position], new], dim=1) for cache in caches]
        times.append(time.process_time() - start)
    return min(times)


def table(models: dict[str, LanguageModel], times: Times, copying: dict[int, float]) -> list[str]:
    positions = list(times)
    head = ["mixer", "parameters", *(f"tokens/s at {p:,}" for p in positions), f"state at {positions[-1]:,}"]
    rows = []
    for name, model in models.items():
        counts = count(model.config, positions[-1])
        speeds = [_speed(times[p][name]) for p in positions]
        rows.append([CONFIGS[name], f"{counts.parameters:,}", *speeds, f"{counts.state_bytes / 1024:,.0f} KiB"])
    spared = [f"{1 / (min(times[p]['rotary']) - copying[p]):,.0f}" for p in positions]
    rows.append(["attention, were its cache not copied", "", *spared, ""])
    return [*markdown(head, rows), "", "Fastest token (median token in brackets)."]


def _speed(seconds: list[float]) -> str:
    return f"{1 / min(seconds):,.0f} ({1 / statistics.median(seconds):,.0f})"


def draw(times: Times, copying: dict[int, float], path: Path) -> None:
    """Plots tokens per second against position, on logarithmic axes, with a name at each line."""
    positions = list(times)
    figure = new_figure(7.5, 4.6)
    axes = figure.add_subplot()
    ends: list[tuple[float, str, Any]] = []
    for (name, label), colour in zip(CONFIGS.items(), COLOURS, strict=False):
        colour, style = ("0.6", "--") if name == "mlp" else (colour, "-")
        speeds = [1 / min(times[p][name]) for p in positions]
        axes.plot(positions, speeds, style, color=colour, marker="o", markersize=5, linewidth=1.8)
        ends.append((speeds[-1], label, colour))
        if name == "rotary":
            spared = [1 / (min(times[p][name]) - copying[p]) for p in positions]
            axes.plot(positions, spared, ":", color=colour, linewidth=1.4)
            ends.append((spared[-1], "attention, cache not copied", colour))
    axes.set_xlim(positions[0] * 0.8, positions[-1] * 1.25)
    logarithmic(axes, positions)
    bare(axes)
    label_ends(axes, ends, positions[-1] * 1.35)
    axes.set_xlabel("position in the text, tokens")
    axes.set_ylabel("tokens per second, one thread")
    axes.set_title("Generation: a recurrent state costs the same at every position", loc="left", fontsize=11)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
