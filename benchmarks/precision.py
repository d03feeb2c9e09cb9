"""Whether training in bfloat16 is as good as in float32, and how much faster: over seeds, at equal steps.

    python benchmarks/precision.py --out DIR [--configs mru m2rnn ...] [--seeds 0 1 2] [--steps N] [--text FILE]

Configs are the demo's models and those of configs/shakespeare; one thread. A seed gives the same weights and batches in
both precisions, so that losses are compared in pairs. CPU time is that of the steps, without evaluations. Finished runs
are not repeated.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import torch

from matrixstate.comparison.demo import DEMO, demo_config, demo_data
from matrixstate.comparison.reporting.statistics import paired_difference
from matrixstate.training import TextRunConfig, load_config, start, train

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "shakespeare"
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--configs", nargs="*", default=[f"demo-{name}" for name in DEMO])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--text", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| config | float32 | bfloat16 | difference, paired by seed | CPU ms a step | |")
    print("|---|---:|---:|---|---:|---:|")
    for name in options.configs:
        found = {p: {seed: run_once(options, name, p, seed) for seed in options.seeds} for p in PRECISIONS}
        print(row(name, found), flush=True)


def run_once(options: argparse.Namespace, name: str, precision: str, seed: int) -> tuple[float, float]:
    """Nats per token over the whole validation text, and CPU seconds per step."""
    directory = options.out / f"{name}-{precision}-{seed}"
    if not directory.exists():
        train(start(directory, make_config(options, name, precision, seed)))
    status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
    return status["nats_per_token"], status["cpu_seconds"] / status["step"]


def make_config(options: argparse.Namespace, name: str, precision: str, seed: int) -> TextRunConfig:
    if name.startswith("demo-"):
        config = demo_config(name.removeprefix("demo-"), demo_data(options.text), options.steps or 500, seed)
    else:
        files = [f"data.files=[{', '.join(str(file.resolve()) for file in options.text)}]"] if options.text else []
        steps = [] if options.steps is None else [f"training.steps={options.steps}"]
        config = load_config(CONFIGS / f"{name}.yaml", [*files, *steps, f"seed={seed}"])
        assert isinstance(config, TextRunConfig)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, precision=precision))


def row(name: str, found: dict[str, dict[int, tuple[float, float]]]) -> str:
    losses = {p: {seed: loss for seed, (loss, _) in runs.items()} for p, runs in found.items()}
    seconds = {p: min(spent for _, spent in runs.values()) for p, runs in found.items()}
    means = [f"{statistics.mean(losses[p].values()):.4f}" for p in PRECISIONS]
    difference = paired_difference(losses["bfloat16"], losses["float32"])
    shown = "" if difference is None else f"{difference.mean:+.4f}"
    if difference is not None and difference.interval is not None:
        shown += f" [{difference.interval.low:+.4f}, {difference.interval.high:+.4f}]"
    times = " and ".join(f"{1e3 * seconds[p]:.1f}" for p in PRECISIONS)
    return f"| {name} | {' | '.join(means)} | {shown} | {times} | {seconds['float32'] / seconds['bfloat16']:.2f}x |"


if __name__ == "__main__":
    main()
