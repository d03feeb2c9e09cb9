"""An HTML page, without scripts or references to anything outside it, and its elements."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --soft: #666; --line: #ddd; --card: #f6f6f4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181a; --soft: #a0a0a0; --line: #3a3d40; --card: #202326; }
  figure svg { filter: invert(0.91) hue-rotate(180deg); }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p.soft, figcaption, .soft { color: var(--soft); } ul.findings { font-size: 1.1rem; padding-left: 1.2rem; }
p.verdict { font-weight: 700; font-size: 1.15rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: pre; }
th:first-child, td:first-child, .plain td { text-align: left; }
th { white-space: pre-line; color: var(--soft); font-weight: 600; vertical-align: bottom; }
tr.control td { background: var(--card); }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; display: block; background: #fff; }
section { margin-top: 3.5rem; border-top: 3px solid var(--line); }
section h2 { border: 0; margin-top: 1rem; } a { color: inherit; }
pre { background: var(--card); padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; } summary { cursor: pointer; }
"""


def write_page(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes a page whose body is `parts`; returns its path."""
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
    path.write_text(page, encoding="utf-8")
    return path


def bullets(name: str, sentences: Sequence[str]) -> str:
    """A list of escaped sentences, of the class `name`."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{name}">{items}</ul>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] = ()) -> str:
    """An HTML table of escaped cells; `marked` rows are shaded."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = ""
    for i, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        body += f'<tr class="control">{cells}</tr>' if i < len(marked) and marked[i] else f"<tr>{cells}</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(path: Path, caption: str, prefix: str) -> str:
    """An SVG file as a figure of the page; `prefix` makes its ids unique."""
    svg = inline_svg(path.read_text(encoding="utf-8"), prefix)
    text = escape(caption)
    return f'<figure role="img" aria-label="{text}">{svg}<figcaption>{text}</figcaption></figure>'


def inline_svg(svg: str, prefix: str) -> str:
    """An SVG file as an element of a page: without prolog, metadata and name spaces, its ids prefixed."""
    svg = svg[svg.index("<svg") :]  # what precedes it refers to a DTD on the web
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
