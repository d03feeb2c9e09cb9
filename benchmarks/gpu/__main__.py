"""Checks and measures everything that needs a GPU, in stages that each write their results at once.

    scripts/gpu_check.sh OUT [--only STAGE ...] [--tiny] [--minutes 8]

    card       versions, the card, and what it reaches: bandwidth of a copy, products in bfloat16
    right      the tests of all kernels on the GPU: every length, shape and dtype against float64
    speed      every op at a model's size: checked over its whole length, then timed against the other backends
    models     training steps and generation of models of 100M parameters: tokens per second and memory
    sweep      the two core kernels with other numbers of warps and rows

OUT receives STAGE.json and STAGE.md of every stage, STAGE.log with what it printed, and report.md with all tables.
Every stage is a process of its own, so that a fault of the GPU in one leaves the others; one that would exceed what is
left of --minutes is stopped, and what it has written by then counts. --tiny runs the same code on a CPU, where Triton's
interpreter takes the place of the GPU: numbers mean nothing then.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

STAGES = ("card", "right", "speed", "models", "sweep")
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", choices=STAGES, default=STAGES, metavar="STAGE")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=8)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    failed = [stage for stage in options.only if not run(stage, options.out, options.tiny, ends - time.monotonic())]
    report(options.out)
    print(f"report: {options.out / 'report.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


def run(stage: str, out: Path, tiny: bool, seconds: float) -> bool:
    """Runs one stage in a process of its own; whether it ended well."""
    began = time.monotonic()
    print(f"{stage} ...", flush=True)
    places = [ROOT / "src", ROOT / "benchmarks", ROOT / "tests", ROOT / "tests" / "ops"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, places), os.environ.get("PYTHONPATH", "")]),
        "TRITON_INTERPRET": "1" if tiny else "0",
        "MATRIXSTATE_TEST_DEVICE": "cpu" if tiny else "cuda",
    }
    command = [sys.executable, "-m", f"gpu.{stage}", str(out.resolve()), *(["--tiny"] if tiny else [])]
    with (out / f"{stage}.log").open("w") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, timeout=max(seconds, 1)
            ).returncode
            ended = "done" if code == 0 else f"failed with {code}"
        except subprocess.TimeoutExpired:
            code, ended = 1, "stopped: out of time"
    print(f"{stage} {ended} after {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def report(out: Path) -> None:
    """Puts the tables of all stages together."""
    parts = [(out / f"{stage}.md").read_text() for stage in STAGES if (out / f"{stage}.md").exists()]
    (out / "report.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
