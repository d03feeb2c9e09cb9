"""Names beside others, and places that are checked before work."""

from pathlib import Path

from matrixstate.cli.places import beside, free


def test_a_name_beside_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert beside(Path("runs/a"), "-corrected") == Path("runs/a-corrected")
    assert beside(Path("."), "-corrected") == Path(f"{tmp_path}-corrected")
    assert beside(Path(".."), "-2") == Path(f"{tmp_path.parent}-2")


def test_a_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a-2").touch()
    assert (free(Path("b")), free(Path("a"))) == (Path("b"), Path("a-3"))
    assert free(Path(".")) == Path(f"{tmp_path}-2")
