"""Times GRU and LSTM against torch.nn's, then the cells by name against `lstm_scan`.

    python benchmarks/cells.py [--rounds 15] [--json FILE]

GRU and LSTM include the projection of the input; the cells by name do not, and are compared with `lstm_scan` per
multiply-add of their matrices. The bound is the time of the multiply-adds of the matrix products (twice as many in the
backward pass) at the peak rate, which is measured at the start.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from timing import Contest, peak_multiply_adds, run_all

from matrixstate import _native
from matrixstate.ops import CELLS, cell_scan, gru_scan, lstm_scan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

SHAPES = [(8, 512, 512), (8, 128, 128)]  # B, T, width
OF_HEADS = [(8, 128, 4, 64), (8, 128, 1, 256)]  # B, T, H, d
NAMED = ("slstm", "mgu", "peephole_lstm", "lstm_coupled", "lem", "multiplicative_lstm", "indrnn", "elstm")


def gru(net, x, backend="cpu"):
    """y of a torch.nn.GRU, computed by gru_scan; the biases of reset and update gate are added to the inputs."""
    d = net.hidden_size
    wr, wf, wn = (w.T[None] for w in net.weight_hh_l0.chunk(3))
    bias, inner = net.bias_hh_l0[: 2 * d], net.bias_hh_l0[2 * d :]
    whole = net.bias_ih_l0 + torch.cat([bias, torch.zeros_like(inner)])
    r, f, n = torch.nn.functional.linear(x, net.weight_ih_l0, whole)[:, :, None].chunk(3, dim=-1)
    return gru_scan(n, f, r, wn, wf, wr, reset_after=True, bias=inner, backend=backend)[0][:, :, 0]


def lstm(net, x, backend="cpu"):
    """y of a torch.nn.LSTM, computed by lstm_scan."""
    wi, wf, wc, wo = (w.T[None] for w in net.weight_hh_l0.chunk(4))
    inputs = torch.nn.functional.linear(x, net.weight_ih_l0, net.bias_ih_l0 + net.bias_hh_l0)
    i, f, c, o = inputs[:, :, None].chunk(4, dim=-1)
    return lstm_scan(c, i, f, o, wc, wi, wf, wo, backend=backend)[0][:, :, 0]


def forward(run):
    with torch.no_grad():
        return run()


def both(run, parameters, dy):
    y = run()
    return y, *torch.autograd.grad(y, parameters, dy)


def check(cell, net, x, dy):
    """Checks the first steps, forward and backward, by the rule of `evaluation.closeness`, against torch.nn."""
    parts, dy = list(net.parameters()), dy[:, :40]
    got = both(lambda: cell(net, x[:, :40]), parts, dy)
    plain = both(lambda: net(x[:, :40])[0], parts, dy)
    wide = type(net)(*net.weight_ih_l0.shape[1:], net.hidden_size, batch_first=True).double()
    wide.load_state_dict(net.state_dict())
    exact = both(lambda: wide(x[:, :40].double())[0], list(wide.parameters()), dy.double())
    for name, *results in zip(("y", *dict(net.named_parameters())), got, plain, exact, strict=True):
        assert_as_good_as(*results, name)


def contests(shape, peak):
    B, T, d = shape
    for cell, make, gates in ((gru, torch.nn.GRU, 3), (lstm, torch.nn.LSTM, 4)):
        torch.manual_seed(0)
        net, x, dy = make(d, d, batch_first=True), torch.randn(B, T, d), torch.randn(B, T, d)
        ours, theirs = partial(cell, net, x), lambda net=net, x=x: net(x)[0]
        loop, parameters = partial(cell, net, x, "reference"), list(net.parameters())
        slow = "takes minutes at this size" if d > 256 else None
        common = {"check": partial(check, cell, net, x, dy), "bound_name": "bound of the arithmetic"}
        cost = 2 * B * T * gates * d * d / _native.lanes() / peak
        yield Contest(
            f"{cell.__name__} forward (B {B}, T {T}, width {d})",
            ours=partial(forward, ours),
            others={
                f"torch.nn.{make.__name__}": partial(forward, theirs),
                "PyTorch step loop": slow or partial(forward, loop),
            },
            bound=cost,
            **common,
        )
        yield Contest(
            f"{cell.__name__} forward and backward (B {B}, T {T}, width {d})",
            ours=partial(both, ours, parameters, dy),
            others={
                f"torch.nn.{make.__name__}": partial(both, theirs, parameters, dy),
                "PyTorch step loop": slow or partial(both, loop, parameters, dy),
            },
            bound=3 * cost,
            **common,
        )


def drawn(name, shape, dtype):
    """Inputs and weights of a cell."""
    (*_, H, d), cell = shape, CELLS[name]
    inputs = {n: torch.randn(shape).to(dtype) for n in cell.inputs}
    weights = {n: (torch.randn(H, d, d) / d**0.5).to(dtype) for n in cell.matrices}
    return inputs, weights | {n: 0.3 * torch.randn(H, d).to(dtype) for n in cell.vectors}


def by_name(name, given, backend="cpu"):
    return cell_scan(name, *given, backend=backend)[0]


def leaves(given):
    return [tensor.requires_grad_() for group in given for tensor in group.values()]


def check_named(name, given, dy):
    """Checks the first steps by the rule of `evaluation.closeness` against plain PyTorch, from inputs in float32."""

    def run(backend, dtype):
        inputs = {n: x[:, :40].detach().to(dtype) for n, x in given[0].items()}
        copied = inputs, {n: w.detach().to(dtype) for n, w in given[1].items()}
        parts = leaves(copied)
        return both(lambda: by_name(name, copied, backend), parts, dy[:, :40].to(dtype))

    results = run("cpu", torch.float32), run("reference", torch.float32), run("reference", torch.float64)
    for what, *numbers in zip(("y", *given[0], *given[1]), *results, strict=True):
        assert_as_good_as(*numbers, what, typical=True)


def named_contests(shape, dtype, peak):
    B, T, H, d = shape
    torch.manual_seed(0)
    lstm, dy = drawn("lstm", shape, dtype), torch.randn(shape).to(dtype)
    for name in NAMED:
        given, matrices = drawn(name, shape, dtype), len(CELLS[name].matrices)
        ours, loop = partial(by_name, name, given), partial(by_name, name, given, "reference")
        theirs = lambda: lstm_scan(**lstm[0], **lstm[1], backend="cpu")[0]  # noqa: E731
        cost = B * T * H * matrices * d * d / _native.lanes() / peak
        common = {"check": partial(check_named, name, given, dy), "bound_name": "bound of the arithmetic"}
        common["work"] = {"lstm_scan": 4 / matrices} if matrices else {}
        title = f"(B {B}, T {T}, H {H}, d {d}), {str(dtype).removeprefix('torch.')}"
        yield Contest(
            f"{name} forward {title}",
            ours=partial(forward, ours),
            others={"lstm_scan": partial(forward, theirs), "PyTorch step loop": partial(forward, loop)},
            bound=cost or None,
            **common,
        )
        parts, of_lstm = leaves(given), leaves(lstm)
        yield Contest(
            f"{name} forward and backward {title}",
            ours=partial(both, ours, parts, dy),
            others={
                "lstm_scan": partial(both, theirs, of_lstm, dy),
                "PyTorch step loop": partial(both, loop, parts, dy),
            },
            bound=3 * cost or None,
            **common,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    peak = peak_multiply_adds()
    named = [c for dtype in (torch.float32, torch.bfloat16) for s in OF_HEADS for c in named_contests(s, dtype, peak)]
    run_all([*(c for shape in SHAPES for c in contests(shape, peak)), *named], "cells")
