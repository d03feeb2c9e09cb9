"""The loss of a model on a text: nats per token, bits per byte, and by position in the window."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from matrixstate.data.corpus import Tokens
from matrixstate.errors import ConfigError, DataError
from matrixstate.layers.mixer import map_state
from matrixstate.models import LanguageModel


@dataclass(frozen=True)
class PositionLoss:
    """The mean loss of the tokens at positions `first` <= position < `end` of their window."""

    first: int
    end: int
    tokens: int
    nats_per_token: float


@dataclass(frozen=True)
class TextLoss:
    """The loss on a whole text. Every token counts; the first, which has no context, counts as log(vocabulary)."""

    tokens: int
    bytes: int
    """Of the text in UTF-8."""
    characters: int
    nats: float
    """The sum of the losses of all tokens."""
    window: int
    """Tokens per window."""
    carry: bool
    """Whether the state was carried from window to window."""
    by_position: tuple[PositionLoss, ...]
    """Mean losses at the positions 0, 1, 2-3, 4-7, 8-15, ... of the window."""
    standard_error: float | None
    """Standard error of `nats_per_token`, from the variance between full windows. None for fewer than two full windows,
    and where the state is carried, which makes windows dependent."""

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    @property
    def bits_per_character(self) -> float:
        return self.nats / math.log(2) / self.characters


@torch.no_grad()
def text_loss(
    model: LanguageModel,
    tokens: Tokens,
    text: str,
    *,
    window: int,
    carry: bool = False,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> TextLoss:
    """The loss of a model on a text, in consecutive windows of which the last may be shorter.

    Args:
        model: on any device; put in evaluation mode.
        tokens: the whole text, at least one token.
        text: the text itself, whose bytes and characters are counted.
        window: predicted tokens per window. Every window starts from the initial state and the token before it.
        carry: carry the state from window to window, so that the whole text is one sequence.
        batch: windows per forward pass; does not change the result. 1 with `carry`.
        progress: called with (tokens done, tokens in all).

    Raises:
        DataError: no tokens.
        ConfigError: a window below 1, or windows or a carried state that exceed the model's learned positions.
    """
    if not len(tokens):
        raise DataError("evaluate: expected at least one token, got an empty text")
    limit = model.max_positions
    if window < 1 or (limit is not None and (window > limit or carry)):
        most = "" if limit is None else f" to {limit}, the learned positions, and no carried state"
        raise ConfigError(f"evaluate: window must be 1 or more{most}, got {window}{' with carry' if carry else ''}")
    model.eval()
    positions = len(tokens) - 1 if carry else min(window, len(tokens) - 1)
    sums = torch.zeros(max(positions, 1), dtype=torch.float64)
    counts = torch.zeros_like(sums, dtype=torch.int64)
    means: list[Tensor] = []  # the mean loss of each full window
    state = None
    starts = list(range(0, len(tokens) - 1, window))
    groups = [[s] for s in starts] if carry else _groups(starts, len(tokens), window, batch)
    for group in groups:
        inputs, targets = _windows(tokens, group, window, model.device)
        logits, after = model(inputs, state)
        losses = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        losses = losses.view_as(targets).cpu().double()
        if losses.shape[1] == window and not carry:
            means.append(losses.mean(dim=1))
        losses = losses.sum(dim=0)
        first = group[0] if carry else 0
        sums[first : first + len(losses)] += losses
        counts[first : first + len(losses)] += len(group)
        state = map_state(Tensor.detach, after) if carry else None
        if progress is not None:
            progress(min(group[-1] + window, len(tokens) - 1), len(tokens) - 1)
    nats = float(sums.sum()) + math.log(model.embedding.num_embeddings)
    size = len(text.encode("utf-8"))
    return TextLoss(
        len(tokens), size, len(text), nats, window, carry, _by_position(sums, counts), _standard_error(means)
    )


def _standard_error(means: list[Tensor]) -> float | None:
    all_means = torch.cat(means) if means else torch.zeros(0)
    return float(all_means.std() / math.sqrt(len(all_means))) if len(all_means) > 1 else None


def _groups(starts: list[int], length: int, window: int, batch: int) -> list[list[int]]:
    """The starts of the windows of each forward pass: full windows by `batch`, a shorter last one by itself."""
    full = [s for s in starts if s + window <= length - 1]
    groups = [full[i : i + batch] for i in range(0, len(full), batch)]
    return groups + [[s] for s in starts[len(full) :]]


def _windows(tokens: Tokens, starts: list[int], window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets [B, window] int64 of the windows that begin at `starts`."""
    rows = np.stack([tokens[s : s + window + 1] for s in starts]).astype(np.int64)
    both = torch.from_numpy(rows).to(device)
    return both[:, :-1], both[:, 1:]


def _by_position(sums: Tensor, counts: Tensor) -> tuple[PositionLoss, ...]:
    """Mean losses of ranges of positions that double, from sums and counts per position."""
    out, first, end = [], 0, 1
    while first < len(sums) and int(counts.sum()):
        n = int(counts[first:end].sum())
        if n:
            out.append(PositionLoss(first, min(end, len(sums)), n, float(sums[first:end].sum()) / n))
        first, end = end, 2 * end
    return tuple(out)
