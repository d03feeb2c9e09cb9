"""`matrixstate demo`."""

import sys
from pathlib import Path

from tyro.conf import UseAppendAction

from matrixstate.cli.output import TrainingProgress, in_bytes, print_json, print_table
from matrixstate.cli.places import make_directory, unused
from matrixstate.cli.train import set_threads
from matrixstate.comparison import DEMO, Entry, demo_config, demo_data, draw_curves, train_entry
from matrixstate.comparison.demo import STEPS, check_matched
from matrixstate.data import tokenize
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError, MissingExtra


def demo(
    *,
    text: UseAppendAction[tuple[Path, ...]] = (),
    out: Path = Path("runs/demo"),
    steps: int = STEPS,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Train five small character models on Shakespeare's plays and compare them, in a few minutes.

    MRU, M²RNN, attention, and two controls: a gated short convolution only, and an MLP only. Ends with a table, a
    sample of text from each, and a figure of the loss curves.

    Args:
        text: A file or folder of UTF-8 text to train on, instead of the plays.
        out: The directory of the runs and the figure. If it exists, -2, -3, ... is appended to the name.
        steps: Optimizer steps of each model.
        seed: Of weight initialization and batches.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        json: Print the table as one JSON object.
    """
    place = find_device(device)
    set_threads(threads)
    if steps < 1:
        raise ConfigError(f"--steps: expected at least 1, got {steps}")
    data = demo_data(text)
    configs = {name: demo_config(name, data, steps, seed) for name in DEMO}
    check_matched(list(configs.values()), tokenize(data).tokenizer.size)
    make_directory(out := unused(out))
    entries = []
    for name, config in configs.items():
        with TrainingProgress(DEMO[name], steps) as progress:
            entries.append(train_entry(name, out / name, config, [progress], place))
    figure: Path | None = out / "loss.png"
    try:
        draw_curves(
            {DEMO[e.name]: e.run for e in entries},
            out / "loss.png",
            f"{'Shakespeare' if not text else text[0].name} by characters",
        )
    except MissingExtra as missing:
        figure = None
        print(f"no figure: {missing}", file=sys.stderr)
    _print(entries, figure, json)
    return 0


def _print(entries: list[Entry], figure: Path | None, json: bool) -> None:
    if json:
        print_json({"models": [_row(entry) for entry in entries], "figure": None if figure is None else str(figure)})
        return
    for entry in entries:
        print(f"\n--- {DEMO[entry.name]} writes:\n{entry.sample}")
    print()
    length = entries[0].run.config.training.sequence
    print_table(
        ("model", "bits per character", "parameters", f"state after {length} tokens", "tokens/s"),
        [
            (
                DEMO[row["model"]],
                f"{row['bits_per_character']:.3f}",
                f"{row['parameters']:,}",
                in_bytes(row["state_bytes"]),
                f"{row['tokens_per_second']:,.0f}",
            )
            for row in map(_row, entries)
        ],
    )
    print(f"runs: {', '.join(str(entry.run.directory) for entry in entries)}")
    if figure is not None:
        print(f"loss curves: {figure}")


def _row(entry: Entry) -> dict:
    loss = entry.outcome.validation
    assert loss is not None
    return {
        "model": entry.name,
        "bits_per_character": loss.bits_per_character,
        "parameters": entry.parameters,
        "state_bytes": entry.state_bytes,
        "tokens_per_second": round(entry.outcome.tokens_per_second, 1),
        "run": str(entry.run.directory),
    }
