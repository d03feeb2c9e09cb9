"""float32 products by oneDNN, which PyTorch has on board but passes over for MKL.

PyTorch has no public way to oneDNN's products of dense float32 tensors. The operator used here is private to it; where
a release has it no more, or with another schema, `unsupported` says so and `linear` takes PyTorch's own product.
"""

import math
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrixstate.errors import BackendUnavailable
from matrixstate.ops.linear_map.regime import LEAST, lacking

SCHEMA = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)
REFUSED = {
    "small": f"takes products of at least {LEAST:,} multiply-adds, 128 vectors and 48 channels on either side",
    "traced": "torch.compile and torch.export have rules for PyTorch's own products",
    "transformed": "autocast, torch.func and dispatch modes have rules for PyTorch's own products",
}


def unsupported(device: str, dtype: torch.dtype, regime: str = "large") -> str | None:
    """Why oneDNN cannot compute such products here, or would not be faster; None if neither.

    regime: what `regime_of` says of the inputs.
    """
    wanted = os.environ.get("MATRIXSTATE_LINEAR", "auto")
    if wanted not in ("auto", "onednn", "reference"):
        raise BackendUnavailable(f"MATRIXSTATE_LINEAR: expected one of auto, onednn, reference, got {wanted!r}")
    if device != "cpu" or dtype != torch.float32:
        return f"needs torch.float32 on cpu, got {dtype} on {device}"
    if wanted == "reference":
        return "MATRIXSTATE_LINEAR is reference"
    return missing() or REFUSED.get(regime) or (slower(*processor()) if wanted == "auto" else None)


def missing() -> str | None:
    """What this release of PyTorch lacks; None if nothing."""
    if not torch.backends.mkldnn.is_available():
        return f"torch {torch.__version__} is built without oneDNN"
    packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if packet is None or str(packet.default._schema) != SCHEMA:
        return f"torch {torch.__version__} does not have the operator {SCHEMA}"
    names = lacking()
    return f"torch {torch.__version__} does not have {', '.join(names)}" if names else None


def slower(vendor: str, family: int) -> str | None:
    """Why PyTorch's own product is as fast on a processor; None if it is not.

    That is MKL's, which uses AVX-512 on Intel's processors only. AMD's compute 512 bits at once from Zen 5 on (family
    26); Zen 4 takes two turns of 256, so that MKL loses nothing there.
    """
    if vendor != "AuthenticAMD" or family < 26:
        return (
            f"faster than torch.mm on AMD processors from family 26 (Zen 5) on; this one is {vendor}, family {family}"
        )
    capability = torch.backends.cpu.get_cpu_capability()
    return None if capability == "AVX512" else f"faster than torch.mm with AVX512; PyTorch uses {capability} here"


@cache
def processor() -> tuple[str, int]:
    """Vendor and family of the processor, as CPUID names them; "unknown" and 0 where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = platform.processor()  # on Windows, "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD"
    vendor = re.search(r"AuthenticAMD|GenuineIntel", text)
    family = re.search(r"(?:cpu family\s*:|Family)\s*(\d+)", text)
    return vendor.group() if vendor else "unknown", int(family.group(1)) if family else 0


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K], weight [N, K], bias [N] or None -> [..., N]."""
    y = product(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[0])
    return y if bias is None else y + bias


def product(a: Tensor, b: Tensor, longest: int = 192) -> Tensor:
    """a bᵀ of a [M, K] and b [N, K], its sums cut into equal parts of at most `longest` terms."""
    return _Product.apply(a, b, longest) if torch.is_grad_enabled() else _multiply(a, b, longest)


def _multiply(a: Tensor, b: Tensor, longest: int) -> Tensor:
    """oneDNN adds up to 1,024 terms one after another; MKL, 192, and so errs less."""
    K = a.shape[1]
    if longest >= K:
        return _call(a, b)
    size = math.ceil(K / math.ceil(K / longest))
    total, *parts = (_call(*pair) for pair in zip(a.split(size, dim=1), b.split(size, dim=1), strict=True))
    for part in parts:
        total += part
    return total


def _call(a: Tensor, b: Tensor) -> Tensor:
    # The operator copies an `a` that is not contiguous. A `b` it reads by rows or by columns; with any other strides it
    # falls back to loops that take a thousand times as long.
    if not b.is_contiguous() and not b.mT.is_contiguous():
        b = b.contiguous()
    return torch.ops.mkldnn._linear_pointwise.default(a, b, None, "none", [], "")


class _Product(torch.autograd.Function):
    """Its gradients are such products too, so that they have gradients themselves."""

    @staticmethod
    def forward(ctx: Any, a, b, longest):
        ctx.save_for_backward(a, b)
        return _multiply(a, b, longest)

    @staticmethod
    def backward(ctx: Any, dy):
        a, b = ctx.saved_tensors
        da = product(dy, b.mT) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return da, None, None
        # dyᵀ a. Longer sums, since no layer goes on from its rounding. The first factor of a product is copied here, so
        # that is to be the narrower one.
        if a.shape[1] < dy.shape[1]:
            return da, product(a.mT, dy.mT, longest=384).mT.contiguous(), None
        return da, product(dy.mT, a.mT, longest=384), None
