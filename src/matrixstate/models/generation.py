"""Generation of text token by token, with the memory of one state."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matrixstate.errors import ConfigError, DataError, Diverged, require
from matrixstate.layers.mixer import map_state
from matrixstate.models.captured import CapturedStep, can_be_captured
from matrixstate.models.lm import LanguageModel
from matrixstate.models.state_file import SavedState

PREFILL = 1024  # tokens of a prompt per forward pass, which bounds the memory of activations


@dataclass(frozen=True)
class Sampling:
    """Options of the distribution from which the next token is drawn."""

    temperature: float = 1.0
    """Divides the logits. 0 takes the most likely token (greedy decoding)."""
    top_k: int | None = None
    """Draw from the k most likely tokens only. Default: all."""
    top_p: float | None = None
    """Draw from the smallest set of tokens whose probabilities sum to at least p (nucleus sampling). Default: all."""
    known: int | None = None
    """Draw from the first `known` tokens only, for a model whose vocabulary is larger than its tokenizer's. Default:
    all."""

    def __post_init__(self) -> None:
        require(
            (self.temperature >= 0, f"temperature: expected 0 or more, got {self.temperature}"),
            (self.top_k is None or self.top_k > 0, f"top_k: expected at least 1, got {self.top_k}"),
            (self.top_p is None or 0 < self.top_p <= 1, f"top_p: expected a number in (0, 1], got {self.top_p}"),
        )


def sample(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one token per row.

    Args:
        logits: [B, vocabulary] floating point, on any device.
        sampling: the options.
        generators: B generators of the CPU, one per row.

    Returns:
        [B] int64 on the CPU. Sampling is on the CPU, so that a seed gives the same tokens on every device.

    Raises:
        Diverged: logits that are not finite.
        ConfigError: a temperature so small that the scaled logits are not finite.
    """
    logits = logits[:, : sampling.known].cpu()
    if not bool(logits.isfinite().all()):
        raise Diverged("generate: expected finite logits, got NaN or infinity: the model has diverged")
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    scaled = logits.float() / sampling.temperature
    if not bool(scaled.isfinite().all()):
        raise ConfigError(f"temperature: expected 0 or one that keeps logits finite, got {sampling.temperature}")
    if sampling.top_k is not None and sampling.top_k < scaled.shape[-1]:
        smallest = scaled.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest, float("-inf"))
    if sampling.top_p is not None:
        ranked, order = scaled.sort(dim=-1, descending=True)
        probability = ranked.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability  # of all likelier tokens; the likeliest is never dropped
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        scaled = scaled.masked_fill(dropped, float("-inf"))
    rows = scaled.softmax(dim=-1)
    draws = [torch.multinomial(row, 1, generator=g) for row, g in zip(rows, generators, strict=True)]
    return torch.cat(draws)


