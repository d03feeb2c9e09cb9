"""What the stages share: where they run, how they time, and how they write results, at once."""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

GB = 1e9


class Stage:
    """One stage's options and results. Rows are written as they come, so that a stop loses little."""

    def __init__(self, name: str, title: str) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("out", type=Path)
        parser.add_argument("--tiny", action="store_true")
        options = parser.parse_args()
        self.name, self.title, self.out, self.tiny = name, title, options.out, options.tiny
        self.device = torch.device("cpu" if self.tiny else "cuda")
        self.tables: dict[str, list[dict[str, Any]]] = {}
        torch.set_default_device(self.device)
        torch.manual_seed(0)

    def add(self, table: str, **row: Any) -> None:
        """A row of a table, whose columns are those of its first row."""
        print(table, row, flush=True)
        self.tables.setdefault(table, []).append(row)
        (self.out / f"{self.name}.json").write_text(json.dumps(self.tables, indent=1) + "\n")
        (self.out / f"{self.name}.md").write_text(self.markdown())

    def markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        for table, rows in self.tables.items():
            columns = list(dict.fromkeys(name for row in rows for name in row))
            lines += [f"### {table}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines += ["| " + " | ".join(_text(row.get(name)) for name in columns) + " |" for row in rows]
            lines.append("")
        return "\n".join(lines)

    def card(self) -> dict[str, float]:
        """What the first stage measured; guesses of an H100 where it did not run."""
        file = self.out / "card.json"
        if not file.exists():
            return {"copy GB/s": 3000, "bfloat16 TFLOP/s": 800, "multiprocessors": 132, "GHz": 1.7}
        return json.loads(file.read_text())["what it reaches"][0]

    def seconds(self, calls: list[Callable[[], Any]], *, least: float = 0.3) -> float:
        """The median time of a call, once warm. Several calls, with inputs of their own, take turns: no cache helps."""
        for call in calls:
            call()
        times: list[float] = []
        began, turns = time.perf_counter(), cycle(calls)
        while len(times) < 3 or (time.perf_counter() - began < least and len(times) < 200):
            times.append(self._once(next(turns)))
        return statistics.median(times)

    def _once(self, call: Callable[[], Any]) -> float:
        if self.device.type != "cuda":
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    def peak_memory(self) -> float | None:
        """The most GB that were allocated since the last call; None on a CPU."""
        if self.device.type != "cuda":
            return None
        most = torch.cuda.max_memory_allocated() / GB
        torch.cuda.reset_peak_memory_stats()
        return most

    def attempt(self, table: str, what: dict[str, Any], work: Callable[[], dict[str, Any] | None]) -> None:
        """Adds the row that `work` returns, if any, or one that says what it raised. A stage goes on after errors."""
        try:
            found = work()
        except Exception as error:  # a kernel that fails must not cost the measurements of the others
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {str(error)[:300]}".replace("\n", " ")}
            if "CUDA error" in str(error):
                self.add(table, **what, **found)
                raise  # the GPU takes no more work of this process
        if found is not None:
            self.add(table, **what, **found)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/")
