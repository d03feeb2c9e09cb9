"""Times long_conv and dense_lti_scan: `python benchmarks/lti.py [--rounds 5] [--json FILE]`.

long_conv by the FFT beside the sum over lags; dense_lti_scan by chunks beside the step loop, and beside what authors of
such models do: the kernel of the whole sequence by products with A, then a convolution by the FFT.
"""

from functools import partial

import torch
from timing import Contest, let_allocator_settle, run_all

from matrixstate.ops import dense_lti_scan, long_conv

CONVOLUTIONS = [(4, 256, 128, 256), (4, 1024, 128, 1024)]  # batch, T, D, L
SYSTEMS = [(8, 256, 128, 32), (8, 1024, 128, 32), (8, 1024, 128, 64)]  # batch, T, D, N


def systems(n, T, D, N):
    torch.manual_seed(0)
    A = 0.99 * torch.linalg.qr(torch.randn(D, N, N)).Q
    inputs = [torch.randn(n, T, D), A, torch.randn(D, N), torch.randn(D, 1, N) / N]
    return [x.requires_grad_() for x in inputs], torch.randn(n, T, D, 1)


def ours(*inputs, **options):
    return dense_lti_scan(*inputs, **options)[0]


def step_loop(*inputs):
    return ours(*inputs, backend="reference")


def kernel_then_fft(u, A, b, C):
    column, kernel = b[..., None], []
    for _ in range(u.shape[1]):
        kernel.append(C @ column)
        column = A @ column
    return long_conv(u, torch.cat(kernel, dim=-1)[:, 0])[0][..., None]


def forward(run, inputs):
    with torch.no_grad():
        return run(*inputs)


def both(run, inputs, dy):
    return torch.autograd.grad(run(*inputs), inputs, dy)


def contests(name, run, others, inputs, dy):
    other = next(iter(others.values()))
    agree = lambda: torch.testing.assert_close(run(*inputs), other(*inputs), rtol=1e-3, atol=1e-3)  # noqa: E731
    passes = {"forward": lambda run: forward(run, inputs), "forward and backward": lambda run: both(run, inputs, dy)}
    for which, timed in passes.items():
        rivals = {rival: partial(timed, other) for rival, other in others.items()}
        yield Contest(f"{name} {which}", agree, partial(timed, run), rivals)


def all_contests():
    for n, T, D, L in CONVOLUTIONS:
        inputs = [torch.randn(n, T, D, requires_grad=True), torch.randn(D, L, requires_grad=True)]
        run, direct = (lambda *a, b=b: long_conv(*a, backend=b)[0] for b in ("fft", "reference"))
        name = f"long_conv (n {n}, T {T}, D {D}, L {L})"
        yield from contests(name, run, {"sum over lags": direct}, inputs, torch.randn(n, T, D))
    for shape in SYSTEMS:
        name = "dense_lti_scan (n {}, T {}, D {}, N {})".format(*shape)
        others = {"step loop": step_loop, "kernel, then FFT": kernel_then_fft}
        yield from contests(name, ours, others, *systems(*shape))


if __name__ == "__main__":
    torch.set_num_threads(1)
    let_allocator_settle()
    run_all(list(all_contests()), "lti")
