"""Runs from Python: train or load a model, then generate and evaluate with it."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from matrixstate.api.display import Figure, as_html, as_table
from matrixstate.cli.output import TrainingProgress
from matrixstate.cli.places import unused
from matrixstate.comparison import draw_curves
from matrixstate.configs import encode, load_yaml, override
from matrixstate.data import Tokenizer, load_tokenizer, open_corpus
from matrixstate.data.corpus import to_array
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError, MissingExtra
from matrixstate.evaluation import TextLoss, text_loss
from matrixstate.evaluation.tracking import Tracking, track
from matrixstate.models import LanguageModel, Sampling, generate
from matrixstate.plugins import load_plugins
from matrixstate.training import (
    CHOICES,
    Run,
    RunConfig,
    TaskRunConfig,
    TextRunConfig,
    TextTrainingConfig,
    decode_config,
    load_model,
    start,
)
from matrixstate.training import train as train_run
from matrixstate.training.checkpoint import list_checkpoints
from matrixstate.training.task_config import measured_lengths

Paths = str | Path | Iterable[str | Path]
Text = TypeVar("Text", str, list[str])


@dataclass(frozen=True, repr=False)
class TrainedModel:
    """A run and its model, as returned by `load` and `train`."""

    run: Run
    model: LanguageModel
    """In evaluation mode."""
    tokenizer: Tokenizer | None
    """Of the text that it was trained on; None for a run on a task."""

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return self.run.directory

    @property
    def config(self) -> RunConfig:
        """The run's config."""
        return self.run.config

    @property
    def numbers(self) -> dict[str, Any]:
        """The run's status, last step and results, as in status.json, and the model's number of parameters."""
        status = json.loads((self.directory / "status.json").read_text(encoding="utf-8"))
        return {**status, "parameters": sum(p.numel() for p in self.model.parameters())}

    @property
    def metrics(self) -> Any:
        """The log of the training, one row per step: a `pandas.DataFrame`, or without pandas a list of dicts."""
        rows: dict[int, dict[str, Any]] = {}
        for line in self.run.metrics():
            row = rows.setdefault(line["step"], {})
            row |= {key: value for key, value in line.items() if not isinstance(value, list | dict)}  # no states
        return as_table(list(rows.values()))

    def generate(
        self,
        prompt: Text,
        tokens: int = 300,
        *,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Text:
        """Continues a text, or several at once.

        Args:
            prompt: the beginning of the text, or a list of them.
            tokens: how many tokens to sample for each prompt.
            temperature: divides the logits; 0 always takes the likeliest token.
            top_k: sample from the k likeliest tokens only.
            top_p: sample from the fewest tokens whose probabilities add up to p.
            seed: the i-th prompt is sampled with seed + i, whatever the others are.

        Returns:
            The prompt with its continuation; a list for a list.

        Raises:
            DataError: a prompt with characters that the tokenizer does not know, or an empty one.
            ConfigError: an option out of range, or a run on a task.
        """
        tokenizer, _ = self._text("generate")
        encoded = [tokenizer.encode(text) for text in ([prompt] if isinstance(prompt, str) else prompt)]
        sampling = Sampling(temperature, top_k, top_p, known=tokenizer.size)
        drawn = list(generate(self.model, encoded, tokens, sampling, seed))
        new = torch.stack(drawn, dim=1).tolist() if drawn else [[] for _ in encoded]
        texts = [tokenizer.decode([*row, *more]) for row, more in zip(encoded, new, strict=True)]
        return cast(Text, texts[0] if isinstance(prompt, str) else texts)

    def evaluate(self, text: str | None = None, *, window: int | None = None, carry: bool = False) -> TextLoss:
        """The loss over a text: nats per token, bits per byte, and by position.

        Args:
            text: Default: the run's validation text.
            window: tokens per window, each of which starts from the initial state. Default: the sequence length of
                training.
            carry: carry the state from window to window instead.

        Raises:
            ConfigError: a run on a task, which `track` measures.
        """
        tokenizer, training = self._text("evaluate")
        if text is None:
            tokens = open_corpus(self.run.data).validation
            text = tokenizer.decode(tokens.tolist())
        else:
            tokens = to_array(tokenizer.encode(text), tokenizer.size)
        return text_loss(self.model, tokens, text, window=window or training.sequence, carry=carry)

    def track(self, length: int | None = None, *, sequences: int = 64, seed: int = 0) -> Tracking:
        """How far the model of a run on a task tracks: its accuracy against the length of the sequences.

        Args:
            length: steps of the longest sequences. Default: the config's `evaluate_length`.
            sequences: how many sequences; the same ones for every model.
            seed: of the sequences.

        Raises:
            ConfigError: a run on a text.
        """
        config = self.config
        if not isinstance(config, TaskRunConfig):
            raise ConfigError(f"track: expected a run on a task, got one on a text: {self.directory}")
        lengths = measured_lengths(config.training.length, length or config.evaluate_length)
        return track(self.model, config.data, lengths, sequences=sequences, seed=seed)

    def _text(self, function: str) -> tuple[Tokenizer, TextTrainingConfig]:
        """Tokenizer and training options of a run on a text. Raises ConfigError for a run on a task."""
        if self.tokenizer is None or not isinstance(self.config, TextRunConfig):
            raise ConfigError(f"{function}: expected a run on a text, got one on a task: {self.directory}; use track()")
        return self.tokenizer, self.config.training

    def figure(self) -> Figure:
        """Plots the loss against the step into loss.png of the run. Raises MissingExtra without matplotlib."""
        path = self.directory / "loss.png"
        draw_curves({self.config.name: self.run}, path, self.config.name)
        return Figure(path)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{key} {_short(value)}" for key, value in self.numbers.items())
        return f"TrainedModel({self.directory}: {numbers})"

    def _repr_html_(self) -> str:
        html = as_html(str(self.directory), [self.numbers])
        try:
            return html + self.figure().as_html()
        except MissingExtra:
            return html


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def load(
    run: str | Path, checkpoint: str = "latest", *, device: str = "auto", plugins: Iterable[str | Path] = ()
) -> TrainedModel:
    """Loads the trained model of a run, and the tokenizer of a run on a text.

    Args:
        run: the run's directory.
        checkpoint: "latest", "best" (lowest validation loss), or the step of a checkpoint in the run.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        plugins: files or names of the plug-ins that the run uses; others are not imported.

    Raises:
        CheckpointError: the run is missing or damaged, has no such checkpoint, or needs a plug-in that is not named.
    """
    load_plugins(plugins)
    opened = Run.open(Path(run))
    tokenizer = load_tokenizer(opened.data) if isinstance(opened.config, TextRunConfig) else None
    return TrainedModel(opened, load_model(opened, checkpoint, find_device(device)), tokenizer)


def train(
    config: Mapping[str, Any] | RunConfig | str | Path,
    *,
    out: str | Path | None = None,
    text: Paths = (),
    set: Iterable[str] = (),
    device: str = "auto",
    plugins: Iterable[str | Path] = (),
    progress: bool = True,
) -> TrainedModel:
    """Trains a model as `matrixstate train` does.

    Args:
        config: the options of a run, as in a YAML file; the path of such a file; or the directory of a run to resume.
        out: a new directory for the run. Default: runs/NAME.
        text: files or folders of UTF-8 text to train on, instead of the config's.
        set: options that replace the config's, as in "training.steps=100".
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        plugins: files or names of the plug-ins that the config uses.
        progress: show a progress bar, in the notebook or on standard error.

    Returns:
        The trained model, with the run's results and metrics.

    Raises:
        ConfigError: mistakes in the config, all at once; or `out` is not empty.
        DataError: the text cannot be read.
        Diverged: a loss or gradient that is not finite.
        KeyboardInterrupt: on Ctrl-C, after the step in progress. The run is saved and can be resumed.
    """
    load_plugins(plugins)
    place = find_device(device)
    run, resume = _begin(config, out, as_paths(text), set, place)
    bar = TrainingProgress(run.config.name, run.config.training.steps) if progress else nullcontext()
    with bar as reporter:
        outcome = train_run(run, [] if reporter is None else [reporter], resume=resume, device=place)
    if outcome.stopped:
        raise KeyboardInterrupt(f"stopped after step {outcome.step}; resume with: train({str(run.directory)!r})")
    return load(run.directory, device=device)


def _begin(
    config: Mapping[str, Any] | RunConfig | str | Path,
    out: str | Path | None,
    text: list[Path],
    set: Iterable[str],
    device: torch.device,
) -> tuple[Run, bool]:
    """The run to train, and whether it is resumed from a checkpoint."""
    changes = [*set, *([f"data.files={[os.path.abspath(path) for path in text]!r}"] if text else [])]
    if isinstance(config, str | Path) and Path(config).is_dir():
        if out is not None or changes:
            raise ConfigError(f"train: expected no out, text or set with the run {config}, which is resumed as it is")
        run = Run.open(Path(config))
        return run, bool(list_checkpoints(run.checkpoints))
    if isinstance(config, str | Path):
        data = {"name": Path(config).stem, **load_yaml(Path(config))}
    else:
        data = {"name": "run", **(encode(config, CHOICES) if isinstance(config, RunConfig) else config)}
    wanted = decode_config(override(data, changes))
    return start(Path(out) if out else unused(Path("runs") / wanted.name), wanted, device), False


def as_paths(paths: Paths) -> list[Path]:
    """One path or several, as a list."""
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
