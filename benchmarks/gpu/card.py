"""The first stage: versions, the card, and what it reaches."""

import platform
import subprocess
import sys

import torch

from gpu.stage import GB, Stage
from matrixstate.ops import OPS


def main() -> None:
    stage = Stage("card", "The card")
    card = "none: interpreted on a CPU" if stage.tiny else torch.cuda.get_device_name()
    stage.add("versions", card=card, python=platform.python_version(), torch=torch.__version__, triton=_triton())
    stage.add("what it reaches", **_reached(stage))
    for op, backends in OPS.items():
        reasons = {b.name: b.why_not(stage.device.type, torch.bfloat16) for b in backends}
        stage.add("backends", op=op, **{name: reason or "yes" for name, reason in reasons.items()})
    if not stage.tiny:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
        print(done.stdout, file=sys.stderr)


def _triton() -> str:
    import triton

    return triton.__version__


def _reached(stage: Stage) -> dict[str, float]:
    n = 1 << (12 if stage.tiny else 29)
    source, target = (torch.empty(n, dtype=torch.bfloat16) for _ in range(2))
    copied = stage.seconds([lambda: target.copy_(source)])
    width = 64 if stage.tiny else 8192
    a, b = (torch.randn(width, width).bfloat16() for _ in range(2))
    multiplied = stage.seconds([lambda: a @ b])
    known = {} if stage.tiny else _properties()
    return {"copy GB/s": 4 * n / copied / GB, "bfloat16 TFLOP/s": 2 * width**3 / multiplied / 1e12} | known


def _properties() -> dict[str, float]:
    about = torch.cuda.get_device_properties(0)
    return {"multiprocessors": about.multi_processor_count, "GHz": _clock(), "memory GB": about.total_memory / GB}


def _clock() -> float:
    """The clock of the multiprocessors under load, as the driver says."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[0]) / 1e3 if done.returncode == 0 else 1.7


if __name__ == "__main__":
    main()
