"""`matrixstate check`."""

import dataclasses
from pathlib import Path

import torch
from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.output import Status, print_json, print_table
from matrixstate.cli.train import set_threads
from matrixstate.data import open_corpus
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError, DataError
from matrixstate.evaluation.equivalence import Error, Row, certify, example_model
from matrixstate.evaluation.tracking import HELD_OUT
from matrixstate.models import LanguageModel
from matrixstate.training import Run, TaskRunConfig, load_config, load_model

VOCABULARY = 65  # of configs that leave it to the tokenizer; the result does not depend on it


def check(
    target: Positional[Path],
    *,
    set: UseAppendAction[tuple[str, ...]] = (),
    tokens: int = 24,
    compile: bool = True,
    device: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Certify that every way to compute a model gives the same outputs, states and gradients.

    Backends, orders of the scan, and computation step by step, in parts, with padding on either side, with packed
    documents and compiled are compared with the definition in float64. A way passes if its error is at most twice that
    of plain PyTorch in float32. Errors are in roundings of float32. The exit status is 1 if any way fails.

    Args:
        target: A run's directory (its weights, its validation text), or a config file (weights drawn at random).
        set: With a config: an option of it, as in model=shakespeare-mru.
        tokens: Tokens per sequence, at least 8.
        compile: Whether to include torch.compile, which takes longest; --no-compile leaves it out.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        json: Print one JSON object.
    """
    place = find_device(device)
    set_threads(threads)
    if tokens < 8:
        raise ConfigError(f"--tokens: expected at least 8, got {tokens}")
    if target.is_dir() and set:
        raise ConfigError(f"--set: expected only with a config file, got the run {target}")
    model, batch = _from_run(target, tokens) if target.is_dir() else _from_config(target, set, tokens)
    model, batch = model.to(place), batch.to(place)
    if model.max_positions is not None and tokens > model.max_positions:
        raise ConfigError(f"--tokens: expected at most {model.max_positions}, the learned positions, got {tokens}")
    with Status() as status:
        rows = certify(model, batch, compiled=compile, progress=status.show)
    failed = [row.way for row in rows if not row.passes]
    if json:
        print_json({"passes": not failed, "rows": [{**dataclasses.asdict(row), "passes": row.passes} for row in rows]})
    else:
        print_table(
            ("way", "outputs", "states", "gradients", ""),
            [(row.way, *map(_shown, (row.outputs, row.states, row.gradients)), _verdict(row)) for row in rows],
            title="largest error in roundings of float32 (in brackets: plain PyTorch's)",
        )
        print(f"{target}: {'all ways agree' if not failed else 'these ways differ: ' + ', '.join(failed)}")
    return 1 if failed else 0


def _shown(error: Error | None) -> str:
    return "none" if error is None else f"{error.got:.1f} ({error.plain:.1f})"


def _verdict(row: Row) -> str:
    return "passes" if row.passes else "FAILS"


def _from_run(directory: Path, tokens: int) -> tuple[LanguageModel, torch.Tensor]:
    run = Run.open(directory)
    if isinstance(run.config, TaskRunConfig):
        return load_model(run), run.config.data.at(0, HELD_OUT, 2, tokens)[0]
    text = open_corpus(run.data).validation
    if len(text) < 2 * tokens:
        raise DataError(f"check: expected at least {2 * tokens} tokens of validation text, got {len(text)}")
    return load_model(run), torch.tensor(text[: 2 * tokens].tolist()).view(2, tokens)


def _from_config(path: Path, set: tuple[str, ...], tokens: int) -> tuple[LanguageModel, torch.Tensor]:
    config = load_config(path, set).final_model()
    config = dataclasses.replace(config, vocabulary=config.vocabulary or VOCABULARY)
    model = example_model(config)
    return model, torch.randint(model.embedding.num_embeddings, (2, tokens))
