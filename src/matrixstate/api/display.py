"""Results for notebooks: tables and figures."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from matrixstate.comparison.reporting.page import table as html_table


def as_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows as a `pandas.DataFrame` where pandas is installed, else as a list of dictionaries."""
    try:
        import pandas  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
    except ImportError:
        return [dict(row) for row in rows]
    return pandas.DataFrame(rows)


@dataclass(frozen=True)
class Figure:
    """A figure in a PNG file, which a notebook shows."""

    path: Path

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()

    def as_html(self) -> str:
        """An HTML img element with the file embedded."""
        data = base64.b64encode(self.path.read_bytes()).decode()
        return f'<img width="640" alt="{escape(self.path.stem)}" src="data:image/png;base64,{data}">'


def as_html(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """HTML with a heading and a table, whose columns are the keys of the first row."""
    columns = list(rows[0]) if rows else []
    body = [[_cell(row.get(column)) for column in columns] for row in rows]
    return f"<h4>{escape(title)}</h4>{html_table(columns, body)}"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
