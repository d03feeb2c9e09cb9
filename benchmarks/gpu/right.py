"""The second stage: the tests of the Triton kernels, on the GPU."""

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from gpu.stage import Stage

TESTS = Path(__file__).resolve().parents[2] / "tests" / "ops"
PROCESSES = 8  # that share the GPU; most of their time is Triton's compiler's


def main() -> None:
    stage = Stage("right", "Kernels beside float64 on the GPU")
    found, words = stage.out / "right.xml", "triton and not interpreter and not resources"
    words += " and m2rnn_scan and (bits or length)" if stage.tiny else ""
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(TESTS),
        "-q",
        "-k",
        words,
        f"--junitxml={found}",
        "-p",
        "no:cacheprovider",
    ]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(2 if stage.tiny else PROCESSES)]
    if stage.tiny:
        command += ["-m", "not slow"]
    code = subprocess.run(command, check=False).returncode
    _tabulate(stage, found)
    sys.exit(code)


def _tabulate(stage: Stage, file: Path) -> None:
    cases = ElementTree.parse(file).getroot().iter("testcase")
    counts: dict[str, Counter[str]] = {}
    failures = []
    for case in cases:
        name = case.get("name", "")
        op = re.search(r"\[([\w ]+)", name)
        outcome = next((what for what in ("failure", "error", "skipped") if case.find(what) is not None), "passed")
        counts.setdefault(op[1] if op else "others", Counter())[outcome] += 1
        if outcome in ("failure", "error"):
            message = case.find(outcome).get("message", "")  # type: ignore[union-attr]
            failures.append({"test": name, "message": message[:300].replace("\n", " ")})
    for op, count in counts.items():
        stage.add("tests by op", op=op, **{w: count[w] for w in ("passed", "failure", "error", "skipped")})
    for failure in failures:
        stage.add("failures", **failure)


if __name__ == "__main__":
    main()
