"""Text to token numbers and back: bytes, characters, or byte-pair encoding. Saved with the run as JSON."""

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from matrixstate.errors import CheckpointError, DataError, MissingExtra
from matrixstate.plugins import extensible

FILE = "tokenizer.json"


class Tokenizer(ABC):
    """A reversible map between text and numbers below `size`."""

    size: int
    """One more than the largest token."""

    @classmethod
    @abstractmethod
    def learn(cls, training: str, validation: str, size: int) -> Self:
        """The tokenizer of a text in two parts; `size` is the vocabulary wanted, where there is a choice."""

    @classmethod
    @abstractmethod
    def restore(cls, data: Mapping[str, Any]) -> Self:
        """The tokenizer whose `data` that was. Raises KeyError, ValueError or TypeError where it is damaged."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of `text`. Raises DataError for text that the tokenizer has no tokens for."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; bytes that are not valid UTF-8 (part of a character) become U+FFFD."""

    @abstractmethod
    def data(self) -> dict[str, Any]:
        """What `restore` needs, as plain data."""

    def save(self, directory: Path) -> None:
        """Writes tokenizer.json into `directory`."""
        kind = next(name for name, cls in TOKENIZERS.items() if cls is type(self))
        text = json.dumps({"kind": kind, **self.data()}, ensure_ascii=False)
        (directory / FILE).write_text(text, encoding="utf-8")


class ByteTokenizer(Tokenizer):
    """One token per byte of UTF-8."""

    size = 256

    @classmethod
    def learn(cls, training: str, validation: str, size: int) -> Self:
        return cls()

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> Self:
        return cls()

    def encode(self, text: str) -> list[int]:
        return list(_utf8(text))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")

    def data(self) -> dict[str, Any]:
        return {}


class CharacterTokenizer(Tokenizer):
    """One token per character of a known set, in the order of their code points."""

    def __init__(self, characters: str) -> None:
        self.characters = "".join(sorted(set(characters)))
        self.size = len(self.characters)
        self._numbers = {character: i for i, character in enumerate(self.characters)}

    @classmethod
    def learn(cls, training: str, validation: str, size: int) -> Self:
        """Of both parts, so that the validation part has no unknown character."""
        return cls(training + validation)

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> Self:
        return cls(data["characters"])

    def encode(self, text: str) -> list[int]:
        try:
            return [self._numbers[character] for character in text]
        except KeyError:
            unknown = sorted(set(text) - set(self.characters))
            shown = ", ".join(map(repr, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
            raise DataError(
                f"tokenizer: expected the {self.size} characters seen in training, got also {shown}"
            ) from None

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.characters[token] for token in tokens)

    def data(self) -> dict[str, Any]:
        return {"characters": self.characters}


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding by the `tokenizers` library: every text has tokens, every byte comes back."""

    def __init__(self, model: str) -> None:
        """`model`: the JSON text of a tokenizer of that library."""
        try:
            self._tokenizer = _tokenizers().Tokenizer.from_str(model)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()  # a published tokenizer may be set to cut or fill texts to its model's length
        self._tokenizer.no_padding()
        numbers = self._tokenizer.get_vocab().values()
        self.size = 1 + max(numbers, default=-1)  # not how many there are: some may be left out

    @classmethod
    def learn(cls, training: str, validation: str, size: int) -> Self:
        """Learns at most `size` tokens (at least 256), from the training part only."""
        library = _tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
        trainer = library.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(training.splitlines(keepends=True), trainer)
        return cls(tokenizer.to_str())

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> Self:
        return cls(data["model"])

    def encode(self, text: str) -> list[int]:
        _utf8(text)
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)

    def data(self) -> dict[str, Any]:
        return {"model": self._tokenizer.to_str()}


_TOKENIZERS: dict[str, type[Tokenizer]] = {"byte": ByteTokenizer, "character": CharacterTokenizer, "bpe": BPETokenizer}
TOKENIZERS = extensible("tokenizers", _TOKENIZERS, Tokenizer)
"""Names for `data.tokenizer` in a configuration file; plug-ins add to it."""


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate, from bytes on a command line
        raise DataError(f"tokenizer: expected text, got {text[error.start]!r}, which UTF-8 cannot hold") from None


def _tokenizers():
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra("tokenizer: bpe needs the package tokenizers: pip install tokenizers") from error
    return tokenizers


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer saved in `directory`. Raises CheckpointError if it is missing or damaged."""
    path = directory / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        kind = data["kind"]
        if kind in TOKENIZERS:
            return TOKENIZERS[kind].restore(data)
    except OSError as error:
        raise CheckpointError(f"run: expected a tokenizer at {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"run: {path} is damaged: {type(error).__name__}: {error}") from error
    raise CheckpointError(f"run: {path} holds a tokenizer of unknown kind {kind!r}")


def opening(tokenizer: Tokenizer, wanted: str = "\n") -> str:
    """A prompt to start a sample with: `wanted`, or the text of token 0 where the tokenizer cannot encode that."""
    try:
        tokenizer.encode(wanted)
        return wanted
    except DataError:
        return tokenizer.decode([0])


class TextStream:
    """Decodes tokens one by one; bytes of an unfinished character are held back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        if isinstance(self._tokenizer, ByteTokenizer):
            return self._bytes.decode(bytes([token]))
        self._pending.append(token)
        text = self._tokenizer.decode(self._pending)
        if text.endswith("�") and len(self._pending) < 4:  # no character has more than four bytes
            return ""
        self._pending.clear()
        return text
