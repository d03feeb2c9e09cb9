"""Certifies every preset and config and prints docs/check.md: `python scripts/check_presets.py > docs/check.md`.

Does what `matrixstate check` does for one config, with the widths, heads and state sizes of each model. To take minutes
only, models are reduced to a vocabulary of 65, one block of each kind, not repeated, and at most 16 experts.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from matrixstate.evaluation.equivalence import Row, certify, example_model
from matrixstate.layers import MLPConfig, MoEConfig
from matrixstate.models import PRESETS, ModelConfig, count
from matrixstate.training import load_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TOKENS = 24
LARGEST = 100_000_000  # parameters of one of each block: in float64, and in many ways, more take too long


def main() -> int:
    torch.set_num_threads(1)
    print("# Every way to compute every preset and config\n")
    print(
        "Errors from the definition in float64, in roundings of float32; in brackets those of plain PyTorch. Shown is"
    )
    print("each model's worst way: `matrixstate check` prints all. Made by `python scripts/check_presets.py`.\n")
    print("| preset or config | blocks | ways | outputs | states | gradients | |\n|---|---|---:|---:|---:|---:|---|")
    failed = False
    for name, model_config in models():
        config = one_of_each(model_config)
        kinds = ", ".join(type(b.mixer).__name__.removesuffix("Config") if b.mixer else "MLP" for b in config.blocks)
        if (parameters := count(config, TOKENS).parameters) > LARGEST:
            print(f"| {name} | {kinds} | | | | | not run: {parameters / 1e6:,.0f} million parameters |", flush=True)
            continue
        model = example_model(config)
        tokens = torch.randint(65, (2, TOKENS))
        print(name, file=sys.stderr)
        torch.compiler.reset()  # the limit on recompilations counts those of all models together
        rows = certify(model, tokens)
        failed |= not all(row.passes for row in rows)
        print(f"| {name} | {kinds} | {len(rows)} | {' | '.join(worst(rows))} | {verdict(rows)} |", flush=True)
    return int(failed)


def models() -> Iterator[tuple[str, ModelConfig]]:
    """The names and configs of all presets and of the models in configs/."""
    yield from ((name, make()) for name, make in PRESETS.items())
    for path in sorted(CONFIGS.glob("shakespeare/*.yaml")):
        yield str(path.relative_to(CONFIGS.parent)), load_config(path).model
    for path in sorted(CONFIGS.glob("tasks/*.yaml")):
        yield str(path.relative_to(CONFIGS.parent)), load_config(path).final_model()


def one_of_each(config: ModelConfig) -> ModelConfig:
    """The config with every distinct block once."""
    kinds = {dataclasses.replace(block, repeat=1, mlp=fewer_experts(block.mlp)): None for block in config.blocks}
    return dataclasses.replace(config, blocks=tuple(kinds), vocabulary=65)


def fewer_experts(mlp: MLPConfig | None) -> MLPConfig | None:
    return dataclasses.replace(mlp, experts=min(mlp.experts, 16)) if isinstance(mlp, MoEConfig) else mlp


def worst(rows: Sequence[Row]) -> list[str]:
    """The largest error of outputs, states and gradients over all ways."""
    errors = (filter(None, (getattr(row, kind) for row in rows)) for kind in ("outputs", "states", "gradients"))
    most = (max(column, key=lambda error: error.got) for column in errors)
    return [f"{error.got:.1f} ({error.plain:.1f})" for error in most]


def verdict(rows: Sequence[Row]) -> str:
    differ = [row.way for row in rows if not row.passes]
    return "all agree" if not differ else "**differ**: " + ", ".join(differ)


if __name__ == "__main__":
    sys.exit(main())
