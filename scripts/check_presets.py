"""Certifies every preset and prints docs/check.md: `python scripts/check_presets.py > docs/check.md`.

What `matrixstate check` does for one config. Every preset has its own widths, heads and state sizes; to keep it to
minutes, a vocabulary of 65 and one block of each kind it is made of, once.
"""

import dataclasses
import sys
from collections.abc import Sequence

import torch

from matrixstate.evaluation.equivalence import Row, certify, example_model
from matrixstate.models import PRESETS, ModelConfig

TOKENS = 24


def main() -> int:
    torch.set_num_threads(1)
    print("# Every way to compute every preset\n")
    print(
        "Errors from the definition in float64, in roundings of float32; in brackets those of plain PyTorch. Shown is"
    )
    print("each preset's worst way: `matrixstate check` prints all. Made by `python scripts/check_presets.py`.\n")
    print("| preset | blocks | ways | outputs | states | gradients | |\n|---|---|---:|---:|---:|---:|---|")
    failed = False
    for name, make in PRESETS.items():
        config = one_of_each(make())
        model = example_model(config)
        tokens = torch.randint(65, (2, TOKENS))
        print(name, file=sys.stderr)
        torch.compiler.reset()  # which counts the recompilations of one piece of code, whatever model it belongs to
        rows = certify(model, tokens)
        failed |= not all(row.passes for row in rows)
        kinds = ", ".join(type(b.mixer).__name__.removesuffix("Config") if b.mixer else "MLP" for b in config.blocks)
        print(f"| {name} | {kinds} | {len(rows)} | {' | '.join(worst(rows))} | {verdict(rows)} |", flush=True)
    return int(failed)


def one_of_each(config: ModelConfig) -> ModelConfig:
    kinds = {dataclasses.replace(block, repeat=1): None for block in config.blocks}
    return dataclasses.replace(config, blocks=tuple(kinds), vocabulary=65)


def worst(rows: Sequence[Row]) -> list[str]:
    errors = ((getattr(row, kind) for row in rows) for kind in ("outputs", "states", "gradients"))
    most = (max(column, key=lambda error: error.got) for column in errors)
    return [f"{error.got:.1f} ({error.plain:.1f})" for error in most]


def verdict(rows: Sequence[Row]) -> str:
    differ = [row.way for row in rows if not row.passes]
    return "all agree" if not differ else "**differ**: " + ", ".join(differ)


if __name__ == "__main__":
    sys.exit(main())
