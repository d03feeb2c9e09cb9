"""How kernels are timed: results are checked first, contestants take turns in one process; minimum and median.

On a shared machine only the CPU time of the process at one thread can be compared, and its minimum is the number to
trust. Contestants take turns, so that a slow minute affects all of them. With two threads, wall-clock time is measured.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[[], Any]
WARM_UP = 0.02  # seconds of every contestant before each of its turns


@dataclass
class Contest:
    """One shape of one op. `check` raises if a result is wrong, before anything is timed."""

    name: str
    check: Callable[[], None]
    ours: Run
    others: dict[str, Run | str]  # a string says why a contestant is absent
    bound: float | None = None  # seconds that no program for this processor could go below
    bound_name: str = ""
    work: dict[str, float] = field(default_factory=dict)  # of others, as a multiple of ours: compared per work too
    results: dict[str, Any] = field(default_factory=dict)


def run_all(contests: list[Contest], title: str) -> None:
    """Times every contest, prints the tables, and writes them to the file of --json."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", type=int, default=15, help="how often each contestant has its turn")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    about = environment()
    let_allocator_settle()
    print(f"{title}\n" + "  ".join(f"{key}: {value}" for key, value in about.items()))
    failed = 0
    for contest in contests:
        try:
            contest.check()
        except AssertionError as error:
            failed += 1
            contest.results = {"refused": str(error)}
            print(f"\n{contest.name}\n  not timed, the kernel is wrong: {error}")
            continue
        contest.results = _time(contest, options.rounds)
        _print(contest)
    if options.json is not None:
        tables = [{"name": c.name, "bound": c.bound, "bound_name": c.bound_name, **c.results} for c in contests]
        options.json.write_text(json.dumps({"title": title, **about, "contests": tables}, indent=1) + "\n")
    sys.exit(1 if failed else 0)


def environment() -> dict[str, Any]:
    """Machine, versions and commit, which every result has to name."""
    from matrixstate import _native

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout

    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "instruction_set": _native.instruction_set(),
        "torch": torch.__version__,
        "commit": git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "--porcelain") else ""),
    }


def let_allocator_settle() -> None:
    """Frees one large block, after which glibc keeps freed memory for later calls instead of returning it.

    In a training, the large tensors of the first step have that effect. Before it, every call pays for fresh pages.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def peak_multiply_adds() -> float:
    """The peak rate: float32 multiply-adds per second at one thread, in vectors of the instruction set in use."""
    from matrixstate import _native

    return max(_native.multiply_adds_per_second() for _ in range(20))


def _time(contest: Contest, rounds: int) -> dict[str, Any]:
    contestants = {"ours": contest.ours, **{n: run for n, run in contest.others.items() if callable(run)}}
    torch.set_num_threads(1)
    cpu = _interleave(contestants, rounds, time.process_time)
    torch.set_num_threads(2)
    wall = _interleave({"ours": contest.ours}, 4 * rounds, time.perf_counter)["ours"]
    torch.set_num_threads(1)
    alone = _interleave({"ours": contest.ours}, 4 * rounds, time.perf_counter)["ours"]
    absent = {n: why for n, why in contest.others.items() if isinstance(why, str)}
    summary = {n: {"min": min(t), "median": statistics.median(t)} for n, t in cpu.items()}
    return {"cpu_seconds": summary, "wall_1_thread": min(alone), "wall_2_threads": min(wall), "absent": absent}


def _interleave(contestants: dict[str, Run], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            time.sleep(0.02)  # thread pools of the one before go on spinning for a while, on our account
            warm = time.perf_counter() + WARM_UP
            while time.perf_counter() < warm:  # at least once, until clock and caches are as in the midst of a training
                run()
            begin = clock()
            run()
            times[name].append(clock() - begin)
    return times


def _print(contest: Contest) -> None:
    results = contest.results
    ours = results["cpu_seconds"]["ours"]
    print(f"\n{contest.name}\n  {'1 thread, CPU time':28} {'min ms':>9} {'median':>9} {'ratio of minima':>16}")
    for name, t in results["cpu_seconds"].items():
        print(f"  {name:28} {t['min'] * 1e3:9.3f} {t['median'] * 1e3:9.3f} {t['min'] / ours['min']:15.1f}x")
    for name, why in results["absent"].items():
        print(f"  {name:28} absent: {why}")
    for name, work in contest.work.items():
        per_work = ours["min"] * work / results["cpu_seconds"][name]["min"]
        print(f"  {name + ', per work':28} {'':9} {'':9} ours takes {per_work:.2f} times as long")
    if contest.bound is not None:
        share = contest.bound / ours["min"]
        print(f"  {contest.bound_name:28} {contest.bound * 1e3:9.3f} {'':9} ours reaches {share:.0%} of it")
    faster = results["wall_1_thread"] / results["wall_2_threads"]
    print(f"  2 threads, wall              {results['wall_2_threads'] * 1e3:9.3f} {'':9} {faster:14.2f}x over 1 thread")
