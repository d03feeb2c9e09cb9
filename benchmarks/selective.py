"""Times selective_scan: `python benchmarks/selective.py [--rounds 5] [--json FILE]`.

Beside the loop of the authors' plain PyTorch code, which forms the decays and writes of all steps first, and beside the
reference of this package. Also prints the bytes that each keeps for the backward pass.
"""

import torch
from timing import Contest, let_allocator_settle, run_all

from matrixstate.ops import selective_scan

SHAPES = [(2, 256, 256, 16), (4, 1024, 256, 16)]  # batch, T, D, N


def draw(n, T, D, N):
    torch.manual_seed(0)
    inputs = [torch.randn(n, T, D), 0.1 * torch.rand(n, T, D), -4 * torch.rand(D, N)]
    inputs += [torch.randn(n, T, 1, N), torch.randn(n, T, 1, N)]
    return [x.requires_grad_() for x in inputs], torch.randn(n, T, D)


def ours(x, step, A, B, C, **options):
    return selective_scan(x, step, A, B, C, **options)[0]


def reference(x, step, A, B, C):
    return ours(x, step, A, B, C, backend="reference")


def all_steps_first(x, step, A, B, C):
    decay, write = torch.exp(step[..., None] * A), (step * x)[..., None] * B
    h, out = torch.zeros_like(decay[:, 0]), []
    for t in range(x.shape[1]):
        h = decay[:, t] * h + write[:, t]
        out.append((h * C[:, t]).sum(-1))
    return torch.stack(out, dim=1)


def kept(run, inputs):
    """Bytes that autograd keeps, the inputs not counted."""
    storages = {}

    def keep(saved):
        storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        run(*inputs)
    given = {x.untyped_storage().data_ptr() for x in inputs}
    return sum(size for address, size in storages.items() if address not in given)


def forward(run, inputs):
    with torch.no_grad():
        return run(*inputs)


def both(run, inputs, dy):
    return torch.autograd.grad(run(*inputs), inputs, dy)


def contests(shape):
    inputs, dy = draw(*shape)
    name = "selective_scan (n {}, T {}, D {}, N {})".format(*shape)
    others = {"all steps formed first": all_steps_first, "step loop": reference}
    for label, run in {"selective_scan": ours, **others}.items():
        print(f"{name}: {label} keeps {kept(run, inputs) / 2**20:,.1f} MiB")
    agree = lambda: torch.testing.assert_close(ours(*inputs), reference(*inputs), rtol=1e-4, atol=1e-4)  # noqa: E731
    yield Contest(
        f"{name} forward",
        agree,
        lambda: forward(ours, inputs),
        {label: (lambda run=run: forward(run, inputs)) for label, run in others.items()},
    )
    if shape[1] > 256:  # the backward pass of the first loop is quadratic in T
        others.pop("all steps formed first")
    yield Contest(
        f"{name} forward and backward",
        agree,
        lambda: both(ours, inputs, dy),
        {label: (lambda run=run: both(run, inputs, dy)) for label, run in others.items()},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    let_allocator_settle()
    run_all([contest for shape in SHAPES for contest in contests(shape)], "selective_scan")
