"""`matrixstate info`."""

from pathlib import Path

import torch

from matrixstate.cli.output import print_json, print_table
from matrixstate.ops import OPS
from matrixstate.training.run import environment


def info(*, json: bool = False) -> int:
    """Print versions, the processor's features, and every op's backends, with the reasons of those that cannot run.

    Args:
        json: Print one JSON object.
    """
    about = {**environment(), "cpu_capability": torch.backends.cpu.get_cpu_capability(), "cpu_features": cpu_features()}
    ops = {
        op: {backend.name: backend.why_not("cpu", torch.float32) or "available" for backend in backends}
        for op, backends in OPS.items()
    }
    if json:
        print_json({**about, "ops": ops})
        return 0
    separate = ("packages", "backends", "plugins", "cpu_features")
    rows = [(key, value) for key, value in about.items() if key not in separate]
    rows += [(name, version or "not installed") for name, version in about["packages"].items()]
    rows += [("plug-in", plugin["name"]) for plugin in about["plugins"]]
    print_table(("", "matrixstate"), [*rows, ("cpu features", " ".join(about["cpu_features"]))])
    rows = [(op, name, reason) for op, reasons in ops.items() for name, reason in reasons.items()]
    print_table(("op", "backend", "float32 on cpu"), rows)
    return 0


def cpu_features() -> list[str]:
    """The vector instruction sets that kernels use, of those that /proc/cpuinfo lists; empty if there is none."""
    wanted = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    words = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [name for name in wanted if name in words]
