"""Times matrix_scan and scaled_matrix_scan: `python benchmarks/matrix.py [--rounds 15] [--json FILE]`.

The bound is the larger of two times in each direction: that of the multiply-adds (D³ per step forward, 2 D³ backward)
at the peak rate, and that of the memory traffic (x read and h written; x, h and dh read and dx written) at the
bandwidth of a plain copy of the same size. Both rates are measured at the start.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from baselines import jax_matrix, jax_or_why_not
from conv import copy_seconds
from timing import Contest, peak_multiply_adds, run_all

from matrixstate import _native
from matrixstate.ops import matrix_scan, scaled_matrix_scan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

SHAPES = [  # B, T, H, D
    (8, 256, 6, 8),
    (4, 512, 3, 16),
    (1, 2048, 1, 32),
    (1, 256, 6, 8),  # these three fit the second level of the cache
    (1, 128, 3, 16),
    (1, 64, 1, 32),
]


def plain(x, method="auto", backend="cpu"):
    return matrix_scan(x, method=method, backend=backend)[0]


def scaled(x, method="auto", backend="cpu"):
    return scaled_matrix_scan(x, method=method, backend=backend)[0]


def forward(scan, x, *options):
    with torch.no_grad():
        return scan(x, *options)


def both(scan, x, dh, *options):
    h = scan(x, *options)
    return h, *torch.autograd.grad(h, x, dh)


def check(scan, x, dh):
    """Checks the first steps of the timed inputs, forward and backward, by the rule of `evaluation.closeness`."""
    short, grad = x[:, :60].detach().requires_grad_(), dh[:, :60]
    got = both(scan, short, grad)
    reference = both(scan, short, grad, "auto", "reference")
    exact = both(scan, short.detach().double().requires_grad_(), grad.double(), "auto", "reference")
    for name, *results in zip(("h", "dx"), got, reference, exact, strict=True):
        assert_as_good_as(*results, name)


def contests(shape, peak, jax):
    B, T, H, D = shape
    torch.manual_seed(0)
    x = torch.linalg.qr(torch.randn(B, T, H, D, D)).Q.contiguous().requires_grad_()
    dh = torch.randn_like(x)
    copy, multiply = copy_seconds(x), B * T * H * D**3 / _native.lanes() / peak
    once, again = max(copy, multiply), max(2 * copy, 2 * multiply)
    xla_forward, xla_both = (jax, jax) if isinstance(jax, str) else jax_matrix(jax, x, dh)
    for scan, name in ((plain, "matrix_scan"), (scaled, "scaled_matrix_scan")):
        for what, run, arguments, xla, bound in (
            ("forward", forward, (x,), xla_forward, once),
            ("forward and backward", both, (x, dh), xla_both, once + again),
        ):
            yield Contest(
                f"{name} {what} (B {B}, T {T}, H {H}, D {D})",
                check=partial(check, scan, x, dh),
                ours=partial(run, scan, *arguments),
                others={
                    "Brent-Kung in PyTorch": partial(run, scan, *arguments, "brent_kung", "reference"),
                    "PyTorch step loop": partial(run, scan, *arguments, "sequential", "reference"),
                    "XLA scan (plain)": xla,
                },
                bound=bound,
                bound_name="bound of " + ("memory" if copy > multiply else "the arithmetic"),
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    peak, jax = peak_multiply_adds(), jax_or_why_not()
    run_all([c for shape in SHAPES for c in contests(shape, peak, jax)], "matrix_scan")
