"""Times GRU and LSTM against torch.nn's: `python benchmarks/cells.py [--rounds 15] [--json FILE]`.

Both include the projection of the input. The bound is the time of the multiply-adds of the two matrix products (twice
as many in the backward pass) at the peak rate, which is measured at the start.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from timing import Contest, peak_multiply_adds, run_all

from matrixstate import _native
from matrixstate.ops import gru_scan, lstm_scan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

SHAPES = [(8, 512, 512), (8, 128, 128)]  # B, T, width


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


if __name__ == "__main__":
    torch.set_num_threads(1)
    peak = peak_multiply_adds()
    run_all([c for shape in SHAPES for c in contests(shape, peak)], "cells")
