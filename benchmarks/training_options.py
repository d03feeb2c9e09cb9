"""What recomputation and compilation cost and save: `python benchmarks/training_options.py [--table FILE]`.

Steps of the models of configs/shakespeare on random tokens, in float32 with one thread: forward, backward, clipping,
AdamW. The variants take turns; CPU time, fastest step. Memory is that of the activations, as `train --dry-run` counts
it. Compilation starts with an empty cache. --table puts both tables between their marks in a Markdown file.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
from tables import made_with, markdown, write_section
from timing import ROOT
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from matrixstate.models import LanguageModel
from matrixstate.training import TextRunConfig, load_config
from matrixstate.training.compilation import compile_blocks, compiling
from matrixstate.training.optimizer import make_optimizer
from matrixstate.training.plan import BYTES_PER_PARAMETER, make_plan

CONFIGS = ("mru", "m2rnn", "attention", "conv", "gla", "mamba2")
VARIANTS = {"none": [], "blocks": ["training.recompute=blocks"], "compiled": ["training.compile=true"]}
VOCABULARY = 65


class Training:
    """Steps of a model with some options."""

    def __init__(self, config: TextRunConfig) -> None:
        torch.manual_seed(0)
        settings = config.training
        self.model, self.clip = LanguageModel(config.model), settings.clip
        self.model.recompute = settings.recompute == "blocks"
        if settings.compile:
            compile_blocks(self.model, dynamic=False)
        self.optimizer = make_optimizer(self.model, settings)
        self.tokens = torch.randint(VOCABULARY, (settings.batch, settings.sequence + 1))

    def step(self) -> float:
        """The CPU seconds of one step."""
        began = time.process_time()
        logits, _ = self.model(self.tokens[:, :-1])
        cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten()).backward()
        clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - began


def load(name: str, options: list[str]) -> TextRunConfig:
    fixed = [f"model.vocabulary={VOCABULARY}", "training.precision=float32"]
    config = load_config(ROOT / "configs" / "shakespeare" / f"{name}.yaml", [*fixed, *options])
    assert isinstance(config, TextRunConfig)
    return config


def measure(name: str, rounds: int) -> tuple[list[str], list[str]]:
    """The rows of a config in the tables of recomputation and of compilation."""
    configs = {variant: load(name, options) for variant, options in VARIANTS.items()}
    kept, less = (_activations(configs[variant]) for variant in ("none", "blocks"))
    with compiling(blocks=len(configs["none"].model.layers)):
        trainings = {variant: Training(config) for variant, config in configs.items()}
        began = time.perf_counter()
        trainings["compiled"].step()
        first = time.perf_counter() - began
        times = [{variant: training.step() for variant, training in trainings.items()} for _ in range(rounds)]
    best = {variant: min(turn[variant] for turn in times) for variant in trainings}
    memory = [f"{kept / 1e6:.1f} MB", f"{less / 1e6:.1f} MB", f"{kept / less:.1f}x less"]
    plain, ms = best["none"], (lambda seconds: f"{1e3 * seconds:.1f} ms")
    recomputed = [name, *memory, f"{best['blocks'] / plain:.2f}x"]
    return recomputed, [name, ms(plain), ms(best["compiled"]), f"{first:.0f} s"]


def _activations(config: TextRunConfig) -> int:
    """The bytes of a step besides weights, gradients and the optimizer's state."""
    plan = make_plan(config)
    return plan.memory_bytes - plan.counts.parameters * BYTES_PER_PARAMETER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
        found = [measure(name, options.rounds) for name in CONFIGS]
    recomputed, compiled = (list(rows) for rows in zip(*found, strict=True))
    tables = {
        "recompute": markdown(["config", "`none`", "`blocks`", "", "time of a step"], recomputed),
        "compile": markdown(["config", "uncompiled", "compiled", "first step"], compiled),
    }
    for name, lines in tables.items():
        print("\n".join(lines), "\n")
        if options.table is not None:
            write_section(options.table, name, [*lines, "", made_with("python benchmarks/training_options.py")])


if __name__ == "__main__":
    main()
