"""`matrixstate compare` and `matrixstate reproduce`, run as commands."""

import json
import shutil

import pytest
import yaml
from tiny import set_data, task_data, text_data

from matrixstate.cli.__main__ import main
from matrixstate.comparison.running.tables import RESULTS


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.yaml").write_text(yaml.safe_dump(text_data(tmp_path)))
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task_data()))
    (tmp_path / "parts.yaml").write_text(yaml.safe_dump(set_data(tmp_path), sort_keys=False))
    (tmp_path / "empty.txt").write_text("")
    return tmp_path


def output(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return [line.removeprefix("matrixstate: error: ") for line in error.splitlines()]


def test_a_comparison_ends_in_a_report(place, capsys):
    shown = output(capsys, "compare", "text.yaml", "--jobs", 1)
    for words in ("Not matched to any budget", "a <convolution>", "bits per byte", "report: runs/tiny/report.html"):
        assert words in shown
    assert "no interval can be given for fewer than 3" in shown
    files = {path.name for path in (place / "runs" / "tiny").iterdir()}
    assert {"suite.yaml", "results.csv", "trials.csv", "curves.csv", "matching.csv", "report.html", "runs"} <= files
    again = json.loads(output(capsys, "compare", "runs/tiny", "--jobs", 1, "--seeds", 3, "--json"))
    assert {model["entry"]: len(model["values"]) for model in again["models"]} == {"conv": 3, "gru": 3}
    assert len(again["findings"]) == 2


def test_everything_is_redrawn_without_the_runs(place, capsys):
    output(capsys, "compare", "task.yaml", "--jobs", 1, "--out", "out", "--set", "seeds=3")
    pictures = {path.name: path.read_bytes() for path in (place / "out" / "figures").iterdir()}
    report = (place / "out" / "report.html").read_text()
    shutil.rmtree(place / "out" / "runs")
    shutil.rmtree(place / "out" / "figures")
    (place / "out" / "report.html").unlink()
    output(capsys, "compare", "out", "--redraw")
    assert {path.name: path.read_bytes() for path in (place / "out" / "figures").iterdir()} == pictures
    assert (place / "out" / "report.html").read_text() == report
    assert "values.svg" in pictures
    assert "accuracy.png" in pictures


def test_a_dry_run_prints_the_sizes_and_writes_nothing(place, capsys):
    match = ("--set", "match={by: parameters, value: 9000}")
    found = json.loads(output(capsys, "compare", "text.yaml", "--dry-run", "--json", *match))
    assert found["matched"] == "parameters"
    assert all(abs(model["parameters"] - 9000) <= 180 for model in found["models"])
    assert "varied: blocks.*.mlp.hidden" in output(capsys, "compare", "text.yaml", "--dry-run", *match)
    assert not (place / "runs").exists()


def test_mistakes_give_their_error_lines(place, capsys):
    assert refused(capsys, "compare", "none.yaml") == ["config none.yaml: No such file or directory"]
    assert refused(capsys, "compare", "text.yaml", "--jobs", 0) == ["--jobs: expected at least 1, got 0"]
    assert refused(capsys, "compare", "text.yaml", "--text", "empty.txt") == [
        f"text: expected at least two characters in {place / 'empty.txt'}, got 0"
    ]
    assert refused(capsys, "compare", "text.yaml", "--set", "seeds=0", "--set", "training.stepz=1") == [
        "training.stepz: unknown key; did you mean 'steps'?"
    ]
    assert refused(capsys, "compare", "text.yaml", "--seeds", 0) == ["seeds: expected at least 1, got 0"]
    assert refused(capsys, "compare", "task.yaml", "--text", "beer.txt") == ["--text: expected none for a task"]
    assert refused(capsys, "compare", "text.yaml", "--redraw")[0].startswith(f"compare: expected runs/tiny/{RESULTS}")
    assert refused(capsys, "compare", "text.yaml", "--redraw", "--seeds", 2)[0].startswith("--redraw: expected no ")
    assert refused(capsys, "compare", ".", "--jobs", 1)[0].startswith("compare: expected a comparison in .")
    assert refused(capsys, "compare", "text.yaml", "--out", ".")[0].startswith("--out: expected a new or empty dir")
    assert not (place / "runs").exists()


def test_a_comparison_of_several_parts_ends_in_one_report(place, capsys):
    shown = output(capsys, "compare", "parts.yaml", "--jobs", 1, "--seeds", 1)
    for words in ("Parity & co. Not matched", "cycle. Not matched", "- Parity & co: ", "- text: "):
        assert words in shown
    assert "report: runs/tiny-set/report.html" in shown
    out = place / "runs" / "tiny-set"
    assert {path.name for path in out.iterdir()} == {
        *("suite.yaml", "environment.json", "results.csv", "figures", "report.html", "parts")
    }
    assert {path.stem for path in (out / "figures").iterdir()} == {"overview"}
    again = json.loads(output(capsys, "compare", "runs/tiny-set", "--jobs", 1, "--seeds", 2, "--json"))
    assert again["report"] == "runs/tiny-set/report.html"
    assert list(again["parts"]) == ["parity", "cycle", "text"]
    for found in again["parts"].values():
        assert {model["entry"]: len(model["values"]) for model in found["models"]} == {"conv": 2, "gru": 2}
        assert found["findings"]

    pictures = {path: path.read_bytes() for path in out.rglob("*.svg")}
    report = (out / "report.html").read_text()
    for name in ("parity", "cycle", "text"):
        shutil.rmtree(out / "parts" / name / "runs")
        shutil.rmtree(out / "parts" / name / "figures")
        (out / "parts" / name / "suite.yaml").unlink()
    shutil.rmtree(out / "figures")
    (out / "report.html").unlink()
    output(capsys, "compare", "runs/tiny-set", "--redraw")
    assert {path: path.read_bytes() for path in out.rglob("*.svg")} == pictures
    assert (out / "report.html").read_text() == report
    (out / "suite.yaml").unlink()
    (out / "environment.json").unlink()
    output(capsys, "compare", "parts.yaml", "--redraw")
    assert "<h1>Two &lt;tasks&gt; and a text</h1>" in (out / "report.html").read_text()


def test_a_dry_run_prints_the_sizes_of_every_part(place, capsys):
    match = ("--set", "match={by: parameters, value: 5000, tolerance: 0.1}")
    found = json.loads(output(capsys, "compare", "parts.yaml", "--dry-run", "--json", *match))
    assert {name: part["matched"] for name, part in found["parts"].items()} == dict.fromkeys(
        ("parity", "cycle", "text"), "parameters"
    )
    assert all(abs(one["parameters"] - 5000) <= 500 for part in found["parts"].values() for one in part["models"])
    changed = ("--set", "parts.text.match=null", "--text", "beer.txt")
    shown = output(capsys, "compare", "parts.yaml", "--dry-run", *match, *changed)
    assert "Parity & co. Matched by parameters" in shown
    assert "text. Not matched to any budget" in shown
    assert not (place / "runs").exists()


def test_mistakes_in_parts_give_their_error_lines(place, capsys):
    def errors(*changes):
        return refused(capsys, "compare", "parts.yaml", *(w for change in changes for w in ("--set", change)))

    assert errors("training.stepz=1", "parts.cycle.data=cycle_navigator", "parts.text.training.step=3") == [
        "training.stepz: unknown key; did you mean 'steps'?",
        "parts.cycle.data: unknown name 'cycle_navigator'; did you mean 'cycle_navigation'?",
        "parts.text.training.step: unknown key; did you mean 'steps'?",
    ]
    assert errors("parts=[]") == ["parts: expected a mapping from names to options, got []"]
    assert errors("parts.text.seeds=3") == ["parts.text.seeds: expected beside parts, for all of them"]
    more = "parts.parity={data: {source: shakespeare}}"
    assert refused(capsys, "compare", "parts.yaml", "--text", "beer.txt", "--set", more) == [
        "--text: expected one part that is trained on a text, got parity, text"
    ]
    small = errors("parts.parity.match={by: parameters, value: 9, tolerance: 0.1}")
    assert small[0].startswith("parts.parity: models: conv: expected parameters within 10.0% of 9, the nearest is")
    assert refused(capsys, "compare", "parts.yaml", "--seeds", 0) == ["seeds: expected at least 1, got 0"]
    assert refused(capsys, "compare", "parts.yaml", "--redraw")[0].startswith("compare: expected runs/tiny-set/results")
    assert not (place / "runs").exists()
    (place / "out" / "parts").mkdir(parents=True)
    assert refused(capsys, "compare", "out")[0].startswith("compare: expected a comparison in out")
    assert refused(capsys, "compare", "out", "--redraw")[0].startswith("compare: expected out/results.csv")


def test_the_claims_are_listed(capsys):
    shown = output(capsys, "reproduce", "--list")
    for words in ("m2rnn-s3:", "expected:", "cost on two cores:", "with --smoke"):
        assert words in shown
    claims = json.loads(output(capsys, "reproduce", "--list", "--json"))["claims"]
    assert len(claims) == 8
    assert refused(capsys, "reproduce") == ["reproduce: expected the name of a claim, or --list"]
    assert refused(capsys, "reproduce", "mru-tinystory") == [
        "reproduce: no claim is named 'mru-tinystory'; did you mean 'mru-tinystories'?"
    ]


def test_a_claim_gets_a_verdict(place, capsys):
    small = ["training.steps=2", "training.batch=2", "training.sequence=16", "match.value=9000", "seeds=1"]
    small += [f"models.{i}.model.width=16" for i in range(3)] + ["training.warmup=1", "match.tolerance=0.2"]
    changes = [word for change in small for word in ("--set", change)]
    arguments = ["reproduce", "mru-shakespeare", "--text", "beer.txt", "--out", "out", "--jobs", "1"]
    shown = output(capsys, *arguments, *changes)
    assert "Verdict: UNDECIDED (of a changed suite: the band is for the claim's own)." in shown
    assert shown.count("training.steps = 2 instead of 1000") == 1
    assert "match.value = 9000.0 instead of 2400000.0" in shown
    assert "no interval can be given" in shown
    report = (place / "out" / "report.html").read_text(encoding="utf-8")
    assert "Verdict: UNDECIDED (of a changed suite" in report
    again = ["reproduce", "mru-shakespeare", "--out", "out", "--redraw"]
    found = json.loads(output(capsys, *again, "--json"))
    assert any("of a changed suite" in line for line in found["findings"])
    assert refused(capsys, *again, "--set", "seeds=2") == ["--redraw: expected no --text or --set"]
    assert refused(capsys, *again, "--smoke") == ["--smoke: expected the short form in out, got the full one"]
    assert refused(capsys, "reproduce", "hybrid-swap", *again[2:]) == [
        "reproduce: expected the suite hybrid-swap or hybrid-swap-smoke, got 'mru-shakespeare'"
    ]
    suite = yaml.safe_load((place / "out" / "suite.yaml").read_text())
    (place / "out" / "suite.yaml").write_text(yaml.safe_dump({**suite, "name": "mru-shakespeare-smoke"}))
    assert "Verdict: UNDECIDED (the short form: " in output(capsys, *again)
    assert any(line.startswith("Open: ") for line in found["findings"])
