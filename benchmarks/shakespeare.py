"""Trains configs/shakespeare/*.yaml over several seeds and draws the table and figure of docs/shakespeare.md.

    python benchmarks/shakespeare.py --out DIR --text tinyshakespeare.txt [--configs mru conv] [--seeds 0 1 2]

One thread. Finished runs are not repeated, so that it can be stopped and started again. Without --text the text is
`tiny-shakespeare`, which is downloaded at first use. `--table FILE --figure FILE` are the files to write.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from matrixstate.data import open_corpus
from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure
from matrixstate.training import load_config, load_model, start, train
from matrixstate.training.streams import validation_loss

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "shakespeare"
WINDOWS = (64, 256, 1024)
TOLERANCE = 0.02  # of parameters, between any two configs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="the directory of the runs and their results")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="tiny Shakespeare as a file")
    parser.add_argument("--configs", nargs="*", default=known, choices=known, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--table", type=Path, help="write the table there, in Markdown")
    parser.add_argument("--figure", type=Path, help="draw the losses there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for name in options.configs:
            run_once(name, seed, options.out, options.text)
    results = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
    results = [r for r in results if r["config"] in options.configs and r["seed"] in options.seeds]
    rows = summary(results)
    text = markdown(rows)
    print(text)
    if options.table:
        options.table.write_text(text + "\n")
    if options.figure:
        draw(rows, options.figure)


def run_once(name: str, seed: int, out: Path, text: Sequence[Path]) -> None:
    """Trains and evaluates one config with one seed, unless it has a result."""
    path = out / f"{name}-{seed}.json"
    if path.exists():
        return
    files = [f"data.files=[{', '.join(str(file.resolve()) for file in text)}]"] if text else []
    config = load_config(CONFIGS / f"{name}.yaml", [*files, f"seed={seed}", "training.precision=float32"])
    run = start(out / f"{name}-{seed}", config)
    train(run)
    model, corpus = load_model(run), open_corpus(run.data)
    fits = [w for w in WINDOWS if model.max_positions is None or w <= model.max_positions]
    losses = {w: validation_loss(model, corpus, w).nats_per_token for w in fits}
    parameters = sum(p.numel() for p in model.parameters())
    path.write_text(json.dumps({"config": name, "seed": seed, "parameters": parameters, "nats": losses}) + "\n")
    print(
        f"{name}, seed {seed}: " + ", ".join(f"{loss:.4f} in windows of {w}" for w, loss in losses.items()), flush=True
    )


def summary(results: Sequence[dict]) -> list[dict]:
    """One row per config, best first: the losses of all seeds per window."""
    rows = []
    for name in {r["config"] for r in results}:
        mine = sorted((r for r in results if r["config"] == name), key=lambda r: r["seed"])
        nats = {w: [r["nats"][str(w)] for r in mine if str(w) in r["nats"]] for w in WINDOWS}
        rows.append({"config": name, "parameters": mine[0]["parameters"], "nats": nats})
    counts = [row["parameters"] for row in rows]
    if max(counts) > min(counts) * (1 + 2 * TOLERANCE):
        raise SystemExit(f"the models' parameters differ by more than {TOLERANCE:.0%} from their middle: {counts}")
    return sorted(rows, key=lambda row: statistics.mean(row["nats"][WINDOWS[0]]))


def markdown(rows: Sequence[dict]) -> str:
    lines = [
        "| config | parameters | " + " | ".join(f"nats, windows of {w:,}" for w in WINDOWS) + " | spread |",
        "|---|---:|" + "---:|" * len(WINDOWS) + "---:|",
    ]
    for row in rows:
        means = [f"{statistics.mean(losses):.3f}" if losses else "–" for losses in row["nats"].values()]
        first = row["nats"][WINDOWS[0]]
        spread = f"{min(first):.3f} to {max(first):.3f}, {len(first)} seeds" if len(first) > 1 else "1 seed"
        lines.append(f"| {row['config']} | {row['parameters']:,} | " + " | ".join(means) + f" | {spread} |")
    return "\n".join(lines)


def draw(rows: Sequence[dict], path: Path) -> None:
    """Plots a row of marks per config, one mark per seed and window, and the control `conv` as a line."""
    figure = new_figure(8, 0.45 * len(rows) + 1.4)
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        for w, colour, marker in zip(WINDOWS, COLOURS, "o^s", strict=False):
            losses = row["nats"][w]
            label = f"windows of {w:,}" if row is rows[0] else None
            axes.plot(losses, [place] * len(losses), marker, color=colour, alpha=0.75, markersize=6, label=label)
    control = next((row for row in rows if row["config"] == "conv"), None)
    if control:
        axes.axvline(statistics.mean(control["nats"][WINDOWS[0]]), color="0.6", linestyle="--", linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows)), [row["config"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"validation loss, nats per character (log 65 = {math.log(65):.2f} knows nothing)")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
