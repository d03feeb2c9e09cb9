"""Times m2rnn_scan: `python benchmarks/m2rnn.py [--rounds 15] [--json FILE]`.

The bound is the time of the instructions that need the multiply-add units, at the peak rate, which is measured at the
start. Forward, per vector of the state and step: V for the product with w, 1 for k vᵀ, 2 for the forget gate, 1 for the
read-out and 15 for tanh. Backward adds a recomputed forward step without read-out, 2 V for its two products and 10 for
the rest.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from baselines import compiled_m2rnn_loop, jax_m2rnn, jax_or_why_not
from timing import Contest, peak_multiply_adds, run_all

from matrixstate import _native
from matrixstate.ops import m2rnn_scan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

TANH = 15
SHAPES = [  # B, T, H, K, V, query and key heads
    (4, 512, 12, 64, 16, 1),
    (8, 128, 4, 32, 32, 4),
    (2, 64, 4, 64, 16, 1),
]


def draw(B, T, H, K, V, G):
    torch.manual_seed(0)
    inputs = [torch.randn(B, T, G, K), torch.randn(B, T, G, K), torch.randn(B, T, H, V)]
    inputs += [torch.eye(V) + 0.1 * torch.randn(H, V, V), torch.rand(B, T, H), torch.zeros(B, H, K, V)]
    return [a.requires_grad_() for a in inputs], torch.randn(B, T, H, V)


def forward(inputs, backend):
    with torch.no_grad():
        return m2rnn_scan(*inputs, backend=backend)[0]


def both(inputs, dy, backend):
    y, _ = m2rnn_scan(*inputs, backend=backend)
    return y, *torch.autograd.grad(y, inputs, dy)


def check(inputs, dy):
    """Checks the first steps of the timed inputs, forward and backward, by the rule of `evaluation.closeness`."""
    short = [a[:, :40].detach().requires_grad_() if a.shape[1] == dy.shape[1] else a for a in inputs]
    wide = [a.detach().double().requires_grad_() for a in short]
    got, plain = (both(short, dy[:, :40], backend) for backend in ("cpu", "reference"))
    exact = both(wide, dy[:, :40].double(), "reference")
    for name, *results in zip(("y", "dq", "dk", "dv", "dw", "df", "dstate"), got, plain, exact, strict=True):
        assert_as_good_as(*results, name)


def contests(shape, peak, jax, compiled):
    B, T, H, K, V, G = shape
    inputs, dy = draw(*shape)
    vectors = B * T * H * K * V / _native.lanes()
    once, again = V + 4 + TANH, 3 * V + 13 + TANH
    jax_forward, jax_both = (jax, jax) if isinstance(jax, str) else jax_m2rnn(jax, inputs, dy)

    def compiled_forward():
        with torch.no_grad():
            compiled(*inputs)

    common = {"check": partial(check, inputs, dy), "bound_name": "bound of the arithmetic"}
    name = f"(B {B}, T {T}, H {H}, K {K}, V {V}, {G} query and key heads)"
    yield Contest(
        f"m2rnn_scan forward {name}",
        ours=partial(forward, inputs, "cpu"),
        others={
            "PyTorch step loop": partial(forward, inputs, "reference"),
            "PyTorch step compiled": compiled_forward if compiled else "asked for with --compiled",
            "XLA scan": jax_forward,
        },
        bound=vectors * once / peak,
        **common,
    )
    yield Contest(
        f"m2rnn_scan forward and backward {name}",
        ours=partial(both, inputs, dy, "cpu"),
        others={"PyTorch step loop": partial(both, inputs, dy, "reference"), "XLA scan": jax_both},
        bound=vectors * (once + again) / peak,
        **common,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    compiled = compiled_m2rnn_loop() if "--compiled" in sys.argv else None
    sys.argv = [word for word in sys.argv if word != "--compiled"]
    peak, jax = peak_multiply_adds(), jax_or_why_not()
    run_all([c for shape in SHAPES for c in contests(shape, peak, jax, compiled)], "m2rnn_scan")
