"""Output of the commands: JSON, tables and numbers with units; progress on standard error."""

import json
import math
import sys
import time
from collections.abc import Sequence
from html import escape
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from matrixstate.evaluation.tracking import Tracking
from matrixstate.training.thermometer import Reading

UNLIMITED = 100_000  # columns of tables that go to a file or a pipe, where no cell is truncated


def print_json(value: Any) -> None:
    """Prints one JSON object on standard output, with null for inf and nan, which JSON does not have."""
    print(json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Prints a table on standard output; all columns but the first are right-aligned. Brackets are no markup."""
    table = Table(title=None if title is None else Text(title, style="table.title"), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else UNLIMITED).print(table)


def in_bytes(size: float) -> str:
    """A size in B, kB, MB or GB, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def in_time(seconds: float) -> str:
    """A duration in s, min or h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Status:
    """A line on standard error, if that is a terminal, that says what is being done."""

    def __init__(self) -> None:
        self._status = Console(stderr=True).status("")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, what: str) -> None:
        """Shows `what`."""
        self._status.update(what)


class ProgressBar:
    """A progress bar on standard error or in a notebook; a line every ten seconds if standard error is no terminal."""

    def __init__(self, name: str, total: int) -> None:
        self._console = Console(stderr=True)
        self._name, self._total, self._began, self._printed = name, total, time.monotonic(), time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=total, detail="")
        self._notebook = NotebookLine() if self._console.is_jupyter else None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._notebook is not None:
            self._notebook.show("")

    def update(self, done: int, detail: str) -> None:
        """Shows that `done` of the total is done, and `detail` besides."""
        self._bar.update(self._task, completed=done, detail=detail)
        if self._console.is_terminal:
            return
        now, every = time.monotonic(), 10.0 if self._notebook is None else 0.25  # seconds
        if now - self._printed < every and done != self._total:
            return
        self._printed = now
        left = in_time((now - self._began) / max(done, 1) * (self._total - done))
        if self._notebook is None:
            print(f"{self._name}: {done}/{self._total} {detail} {left} left", file=sys.stderr, flush=True)
        else:
            bar = f'<progress value="{done}" max="{self._total}"></progress>'
            self._notebook.show(f"<code>{escape(self._name)}</code> {bar} <code>{escape(detail)} {left} left</code>")


class NotebookLine:
    """A line of HTML in a notebook that is updated in place. Not by rich, which would need ipywidgets."""

    def __init__(self) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        self._html, self._handle = HTML, display(HTML(""), display_id=True)

    def show(self, html: str) -> None:
        """Replaces the line by `html`."""
        self._handle.update(self._html(html))


class TrainingProgress(ProgressBar):
    """A reporter of a training that shows step, loss, norm of the states, tokens/s, a GPU's memory and time left."""

    _validation = _states = ""

    def step(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        tokens_per_second: float,
        **observed: Any,
    ) -> None:
        accuracy = (
            f" accuracy {observed['accuracy']:.2f} at length {observed['length']}" if "accuracy" in observed else ""
        )
        numbers = f"loss {loss:.3f}{accuracy}{self._validation}{self._states}"
        memory = f" {in_bytes(observed['memory'])}" if "memory" in observed else ""
        self.update(step, f"step {step} {numbers} {tokens_per_second:,.0f} tokens/s{memory}")

    def evaluated(self, step: int, nats_per_token: float) -> None:
        self._validation = f" (validation {nats_per_token:.3f})"

    def measured(self, step: int, readings: Sequence[Reading]) -> None:
        if readings:
            largest = max(max(reading.log_norm) for reading in readings) / math.log(10)
            self._states = f" |state| 10^{largest:.1f}"

    def warned(self, message: str) -> None:
        self._console.print(f"warning: {message}", style="yellow", markup=False, highlight=False)


class ComparisonProgress:
    """A listener of a comparison that shows the running jobs, steps done and time left."""

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None
        self._done = self._jobs = self._steps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__()

    def begin(self, what: str, jobs: int, finished: int, steps: int) -> None:
        self.__exit__()
        self._bar, self._jobs, self._done, self._steps = None, jobs, finished, 0
        if steps:
            self._bar = ProgressBar(what, steps).__enter__()

    def update(self, steps: int, running: Sequence[str]) -> None:
        self._steps = max(steps, self._steps)  # the bar never moves backwards
        if self._bar is not None:
            self._bar.update(self._steps, f"{self._done} of {self._jobs} done; {', '.join(running)}")

    def finished(self, name: str, result: dict[str, Any]) -> None:
        self._done += 1
        if result.get("status") == "failed":
            print(f"{name}: failed: {result.get('reason')}", file=sys.stderr)


def print_tracking(tracking: Tracking, trained: int, json: bool, **more: Any) -> None:
    """Prints how far a model tracks: a table from the training length on, or one JSON object that includes `more`."""
    doubled = [trained * 2**k for k in range(tracking.length.bit_length()) if trained * 2**k < tracking.length]
    lengths = [
        n for n in (*doubled, tracking.length) if not math.isnan(tracking.token_accuracy(n))
    ]  # without answers: nan
    names = ("token_accuracy", "tail_accuracy", "all_correct")
    rows = [(n, *(getattr(tracking, name)(n) for name in names)) for n in lengths]
    horizons = {"T90": tracking.whole_horizon(0.9), "T99.9": tracking.horizon(0.999)}
    if json:
        table = [dict(zip(("length", *names), row, strict=True)) for row in rows]
        print_json({**more, "sequences": tracking.sequences, "lengths": table, **horizons})
        return
    print_table(
        ("length", "answers right", "in the last eighth", "sequences without a mistake"),
        [(f"{n:,}", *(f"{value:.2%}" for value in values)) for n, *values in rows],
    )
    print(
        f"{tracking.sequences} sequences; 90 % of them without a mistake to length {horizons['T90']:,}, "
        f"99.9 % of the last eighth right to length {horizons['T99.9']:,}"
    )
