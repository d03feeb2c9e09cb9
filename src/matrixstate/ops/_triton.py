"""What all Triton kernels share: where they can run, products and tanh, and how a program is launched.

Only modules named `kernel_triton` and `triton_programs` import this module; the dispatcher imports them when it
considers the backend. They are written for Triton 3.6 and later.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)  # by TRITON_INTERPRET=1 before the first import of triton
AMD = torch.version.hip is not None  # read at every launch, so that kernels can be compiled for another kind of GPU


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    """Why Triton kernels cannot run such inputs; None if they can."""
    if dtype not in (torch.float32, torch.bfloat16):
        return f"needs torch.float32 or torch.bfloat16, got {dtype}"
    if INTERPRETED.value:
        return None if device == "cpu" else f"TRITON_INTERPRET=1 runs it on cpu alone, got {device}"
    if device != "cuda":
        return f"needs a GPU (or, to test it, TRITON_INTERPRET=1 in the environment), got {device}"
    return None


def launch(
    program: Any,
    grid: tuple[int, ...],
    arguments: Sequence[Any],
    *,
    warps: int,
    registers: int | None = None,
    **constants: Any,
) -> None:
    """Runs `program` over `grid` on the device of the first argument.

    The number of warps comes from a table of the caller and not from `triton.autotune`, so that every run of a size is
    the same program, and its results the same bits.
    """
    first: Tensor = arguments[0]
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        program[grid](*arguments, **constants, **options(warps, registers))


def options(warps: int, registers: int | None = None) -> dict[str, Any]:
    """How a program is compiled. `warps` are NVIDIA's; AMD's are twice as wide.

    `registers` per thread are what a program may have on NVIDIA's. By default the assembler chooses, and may spill a
    few to hold more programs at once.

    Contraction to fused multiply-adds is asked for by name, as its default changes between releases of Triton. Nothing
    is left to Triton's pipelining of loops, which is meant for independent steps: the programs load ahead themselves.
    """
    how = {"num_warps": max(warps // 2, 1) if AMD else warps, "num_stages": 1, "enable_fp_fusion": True}
    return how if AMD or registers is None else how | {"maxnreg": registers}


def arithmetic(half: bool) -> dict[str, Any]:
    """The constants HALF, FAST and PRECISION of `dot` and `tanh`.

    half: operands of products may be rounded to bfloat16, and tanh may have the error of bfloat16.
    """
    return {"HALF": half, "FAST": half and not AMD and not INTERPRETED.value, "PRECISION": "ieee" if AMD else "tf32x3"}


def exact() -> str:
    """The PRECISION of `dot` that loses no bit of an operand, so that a product with the identity is exact.

    `bf16x6` splits a float32 into three bfloat16 numbers for the tensor cores. It takes as many of their instructions
    as `tf32x3`, which may lose the last bit, and fewer moves: a product is laid out as the next one's left operand.
    """
    return "ieee" if AMD or INTERPRETED.value else "bf16x6"


def padded(size: int, least: int = 16) -> int:
    """The power of two, at least `least`, to which rows or columns are padded; products take at least 16 of them."""
    return max(least, 1 << (size - 1).bit_length())


def flags(reset: Tensor | None, like: Tensor) -> Tensor:
    """Resets [B, T] as numbers, which Triton loads; zeros where there are none. `like` is [B, T, ...]."""
    return like.new_zeros(like.shape[:2], dtype=torch.int8) if reset is None else reset.contiguous().view(torch.int8)


def flags_if_any(given: Tensor | None) -> Tensor | None:
    """Resets or a mask [B, T] as numbers, for programs that know whether there are any."""
    return None if given is None else given.contiguous().view(torch.int8)


@triton.jit
def dot(a, b, HALF: tl.constexpr, PRECISION: tl.constexpr):
    """a @ b in float32. With HALF the operands are rounded to bfloat16; else they are float32.

    `tf32x3` splits a float32 into three TF32 numbers for the tensor cores, and errs as float32 does; AMD has no such
    mode, and gets `ieee`. The interpreter's product of bfloat16 operands is wrong by orders of magnitude; it multiplies
    the rounded operands in float32, which is what tensor cores compute.
    """
    if HALF:
        if INTERPRETED:
            product = tl.dot(_nearest_bfloat16(a), _nearest_bfloat16(b))
        else:
            product = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    else:
        product = tl.dot(a, b, input_precision=PRECISION)
    return product


@triton.jit
def dot_of_halves(a, b):
    """a @ b as exact as float32 for float32 a and bfloat16 b: a is the sum of three bfloat16 numbers."""
    if INTERPRETED:
        product = tl.dot(a, b.to(tl.float32))
    else:
        high = a.to(tl.bfloat16)
        rest = a - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
        product = tl.dot(high, b, tl.dot(middle, b, tl.dot(low, b)))  # the small ones first
    return product


@triton.jit
def _nearest_bfloat16(x):
    """The nearest bfloat16 as a float32, for the interpreter, whose own conversion truncates; GPUs round to nearest."""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """x, float32, as the nearest number of `dtype`, float32 or bfloat16."""
    if INTERPRETED and dtype == tl.bfloat16:
        x = _nearest_bfloat16(x)
    return x.to(dtype)


@triton.jit
def tanh(x, FAST: tl.constexpr):
    """tanh. With FAST one instruction of NVIDIA's special function unit, which errs by 2^-11; else x P(x²)/Q(x²), which
    errs by 4e-7 of the result, however small that is (csrc/common/tanh.h).
    """
    if FAST:
        y = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        x = tl.where(x > 9.01, 9.01, tl.where(x < -9.01, -9.01, x))  # comparisons let NaN pass
        s = x * x
        p = ((1.333654716e-08 * s + 2.059605848e-05) * s + 3.494798032e-03) * s + 1.338036066e-01
        q = ((7.769160359e-07 * s + 3.284341886e-04) * s + 2.587397730e-02) * s + 4.671367608e-01
        y = x * (p * s + 9.999999793e-01) / (q * s + 1)
    return y


@triton.jit
def tanh_within(x):
    """tanh within 2e-7, with fewer constants than `tanh` has, which take scalar registers on AMD's GPUs."""
    return 1 - 2 / (tl.exp(2 * x) + 1)
