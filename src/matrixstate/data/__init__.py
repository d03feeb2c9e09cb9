"""Tokenizers, text sources and batches."""

from matrixstate.data.batches import Batch, RandomWindows
from matrixstate.data.corpus import Corpus, DataConfig, TokenizedText, open_corpus, tokenize
from matrixstate.data.sources import read_files, read_source
from matrixstate.data.tokenizers import TextStream, Tokenizer, load_tokenizer, opening

__all__ = [
    "Batch",
    "Corpus",
    "DataConfig",
    "RandomWindows",
    "TextStream",
    "TokenizedText",
    "Tokenizer",
    "load_tokenizer",
    "open_corpus",
    "opening",
    "read_files",
    "read_source",
    "tokenize",
]
