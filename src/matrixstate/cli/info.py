"""`matrixstate info`."""

from collections import defaultdict
from pathlib import Path

import torch

from matrixstate.cli.output import print_json, print_table
from matrixstate.devices import describe, kinds_here
from matrixstate.ops import OPS, backends
from matrixstate.training.run import environment

DTYPES = torch.float32, torch.bfloat16


def info(*, json: bool = False) -> int:
    """Print versions, devices, the backend that every op takes on each, and why others cannot run there.

    An op takes the first of its backends that can run; some options of a call rule out one more.

    Args:
        json: Print one JSON object.
    """
    about = {**environment(), "cpu_capability": torch.backends.cpu.get_cpu_capability(), "cpu_features": cpu_features()}
    about["devices"] = [describe(torch.device(kind)) for kind in kinds_here()]
    inputs = {f"{str(dtype)[6:]} on {kind}": (kind, dtype) for kind in kinds_here() for dtype in DTYPES}
    about["backends"] = {name: backends(*where) for name, where in inputs.items()}
    ops = {
        op: {
            backend.name: {name: backend.why_not(*where) or "available" for name, where in inputs.items()}
            for backend in known
        }
        for op, known in OPS.items()
    }
    if json:
        print_json({**about, "ops": ops})
        return 0
    separate = ("packages", "backends", "plugins", "cpu_features", "device", "devices")
    rows = [(key, value) for key, value in about.items() if key not in separate]
    rows += [(name, version or "not installed") for name, version in about["packages"].items()]
    rows += [("plug-in", plugin["name"]) for plugin in about["plugins"]]
    rows += [("cpu features", " ".join(about["cpu_features"])), *(("device", device) for device in about["devices"])]
    print_table(("", "matrixstate"), rows)
    print_table(("backend of", *inputs), [(op, *(about["backends"][name][op] for name in inputs)) for op in OPS])
    print_table(("backend", "why not", "ops"), refusals(ops))
    return 0


def refusals(ops: dict[str, dict[str, dict[str, str]]]) -> list[tuple[str, str, str]]:
    """Rows of backend, reason, and the ops for which that backend gives it; from op -> backend -> inputs -> reason."""
    of = defaultdict[tuple[str, str], dict[str, None]](dict)
    for op, known in ops.items():
        for backend, reasons in known.items():
            for reason in reasons.values():
                if reason != "available":
                    of[backend, reason][op] = None
    return [(backend, reason, " ".join(names)) for (backend, reason), names in sorted(of.items())]


def cpu_features() -> list[str]:
    """The vector instruction sets that kernels use, of those that /proc/cpuinfo lists; empty if there is none."""
    wanted = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    words = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [name for name in wanted if name in words]
