"""The modes of `cell_scan` that compute all steps at once, against the steps."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.errors import ShapeError
from matrixstate.ops import CELLS, Cell, cell_scan

B, T, H, D = 2, 24, 2, 3
F64 = torch.float64


def coupled(state, x, a, w):
    h, c = state
    return torch.tanh(torch.einsum("bhd,hde->bhe", h, w) + a * c + x), torch.sin(c) / 2 + h


OWN = Cell("own", ("x",), ("w",), ("a",), ("h", "c"), coupled)


def drawn(cell, T=T, heads=H, d=D):
    inputs = {n: torch.randn(B, T, heads, d, dtype=F64) for n in cell.inputs}
    matrices = {n: torch.randn(heads, d, d, dtype=F64) / d**0.5 for n in cell.matrices}
    return inputs, matrices | {n: torch.rand(heads, d, dtype=F64) for n in cell.vectors}


def everything(cell, inputs, weights, **options):
    """Outputs, last state, and the gradients of a first state, inputs and weights, by their names."""
    first = {n: torch.linspace(0.1, 0.9, B * H * D, dtype=F64).view(B, H, D) for n in cell.state}
    leaves = {n: a.detach().requires_grad_() for n, a in (first | inputs | weights).items()}
    picked = ({n: leaves[n] for n in names} for names in (inputs, weights))
    y, last = cell_scan(cell, *picked, tuple(leaves[n] for n in cell.state), **options)
    loss = sum((i + 1) * a.square().sum() for i, a in enumerate((y, *last)))
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    results = {"y": y} | {f"last {n}": a for n, a in zip(cell.state, last, strict=True)}
    return results | {f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True)}


def flags():
    mask, reset = torch.ones(B, T, dtype=torch.bool), torch.zeros(B, T, dtype=torch.bool)
    mask[0, 5:8] = mask[1, :2] = mask[1, 20:] = False
    reset[0, 7] = reset[0, 12] = reset[1, 3] = True
    return {"mask": mask, "reset": reset}


@pytest.mark.parametrize("cell", [CELLS["rnn"], CELLS["gru"], CELLS["lstm"], CELLS["slstm"], CELLS["lem"], OWN])
def test_deer_is_the_steps_and_so_are_its_gradients(cell):
    inputs, weights = drawn(cell)
    expected = everything(cell, inputs, weights, **flags())
    for name, got in everything(cell, inputs, weights, mode="deer", **flags()).items():
        assert_equal_to_rounding(got, expected[name], f"{cell.name}: {name}")


def test_quasi_deer_is_the_steps_to_its_tolerance():
    inputs, weights = drawn(CELLS["gru"])
    expected = everything(CELLS["gru"], inputs, weights, **flags())
    for name, got in everything(CELLS["gru"], inputs, weights, mode="quasi_deer", **flags()).items():
        torch.testing.assert_close(got, expected[name])


def test_heads_share_inputs_and_weights_and_bfloat16_is_solved_in_float32():
    inputs, weights = drawn(CELLS["gru"], heads=4)
    inputs["x"], weights["wf"] = inputs["x"][:, :, :2], weights["wf"][:2]
    y, _ = cell_scan("gru", inputs, weights)
    assert_equal_to_rounding(cell_scan("gru", inputs, weights, mode="deer")[0], y, "y")
    inputs, weights = ({n: a.bfloat16() for n, a in group.items()} for group in (inputs, weights))
    (y, (last,)), (_, (same,)) = (cell_scan("gru", inputs, weights, mode=mode) for mode in ("deer", "steps"))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(last, same)


def test_a_padded_step_leaves_the_state_unchanged_bit_for_bit_even_beside_a_nan():
    inputs, weights = drawn(CELLS["lstm"])
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[:, 5:] = False
    for mode in ("deer", "quasi_deer"):
        padded = {n: x.masked_fill(~mask[..., None, None], float("nan")) for n, x in inputs.items()}
        y, (h, _) = cell_scan("lstm", padded, weights, mask=mask, mode=mode)
        assert y.isfinite().all()
        assert torch.equal(y[:, 4], h)
        assert torch.equal(y[:, 5:], h[:, None].expand_as(y[:, 5:]))


def test_a_batch_without_rows():
    inputs, weights = drawn(CELLS["gru"])
    y, (last,) = cell_scan("gru", {n: x[:0] for n, x in inputs.items()}, weights, mode="deer")
    assert y.shape == (0, T, H, D)
    assert last.shape == (0, H, D)


def test_few_iterations_are_enough_for_a_gru():
    """A warning would be an error here."""
    inputs, weights = drawn(CELLS["gru"], T=9, heads=1)
    exact, _ = cell_scan("gru", inputs, weights)
    for mode, iterations, error in (("deer", 5, 1e-11), ("quasi_deer", 9, 1e-8)):
        y, _ = cell_scan("gru", inputs, weights, mode=mode, max_iterations=iterations)
        assert (y - exact).abs().max() < error


def test_a_chaotic_cell_is_computed_by_steps_and_says_so():
    inputs, weights = drawn(CELLS["rnn"], T=100, heads=1, d=8)
    weights["w"] *= 8
    exact, (last,) = cell_scan("rnn", inputs, weights)
    for mode in ("deer", "quasi_deer"):
        words = rf"mode '{mode}' of rnn has not converged after 20 iterations: max \|y_t .* step by step instead"
        with pytest.warns(RuntimeWarning, match=words):
            y, (h,) = cell_scan("rnn", inputs, weights, mode=mode, max_iterations=20)
        assert torch.equal(y, exact)
        assert torch.equal(h, last)


def test_entries_that_overflow_start_again():
    """A guess of some 1,000 where the state is -3; without a new start an iteration more for each of 60 steps."""
    path = torch.linspace(-3, -1, 60, dtype=F64)
    path[3] = 7
    x = (path + torch.cat([path.new_zeros(1), path[:-1]]).exp()).view(1, 60, 1, 1)
    steep = Cell("steep", ("x",), (), (), ("h",), lambda state, x: (x - torch.exp(state[0]),))
    for mode in ("deer", "quasi_deer"):
        y, _ = cell_scan(steep, {"x": x}, {}, mode=mode, max_iterations=15)
        assert_equal_to_rounding(y.flatten(), path, mode)


def test_what_these_modes_cannot_do_is_refused():
    inputs, weights = drawn(CELLS["gru"])
    with pytest.raises(ShapeError, match=r"cell_scan: mode must be one of steps, deer, quasi_deer, got 'newton'"):
        cell_scan("gru", inputs, weights, mode="newton")
    with pytest.raises(ShapeError, match=r"cell_scan: grad_clip must be None with mode 'deer', got 1.0"):
        cell_scan("gru", inputs, weights, mode="deer", grad_clip=1.0)
    with pytest.raises(ShapeError, match=r"cell_scan: max_iterations must be at least 1, got 0"):
        cell_scan("gru", inputs, weights, mode="deer", max_iterations=0)
    x = inputs["x"].requires_grad_()
    y, _ = cell_scan("gru", inputs, weights, mode="deer")
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
