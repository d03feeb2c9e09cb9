"""The cells of `cell_scan` against others, and against what defines them."""

import pytest
import torch

from conftest import need
from matrixstate.errors import BackendUnavailable, ShapeError
from matrixstate.ops import CELLS, Cell, cell_scan, gru_scan, lstm_scan, rnn_scan

B, T, H, D = 2, 12, 2, 3
F64 = torch.float64


def drawn(name, scale=1.0):
    cell = CELLS[name]
    inputs = {n: scale * torch.randn(B, T, H, D, dtype=F64) for n in cell.inputs}
    matrices = {n: torch.randn(H, D, D, dtype=F64) for n in cell.matrices}
    return inputs, matrices | {n: torch.randn(H, D, dtype=F64) for n in cell.vectors}


@pytest.mark.parametrize("op", [rnn_scan, gru_scan, lstm_scan])
def test_the_short_forms_are_the_same_cells(op):
    inputs, weights = drawn(op.__name__.removesuffix("_scan"))
    y, _ = cell_scan(op.__name__.removesuffix("_scan"), inputs, weights, grad_clip=1.0)
    torch.testing.assert_close(op(**inputs, **weights, grad_clip=1.0, backend="reference")[0], y, rtol=0, atol=0)


def test_slstm_is_its_sums_without_a_stabiliser():
    inputs, w = drawn("slstm")
    y, state = cell_scan("slstm", inputs, w)
    h = c = n = torch.zeros(B, H, D, dtype=F64)
    for t in range(T):
        z, i, f, o = (torch.einsum("bhd,hde->bhe", h, w["w" + g]) + inputs["x" + g][:, t] for g in ("", "i", "f", "o"))
        c = f.sigmoid() * c + i.exp() * z.tanh()
        n = f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        torch.testing.assert_close(y[:, t], h)
    torch.testing.assert_close(state[2] * state[3].exp(), n)


@pytest.mark.parametrize(("backend", "dtype"), [("reference", F64), ("cpu", torch.float32)])
def test_slstm_stays_finite_where_its_gates_overflow(backend, dtype):
    need("cell_scan", backend, dtype)
    inputs, weights = ({n: a.to(dtype) for n, a in group.items()} for group in drawn("slstm", scale=1e4))
    leaves = [leaf.requires_grad_() for leaf in (*inputs.values(), *weights.values())]
    y, state = cell_scan("slstm", inputs, weights, backend=backend)
    assert state[2].min() >= 1  # so a floor of 1 would change nothing
    gradients = torch.autograd.grad(y.sum(), leaves)
    assert all(a.isfinite().all() for a in (y, *gradients))


def test_a_variant_of_the_lstm_is_the_vanilla_one_with_that_gate_open():
    inputs, weights = drawn("peephole_lstm")
    for gate, name in (("i", "input"), ("f", "forget"), ("o", "output")):
        opened = {n: torch.full_like(x, 1e6) if n == "x" + gate else x for n, x in inputs.items()}
        fewer = ({n: a for n, a in group.items() if not n.endswith(gate)} for group in (inputs, weights))
        y, _ = cell_scan(f"lstm_no_{name}_gate", *fewer)
        torch.testing.assert_close(y, cell_scan("peephole_lstm", opened, weights)[0], rtol=0, atol=0)


def test_full_gate_recurrence_without_its_matrices_is_the_vanilla_lstm():
    inputs, weights = drawn("lstm_full_gate_recurrence")
    y, (h, c, *gates) = cell_scan("lstm_full_gate_recurrence", inputs, weights)
    assert all(((gate > 0) & (gate < 1)).all() for gate in gates)
    closed = {n: torch.zeros_like(w) if n.startswith("r") else w for n, w in weights.items()}
    vanilla, last = cell_scan("peephole_lstm", inputs, {n: w for n, w in weights.items() if not n.startswith("r")})
    got, (h, c, *_) = cell_scan("lstm_full_gate_recurrence", inputs, closed)
    assert not torch.allclose(y, vanilla)
    for one, other in zip((got, h, c), (vanilla, *last), strict=True):
        torch.testing.assert_close(one, other)


