"""Writes the results of benchmarks into sections of Markdown files."""

import re
from pathlib import Path

from timing import environment


def write_section(path: Path, name: str, lines: list[str]) -> None:
    """Replaces what is between `<!-- name -->` and `<!-- /name -->` in a Markdown file, both of which must exist."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = path.read_text(encoding="utf-8")
    if begin not in old or end not in old:
        raise SystemExit(f"{path}: expected the marks {begin} and {end}")
    section = "\n".join([begin, *lines, end])
    new = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: section, old, flags=re.DOTALL)
    path.write_text(new, encoding="utf-8")


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table whose first column is text and whose others are numbers."""
    line = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    return [line(head), "|---" + "|---:" * (len(head) - 1) + "|", *map(line, rows)]


def made_with(command: str) -> str:
    """A footnote on how and on which machine a table was made."""
    about = environment()
    return (
        f"`{command}`, one thread of {about['cpu']} ({about['instruction_set']}), torch {about['torch']}, "
        f"commit {about['commit']}, load average {about['load']} on {about['cores']} cores."
    )
