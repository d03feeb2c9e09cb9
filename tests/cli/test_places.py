"""Names that are not in use."""

from pathlib import Path

from matrixstate.cli.places import unused, with_ending


def test_an_ending_is_appended_to_any_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert with_ending(Path("runs/a"), "-corrected") == Path("runs/a-corrected")
    assert with_ending(Path("."), "-corrected") == Path(f"{tmp_path}-corrected")
    assert with_ending(Path(".."), "-2") == Path(f"{tmp_path.parent}-2")


def test_an_unused_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a-2").touch()
    assert (unused(Path("b")), unused(Path("a"))) == (Path("b"), Path("a-3"))
    assert unused(Path(".")) == Path(f"{tmp_path}-2")
