"""Times normalised_scan and mlstm_scan: `python benchmarks/quotient.py [--rounds 15] [--json FILE]`.

normalised_scan beside a plain copy of as many bytes: scores and values read and y written; backward, those and dy read
and two gradients written. mlstm_scan beside outer_scan with the same gates, which sums no weights.
"""

import torch
from conv import copy_seconds
from timing import Contest, let_allocator_settle, run_all

from matrixstate.ops import mlstm_scan, normalised_scan, outer_scan

QUOTIENTS = {"RWKV-4, B 8, T 512, 768 channels": (8, 512, 768, 1), "Aaren, B 8, T 512, H 8, V 96": (8, 512, 8, 96)}
MATRICES = [(2, 1024, 4, 64, 64), (1, 512, 4, 128, 256)]  # B, T, H, K, V


def draw_quotient(B, T, H, V):
    torch.manual_seed(0)
    score, v = torch.randn(B, T, H, 1), torch.randn(B, T, H, V)
    decay, bonus = (-torch.rand(H, 1), torch.randn(H, 1)) if V == 1 else (None, None)
    return [x.requires_grad_() for x in (score, v, decay, bonus) if x is not None]


def quotient(inputs, **options):
    score, v, *rest = inputs
    decay, bonus = rest or (None, None)
    return normalised_scan(score, v, log_decay=decay, bonus=bonus, **options)[0]


def draw_matrices(B, T, H, K, V):
    torch.manual_seed(0)
    inputs = [torch.randn(B, T, H, K), torch.randn(B, T, H, K), torch.randn(B, T, H, V)]
    inputs += [-torch.rand(B, T, H), torch.randn(B, T, H)]
    return [x.requires_grad_() for x in inputs]


def mlstm(inputs, **options):
    return mlstm_scan(*inputs, **options)[0]


def outer(inputs, **options):
    q, k, v, decay, write = inputs
    return outer_scan(q, k, v, log_decay=decay, log_input=write, **options)[0]


def forward(run, inputs, **options):
    with torch.no_grad():
        return run(inputs, **options)


def both(run, inputs, dy, **options):
    return torch.autograd.grad(run(inputs, **options), inputs, dy)


def agree(run, inputs):
    """Checks the kernel against the reference on the timed inputs."""
    part = [x[:, :40].detach() if x.ndim > 2 and x.shape[1] > 40 else x.detach() for x in inputs]
    torch.testing.assert_close(run(part), run(part, backend="reference"), rtol=1e-4, atol=1e-5)


def contests(name, run, inputs, others, read, written):
    dy = torch.randn_like(run([x.detach() for x in inputs]))
    bounds = (None, None)
    if read:
        bounds = (
            copy_seconds(torch.zeros((read + written) // 2)),
            copy_seconds(torch.zeros((3 * read + 2 * written) // 2)),
        )
    for what, call, bound in (
        ("forward", lambda f, **o: forward(f, inputs, **o), bounds[0]),
        ("forward and backward", lambda f, **o: both(f, inputs, dy, **o), bounds[1]),
    ):
        runs = {label: (lambda call=call, f=f, o=o: call(f, **o)) for label, (f, o) in others.items()}
        yield Contest(
            f"{name} {what}",
            lambda: agree(run, inputs),
            lambda call=call: call(run),
            runs,
            bound,
            "a copy of as many bytes",
        )


def everything():
    chunks = {"PyTorch chunks": (quotient, {"backend": "chunked"})}
    for name, shape in QUOTIENTS.items():
        inputs = draw_quotient(*shape)
        sizes = inputs[0].numel() + inputs[1].numel(), inputs[1].numel()
        yield from contests(f"normalised_scan, {name}", quotient, inputs, chunks, *sizes)
    for shape in MATRICES:
        name = "mlstm_scan (B {}, T {}, H {}, K {}, V {})".format(*shape)
        yield from contests(name, mlstm, draw_matrices(*shape), {"outer_scan": (outer, {})}, 0, 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    let_allocator_settle()
    run_all(list(everything()), "normalised_scan and mlstm_scan")
