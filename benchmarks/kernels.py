"""Writes results of the kernels' benchmarks into the documentation: `python benchmarks/kernels.py RESULT.json ...`.

The results are what `matrix.py`, `m2rnn.py`, `mru.py`, `delta.py`, `outer.py` and `linear_scan.py` write with --json;
the table goes between the marks of --section in docs/speed.md, `kernels` for the first five, `linear_scan` for the
last. Shapes so small that the call takes longer than the kernel are left out.
"""

import argparse
import json
from pathlib import Path

from tables import markdown, write_section
from timing import ROOT

LEAST = 0.2e-3  # seconds of work, by its bound, from which on a shape is shown
NAMES = {" in PyTorch": "", "PyTorch ": "", " (plain)": "", "composed": "our own parts, unfused"}


def row(contest: dict) -> list[str]:
    times = {name: time["min"] for name, time in contest["cpu_seconds"].items()}
    ours = times.pop("ours")
    against = ", ".join(f"{short(name)} {time / ours:.1f}x" for name, time in times.items())
    share = f"{contest['bound'] / ours:.0%}"
    both = contest["wall_1_thread"] / contest["wall_2_threads"]
    return [contest["name"], f"{1e3 * ours:.2f}", against, share, f"{both:.1f}x"]


def short(name: str) -> str:
    for long, brief in NAMES.items():
        name = name.replace(long, brief)
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--section", default="kernels")
    options = parser.parse_args()
    results = [json.loads(path.read_text(encoding="utf-8")) for path in options.results]
    contests = [c for result in results for c in result["contests"] if "cpu_seconds" in c]
    shown = [row(c) for c in contests if c["bound"] >= LEAST]
    head = ["op, direction, sizes", "ours, ms", "times as long", "of the bound", "one thread over two"]
    commits = ", ".join(sorted({r["commit"] for r in results}))
    loads = f"{min(r['load'] for r in results)} to {max(r['load'] for r in results)}"
    first = results[0]
    about = (
        f"{first['cpu']} ({first['instruction_set']}), torch {first['torch']}, commits {commits}, load average {loads}."
    )
    write_section(ROOT / "docs" / "speed.md", options.section, [*markdown(head, shown), "", about])


if __name__ == "__main__":
    main()
