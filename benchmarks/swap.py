"""The cost in training of replacing layers of a hybrid by M²RNN: `python benchmarks/swap.py [--cycles N] [--length T]`.

The laptop presets take turns in training on random tokens. CPU time at one thread, of the fastest turn.
"""

import argparse
import dataclasses
import time

import torch
from torch.nn.functional import cross_entropy

from matrixstate.models import LanguageModel, preset

HYBRIDS = ("gated-deltanet", "mamba2")
PRESETS = [f"hybrid-{name}-laptop{swap}" for name in HYBRIDS for swap in ("", "-one-m2rnn", "-three-m2rnn")]
VOCABULARY, BATCH = 4096, 2


class Training:
    """Training steps of one model, without logging: forward, backward, optimizer."""

    def __init__(self, name: str, length: int) -> None:
        torch.manual_seed(0)
        self.model = LanguageModel(dataclasses.replace(preset(name), vocabulary=VOCABULARY))
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.tokens = torch.randint(VOCABULARY, (BATCH, length + 1))

    def step(self) -> float:
        """Runs a step; returns its CPU seconds."""
        began = time.process_time()
        logits, _ = self.model(self.tokens[:, :-1])
        cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: Training(name, options.length) for name in (*PRESETS, "hybrid-m2rnn-laptop")}
    times = [[model.step() for model in models.values()] for _ in range(options.cycles + 1)][1:]
    least = dict(zip(models, map(min, zip(*times, strict=True)), strict=True))
    print("| preset | parameters | ms per step | tokens/s | of the hybrid's |\n|---|---:|---:|---:|---:|")
    for name, model in models.items():
        whole = least.get(name[: name.index("-laptop")] + "-laptop", least[name])
        rate = BATCH * options.length / least[name]
        share = f"{whole / least[name]:.0%}"
        print(f"| {name} | {model.parameters:,} | {least[name] * 1e3:.0f} | {rate:,.0f} | {share} |")


if __name__ == "__main__":
    main()
