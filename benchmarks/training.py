"""The speed-up of training by the compiled kernels: `python benchmarks/training.py [--cycles N] [--models mru m2rnn]`.

The demo's models are trained on a random text, in turns of five steps with the kernels ("auto") and with plain PyTorch
("reference"), from the same weights. CPU time at one thread; minimum and median over the turns.
"""

import argparse
import dataclasses
import statistics
import time

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from matrixstate.comparison.demo import DEMO, demo_config, demo_data
from matrixstate.models import LanguageModel
from matrixstate.ops import prefer
from matrixstate.training.optimizer import make_optimizer

STEPS = 5
VOCABULARY = 80


class Training:
    """Training steps of one model, without logging: forward, backward, clipping, optimizer."""

    def __init__(self, name: str, backend: str) -> None:
        config = demo_config(name, demo_data())
        self.backend, settings = backend, config.training
        torch.manual_seed(0)
        self.model = LanguageModel(dataclasses.replace(config.model, vocabulary=VOCABULARY))
        self.optimizer, self.clip = make_optimizer(self.model, settings), settings.clip
        self.tokens = torch.randint(VOCABULARY, (settings.batch, settings.sequence + 1))

    def steps(self) -> float:
        """Runs steps; returns the CPU seconds per step."""
        began = time.process_time()
        for _ in range(STEPS):
            with prefer(self.backend):
                logits, _ = self.model(self.tokens[:, :-1])
                cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten()).backward()
            clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return (time.process_time() - began) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=15)
    parser.add_argument("--models", nargs="*", default=list(DEMO), choices=list(DEMO))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | kernels, ms per step | plain PyTorch | ratio of minima | of medians |\n|---|---:|---:|---:|---:|")
    for name in options.models:
        both = Training(name, "auto"), Training(name, "reference")
        times = [[training.steps() for training in both] for _ in range(options.cycles + 1)][1:]
        ours, plain = zip(*times, strict=True)
        least, middle = min(plain) / min(ours), statistics.median(plain) / statistics.median(ours)
        print(f"| {name} | {min(ours) * 1e3:.1f} | {min(plain) * 1e3:.1f} | {least:.1f}x | {middle:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
