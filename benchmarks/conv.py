"""Times causal_conv with silu: `python benchmarks/conv.py [--rounds 15] [--json FILE]`.

The bound is memory bandwidth: x is read and y written once (backward: x and dy read, dx written), at the bandwidth of a
plain copy of the same size in this process.
"""

import sys
import time
from functools import partial
from pathlib import Path

import torch
from timing import Contest, run_all
from torch.nn import functional

from matrixstate.ops import causal_conv

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

SHAPES = [(8, 256, 384, 4), (4, 2048, 1024, 4)]  # B, T, C, K


def ours(x, weight, bias, backend="cpu"):
    return causal_conv(x, weight, bias, activation="silu", backend=backend)[0]


def conv1d(x, weight, bias):
    padded = functional.pad(x.mT, (weight.shape[1] - 1, 0))
    return functional.silu(functional.conv1d(padded, weight[:, None], bias, groups=x.shape[2]).mT)


def forward(run, inputs):
    with torch.no_grad():
        return run(*inputs)


def both(run, inputs, dy):
    y = run(*inputs)
    return y, *torch.autograd.grad(y, inputs, dy)


def check(inputs, dy):
    wide = [a.detach().double().requires_grad_() for a in inputs]
    got, plain = (both(partial(ours, backend=backend), inputs, dy) for backend in ("cpu", "reference"))
    exact = both(partial(ours, backend="reference"), wide, dy.double())
    for name, *results in zip(("y", "dx", "dweight", "dbias"), got, plain, exact, strict=True):
        assert_as_good_as(*results, name)


def copy_seconds(x):
    target, times = torch.empty_like(x), []
    for _ in range(20):
        begin = time.process_time()
        target.copy_(x.detach())
        times.append(time.process_time() - begin)
    return min(times)


def contests(B, T, C, K):
    torch.manual_seed(0)
    inputs = [a.requires_grad_() for a in (torch.randn(B, T, C), torch.randn(C, K), torch.randn(C))]
    dy, copy = torch.randn(B, T, C), copy_seconds(inputs[0])
    for name, run, arguments, bound in (
        ("forward", forward, (inputs,), copy),
        ("forward and backward", both, (inputs, dy), 2.5 * copy),
    ):
        yield Contest(
            f"causal_conv with silu, {name} (B {B}, T {T}, C {C}, K {K})",
            check=partial(check, inputs, dy),
            ours=partial(run, ours, *arguments),
            others={
                "our reference": partial(run, partial(ours, backend="reference"), *arguments),
                "torch conv1d and silu": partial(run, conv1d, *arguments),
            },
            bound=bound,
            bound_name="bound of memory",
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_all([c for shape in SHAPES for c in contests(*shape)], "causal_conv")
