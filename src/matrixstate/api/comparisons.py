"""Comparisons from Python: trains models at a matched budget; results as tables and figures."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrixstate.api.display import Figure, as_html, as_table
from matrixstate.api.runs import Paths, as_paths
from matrixstate.cli.compare_show import make_report
from matrixstate.cli.output import ComparisonProgress
from matrixstate.comparison.reporting.page import bullets
from matrixstate.comparison.reporting.summary import headlines, short_finding, summarise
from matrixstate.comparison.running.comparison_set import PARTS, is_set, open_any, prepare
from matrixstate.comparison.running.pool import Interrupted
from matrixstate.comparison.running.tables import CURVES, RESULTS, PartResult, Point, Result, by_part, read_rows
from matrixstate.comparison.suites.files import make_suite, with_seeds
from matrixstate.comparison.suites.set import SuiteSet, load_any, make_set
from matrixstate.comparison.suites.suite import SuiteConfig
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError
from matrixstate.plugins import load_plugins


@dataclass(frozen=True)
class ComparisonResult:
    """The results of a comparison, read from the CSV files in its directory."""

    directory: Path
    report: Path
    """An HTML page with all results."""

    @property
    def results(self) -> Any:
        """One row per entry and seed, as in results.csv: a `pandas.DataFrame`, or without pandas a list of dicts."""
        return as_table([vars(row) for rows in self._rows().values() for row in rows])

    @property
    def summary(self) -> Any:
        """One row per entry (and part): the mean over seeds, its interval, and how many seeds are done and failed."""
        return as_table(self._summary())

    @property
    def curves(self) -> Any:
        """One row per point of every curve: entry, seed, curve, x, y."""
        points = {name: read_rows(place / CURVES, Point) for name, place in self._parts().items()}
        part = (lambda name: {"part": name}) if is_set(self.directory) else (lambda name: {})
        return as_table([{**part(name), **vars(point)} for name, rows in points.items() for point in rows])

    @property
    def findings(self) -> list[str]:
        """The main findings of the report, one sentence each."""
        rows = self._rows()
        if not is_set(self.directory):
            return headlines(rows[""])
        return [f"{mine[0].suite}: {short_finding(mine)}" for mine in rows.values()]

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures by name, "PART/NAME" in a comparison of several parts; empty without matplotlib."""
        places = {"": self.directory / "figures"}
        if is_set(self.directory):
            places |= {f"{name}/": place / "figures" for name, place in self._parts().items()}
        return {f"{name}{path.stem}": Figure(path) for name, at in places.items() for path in sorted(at.glob("*.png"))}

    def _parts(self) -> dict[str, Path]:
        """Part -> its directory; a comparison that is not in parts is the part ""."""
        if not is_set(self.directory):
            return {"": self.directory}
        return {name: self.directory / PARTS / name for name in self._rows()}

    def _rows(self) -> Mapping[str, list[Result] | list[PartResult]]:
        """Part -> its rows of results.csv."""
        path = self.directory / RESULTS
        return by_part(read_rows(path, PartResult)) if is_set(self.directory) else {"": read_rows(path, Result)}

    def _summary(self) -> list[dict[str, Any]]:
        return [
            {
                **({"part": part} if part else {}),
                "entry": line.title,
                "metric": line.first.metric,
                "mean": line.mean,
                "low": None if line.interval is None else line.interval.low,
                "high": None if line.interval is None else line.interval.high,
                "seeds": len(line.values),
                "failed": len(line.failed),
                "parameters": line.first.parameters,
                "state_bytes": line.first.state_bytes,
            }
            for part, rows in self._rows().items()
            for line in summarise(rows)
        ]

    def _repr_html_(self) -> str:
        figures = self.figures
        shown = [figures[name].as_html() for name in ("overview", "values") if name in figures]
        return "".join([as_html(str(self.directory), self._summary()), bullets("findings", self.findings), *shown])


def compare(
    suite: Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    text: Paths = (),
    set: Iterable[str] = (),
    seeds: int | None = None,
    device: str = "auto",
    jobs: int = 1,
    plugins: Iterable[str | Path] = (),
    progress: bool = True,
) -> ComparisonResult:
    """Trains models at a matched budget, as `matrixstate compare` does. Finished trainings are not repeated.

    Args:
        suite: the options of a suite, as in a YAML file; the path of such a file; or the directory of a comparison.
        out: the output directory. Default: runs/NAME.
        text: files or folders of UTF-8 text, instead of the suite's.
        set: options that replace the suite's, as in "training.steps=100".
        seeds: how many seeds each entry is trained with, instead of the suite's number.
        device: where all trainings run: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        jobs: how many trainings run at once, one thread each. More than one run in processes of their own, so that a
            script needs `if __name__ == "__main__":` around the call.
        plugins: files or names of the plug-ins that the suite uses.
        progress: show a progress bar, in the notebook or on standard error.

    Raises:
        ConfigError: mistakes in the suite, all at once; a budget that an entry cannot meet; another suite in `out`.
        KeyboardInterrupt: on Ctrl-C. Everything is saved; the same call resumes.
    """
    load_plugins(plugins)
    if jobs < 1:
        raise ConfigError(f"jobs: expected at least 1, got {jobs}")
    if isinstance(suite, str | Path) and Path(suite).is_dir():
        directory, wanted = Path(suite), open_any(Path(suite)).suite
    else:
        wanted = _read(suite, list(set), as_paths(text))
        directory = Path(out) if out else Path("runs") / wanted.name
    wanted = wanted.with_seeds(seeds) if isinstance(wanted, SuiteSet) else with_seeds(wanted, seeds)
    comparison = prepare(directory, wanted, find_device(device))
    try:
        with ComparisonProgress() if progress else nullcontext(Silent()) as listener:
            comparison.run(jobs, listener)
    except Interrupted:
        raise KeyboardInterrupt(f"stopped; resume with: compare({str(directory)!r})") from None
    return ComparisonResult(directory, make_report(directory))


def _read(suite: Mapping[str, Any] | str | Path, changes: list[str], text: list[Path]) -> SuiteConfig | SuiteSet:
    if isinstance(suite, str | Path):
        return load_any(Path(suite), changes, text)
    data = {"name": "comparison", **suite}
    return make_set(data, changes, text) if "parts" in data else make_suite(data, changes, text)


class Silent:
    """A listener that shows nothing."""

    def begin(self, what: str, jobs: int, finished: int, steps: int) -> None: ...

    def update(self, steps: int, running: Sequence[str]) -> None: ...

    def finished(self, name: str, result: dict[str, Any]) -> None: ...
