"""cell_scan: a user's cell, the cells that are ops of their own, sLSTM's stabiliser, and mistakes."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.errors import ShapeError
from matrixstate.ops import LSTM_VARIANTS, LSTMState, cell_scan, gru_scan, lstm_scan, peephole_lstm, rnn_scan, slstm
from matrixstate.ops.cells.cell_scan import times

F64, B, T, H, d = torch.float64, 3, 11, 2, 4


def drawn(inputs, states):
    """Inputs [B, T, H, d], weights [H, d, d] and a state, all leaves."""
    x = [torch.randn(B, T, H, d, dtype=F64, requires_grad=True) for _ in range(inputs)]
    w = [(torch.randn(H, d, d, dtype=F64) / d**0.5).requires_grad_() for _ in range(inputs)]
    return x, w, [torch.randn(B, H, d, dtype=F64, requires_grad=True) for _ in range(states)]


@pytest.mark.parametrize("clip", [None, 0.3])
def test_cells_that_have_an_op_are_that_op(clip):
    mask, reset = torch.rand(B, T) < 0.8, torch.rand(B, T) < 0.2
    options = {"grad_clip": clip, "mask": mask, "reset": reset}

    def rnn(h, x):
        return (torch.tanh(times(h, w[0]) + x),)

    def gru(h, x, xf, xr):
        f, r = torch.sigmoid(times(h, w[1]) + xf), torch.sigmoid(times(h, w[2]) + xr)
        return (f * h + (1 - f) * torch.tanh(times(h * r, w[0]) + x),)

    for cell, op, n, states in ((rnn, rnn_scan, 1, 1), (gru, gru_scan, 3, 1), (None, lstm_scan, 4, 2)):
        x, w, state = drawn(n, states)
        if cell is None:  # without peepholes it is the usual LSTM
            cell = peephole_lstm(*w, torch.ones(3, H, d, dtype=F64), "NP")
        y, last = cell_scan(cell, x, state, **options)
        given = LSTMState(*state) if states == 2 else state[0]
        expected, after = op(*x, *w, given, backend="reference", **options)
        after = after if states == 2 else (after,)
        results = []
        for out in ((y, *last), (expected, *after)):
            loss = sum((r * torch.linspace(0.5, 1.5, r.numel()).double().view_as(r)).sum() for r in out)
            results.append((*out, *torch.autograd.grad(loss, [*x, *w, *state])))
        for i, (got, wanted) in enumerate(zip(*results, strict=True)):
            assert_equal_to_rounding(got, wanted, f"{op.__name__}, {i}")


@pytest.mark.parametrize("variant", LSTM_VARIANTS)
def test_every_variant_of_the_lstm_leaves_out_its_part(variant):
    x, w, (h, c) = drawn(4, 2)
    p = torch.randn(3, H, d, dtype=F64)
    y, _ = cell_scan(peephole_lstm(*w, p, variant), x, (h, c))
    p = torch.zeros_like(p) if variant == "NP" else p
    for t in range(T):
        z, i, f, o = (times(h, w_) + x_[:, t] for w_, x_ in zip(w, x, strict=True))
        i = torch.ones_like(i) if variant == "NIG" else torch.sigmoid(i + p[0] * c)
        f = torch.sigmoid(f + p[1] * c)
        f = torch.ones_like(f) if variant == "NFG" else 1 - i if variant == "CIFG" else f
        c = f * c + i * (z if variant == "NIAF" else torch.tanh(z))
        o = torch.ones_like(o) if variant == "NOG" else torch.sigmoid(o + p[2] * c)
        h = o * (c if variant == "NOAF" else torch.tanh(c))
        assert_equal_to_rounding(y[:, t], h, f"step {t}")


@pytest.mark.parametrize("offset", [0.0, 300.0, -300.0])
def test_slstm_is_its_definition_whatever_the_size_of_its_gates(offset):
    """A constant added to all input gates cancels between c and n."""
    x, w, _ = drawn(4, 0)
    zeros = [torch.zeros(B, H, d, dtype=F64) for _ in range(4)]
    moved = [x[0], x[1] + offset, x[2], x[3]]
    y, last = cell_scan(slstm(*w), moved, zeros)
    h = c = n = zeros[0]
    for t in range(T):
        z, i, f, o = (times(h, w_) + x_[:, t] for w_, x_ in zip(w, x, strict=True))
        c = torch.sigmoid(f) * c + i.exp() * torch.tanh(z)
        n = torch.sigmoid(f) * n + i.exp()
        h = torch.sigmoid(o) * c / n
        assert_equal_to_rounding(y[:, t], h, f"step {t}")
    assert_equal_to_rounding((last[3] - offset).exp() * last[1], c, "c")
    assert last[2].min() >= 1  # so a floor of 1 would change nothing
    gradients = torch.autograd.grad(y.sum(), [*x, *w])
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_mistakes_are_named():
    x, _, (h,) = drawn(1, 1)
    with pytest.raises(ShapeError, match="cell_scan: inputs and state must have a tensor at least, got 0 and 1"):
        cell_scan(lambda h: (h,), [], (h,))
    with pytest.raises(ShapeError, match="cell_scan: cell must return a state like the one it was given"):
        cell_scan(lambda h, x: (h, x), x, (h,))
    with pytest.raises(ShapeError, match=r"cell_scan: state\[0\] must be torch.float64 \[3, 2, 4\]"):
        cell_scan(lambda h, x: (h,), x, (h.float(),))
    y, state = cell_scan(lambda h, x: (h,), [x[0][:, :0]], (h,))
    assert y.shape == (B, 0, H, d)
    assert torch.equal(state[0], h)
