"""Starts a run: checks that config, data and machine fit together, then writes the run's directory."""

import dataclasses
import os
from pathlib import Path

import torch

from matrixstate.data import RandomWindows, TokenizedText, open_corpus, tokenize
from matrixstate.data.corpus import Tokens
from matrixstate.devices import CPU
from matrixstate.errors import ConfigError
from matrixstate.models import ModelConfig, count
from matrixstate.training.config import RunConfig
from matrixstate.training.fit import expect_fit
from matrixstate.training.plan import BYTES_PER_PARAMETER
from matrixstate.training.run import Run
from matrixstate.training.runtime import resolve_precision
from matrixstate.training.settings import expect_settings
from matrixstate.training.task_config import TaskRunConfig
from matrixstate.training.text_config import TextRunConfig


def start(directory: Path, config: RunConfig, device: torch.device = CPU) -> Run:
    """Creates the run that `train` trains; a text is tokenized into it.

    Args:
        directory: must be new or empty.
        config: what to train. The run's config has the precision and the vocabulary filled in if they were left open.
        device: where it will be trained, for the run's environment and the precision "auto".

    Raises:
        ConfigError, DataError: data, model, training, device and memory do not fit together; nothing is written.
    """
    expect_settings(config, device)
    config = resolve_precision(config, device)
    if isinstance(config, TaskRunConfig):
        expect_task_fit(config)
        _expect_memory(config.final_model(), config.training.length)
        return Run.create(directory, config, device=device)
    assert isinstance(config, TextRunConfig)
    text = tokenize(config.data)
    config = with_vocabulary(config, text)
    _expect_memory(config.model, config.training.sequence)
    return Run.create(directory, config, text.write, device)


def with_vocabulary(config: TextRunConfig, text: TokenizedText) -> TextRunConfig:
    """The config with the tokenizer's vocabulary, unless the model names a larger one.

    Raises:
        ConfigError, DataError: text, tokenizer, model and training do not fit together.
    """
    size, wanted = text.tokenizer.size, config.model.vocabulary
    if wanted is not None and size > wanted:
        raise ConfigError(f"model.vocabulary: expected at least {size}, the tokenizer's, got {wanted}")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocabulary=wanted or size))
    _expect_text_fit(config, text.parts["train"])
    return config


def expect_trainable(run: Run, config: RunConfig) -> None:
    """Raises ConfigError or DataError unless a changed config can be trained on the data of an existing run."""
    if isinstance(config, TaskRunConfig):
        expect_task_fit(config)
    else:
        assert isinstance(config, TextRunConfig)
        _expect_text_fit(config, open_corpus(run.data).train)


def _expect_text_fit(config: TextRunConfig, tokens: Tokens) -> None:
    training = config.training
    RandomWindows(tokens, training.sequence, training.batch, config.seed)  # raises if the text is too short
    expect_fit(config.model, training.rates, {"training.sequence": training.sequence})


def expect_task_fit(config: TaskRunConfig) -> None:
    """Raises ConfigError if the model lacks parameters or positions that the training refers to."""
    lengths = {"training.length": config.training.length, "evaluate_length": config.evaluate_length}
    expect_fit(config.final_model(), config.training.rates, lengths)


def _expect_memory(model: ModelConfig, length: int) -> None:
    """Raises ConfigError if weights, gradients and optimizer exceed this machine's memory; allocates nothing."""
    needed = count(model, length).parameters * BYTES_PER_PARAMETER
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ConfigError(
            f"model: expected at most this machine's {memory / 1e9:.0f} GB for weights and optimizer, "
            f"got a model that needs {needed / 1e9:,.0f} GB"
        )
