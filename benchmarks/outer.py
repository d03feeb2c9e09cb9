"""Times outer_scan: `python benchmarks/outer.py [--rounds 15] [--json FILE]`.

The bound is the time of the recurrence's multiply-adds at the peak rate, which is measured at the start. Forward there
are 2 per entry of the state and step: to write and to read out. Backward there are 4 more: a product with the state
before a chunk, two with the gradient after it, and one that propagates the gradient.
"""

import torch
from recurrences import SHAPES, contests
from timing import peak_multiply_adds, run_all

from matrixstate import _native
from matrixstate.ops import outer_scan

DECAYS = ("none", "per head", "per channel")
INPUTS = ("q", "k", "v", "log_decay")


def draw(B, T, H, K, V, decay):
    torch.manual_seed(0)
    inputs = [torch.randn(B, T, H, K), torch.randn(B, T, H, K), torch.randn(B, T, H, V)]
    inputs += {"none": [], "per head": [-torch.rand(B, T, H)], "per channel": [-torch.rand(B, T, H, K)]}[decay]
    return [a.requires_grad_() for a in inputs], torch.randn(B, T, H, V)


def scan(inputs, **options):
    q, k, v, *decay = inputs
    return outer_scan(q, k, v, log_decay=decay[0] if decay else None, **options)[0]


def scans(shape, decay, peak):
    B, T, H, K, V = shape
    seconds = B * T * H * K * V / _native.lanes() / peak  # of one multiply-add per entry of the state and step
    name = f"outer_scan, decay {decay} (B {B}, T {T}, H {H}, K {K}, V {V})"
    return contests(name, scan, *draw(*shape, decay), INPUTS, (2 * seconds, 6 * seconds))


if __name__ == "__main__":
    torch.set_num_threads(1)
    peak = peak_multiply_adds()
    run_all([c for s in SHAPES for decay in DECAYS for c in scans(s, decay, peak)], "outer_scan")
