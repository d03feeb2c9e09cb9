"""Figures and report come from the CSV files alone, and the report opens in a browser with nothing to fetch."""

import dataclasses
import os
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

import pytest
from tiny import compared_set, compared_with_trials, row, set_data

from matrixstate.comparison.reporting import sections
from matrixstate.comparison.reporting.figures import draw_all, mean_curve
from matrixstate.comparison.reporting.overview import _panels, cell, draw_overview
from matrixstate.comparison.reporting.page import inline_svg
from matrixstate.comparison.reporting.report import write_report, write_set_report
from matrixstate.comparison.reporting.summary import headlines, short_finding, summarise
from matrixstate.comparison.running.tables import (
    CURVES,
    RESULTS,
    PartResult,
    Point,
    Result,
    by_part,
    read_rows,
    write_rows,
)

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
TABLES = (RESULTS, "trials.csv", CURVES, "matching.csv")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The CSV files of a comparison and nothing else."""
    comparison, _ = compared_with_trials(tmp_path_factory.mktemp("made"))
    place = tmp_path_factory.mktemp("tables")
    for name in TABLES:
        shutil.copyfile(comparison.directory / name, place / name)
    return place


def test_every_figure_is_drawn_from_the_tables(tables):
    drawn = draw_all(tables)
    assert [path.stem for path in drawn] == ["values", "loss", "positions", "state-bytes"]
    for path in drawn:
        assert path.read_text().startswith("<?xml")
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.read_bytes() for path in drawn}
    draw_all(tables)
    assert {path: path.read_bytes() for path in drawn} == before


class Page(HTMLParser):
    """What a page refers to, and its ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in ("href", "src", "srcset", "action", "data", "poster"):
                self.references.append(value)
            if key == "id":
                self.ids.append(value)


def test_the_report_refers_to_nothing_outside_it(tables):
    text = write_report(tables, draw_all(tables), ["Verdict: <b>"]).read_text(encoding="utf-8")
    page = Page(text)
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    assert not {"script", "link rel=stylesheet", "iframe", "img"} & set(page.tags)
    assert page.tags.count("svg") == 4
    assert len(set(page.ids)) == len(page.ids)
    inner = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert inner <= set(page.ids)
    assert "a &lt;convolution&gt;" in text
    assert "Verdict: &lt;b&gt;" in text
    assert "<convolution>" not in text


