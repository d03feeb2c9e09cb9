"""States of a generation on disk, as safetensors with a hash of the model's weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrixstate.errors import CheckpointError
from matrixstate.layers import map_state
from matrixstate.models.lm import LanguageModel, ModelState

FORMAT = "matrixstate state 1"


@dataclass(frozen=True)
class SavedState:
    """Everything that a generation of one or several texts is resumed from."""

    state: ModelState
    """The model's state after every token but the pending ones."""
    pending: list[list[int]]
    """Per row, the tokens of the prompt or drawn that the model has not read yet; at least one."""
    random: list[Tensor]
    """Per row, the state of its random generator, as `torch.Generator.get_state` returns it."""
    past: list[list[int]]
    """Per row, the last tokens read, at most as many as the model has learned positions; empty without those."""


def save_state(path: Path, saved: SavedState, model_hash: str) -> None:
    """Write `saved` to `path`, for the model whose weights have the SHA-256 `model_hash`.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"state/{name}": leaf.detach().cpu().contiguous() for name, leaf in _named(saved.state)}
    tensors |= {f"pending/{b}": torch.tensor(row) for b, row in enumerate(saved.pending)}
    tensors |= {f"random/{b}": random for b, random in enumerate(saved.random)}
    tensors |= {f"past/{b}": torch.tensor(row, dtype=torch.int64) for b, row in enumerate(saved.past)}
    try:
        save_file(tensors, path, metadata={"format": FORMAT, "model": model_hash})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"state: cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def load_state(path: Path, model: LanguageModel, model_hash: str) -> SavedState:
    """Read what `save_state` wrote, with the state on the model's device.

    Raises:
        CheckpointError: the file is missing, damaged, or of a model with another hash.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise CheckpointError(f"state: cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"state: {path} is damaged: {error}") from error
    if about.get("format") != FORMAT:
        raise CheckpointError(f"state: {path} must hold a {FORMAT}, got {about.get('format')}")
    if about.get("model") != model_hash:
        raise CheckpointError(f"state: {path} belongs to the model {about.get('model')}, got the model {model_hash}")
    # the model's initial state has the names, shapes and dtypes that the file must hold
    rows = sum(name.startswith("pending/") for name in tensors)
    expected = dict(_named(model.init_state(rows)))
    found = {name.removeprefix("state/"): leaf for name, leaf in tensors.items() if name.startswith("state/")}
    if found.keys() != expected.keys() or any(not _fits(found[name], leaf) for name, leaf in expected.items()):
        raise CheckpointError(f"state: {path} is damaged: its tensors are not those of the model's state")
    values = iter(found[name].to(leaf.device) for name, leaf in expected.items())
    state = map_state(lambda _: next(values), model.init_state(rows))
    try:
        pending = [tensors[f"pending/{b}"].tolist() for b in range(rows)]
        past = [tensors[f"past/{b}"].tolist() for b in range(rows)]
        random = [tensors[f"random/{b}"] for b in range(rows)]
        for one in random:
            torch.Generator().set_state(one)  # raises for anything but the state of a generator
    except KeyError as error:
        raise CheckpointError(f"state: {path} is damaged: {error} is missing") from error
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"state: {path} is damaged: random holds no state of a generator") from error
    for b, tokens in enumerate(pending):
        if not isinstance(tokens, list) or not tokens:
            raise CheckpointError(f"state: {path} is damaged: pending/{b} must hold at least one token")
    return SavedState(state, pending, random, past)


def fork(saved: SavedState, rows: int) -> SavedState:
    """Repeat the state of one text for `rows` texts, which are drawn independently from there.

    The first row draws the tokens that it would have drawn alone; the seeds of the others come from its generator. A
    state of `rows` texts is returned as it is.

    Raises:
        CheckpointError: a state of several texts and another number of rows.
    """
    if len(saved.pending) == rows:
        return saved
    if len(saved.pending) != 1:
        raise CheckpointError(f"state: expected {len(saved.pending)} prompts, one for each of its texts, got {rows}")
    state = map_state(lambda leaf: leaf.expand(rows, *leaf.shape[1:]), saved.state)
    own = torch.Generator()
    own.set_state(saved.random[0])
    seed = int(torch.randint(2**62, (), generator=own))
    random = [torch.Generator().manual_seed(seed + row).get_state() for row in range(1, rows)]
    return SavedState(state, saved.pending * rows, [*saved.random, *random], saved.past * rows)


def _named(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a state with its dotted name, in the order of `map_state`."""
    if isinstance(state, Tensor):
        yield name, state
    elif state is not None:
        keys = getattr(state, "_fields", range(len(state)))
        for key, part in zip(keys, state, strict=True):
            yield from _named(part, f"{name}.{key}" if name else str(key))


def _fits(found: Tensor, expected: Tensor) -> bool:
    """Whether shape and dtype are equal, except for an axis 1 that starts empty: the steps of an attention cache."""
    sizes = zip(found.shape, expected.shape, range(found.ndim), strict=False)
    same = all(a == b or (axis == 1 and b == 0) for a, b, axis in sizes)
    return same and found.ndim == expected.ndim and found.dtype == expected.dtype
