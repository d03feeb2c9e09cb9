"""Where text comes from: files and folders, Shakespeare's plays, or a named data set of the hub."""

import codecs
from collections.abc import Sequence
from pathlib import Path

from matrixstate.data.plays import shakespeare
from matrixstate.errors import DataError, MissingExtra

HUB = {  # name: (data set, file or split, column)
    "tiny-shakespeare": ("karpathy/tiny_shakespeare", "text"),
    "tinystories": ("roneneldan/TinyStories", "text"),
}
SOURCES = ("shakespeare", *HUB)
SUFFIXES = (".txt", ".md", ".text", ".tokens")
NOT_PLAIN = {  # endings of files whose characters are not the text in them, and what to do with such a file
    (".jsonl", ".ndjson", ".json"): "holds records; extract their text first, as in: jq -r .text FILE > data.txt",
    (".csv", ".tsv", ".parquet", ".arrow", ".feather"): "is a table; write its column of text into a .txt file first",
    (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".tar", ".tgz"): "is compressed; decompress it first",
    (".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".html", ".htm"): "has markup; save it as plain text first",
}


def read_files(paths: Sequence[Path]) -> str:
    """The text of all files, in the order given; of a folder, its text files in the order of their names.

    A byte-order mark at the beginning of a file is left out. Line ends are kept as they are, so that every byte counts.

    Raises DataError for a missing, unreadable, or non-UTF-8 file, a file that is not plain text (records, an archive, a
    document), a folder without text, or only white space.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in SUFFIXES)
            if not inside:
                raise DataError(f"text: expected files ending in {', '.join(SUFFIXES)} in {path}, got none")
            files += inside
        else:
            files.append(path)
    text = "".join(_read(path) for path in files)
    if text.isspace():
        raise DataError(f"text: expected more than white space in {', '.join(map(str, paths))}")
    return text


def _expect_plain(path: Path) -> None:
    """Raises DataError for a file whose ending says that it is not plain text."""
    for suffixes, remedy in NOT_PLAIN.items():
        if path.suffix.lower() in suffixes:
            raise DataError(
                f"text: expected plain text, but {path} {remedy} (a file is read as it is where its name ends in .txt)"
            )


def _read(path: Path) -> str:
    _expect_plain(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"text: cannot read {path}: {error.strerror}") from error
    text = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in text:
        place = content.index(b"\0")
        raise DataError(
            f"text: expected plain UTF-8 text in {path}, got a zero byte at {place}: a binary file or UTF-16"
        )
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        place = error.start + len(content) - len(text)
        raise DataError(f"text: {path} is not UTF-8: byte 0x{content[place]:02x} at {place}") from error


def read_source(name: str) -> str:
    """The text called `name`: "shakespeare" (the `demo` extra), or a hub data set (the `hub` extra and a network)."""
    if name == "shakespeare":
        return shakespeare()
    if name not in HUB:
        raise DataError(f"source: expected one of {', '.join(SOURCES)}, got {name!r}")
    repository, column = HUB[name]
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra(
            f"source {name}: needs the package datasets: pip install 'matrixstate[hub]'; or give files with --text"
        ) from error
    try:
        rows = datasets.load_dataset(repository, split="train")
    except Exception as error:  # the library raises many kinds, the network's among them
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"source {name}: cannot fetch {repository} from the hub ({reason}); give files with --text instead"
        ) from error
    return "\n".join(rows[column])