class Generation:
    """An iterator over the next tokens of all rows, [B] int64 on the CPU. It does not end.

    Every row has a random generator of its own, so its text does not depend on the other rows. A model with learned
    positions, when they are used up, starts again from the last half of its tokens. On a GPU the steps of a model whose
    state does not grow are one recorded graph (`CapturedStep`); the model must not be changed meanwhile.

    Args:
        model: on any device; put in evaluation mode.
        start: the state to continue from: that of `begin`, `load_state` or `saved`.
        sampling: how tokens are drawn.
    """

    def __init__(self, model: LanguageModel, start: SavedState, sampling: Sampling) -> None:
        self.model, self.sampling = model.eval(), sampling
        self._state = start.state
        self._captured: CapturedStep | None = None  # then the state is there
        self._pending = [list(row) for row in start.pending]
        self._generators = [_generator(random) for random in start.random]
        self._limit = model.max_positions
        self._past = [list(row) for row in start.past]

    @torch.no_grad()
    def __next__(self) -> Tensor:
        logits = self._next_logits()
        drawn = sample(logits, self.sampling, self._generators)
        self._pending = drawn[:, None].tolist()
        return drawn

    def __iter__(self) -> "Generation":
        return self

    def saved(self) -> SavedState:
        """The state after the tokens drawn so far, the last of which are pending."""
        state = self._state if self._captured is None else map_state(torch.clone, self._captured.state)
        return SavedState(state, self._pending, [g.get_state() for g in self._generators], self._past)

    def _next_logits(self) -> Tensor:
        """The logits after the pending tokens [B, vocabulary]. Shorter rows are padded on the left."""
        if self._limit is not None:
            self._fit_positions(self._limit)
        if self._captured is not None:
            return self._captured(torch.tensor(self._pending))
        lengths = [len(row) for row in self._pending]
        longest, padded = max(lengths), max(lengths) - min(lengths)
        mask, features, before = None, None, self._state
        device = self.model.device
        tokens = torch.tensor([[0] * (longest - len(row)) + row for row in self._pending], device=device)
        if padded:
            missing = longest - torch.tensor(lengths, device=device)[:, None]
            mask = torch.arange(longest, device=device) >= missing
        for begin in range(0, longest, PREFILL):
            chunk = slice(begin, begin + PREFILL)
            real = None if mask is None or begin >= padded else mask[:, chunk]  # kernels are faster without a mask
            features, self._state = self.model.features(tokens[:, chunk], self._state, mask=real)
        assert features is not None
        logits = self.model.head(features[:, -1])
        if longest == 1 and can_be_captured(self.model, before, self._state):
            self._captured = CapturedStep(self.model, self._state)
        return logits

    def _fit_positions(self, limit: int) -> None:
        """Restart from the last limit/2 tokens and the initial state if the pending tokens do not fit in `limit`.

        A prompt longer than `limit` is cut to its last `limit` tokens.
        """
        longest = max(map(len, self._pending))
        recent = [(past + row)[-limit:] for past, row in zip(self._past, self._pending, strict=True)]
        state = self._state if self._captured is None else self._captured.state
        if int(state.position.max()) + longest > limit:
            self._captured = None
            context = limit if longest > limit else max(1, limit // 2)
            self._pending = [row[-context:] for row in recent]
            self._state = self.model.init_state(len(recent))
        self._past = recent


def begin(model: LanguageModel, prompts: Sequence[Sequence[int]], seed: int = 0) -> SavedState:
    """The start of one text per prompt, for `Generation`.

    Args:
        model: whose initial state is used.
        prompts: token numbers, at least one per prompt.
        seed: of the first row; row b has the seed `seed + b`.

    Raises:
        DataError: no prompt, an empty one, or tensors.
    """
    if isinstance(prompts, Tensor) or any(isinstance(part, Tensor) for prompt in prompts for part in (prompt, *prompt)):
        raise DataError("generate: prompts must be lists of token numbers, got a tensor; give tensor.tolist()")
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise DataError("generate: prompts must hold at least one token each, got an empty one")
    random = [torch.Generator().manual_seed(seed + row).get_state() for row in range(len(prompts))]
    return SavedState(
        model.init_state(len(prompts)), [list(prompt) for prompt in prompts], random, [[] for _ in prompts]
    )


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Continue every prompt by `tokens` tokens.

    Args:
        model: on any device; put in evaluation mode.
        prompts: token numbers, at least one per prompt; B prompts.
        tokens: tokens to draw per row.
        sampling: how they are drawn. Default: from the unchanged distribution of the model.
        seed: of the first row; row b has the seed `seed + b`.

    Yields:
        [B] int64 on the CPU: the next token of every row, as soon as it is drawn.

    Raises:
        DataError: no prompt, an empty one, or tensors.
        ConfigError: a negative number of tokens.
    """
    require((tokens >= 0, f"tokens: expected 0 or more, got {tokens}"))
    return itertools.islice(Generation(model, begin(model, prompts, seed), sampling or Sampling()), tokens)


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator
