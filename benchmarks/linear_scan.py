"""Times linear_scan: `python benchmarks/linear_scan.py [--rounds 15] [--json FILE]`.

The bound is memory bandwidth: the time of a plain copy in this process that reads and writes as many bytes together.
Forward, x and the decays are read and h is written; backward, h, dh and the decays are read, and the gradients of x and
of the decays are written. Decays that are constant or shared count with the bytes that they have.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from conv import copy_seconds
from timing import Contest, let_allocator_settle, run_all

from matrixstate.ops import linear_scan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

SHAPES = [(8, 512, 8, 128), (2, 256, 8, 64)]  # B, T, H, N: in memory; in the caches, where the call counts too
KINDS = ("decay", "log_decay", "log_decay per head", "log_decay constant", "decay complex")
FORMS = {
    "Brent-Kung in PyTorch": {"method": "brent_kung", "backend": "reference"},
    "PyTorch chunks": {"backend": "chunked"},
    "PyTorch step loop": {"backend": "reference"},
}
FFT = {"FFT in PyTorch": {"method": "fft", "backend": "reference"}}


def draw(B, T, H, N, kind):
    """x and the decay, as leaves, and the gradient of h. Complex numbers are half as many, with as many bytes."""
    torch.manual_seed(0)
    if kind == "decay complex":
        N = N // 2
        decay = torch.polar(torch.rand(B, T, H, N), 7 * torch.rand(B, T, H, N))
    else:
        decay = torch.rand(*(() if "constant" in kind else (B, T)), H, 1 if "per head" in kind else N)
        decay = decay.log() if "log" in kind else decay
    x, dh = (torch.randn(B, T, H, N, dtype=decay.dtype) for _ in range(2))
    return [x.requires_grad_(), decay.requires_grad_()], dh


def forward(kind, inputs, **options):
    with torch.no_grad():
        return scan(kind, inputs, **options)


def both(kind, inputs, dh, **options):
    h = scan(kind, inputs, **options)
    return h, *torch.autograd.grad(h, inputs, dh)


def scan(kind, inputs, **options):
    x, decay = inputs
    return linear_scan(x, **{kind.split()[0]: decay}, **options)[0]


def check(kind, inputs, dh):
    """Checks the first steps of the timed inputs, forward and backward, by the rule of `evaluation.closeness`."""
    short = [a[:, :60].detach().requires_grad_() if a.ndim == dh.ndim else a for a in inputs]
    wide = [a.detach().to(torch.complex128 if a.is_complex() else torch.float64).requires_grad_() for a in short]
    got, plain = (both(kind, short, dh[:, :60], backend=backend) for backend in ("cpu", "reference"))
    exact = both(kind, wide, dh[:, :60].to(wide[0].dtype), backend="reference")
    for name, *results in zip(("h", "dx", "ddecay"), got, plain, exact, strict=True):
        assert_as_good_as(*(torch.view_as_real(r) if r.is_complex() else r for r in results), name)


def seconds(*arrays):
    """The time of a copy that moves as many bytes as these arrays have."""
    return copy_seconds(torch.ones(sum(a.numel() * a.element_size() for a in arrays) // 8))


def contests(shape, kind):
    inputs, dh = draw(*shape, kind)
    x, decay = inputs
    once, again = seconds(x, decay, x), seconds(x, decay, x, x, decay)
    for name, run, arguments, bound in (
        ("forward", forward, (kind, inputs), once),
        ("forward and backward", both, (kind, inputs, dh), once + again),
    ):
        yield Contest(
            f"linear_scan, {kind}, {name} (B, T, H, N {shape})",
            check=partial(check, kind, inputs, dh),
            ours=partial(run, *arguments, backend="cpu"),
            others={
                form: partial(run, *arguments, **options)
                for form, options in (FORMS | (FFT if "constant" in kind else {})).items()
            },
            bound=bound,
            bound_name="bound of memory",
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    let_allocator_settle()
    run_all([c for shape in SHAPES for kind in KINDS for c in contests(shape, kind)], "linear_scan")
