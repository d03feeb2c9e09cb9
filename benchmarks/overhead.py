"""The cost of the state thermometer and the guard: `python benchmarks/overhead.py [--cycles N] [--configs mru]`.

Trains each config of configs/shakespeare/ twice on a random text, in turns of ten steps: as `matrixstate train` does
(guard, thermometer, metrics file), and by a bare loop of forward, backward, clipping and optimizer. Both start from the
same weights and see the same batches. CPU time at one thread; printed is the overhead over the faster half of the
turns.
"""

import argparse
import random
import statistics
import string
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from matrixstate.training import load_config, start
from matrixstate.training.optimizer import learning_rate
from matrixstate.training.session import Session
from matrixstate.training.stopping import Stop
from matrixstate.training.thermometer import EVERY

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "shakespeare"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=20, help="turns of ten steps each")
    parser.add_argument("--configs", nargs="*", default=["mru", "m2rnn"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.configs:
        with tempfile.TemporaryDirectory() as directory:
            guarded, bare = watched_and_bare(name, Path(directory))
            watched, plain = take_turns((guarded, bare), options.cycles)
        share = watched / plain - 1
        print(f"{name}: {watched * 1e3:.1f} ms per step watched, {plain * 1e3:.1f} ms bare: {share:+.1%}", flush=True)


def watched_and_bare(name: str, directory: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    text = directory / "random.txt"
    text.write_text("".join(random.Random(0).choices(string.ascii_letters + "\n .,;:", k=200_000)))
    config = load_config(CONFIGS / f"{name}.yaml", [f"data.files=[{text}]", "training.precision=float32"])
    watched = Session(start(directory / "watched", config), [], resume=False, stop=Stop())
    other = Session(start(directory / "bare", config), [], resume=False, stop=Stop())
    parameters, settings = list(other.model.parameters()), config.training
    steps = iter(range(10**9))

    def bare() -> None:
        step = next(steps)
        batch = other.stream.batch(step)
        for group in other.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        logits, _ = other.model(batch.tokens)
        cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
        clip_grad_norm_(parameters, settings.clip)
        other.optimizer.step()
        other.optimizer.zero_grad()

    return watched.step, bare


def take_turns(runs: tuple[Callable[[], None], ...], cycles: int) -> list[float]:
    """CPU seconds per step of each, over the faster half of the turns."""
    times: list[list[float]] = [[] for _ in runs]
    for cycle in range(cycles + 1):
        for run, seen in zip(runs, times, strict=True):
            began = time.process_time()
            for _ in range(EVERY):
                run()
            if cycle:  # the first turn warms up
                seen.append((time.process_time() - began) / EVERY)
    return [statistics.mean(sorted(seen)[: (len(seen) + 1) // 2]) for seen in times]


if __name__ == "__main__":
    main()
