"""Where the results that a benchmark is told to write go: sections of a Markdown file, and their footnotes."""

import re
from pathlib import Path

from timing import environment


def write_section(path: Path, name: str, lines: list[str]) -> None:
    """Puts `lines` between the marks `<!-- name -->` and `<!-- /name -->` of a Markdown file, which must be there."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = path.read_text(encoding="utf-8")
    if begin not in old or end not in old:
        raise SystemExit(f"{path}: expected the marks {begin} and {end}")
    section = "\n".join([begin, *lines, end])
    new = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: section, old, flags=re.DOTALL)
    path.write_text(new, encoding="utf-8")


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table whose first column is text and whose others are numbers."""
    line = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    return [line(head), "|---" + "|---:" * (len(head) - 1) + "|", *map(line, rows)]


def made_with(command: str) -> str:
    """One line on how and where a table was made."""
    about = environment()
    return (
        f"`{command}`, one thread of {about['cpu']} ({about['instruction_set']}), torch {about['torch']}, "
        f"commit {about['commit']}, load average {about['load']} on {about['cores']} cores."
    )
