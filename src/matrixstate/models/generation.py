"""Text, one token after another, in memory that does not grow where the model's state does not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matrixstate.errors import DataError, require
from matrixstate.models.lm import LanguageModel, ModelState

PREFILL = 1024  # tokens of the prompt read at a time, so that a long prompt needs no more memory than a short one


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Draw from the k likeliest only."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probabilities reach p."""

    def __post_init__(self) -> None:
        require(
            (self.temperature >= 0, f"temperature: expected 0 or more, got {self.temperature}"),
            (self.top_k is None or self.top_k > 0, f"top_k: expected at least 1, got {self.top_k}"),
            (self.top_p is None or 0 < self.top_p <= 1, f"top_p: expected a number in (0, 1], got {self.top_p}"),
        )


def sample(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """Tokens [B] drawn from logits [B, vocabulary], row b with generators[b]."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    scaled = logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scaled.shape[-1]:
        smallest = scaled.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest, float("-inf"))
    if sampling.top_p is not None:
        ranked, order = scaled.sort(dim=-1, descending=True)
        probability = ranked.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        scaled = scaled.masked_fill(dropped, float("-inf"))
    rows = scaled.softmax(dim=-1)
    draws = [torch.multinomial(row, 1, generator=g) for row, g in zip(rows, generators, strict=True)]
    return torch.cat(draws)


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Continues every prompt by `tokens` tokens; yields the next token of all rows, [B] int64, as soon as it is drawn.

    Row b draws with a generator seeded by seed + b, so its text does not depend on the other rows. The model is put
    in evaluation mode. A model with learned positions reads the last half of them again whenever it runs out.

    Raises:
        DataError: no prompt, or an empty one.
    """
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise DataError("generate: prompts must hold at least one token each, got an empty one")
    sampling = sampling or Sampling()
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    return _generate(model.eval(), [list(prompt) for prompt in prompts], tokens, sampling, generators)


@torch.no_grad()
def _generate(
    model: LanguageModel,
    history: list[list[int]],
    tokens: int,
    sampling: Sampling,
    generators: list[torch.Generator],
) -> Iterator[Tensor]:
    limit = model.max_positions
    logits, state = _read(model, history, limit)
    for step in range(tokens):
        drawn = sample(logits, sampling, generators)
        yield drawn
        if step == tokens - 1:
            return
        if limit is not None:
            for row, token in zip(history, drawn.tolist(), strict=True):
                row.append(token)
            if int(state.position.max()) >= limit:
                logits, state = _read(model, [row[-max(1, limit // 2) :] for row in history], limit)
                continue
        step_logits, state = model(drawn[:, None], state)
        logits = step_logits[:, -1]


def _read(model: LanguageModel, prompts: list[list[int]], limit: int | None) -> tuple[Tensor, ModelState]:
    """The logits after every prompt [B, vocabulary] and the state; shorter prompts are padded on the left."""
    prompts = prompts if limit is None else [prompt[-limit:] for prompt in prompts]
    longest = max(map(len, prompts))
    device = model.embedding.weight.device
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    mask = torch.arange(longest, device=device) >= longest - lengths[:, None]
    state, features = None, None
    for begin in range(0, longest, PREFILL):
        piece = slice(begin, begin + PREFILL)
        real = None if bool(mask[:, piece].all()) else mask[:, piece]
        features, state = model.features(tokens[:, piece], state, mask=real)
    assert features is not None
    assert state is not None
    return model.head(features[:, -1]), state
