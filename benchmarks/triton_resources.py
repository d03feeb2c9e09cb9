"""What Triton kernels need of a GPU, as their compilers say, which needs no GPU: registers, and instructions per step.

    python benchmarks/triton_resources.py [OP ...] [--first] [--targets sm_90 ...] [--json FILE] [--ceilings FOLDER]

Calls every op forward and backward with a compiler in place of the launch of its programs, for NVIDIA's sm_80 and sm_90
and AMD's gfx942, and prints a Markdown table. These are figures of the compilers and no measurements. Instructions are
those of the innermost loops, which run once a step or, where a program has no loop, of all of it. --first: the first
size of each op alone. --ceilings writes the files that tests/ops/test_triton_resources.py holds the kernels to.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # before the first import of triton

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton_sizes import SIZES

from matrixstate.ops import _triton

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
COUNTED = ("HMMA", "HGMMA", "MUFU", "LDS", "STS", "SHFL", "BAR", "LDG", "STG")
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int8: "*i8", torch.int32: "*i32", torch.bool: "*i1"}


def compiled(call: Callable[[], Any], target: str) -> dict[str, Any]:
    """Every program that `call` and its backward pass launch, by name, compiled for a target instead of run."""
    found: dict[str, Any] = {}

    def compile_program(program, grid, arguments, *, warps, registers=None, **constants):
        given = dict(zip(program.arg_names, arguments, strict=False))
        absent = dict.fromkeys(name for name, value in given.items() if value is None)
        types = {name: _type(value) for name, value in given.items()} | dict.fromkeys(constants, "constexpr")
        signature = {name: types[name] for name in program.arg_names}
        pointers = [i for i, name in enumerate(program.arg_names) if signature[name].startswith("*")]
        aligned = {(i,): [["tt.divisibility", 16]] for i in pointers}
        source = ASTSource(fn=program, signature=signature, constexprs=constants | absent, attrs=aligned)
        name, n = program.fn.__name__, sum(key.split(" ")[0] == program.fn.__name__ for key in found)
        options = _triton.options(warps, registers)
        found[f"{name} {n + 1}" if n else name] = triton.compile(source, target=TARGETS[target], options=options)

    launch, amd = _triton.launch, _triton.AMD
    _triton.launch, _triton.AMD = compile_program, target.startswith("gfx")
    try:
        outputs = [tensor for tensor in _tensors(call()) if tensor.requires_grad]
        if outputs:  # the step of generation has no gradient
            torch.autograd.backward(outputs, [torch.zeros_like(tensor) for tensor in outputs])
    finally:
        _triton.launch, _triton.AMD = launch, amd
    return found


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return TYPES[value.dtype]
    return "constexpr" if value is None else "fp32" if isinstance(value, float) else "i32"


def _tensors(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [t for part in results for t in _tensors(part)]


def resources(program: Any, target: str) -> dict:
    """Registers per thread, spills (bytes of stack, or registers of AMD's), shared bytes, counts of innermost loops."""
    shared = {"shared": program.metadata.shared}
    if target.startswith("gfx"):
        found = {name: int(n) for name, n in re.findall(r"\.(\w+_count): +(\d+)", program.asm["amdgcn"])}
        spilled = found["vgpr_spill_count"] + found["sgpr_spill_count"]
        return {"registers": found["vgpr_count"], "spilled": spilled} | shared
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(program.asm["cubin"])
        usage, code = (
            subprocess.run([tools / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    spilled = stack + len(re.findall(r"\b(?:LDL|STL)\b", code))
    loops = [_counts(body) for body in _innermost_loops(code)]
    return {"registers": registers, "spilled": spilled} | shared | {"loops": loops}


def _innermost_loops(code: str) -> list[list[str]]:
    """The instructions of the loops that contain no other, from a label to the last branch back to it; all if none."""
    labels, ends, instructions = {}, {}, []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(instructions)
        elif re.match(r"\s*/\*[0-9a-f]{4,}\*/", line):
            instructions.append(line)
            if (to := re.search(r"\bBRA\b.*?(\.L_\w+)", line)) and to[1] in labels:
                ends[labels[to[1]]] = len(instructions)
    loops = sorted((begin, end) for begin, end in ends.items() if end - begin > 1)  # one that traps is no loop
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [instructions[begin:end] for begin, end in inner] or [instructions]


def _counts(body: list[str]) -> dict[str, int]:
    names = [re.search(r"\*/\s+(?:@!?\w+\s+)?([A-Z0-9]+)", line)[1] for line in body]
    names = ["LDS" if name == "LDSM" else "STS" if name == "STSM" else name for name in names]
    return {"all": len(names)} | {name: names.count(name) for name in COUNTED}


def measure(op: str, size: str, dtype: torch.dtype, targets: list[str]) -> list[dict]:
    """One row per program: its resources on every target."""
    by_target = {target: compiled(lambda: SIZES[op][size](dtype), target) for target in targets}
    programs = next(iter(by_target.values()))
    what = {"op": op, "size": size, "operands": str(dtype).removeprefix("torch.")}
    return [what | {"program": p, **{t: resources(by_target[t][p], t) for t in targets}} for p in programs]


def table(rows: list[dict], targets: list[str]) -> str:
    """Registers on every target, and a line per loop of NVIDIA's last."""
    counted = [target for target in targets if not target.startswith("gfx")][-1]
    head = ["op", "size", "operands", "program", "registers", "spilled", "shared bytes", "instructions", *COUNTED]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---|" + "---:|" * (len(head) - 4)]
    for row in rows:
        registers = " / ".join(str(row[target]["registers"]) for target in targets)
        spilled = " / ".join(str(row[target]["spilled"]) for target in targets)
        what = [row["op"], row["size"], row["operands"], row["program"], registers, spilled]
        for loop in row[counted]["loops"]:
            counts = [f"{n:,}" for n in (row[counted]["shared"], *loop.values())]
            lines.append("| " + " | ".join(what + counts) + " |")
            what = [""] * len(what)
    return "\n".join(lines)


def ceilings(rows: list[dict]) -> dict[str, Any]:
    """What a test allows: a tenth above what each program needs on NVIDIA's targets."""
    allowed: dict[str, Any] = {}
    for row in rows:
        found = [figures for target, figures in row.items() if target in TARGETS and "loops" in figures]
        loops = [[_summary(loop) for loop in figures["loops"]] for figures in found]
        most = [[max(counts) * 11 // 10 for counts in zip(*same, strict=True)] for same in zip(*loops, strict=True)]
        registers = max(figures["registers"] for figures in found) * 11 // 10
        allowed.setdefault(row["size"], {})[f"{row['program']}, {row['operands']}"] = [registers, *most]
    return allowed


def _summary(loop: dict[str, int]) -> list[int]:
    """Instructions, products on tensor cores, special functions, and moves of numbers between threads."""
    return [loop["all"], loop["HMMA"] + loop["HGMMA"], loop["MUFU"], loop["LDS"] + loop["STS"] + loop["SHFL"]]


def write_ceilings(rows: list[dict], folder: Path) -> None:
    for op in {row["op"]: None for row in rows}:
        allowed = ceilings([row for row in rows if row["op"] == op])
        sizes = (
            f" {json.dumps(size)}: {{\n"
            + ",\n".join(f"  {json.dumps(name)}: {json.dumps(most)}" for name, most in programs.items())
            + "\n }"
            for size, programs in allowed.items()
        )
        (folder / f"{op}.json").write_text("{\n" + ",\n".join(sizes) + "\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(SIZES)}; default: all")
    parser.add_argument("--first", action="store_true", help="only the first size of each op")
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--ceilings", type=Path, help="write there one file per op")
    arguments = parser.parse_args()
    rows = [
        row
        for op in arguments.ops or SIZES
        for size in list(SIZES[op])[: 1 if arguments.first else None]
        for dtype in (torch.bfloat16, torch.float32)
        for row in measure(op, size, dtype, arguments.targets)
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    if arguments.ceilings:
        write_ceilings(rows, arguments.ceilings)
    print(table(rows, arguments.targets))
    print(f"\nRegisters and spills: {' / '.join(arguments.targets)}; the rest: the last of NVIDIA's.", end=" ")
    print(f"Triton {triton.__version__}, PyTorch {torch.__version__}.")


if __name__ == "__main__":
    main()
