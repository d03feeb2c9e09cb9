"""A text as two memory-mapped streams of tokens, one to train on and one to validate with."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matrixstate.data.sources import SOURCES, read_files, read_source
from matrixstate.data.tokenizers import TOKENIZERS, Tokenizer, load_tokenizer
from matrixstate.errors import CheckpointError, DataError, require
from matrixstate.plugins import plugin_hint

Tokens = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]


@dataclass(frozen=True)
class DataConfig:
    """Which text, and how it becomes tokens."""

    source: str = "shakespeare"
    """A named text, used where no files are given: shakespeare, tiny-shakespeare or tinystories."""
    files: tuple[str, ...] = ()
    """Files and folders of UTF-8 text, read in this order."""
    tokenizer: str = "character"
    """byte; character: the characters of the text; bpe: byte-pair encoding learned from the training part; or a
    plug-in's."""
    vocabulary: int = 4096
    """Number of tokens, of a tokenizer that can have any: bpe."""
    validation: float = 0.1
    """Share of the text, at its end, that is held out for validation."""

    def __post_init__(self) -> None:
        require(
            (
                bool(self.files) or self.source in SOURCES,
                f"source: expected one of {', '.join(SOURCES)}, got {self.source!r}",
            ),
            (
                self.tokenizer in TOKENIZERS,
                f"tokenizer: expected one of {', '.join(TOKENIZERS)}, got {self.tokenizer!r}{plugin_hint(TOKENIZERS)}",
            ),
            (self.vocabulary >= 256, f"vocabulary: expected at least 256, got {self.vocabulary}"),
            (0 < self.validation < 1, f"validation: expected a share between 0 and 1, got {self.validation}"),
        )


@dataclass(frozen=True)
class Corpus:
    """A tokenizer and the tokens of its text: what a model is trained on and validated with."""

    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens


def read_text(config: DataConfig) -> str:
    """The whole text. Raises DataError for fewer than two characters, or for characters that are all the same."""
    text = read_files([Path(file) for file in config.files]) if config.files else read_source(config.source)
    where = ", ".join(config.files) or config.source
    if len(text) < 2:
        raise DataError(f"text: expected at least two characters in {where}, got {len(text)}")
    if config.tokenizer == "character" and text == text[0] * len(text):
        raise DataError(f"text: expected at least two different characters in {where}, got {text[0]!r} alone")
    return text


def split(text: str, validation: float) -> tuple[str, str]:
    """The first part to train on and the rest, cut by position as nanoGPT does; neither is empty."""
    cut = min(max(int(len(text) * (1 - validation)), 1), len(text) - 1)
    return text[:cut], text[cut:]


def make_tokenizer(config: DataConfig, text: str) -> Tokenizer:
    """The tokenizer of `config` for `text`."""
    return TOKENIZERS[config.tokenizer].learn(*split(text, config.validation), config.vocabulary)


def to_array(tokens: Sequence[int], size: int) -> Tokens:
    """Tokens in the smallest unsigned type that holds `size` of them."""
    return np.array(tokens, dtype=np.min_scalar_type(size - 1))


@dataclass(frozen=True)
class TokenizedText:
    """A tokenized text that is not yet written to disk."""

    tokenizer: Tokenizer
    parts: dict[str, Tokens]  # "train" and "validation"
    sizes: dict[str, int]  # bytes of UTF-8 of each part
    sha256: str  # of the whole text

    def write(self, directory: Path) -> None:
        """Writes the tokenizer and both parts into `directory`, for `open_corpus`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(directory)
        about: dict[str, Any] = {"text_sha256": self.sha256}
        for name, tokens in self.parts.items():
            tokens.tofile(directory / f"{name}.bin")
            about[name] = {"tokens": len(tokens), "bytes": self.sizes[name], "dtype": str(tokens.dtype)}
        (directory / "data.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def tokenize(config: DataConfig) -> TokenizedText:
    """Reads and tokenizes the text of `config`."""
    text = read_text(config)
    tokenizer = make_tokenizer(config, text)
    parts = dict(zip(("train", "validation"), split(text, config.validation), strict=True))
    return TokenizedText(
        tokenizer,
        {name: to_array(tokenizer.encode(part), tokenizer.size) for name, part in parts.items()},
        {name: len(part.encode("utf-8")) for name, part in parts.items()},
        hashlib.sha256(text.encode("utf-8")).hexdigest(),
    )


def open_corpus(directory: Path) -> Corpus:
    """The corpus that `TokenizedText.write` wrote. Raises CheckpointError if a part is missing or damaged."""
    try:
        about = json.loads((directory / "data.json").read_text(encoding="utf-8"))
        parts = {name: _open(directory / f"{name}.bin", about[name]) for name in ("train", "validation")}
    except OSError as error:
        raise CheckpointError(f"run: expected data at {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"run: {directory / 'data.json'} is damaged: {type(error).__name__}: {error}") from error
    tokenizer = load_tokenizer(directory)
    for name, tokens in parts.items():
        if len(tokens) and int(tokens.max()) >= tokenizer.size:
            raise CheckpointError(
                f"run: {directory / name}.bin must hold the tokenizer's {tokenizer.size} tokens, got {tokens.max()}"
            )
    return Corpus(tokenizer, parts["train"], parts["validation"])


def _open(path: Path, about: dict[str, Any]) -> Tokens:
    dtype, length = np.dtype(about["dtype"]), about["tokens"]
    found = path.stat().st_size
    if found != length * dtype.itemsize:
        raise CheckpointError(f"run: {path} must have {length * dtype.itemsize} bytes, got {found}")
    return np.memmap(path, dtype=dtype, mode="r") if length else np.zeros(0, dtype)
