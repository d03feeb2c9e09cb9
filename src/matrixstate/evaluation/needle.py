"""A needle in a haystack of real text: does a language model recall what one sentence said, far behind?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matrixstate.data import Tokenizer
from matrixstate.data.corpus import Tokens
from matrixstate.errors import DataError, require
from matrixstate.evaluation.plotting import new_figure, save_figure
from matrixstate.models import LanguageModel
from matrixstate.models.lm import ModelState

KEYS = ("the tower", "the bottle", "the letter", "the harbour", "the orchard", "the winter", "the brother", "the wall")
QUESTION = "\nThe secret number of {} is"
SYMBOLS = ("0123456789", "abcdefghijklmnopqrstuvwxyz")  # of a value: those of the first line that the tokenizer knows
DIGITS = 4
CHUNK = 1024  # tokens read at once


@dataclass(frozen=True)
class NeedleGrid:
    """What was recalled, by tokens of the prompt (rows) and depth of the needle (columns; 0 the start, 1 the end)."""

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    trials: int
    choices: int
    preferred: NDArray[np.float64]
    """[lengths, depths], share of trials in which the right value is the likeliest of `choices`."""
    exact: NDArray[np.float64]
    """[lengths, depths], share in which the model itself writes the right value, the likeliest token at every step."""

    @property
    def chance(self) -> float:
        """`preferred` of one who guesses."""
        return 1 / self.choices

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        numbers = {"lengths": list(self.lengths), "depths": list(self.depths), "trials": self.trials}
        shares = {"preferred": self.preferred.tolist(), "exact": self.exact.tolist()}
        return {**numbers, "choices": self.choices, "chance": self.chance, **shares}


@torch.no_grad()
def find_needles(
    model: LanguageModel,
    tokenizer: Tokenizer,
    haystack: Tokens,
    *,
    lengths: tuple[int, ...],
    depths: tuple[float, ...],
    trials: int = 8,
    choices: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NeedleGrid:
    """Hides "The secret number of KEY is NUMBER." in a text and asks for the number at its end.

    Characters that the tokenizer does not know are left out of sentence and question; where it knows fewer than two
    digits, values are made of letters. Keys, values and the place in the text depend on the seed alone.

    Args:
        model: is put in evaluation mode and left there. Reads 1024 tokens at once, the state carried on.
        haystack: a text's tokens, at least as many as the greatest length.
        lengths: tokens from the start of the text to the end of the question.
        depths: shares of the text that stand before the needle.
        trials: per length and depth.
        choices: values to choose from, the right one among them.
        progress: called with (trials done, trials in all).

    Raises:
        ConfigError: an option out of range, or a length beyond the model's learned positions.
        DataError: too short a haystack.
    """
    texts = _Texts(tokenizer)
    least, limit = texts.longest(), model.max_positions
    require(
        (bool(lengths) and min(lengths) >= least, f"lengths: expected at least {least} tokens each, got {lengths}"),
        (bool(depths) and all(0 <= d <= 1 for d in depths), f"depths: expected shares from 0 to 1, got {depths}"),
        (trials >= 1, f"trials: expected at least 1, got {trials}"),
        (seed >= 0, f"seed: expected 0 or more, got {seed}"),
        (2 <= choices <= 100, f"choices: expected 2 to 100, got {choices}"),
        (
            limit is None or max(lengths, default=0) + 4 * DIGITS <= limit,
            f"lengths: expected at most {(limit or 0) - 4 * DIGITS}, the model's positions, got {lengths}",
        ),
    )
    if len(haystack) < max(lengths):
        raise DataError(f"needle: expected a text of at least {max(lengths)} tokens, got {len(haystack)}")
    model.eval()
    preferred, exact = np.zeros((2, len(lengths), len(depths)))
    total = trials * preferred.size
    for done in range(total):
        row, column = divmod(done // trials, len(depths))
        random = np.random.default_rng([seed, done])
        question, values = texts.draw(random, choices)
        prompt = _prompt(texts, haystack, question, values[0], lengths[row], depths[column], random)
        logits, state = _read(model, prompt)
        scores = [_log_probability(model, value, logits, state) for value in values]
        preferred[row, column] += scores[0] > max(scores[1:])  # who cannot tell them apart has none
        exact[row, column] += _greedy(model, len(values[0]), logits, state) == values[0]
        progress(done + 1, total)
    return NeedleGrid(lengths, depths, trials, choices, preferred / trials, exact / trials)


class _Texts:
    """Questions and values in characters that a tokenizer knows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        known = [self._known(symbols) for symbols in SYMBOLS]
        self.symbols = next((symbols for symbols in known if len(symbols) > 1), "")
        if not self.symbols:
            raise DataError("needle: expected a tokenizer that knows two digits or two letters, got one that does not")
        self.questions = [tokenizer.encode(self._known(QUESTION.format(key))) for key in KEYS]
        self.end = tokenizer.encode(self._known("."))

    def _known(self, text: str) -> str:
        return "".join(character for character in text if self._knows(character))

    def _knows(self, character: str) -> bool:
        try:
            self._tokenizer.encode(character)
        except DataError:
            return False
        return True

    def longest(self) -> int:
        """Tokens of the longest needle and question; a character is at most four."""
        return 2 * max(map(len, self.questions)) + 4 * DIGITS + 4 + len(self.end)

    def draw(self, random: np.random.Generator, choices: int) -> tuple[list[int], list[list[int]]]:
        """The tokens of a question and of different values, the right one first."""
        question = self.questions[random.integers(len(self.questions))]
        size = DIGITS
        while len(self.symbols) ** size < 2 * choices:
            size += 1
        values: dict[str, None] = {}
        while len(values) < choices:
            values["".join(self.symbols[i] for i in random.integers(len(self.symbols), size=size))] = None
        return question, [self._tokenizer.encode(self._known(" ") + value) for value in values]


