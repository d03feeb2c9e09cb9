"""The demo: five small models trained alike on Shakespeare, two with matrix states, attention, and two controls."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from matrixstate.data import DataConfig, load_tokenizer, opening
from matrixstate.devices import CPU
from matrixstate.errors import ConfigError
from matrixstate.models import Sampling, count, generate, preset
from matrixstate.training import Outcome, Reporter, Run, TextRunConfig, TextTrainingConfig, load_model, start, train
from matrixstate.training.stopping import Stopped

DEMO = {
    "mru": "MRU",
    "m2rnn": "M²RNN",
    "attention": "attention (GPT-2)",
    "conv": "control: gated short convolution only",
    "mlp": "control: MLP only",
}
"""Preset -> label in tables and figures, in the order of training."""

STEPS = 500
PROMPT = "KING:\n"


@dataclass(frozen=True)
class Entry:
    """One trained model and its results."""

    name: str
    run: Run
    outcome: Outcome
    parameters: int
    state_bytes: int  # per sequence of the training length
    sample: str


def demo_data(files: Sequence[Path] = ()) -> DataConfig:
    """Shakespeare's plays, or the given text files, by characters."""
    return DataConfig(source="shakespeare", files=tuple(os.path.abspath(file) for file in files), validation=0.02)


def demo_config(name: str, data: DataConfig, steps: int = STEPS, seed: int = 0) -> TextRunConfig:
    """The run of one of the models in `DEMO`: 4 blocks of width 128, about 804,000 parameters."""
    return TextRunConfig(
        name=f"demo-{name}",
        model=preset(f"shakespeare-{name}-small"),
        data=data,
        training=TextTrainingConfig(
            steps=steps,
            precision="auto",
            learning_rate=2e-3,
            warmup=min(50, steps // 4),
            evaluate_every=max(1, steps // 5),
            evaluate_tokens=6_000,
            checkpoint_every=steps,
            keep=1,
        ),
        seed=seed,
    )


def train_entry(
    name: str, directory: Path, config: TextRunConfig, reporters: Sequence[Reporter], device: torch.device = CPU
) -> Entry:
    """Trains one model in `directory`. Raises Stopped if a signal stopped it."""
    run = start(directory, config, device)
    outcome = train(run, reporters, device=device)
    if outcome.stopped:
        raise Stopped(outcome.stopped)
    counts = count(run.config.model, run.config.training.sequence)
    return Entry(name, run, outcome, counts.parameters, counts.state_bytes, _sample(run, device))


def _sample(run: Run, device: torch.device, characters: int = 200) -> str:
    tokenizer = load_tokenizer(run.data)
    prompt = opening(tokenizer, PROMPT)
    drawn = generate(load_model(run, device=device), [tokenizer.encode(prompt)], characters, Sampling(temperature=0.8))
    text = prompt + tokenizer.decode([int(token) for token in torch.cat(list(drawn))])
    (run.directory / "sample.txt").write_text(text, encoding="utf-8")
    return text


def check_matched(configs: Sequence[TextRunConfig], vocabulary: int, tolerance: float = 0.02) -> None:
    """Raises ConfigError unless every model's parameters are within `tolerance` of the mean of all."""
    models = [dataclasses.replace(config.model, vocabulary=vocabulary) for config in configs]
    counts = [count(model, 1).parameters for model in models]
    mean = sum(counts) / len(counts)
    if any(abs(n - mean) > tolerance * mean for n in counts):
        found = ", ".join(f"{config.name} {n:,}" for config, n in zip(configs, counts, strict=True))
        raise ConfigError(f"demo: expected equal parameters within {tolerance:.0%}, got {found}")
