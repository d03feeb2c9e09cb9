"""What Triton kernels need of a GPU, as their compilers say, which needs no GPU: registers, and instructions per step.

    python benchmarks/triton_resources.py [--json FILE]

Compiles the programs of m2rnn_scan as they are launched, for NVIDIA's sm_80 and sm_90 and AMD's gfx942, and prints a
Markdown table. These are figures of the compilers and no measurements. Instructions are those of the innermost loops,
which run once a step: of the backward program there are two, the recomputation and the way back.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from itertools import product
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"  # before the first import of triton

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from matrixstate.ops import _triton
from matrixstate.ops.m2rnn import kernel_triton, triton_programs

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
COUNTED = ("HMMA", "HGMMA", "MUFU", "LDS", "STS", "SHFL", "BAR", "LDG", "STG")


def compile_m2rnn(direction: str, half: bool, V: int, target: str, K: int = 64, heads: int = 84):
    """The forward or backward program with shared q and k, as kernel_triton launches it."""
    amd, program = target.startswith("gfx"), getattr(triton_programs, direction)
    q, v = torch.empty(1, 1, 1, K, device="meta"), torch.empty(1, 1, heads, V, device="meta")
    w, f, state = (torch.empty(shape, device="meta") for shape in ((heads, V, V), (1, 1, heads), (1, heads, K, V)))
    constants = kernel_triton._sizes(q, q, v, w, f, state) | _triton.arithmetic(half, amd)
    warps = constants.pop("warps")
    constants |= {"SAVE": True} if direction == "forward" else {"CLIPPED": False}
    types = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "dy_ptr"), "*bf16" if half else "*fp32")
    types |= {"reset_ptr": "*i8", "T": "i32", "clip": "fp32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in program.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(program.arg_names) if n.endswith("_ptr")}
    source = ASTSource(fn=program, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=TARGETS[target], options=_triton.options(warps, amd))


def resources(compiled, target: str) -> dict:
    """Registers per thread, spills (bytes of stack, or registers of AMD's) and counts of the innermost loops."""
    if target.startswith("gfx"):
        found = {name: int(n) for name, n in re.findall(r"\.(\w+_count): +(\d+)", compiled.asm["amdgcn"])}
        return {"registers": found["vgpr_count"], "spilled": found["vgpr_spill_count"] + found["sgpr_spill_count"]}
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        usage, code = (
            subprocess.run([tools / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    spilled = stack + len(re.findall(r"\b(?:LDL|STL)\b", code))
    return {"registers": registers, "spilled": spilled, "loops": [_counts(body) for body in _innermost_loops(code)]}


def _innermost_loops(code: str) -> list[list[str]]:
    """The instructions of the loops that contain no other: from a label to the last branch back to it."""
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
    return [instructions[begin:end] for begin, end in inner]


def _counts(body: list[str]) -> dict[str, int]:
    names = [re.search(r"\*/\s+(?:@!?\w+\s+)?([A-Z0-9]+)", line)[1] for line in body]
    names = ["LDS" if name == "LDSM" else "STS" if name == "STSM" else name for name in names]
    return {"all": len(names)} | {name: names.count(name) for name in COUNTED}


def table(rows: list[dict]) -> str:
    lines = [
        "| program | operands | V | GPU | registers | spilled | loop | instructions | " + " | ".join(COUNTED) + " |"
    ]
    lines.append("|---|---|---:|---|---:|---:|---|" + "---:|" * (len(COUNTED) + 1))
    for row in rows:
        begin = f"| {row['direction']} | {row['operands']} | {row['V']} | {row['target']} | {row['registers']} "
        loops = row.get("loops", [None])
        names = ("recomputed", "back") if len(loops) > 1 else ("steps" if row["direction"] == "forward" else "–",)
        for name, loop in zip(names, loops, strict=True):
            counts = ["–"] * (len(COUNTED) + 1) if loop is None else [f"{n:,}" for n in loop.values()]
            lines.append(f"{begin}| {row['spilled']} | {name} | " + " | ".join(counts) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--V", type=int, nargs="*", default=[16, 32, 64])
    arguments = parser.parse_args()
    rows = []
    for V, half, direction, target in product(arguments.V, (True, False), ("forward", "backward"), TARGETS):
        figures = resources(compile_m2rnn(direction, half, V, target), target)
        operands = "bfloat16" if half else "float32"
        rows.append({"direction": direction, "operands": operands, "V": V, "target": target, **figures})
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))
    print(f"\nTriton {triton.__version__}, PyTorch {torch.__version__}; K 64, 84 heads, q and k shared.")


if __name__ == "__main__":
    main()