@pytest.mark.parametrize("parts", ["one", "several"])
def test_the_report_opens_in_a_browser(parts, request, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser on PATH: none of {', '.join(BROWSERS)}")
    if parts == "one":
        tables = request.getfixturevalue("tables")
        report, figures = write_report(tables, draw_all(tables)), 4
    else:
        report = report_of(request.getfixturevalue("several"))
        figures = len(list(report.parent.rglob("figures/*.svg")))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,3000"]
    options += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    log, picture = tmp_path / "net.json", tmp_path / "page.png"
    watched = ["--enable-logging=stderr", "--log-level=0", f"--log-net-log={log}", f"--screenshot={picture}"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    shown = subprocess.run(
        [browser, *options, *watched, report.as_uri()], capture_output=True, text=True, timeout=120, env=environment
    )
    assert shown.returncode == 0, shown.stderr
    assert "CONSOLE" not in shown.stderr
    fetched = set(re.findall(r'"url":"([^"]+)"', log.read_text()))
    assert not [url for url in fetched if report.name in url or not _of_the_browser_itself(url)]
    assert picture.stat().st_size > 50_000
    page = subprocess.run(
        [browser, *options, "--dump-dom", report.as_uri()], capture_output=True, text=True, timeout=120, env=environment
    ).stdout
    assert page.count("<svg") == page.count("<figcaption") == figures


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The CSV files of a comparison of three parts, environment and suite, and nothing else."""
    made, place = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("several")
    comparison, _ = compared_set(made / "out", set_data(made, seeds=3))
    for directory in (".", "parts/parity", "parts/cycle", "parts/text"):
        (place / directory).mkdir(parents=True, exist_ok=True)
        for path in (comparison.directory / directory).glob("*.csv"):
            shutil.copyfile(path, place / directory / path.name)
    for name in ("environment.json", "suite.yaml"):
        shutil.copyfile(comparison.directory / name, place / name)
    return place


def report_of(place):
    places = {name: place / "parts" / name for name in ("parity", "cycle", "text")}
    figures = {name: draw_all(directory) for name, directory in places.items()}
    return write_set_report(place, draw_overview(place), places, figures)


def test_the_overview_is_drawn_from_one_table(several, tmp_path):
    shutil.copyfile(several / RESULTS, tmp_path / RESULTS)
    (svg,) = draw_overview(tmp_path)
    text = svg.read_text(encoding="utf-8")
    assert svg == tmp_path / "figures" / "overview.svg"
    for words in ("Parity &amp; co", "cycle", "bits per byte, lower is better", "a &lt;convolution&gt;"):
        assert words in text
    assert svg.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    before = svg.read_bytes()
    assert draw_overview(tmp_path)[0].read_bytes() == before
    rows = read_rows(several / RESULTS, PartResult)
    write_rows(tmp_path / RESULTS, PartResult, [dataclasses.replace(one, value=None) for one in rows])
    assert draw_overview(tmp_path) == []


def test_every_part_has_a_panel_and_every_seed_a_dot(several):
    rows = read_rows(several / RESULTS, PartResult)
    panels = _panels(rows).axes
    assert [axes.get_title() for axes in panels] == ["Parity & co", "cycle", "text"]
    for axes, part in zip(panels, ("parity", "cycle", "text"), strict=True):
        dots = sorted(x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata())
        assert dots == sorted(one.value for one in rows if one.part == part)
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["a <convolution>", "gru"]


def test_the_report_of_several_parts_is_one_file(several):
    text = report_of(several).read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    assert not {"script", "link rel=stylesheet", "iframe", "img"} & set(page.tags)
    assert len(set(page.ids)) == len(page.ids)
    inner = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert inner <= set(page.ids)
    assert {"part-parity", "part-cycle", "part-text"} <= inner
    assert "<h1>Two &lt;tasks&gt; and a text</h1>" in text
    assert "<convolution>" not in text
    for once in ("How to read this", "Environment", "<summary>The suite</summary>", "Overview"):
        assert text.count(once) == 1
    for each in ("<h3>Results</h3>", "<h3>The budget</h3>", "<h3>Learning rates</h3>"):
        assert text.count(each) == 3
    drawn = [path for directory in several.rglob("figures") for path in directory.glob("*.svg")]
    assert page.tags.count("svg") == len(drawn) > 3


def test_the_overview_agrees_with_the_parts(several):
    text = report_of(several).read_text(encoding="utf-8")
    overview = text[: text.index("<section")]
    rows = by_part(read_rows(several / RESULTS, PartResult))
    for name, mine in rows.items():
        assert escape(headlines(mine)[0]) in overview
        for line in summarise(mine):
            assert line.interval is not None
            mean = f"{line.mean:.4f} [{line.interval.low:.4f}, {line.interval.high:.4f}]"
            solved = "" if name == "text" else "\nsolved 0 of 3"
            assert f"<td>{mean}{solved}</td>" in overview
    assert overview.count('<tr class="control"><td>a &lt;convolution&gt;</td>') == 1


def test_the_short_finding_is_the_best_entry_and_how_it_differs_from_the_control():
    rows = [row("a", s, 2.0 + s / 10) for s in range(3)] + [row("b", s, 1.0 + s / 10) for s in range(3)]
    assert short_finding(rows).startswith(
        "B has the lowest mean: 1.1000 bits per byte (3 seeds). B is lower than A by 1.000"
    )
    upward = [dataclasses.replace(one, better="higher") for one in rows]
    assert short_finding(upward) == "A has the highest mean: 2.1000 bits per byte (3 seeds)."
    same = [row(entry, s, 2.0 + s / 10) for entry in "abc" for s in range(3)]
    assert short_finding(same).endswith("This comparison shows no difference between A and any other entry.")
    assert short_finding([row("a", value=None, status="failed")]) == "No training finished."
    failed = [row("a", value=None, status="failed"), row("b", 0, 1.0)]
    assert short_finding(failed) == "B has the lowest mean: 1.0000 bits per byte (1 seed)."


def test_an_overview_cell_shows_failures():
    failed = row("b", 1, None, status="failed", kind="task", solved=False)
    (line,) = summarise([row("b", 0, 0.5, kind="task", solved=True), failed])
    assert cell(line) == "0.5000\nsolved 1 of 2\n1 failed"
    assert cell(None) == "–"


def _of_the_browser_itself(url):
    """Whether a browser asks for that by itself, whatever the page: updates, accounts."""
    return any(host in url for host in ("google.com", "googleapis.com", "gstatic.com", "gvt1.com", "chromium.org"))


def test_the_ids_of_an_svg_in_a_page_are_its_own():
    svg = '<?xml?><!DOCTYPE svg><svg xmlns="http://x" xmlns:xlink="http://y"><metadata>http://z</metadata>'
    svg += '<g id="a"/><use xlink:href="#a" clip-path="url(#a)"/></svg>'
    assert inline_svg(svg, "p") == '<svg><g id="p-a"/><use href="#p-a" clip-path="url(#p-a)"/></svg>'


def test_identical_models_under_different_names_show_no_difference():
    rows = [row(entry, seed, 2.0 + seed / 10) for entry in "abc" for seed in range(3)]
    sentences = headlines(rows)
    assert "This comparison shows no difference between A and any other entry." in sentences
    assert sum("no difference shown" in sentence for sentence in sentences) == 2
    assert not any("lower than" in sentence or "higher than" in sentence for sentence in sentences)


def test_the_best_comes_first_and_failures_are_listed():
    rows = [row("a", s, 2.0) for s in range(3)] + [row("b", s, 1.0) for s in range(3)]
    rows += [row("c", 0, None, status="failed", reason="step 3: nan")]
    lines = summarise(rows)
    assert [line.first.entry for line in lines] == ["b", "a", "c"]
    sentences = headlines(rows)
    assert sentences[0] == "B has the lowest mean: 1.0000 bits per byte (3 seeds)."
    assert "B is lower than A by 1.000 bits per byte, interval [-1.000, -1.000] (3 paired seeds)." in sentences
    assert "C: 1 of 1 trainings failed; the first: step 3: nan" in sentences
    upward = [dataclasses.replace(r, better="higher") for r in rows]
    assert [line.first.entry for line in summarise(upward)] == ["a", "b", "c"]
    assert headlines([]) == ["Nothing has been trained yet."]
    assert headlines(rows[-1:])[0] == "No training finished."


def test_a_task_says_how_many_seeds_solved_it():
    rows = [row("a", s, s / 4, kind="task", better="higher", solved_at=0.5, solved=s >= 2) for s in range(5)]
    line = summarise(rows)[0]
    assert line.solved == (3, 5)
    assert "A solved the task in 3 of 5 seeds (bits per byte of at least 0.5); Wilson, 95%: 23% to 88%." in headlines(
        rows
    )


def test_a_task_says_what_it_cost_to_learn():
    cost = {"kind": "task", "better": "higher", "solved": True}
    rows = [row("a", s, 1.0, solved_cpu_seconds=c, **cost) for s, c in enumerate((10.0, None, 14.0))]
    line = summarise(rows)[0]
    assert line.solve_seconds == (10.0, 14.0)
    assert sections._result(line)[-2:] == ["3 of 3", "12.0 (2)"]
    assert sections._result(summarise(rows[1:2])[0])[-1] == "–"


def test_a_difference_below_the_item_error_is_noted():
    rows = [row(entry, s, 1.0 + (entry == "b") / 100, item_error=0.2) for entry in "ab" for s in range(3)]
    assert any(s.endswith("That is less than the item error of one model, 0.200.") for s in headlines(rows))
    assert summarise(rows)[0].item_error == pytest.approx(0.2)
    assert summarise(rows)[0].interval.high == 1.0  # not widened by it


def test_rows_survive_the_file(tmp_path):
    rows = [row('a, "b"\n', 3, 0.1, reason="x", solved=True), row("ü", value=None, status="failed")]
    write_rows(tmp_path / "r.csv", Result, rows)
    assert read_rows(tmp_path / "r.csv", Result) == rows


def test_a_mean_curve_is_over_what_all_seeds_have():
    assert mean_curve({0: [(1, 1.0), (2, 4.0)], 1: [(2, 2.0), (3, 9.0)]}) == [(2, 3.0)]


def test_a_curve_that_is_not_finite_is_drawn_without_those_points(tmp_path, tables):
    shutil.copytree(tables, tmp_path / "t")
    points = read_rows(tables / CURVES, Point)
    write_rows(tmp_path / "t" / CURVES, Point, [*points, dataclasses.replace(points[0], x=99.0, y=float("inf"))])
    assert len(draw_all(tmp_path / "t")) == 4