def test_a_multiplicative_lstm_without_its_product_is_the_lstm():
    inputs, weights = drawn("lstm")
    y, _ = cell_scan("lstm", inputs, weights)
    eye = torch.eye(D, dtype=F64).expand(H, D, D)
    same, _ = cell_scan("multiplicative_lstm", inputs | {"xm": 2 * torch.ones_like(y)}, weights | {"wm": eye / 2})
    torch.testing.assert_close(same, y)


def test_elementwise_cells_are_their_few_lines():
    inputs, w = drawn("elstm")
    c = h = torch.zeros(B, H, D, dtype=F64)
    y, _ = cell_scan("elstm", inputs, w)
    relu, _ = cell_scan("indrnn", {"x": inputs["x"]}, {"u": w["v"]})
    for t in range(T):
        f = 1 / (1 + torch.exp(-(w["vf"] * c + inputs["xf"][:, t])))
        c = f * c + (1 - f) * torch.tanh(w["v"] * c + inputs["x"][:, t])
        h = (w["v"] * h + inputs["x"][:, t]).clamp(min=0)
        torch.testing.assert_close(y[:, t], c)
        torch.testing.assert_close(relu[:, t], h)


def test_a_padded_step_leaves_every_state_unchanged_and_a_reset_beside_it_is_ignored():
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[:, 5:] = False
    for name in CELLS:
        inputs, weights = drawn(name)
        _, padded = cell_scan(name, inputs, weights, mask=mask, reset=~mask)
        _, short = cell_scan(name, {n: x[:, :5] for n, x in inputs.items()}, weights)
        assert all(torch.equal(a, b) for a, b in zip(padded, short, strict=True))


def test_a_cell_of_ones_own():
    leaky = Cell("leaky", ("x",), (), ("a",), ("h",), lambda state, x, a: (a * state[0] + x,))
    x, a = torch.randn(B, 3, H, D), torch.rand(H, D)
    y, (last,) = cell_scan(leaky, {"x": x}, {"a": a})
    torch.testing.assert_close(last, a * (a * x[:, 0] + x[:, 1]) + x[:, 2])
    assert torch.equal(y[:, -1], last)


def test_a_cell_of_ones_own_is_refused_by_the_kernel_in_words_even_under_a_known_name():
    need("cell_scan", "cpu")
    leaky = Cell("rnn", ("x",), (), ("a",), ("h",), lambda state, x, a: (a * state[0] + x,))
    x, a = torch.randn(B, 3, H, D), torch.rand(H, D)
    assert cell_scan(leaky, {"x": x}, {"a": a})[0].shape == x.shape
    with pytest.raises(BackendUnavailable, match=r"cell_scan: .*cpu: has no equations for a Cell of one"):
        cell_scan(leaky, {"x": x}, {"a": a}, backend="cpu")


PLAIN = {"ltc", "cfc", "cfc_no_gate", "cfc_pure", "lstm_full_gate_recurrence"}  # no kernel has their equations


@pytest.mark.parametrize("name", CELLS)
def test_the_kernels_take_most_cells(name):
    need("cell_scan", "cpu")
    inputs, weights = ({n: a.float() for n, a in group.items()} for group in drawn(name))
    if name in PLAIN:
        with pytest.raises(BackendUnavailable, match=f"cell_scan: .*cpu: has no equations for {name}"):
            cell_scan(name, inputs, weights, backend="cpu")
    else:
        assert cell_scan(name, inputs, weights, backend="cpu")[0].shape == (B, T, H, D)


def test_errors_name_the_cells_the_inputs_and_the_states():
    inputs, weights = drawn("mgu")
    with pytest.raises(ShapeError, match=r"cell_scan: cell must be a Cell or one of rnn, .*got 'mlstm'"):
        cell_scan("mlstm", inputs, weights)
    with pytest.raises(ShapeError, match=r"cell_scan: weights of mgu must be w, wf, got w"):
        cell_scan("mgu", inputs, {"w": weights["w"]})
    with pytest.raises(ShapeError, match=r"cell_scan: state must be a tuple of h for mgu, got Tensor"):
        cell_scan("mgu", inputs, weights, torch.zeros(B, H, D, dtype=F64))
