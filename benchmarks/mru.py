"""Times mru_scan, fused against composed: `python benchmarks/mru.py [--rounds 15] [--json FILE]`.

"composed" is the same op on the compiled matrix_scan, with PyTorch building X and writing, rescaling and reading the
states. The bound is the time of the multiply-adds (2 D³ per step forward; 5 D³ backward, without those of recomputation
and of the builder) at the peak rate.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from timing import Contest, peak_multiply_adds, run_all

from matrixstate import _native
from matrixstate.ops import mru_scan
from matrixstate.ops.mru.builders import BUILDERS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

SHAPES = [
    (4, 512, 3, 16),
    (8, 256, 6, 8),
    (12, 64, 4, 8),
    (1, 1, 4, 8),
]  # B, T, H, D; the last two: Shakespeare, a token
KINDS = {  # what configs/shakespeare/mru-source.yaml, the layer's defaults and configs/shakespeare/mru.yaml take
    "x + I, rescaled": {"builder": "reshape_identity", "rescale": True, "readout": "normalised"},
    "LDU, rescaled": {"builder": "ldu", "rescale": True, "readout": "normalised"},
    "Cayley, decay and write": {"builder": "cayley"},
}


def draw(shape, options):
    B, T, H, D = shape
    torch.manual_seed(0)
    inputs = {"elements": 0.1 * torch.randn(B, T, H, BUILDERS[options["builder"]].elements(D))}
    inputs["down"] = torch.randn(H, D, D) / D**0.5
    if not options.get("rescale"):
        inputs |= {"decay": torch.rand(B, T, H), "v": torch.randn(B, T, H, D, D)}
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}, torch.randn(B, T, H, D, D)


def forward(inputs, options, backend):
    with torch.no_grad():
        return mru_scan(**inputs, **options, backend=backend)[0]


def both(inputs, dy, options, backend):
    y, _ = mru_scan(**inputs, **options, backend=backend)
    return y, *torch.autograd.grad(y, list(inputs.values()), dy)


def check(inputs, dy, options):
    """Checks the first steps of the timed inputs, forward and backward, by the rule of `evaluation.closeness`."""
    short = {n: (a if n == "down" else a[:, :60]).detach() for n, a in inputs.items()}
    results = []
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float32), ("reference", torch.float64)):
        leaves = {name: tensor.to(dtype).requires_grad_() for name, tensor in short.items()}
        results.append(both(leaves, dy[:, :60].to(dtype), options, backend))
    for name, *three in zip(("y", *inputs), *results, strict=True):
        assert_as_good_as(*three, name)


def contests(shape, name, options, peak):
    B, T, H, D = shape
    inputs, dy = draw(shape, options)
    product = B * T * H * D**3 / _native.lanes() / peak
    for what, run, arguments, bound in (
        ("forward", forward, (inputs,), 2 * product),
        ("forward and backward", both, (inputs, dy), 7 * product),
    ):
        yield Contest(
            f"mru_scan {what}, {name} (B {B}, T {T}, H {H}, D {D})",
            check=partial(check, inputs, dy, options),
            ours=partial(run, *arguments, options, "cpu"),
            others={"composed": partial(run, *arguments, options, "composed")},
            bound=bound,
            bound_name="bound of the arithmetic",
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    peak = peak_multiply_adds()
    run_all(
        [c for shape in SHAPES for n, options in KINDS.items() for c in contests(shape, n, options, peak)], "mru_scan"
    )
