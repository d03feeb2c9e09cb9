"""The needle in a haystack: whether a language model recalls a value from a sentence far back in a text."""

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
SYMBOLS = ("0123456789", "abcdefghijklmnopqrstuvwxyz")  # of values: the first of which the tokenizer knows at least two
DIGITS = 4  # symbols of a value; more where that many symbols give too few values
CHUNK = 1024  # tokens per forward pass


@dataclass(frozen=True)
class NeedleGrid:
    """The recall of a model by length of the prompt (rows) and depth of the needle (columns)."""

    lengths: tuple[int, ...]
    """Tokens of the prompt."""
    depths: tuple[float, ...]
    """Place of the needle in the text: 0 the start, 1 the end."""
    trials: int
    """Prompts per length and depth."""
    choices: int
    """Values that the model chooses from."""
    preferred: NDArray[np.float64]
    """[lengths, depths], share of trials in which the right value is the most likely of `choices`."""
    exact: NDArray[np.float64]
    """[lengths, depths], share of trials in which greedy decoding gives the right value."""

    @property
    def chance(self) -> float:
        """`preferred` of a uniform guess."""
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
    """Insert "The secret number of KEY is NUMBER." into a text and ask for the number at its end.

    Characters that the tokenizer does not know are left out of the sentence and the question. If it knows fewer than
    two digits, values consist of letters. Keys, values and excerpts of the text depend on the seed only.

    Args:
        model: on the CPU; put in evaluation mode. It reads 1024 tokens per forward pass and carries its state.
        tokenizer: of the model.
        haystack: the tokens of a text, at least as many as the largest length.
        lengths: tokens of the prompt, text, needle and question together.
        depths: shares of the text before the needle, from 0 to 1.
        trials: prompts per length and depth.
        choices: values to choose from, including the right one; 2 to 100.
        seed: of the prompts.
        progress: called with (trials done, trials in all).

    Raises:
        ConfigError: an option out of range, or a length beyond the model's learned positions.
        DataError: a text shorter than the largest length, or a tokenizer without two digits or letters.
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
        logits, state = _read(model, prompt.to(model.device))
        scores = [_log_probability(model, value, logits, state) for value in values]
        preferred[row, column] += scores[0] > max(scores[1:])  # equal scores do not count
        exact[row, column] += _greedy(model, len(values[0]), logits, state) == values[0]
        progress(done + 1, total)
    return NeedleGrid(lengths, depths, trials, choices, preferred / trials, exact / trials)


class _Texts:
    """The tokens of questions and values, in characters that a tokenizer knows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        known = [self._known(symbols) for symbols in SYMBOLS]
        self.symbols = next((symbols for symbols in known if len(symbols) > 1), "")
        if not self.symbols:
            raise DataError("needle: expected a tokenizer that knows two digits or two letters, got one that does not")
        self.questions = [tokenizer.encode(self._known(QUESTION.format(key))) for key in KEYS]
        self.end = tokenizer.encode(self._known("."))

    def _known(self, text: str) -> str:
        """`text` without the characters that the tokenizer does not know."""
        return "".join(character for character in text if self._knows(character))

    def _knows(self, character: str) -> bool:
        try:
            self._tokenizer.encode(character)
        except DataError:
            return False
        return True

    def longest(self) -> int:
        """An upper bound of the tokens of a needle and a question. A character is at most four tokens."""
        return 2 * max(map(len, self.questions)) + 4 * DIGITS + 4 + len(self.end)

    def draw(self, random: np.random.Generator, choices: int) -> tuple[list[int], list[list[int]]]:
        """The tokens of a question and of distinct values, the right one first."""
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
    """[1, length] int64: text, needle, text, question."""
    needle = [*question, *value, *texts.end]
    room = length - len(needle) - len(question)
    start = int(random.integers(len(haystack) - room + 1))
    text = [int(token) for token in haystack[start : start + room]]
    place = round(depth * room)
    return torch.tensor([[*text[:place], *needle, *text[place:], *question]])


def _read(model: LanguageModel, tokens: Tensor) -> tuple[Tensor, ModelState]:
    """The logits [vocabulary] after the last of tokens [1, T], and the state there."""
    features, state = model.features(tokens[:, :CHUNK])
    for start in range(CHUNK, tokens.shape[1], CHUNK):
        features, state = model.features(tokens[:, start : start + CHUNK], state)
    return model.head(features[0, -1]), state


def _log_probability(model: LanguageModel, value: list[int], logits: Tensor, state: ModelState) -> float:
    """The log-probability of a value after a prompt with these logits [vocabulary] and state."""
    rows = logits[None]
    if len(value) > 1:
        rows = torch.cat([rows, model(torch.tensor([value[:-1]], device=model.device), state)[0][0]])
    return float(rows.cpu().double().log_softmax(dim=-1)[range(len(value)), value].sum())


def _greedy(model: LanguageModel, count: int, logits: Tensor, state: ModelState) -> list[int]:
    """`count` tokens by greedy decoding after a prompt with these logits [vocabulary] and state."""
    tokens = [int(logits.argmax())]
    while len(tokens) < count:
        logits, state = model(torch.tensor([[tokens[-1]]], device=model.device), state)
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


def draw_needles(grid: NeedleGrid, path: Path) -> None:
    """Draw both shares as heat maps to `path`. Raises MissingExtra without matplotlib."""
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