def _prompt(
    texts: _Texts,
    haystack: Tokens,
    question: list[int],
    value: list[int],
    length: int,
    depth: float,
    random: np.random.Generator,
) -> Tensor:
    """[1, length]: text, needle, text, question."""
    needle = [*question, *value, *texts.end]
    room = length - len(needle) - len(question)
    start = int(random.integers(len(haystack) - room + 1))
    text = [int(token) for token in haystack[start : start + room]]
    place = round(depth * room)
    return torch.tensor([[*text[:place], *needle, *text[place:], *question]])


def _read(model: LanguageModel, tokens: Tensor) -> tuple[Tensor, ModelState]:
    """The logits [vocabulary] after the last of tokens [1, T], and the state."""
    features, state = model.features(tokens[:, :CHUNK])
    for start in range(CHUNK, tokens.shape[1], CHUNK):
        features, state = model.features(tokens[:, start : start + CHUNK], state)
    return model.head(features[0, -1]), state


def _log_probability(model: LanguageModel, value: list[int], logits: Tensor, state: ModelState) -> float:
    """Of a value after a prompt with these logits and state."""
    rows = logits[None]
    if len(value) > 1:
        rows = torch.cat([rows, model(torch.tensor([value[:-1]]), state)[0][0]])
    return float(rows.double().log_softmax(dim=-1)[range(len(value)), value].sum())


def _greedy(model: LanguageModel, count: int, logits: Tensor, state: ModelState) -> list[int]:
    written = [int(logits.argmax())]
    while len(written) < count:
        logits, state = model(torch.tensor([[written[-1]]]), state)
        written.append(int(logits[0, -1].argmax()))
    return written


def draw_needles(grid: NeedleGrid, path: Path) -> None:
    """Draws both shares as heat maps. Needs matplotlib."""
    figure = new_figure(4 + 1.6 * len(grid.depths), 2 + 0.6 * len(grid.lengths))
    parts = figure.subplots(1, 2)
    titles = (f"right value of {grid.choices} preferred (chance {grid.chance:.0%})", "right value written")
    for axes, title, shares in zip(parts, titles, (grid.preferred, grid.exact), strict=True):
        axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(grid.depths)), [f"{depth:g}" for depth in grid.depths])
        axes.set_yticks(range(len(grid.lengths)), [f"{length:,}" for length in grid.lengths])
        axes.set_xlabel("depth of the needle")
        axes.set_ylabel("tokens")
        for (i, j), share in np.ndenumerate(shares):
            colour = "black" if share > 0.5 else "white"
            axes.text(j, i, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=9)
    save_figure(figure, path)
