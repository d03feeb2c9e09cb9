"""The README's code runs, and links in the documents lead to files that exist."""

import re
from pathlib import Path

import pytest

from matrixstate.mixers import MIXERS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]


def test_the_readmes_python_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text("To be, or not to be: that is the question.\n" * 100)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "'status': 'done'" in out
    assert "To be" in out
    assert "conv against mru" in out
    assert re.search(r"\[\d+, \d+, \d+, \d+, \d+\]", out)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_every_mixer_stands_in_the_landscape():
    text = (ROOT / "docs" / "landscape.md").read_text(encoding="utf-8")
    assert [kind for kind in MIXERS if f"`{kind}`" not in text] == []


def test_every_module_has_a_docstring():
    for path in (ROOT / "src").rglob("*.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path
