"""Times the delta rules: `python benchmarks/delta.py [--rounds 15] [--json FILE]`.

The bound counts the multiply-adds of the recurrence at the rate measured at the start: 3 per entry of the state and
row forward, what reads, what writes and the read-out; backward 6 more: two products with each of the state before a
chunk and the gradient after it, and two to carry the gradient on.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from timing import Contest, peak_multiply_adds, run_all

from matrixstate import _native
from matrixstate.ops import delta_rule, gated_delta_rule

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

CHUNKS = (32, 64)
SHAPES = [(2, 1024, 4, 64, 64), (1, 512, 8, 32, 128)]  # B, T, H, K, V


def draw(B, T, H, K, V, gated):
    torch.manual_seed(0)
    k = torch.nn.functional.normalize(torch.randn(B, T, H, K), dim=-1)
    inputs = [torch.randn(B, T, H, K), k, torch.randn(B, T, H, V), torch.rand(B, T, H)]
    inputs += [-0.1 * torch.rand(B, T, H)] if gated else []
    return [a.requires_grad_() for a in inputs], torch.randn(B, T, H, V)


def rule(inputs, **options):
    return (gated_delta_rule if len(inputs) == 5 else delta_rule)(*inputs, **options)[0]


def forward(inputs, **options):
    with torch.no_grad():
        return rule(inputs, **options)


def both(inputs, dy, **options):
    y = rule(inputs, **options)
    return y, *torch.autograd.grad(y, inputs, dy)


def check(inputs, dy):
    """The first steps of the very inputs that are timed, forward and backward, by the project's one rule."""
    short = [a[:, :40].detach().requires_grad_() for a in inputs]
    wide = [a.detach().double().requires_grad_() for a in short]
    got, plain = (both(short, dy[:, :40], backend=backend) for backend in ("cpu", "reference"))
    exact = both(wide, dy[:, :40].double(), backend="reference")
    for name, *results in zip(("y", "dq", "dk", "dv", "dbeta", "dlog_decay"), got, plain, exact, strict=False):
        assert_as_good_as(*results, name)


def contests(shape, gated, peak):
    B, T, H, K, V = shape
    inputs, dy = draw(*shape, gated)
    vectors = B * T * H * K * V / _native.lanes()
    common = {"check": partial(check, inputs, dy), "bound_name": "bound of the arithmetic"}
    name = f"{'gated_delta_rule' if gated else 'delta_rule'} (B {B}, T {T}, H {H}, K {K}, V {V})"
    for direction, run, cost in (("forward", partial(forward, inputs), 3), ("both", partial(both, inputs, dy), 9)):
        chunks = {f"PyTorch chunks of {c}": partial(run, chunk=c, backend="chunked") for c in CHUNKS}
        yield Contest(
            f"{name} {'forward and backward' if direction == 'both' else direction}",
            ours=partial(run, backend="cpu"),
            others=chunks | {"PyTorch step loop": partial(run, backend="reference")},
            bound=vectors * cost / peak,
            **common,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    peak = peak_multiply_adds()
    run_all([c for s in SHAPES for gated in (False, True) for c in contests(s, gated, peak)], "delta rules")
