"""mlstm_scan: its plain definition, gates of any size, and padding by a gate of -inf."""

import math

import pytest
import torch

from closeness import assert_equal_to_rounding
from conftest import need
from matrixstate.errors import ShapeError
from matrixstate.ops import MLSTMState, mlstm_scan

B, T, H, K, V = 2, 19, 3, 4, 5
every_backend = pytest.mark.parametrize("backend", ["reference", "chunked", "cpu"])


def drawn(backend, offset=0.0):
    """q, k, v and the gates; `offset` is added to the input gate."""
    need("outer_scan", backend)
    dtype = torch.float32 if backend == "cpu" else torch.float64
    q, k, v = (torch.randn(B, T, H, size, dtype=torch.float64) for size in (K, K, V))
    gates = -torch.rand(B, T, H, dtype=torch.float64), offset + 3 * torch.randn(B, T, H, dtype=torch.float64)
    return [x.to(dtype) for x in (q, k, v, *gates)]


def definition(q, k, v, log_forget, log_input):
    """As the paper has it, in float64, where gates up to e^700 do not overflow."""
    q, k, v, log_forget, log_input = (x.double() for x in (q, k, v, log_forget, log_input))
    C, n, rows = q.new_zeros(B, H, K, V), q.new_zeros(B, H, K), []
    for t in range(T):
        f, i = log_forget[:, t].exp()[..., None], log_input[:, t].exp()[..., None]
        C = f[..., None] * C + i[..., None] * k[:, t, :, :, None] * v[:, t, :, None]
        n = f * n + i * k[:, t]
        weight = (n * q[:, t]).sum(-1, keepdim=True).abs().clamp(min=1)
        rows.append((q[:, t, :, :, None] * C).sum(2) / weight)
    return torch.stack(rows, dim=1)


@every_backend
@pytest.mark.parametrize("offset", [0.0, 200.0, -200.0])
def test_it_is_the_papers_recurrence_whatever_the_size_of_the_gates(backend, offset):
    inputs = drawn(backend, offset)
    y, state = mlstm_scan(*inputs, backend=backend, chunk=4)
    scale = math.exp(-offset) if offset < 0 else 1.0  # for the comparison alone: nothing underflows in float64
    expected = scale * definition(*inputs)
    assert state.sums.isfinite().all()
    if y.dtype == torch.float32 and offset < 0:
        assert not y.any()  # below the smallest float32
    else:
        assert_equal_to_rounding(scale * y, expected.to(y.dtype), "y")


@every_backend
def test_a_gate_of_minus_infinity_writes_nothing(backend):
    q, k, v, log_forget, log_input = drawn(backend)
    skipped = torch.rand(B, T) < 0.3
    skipped[:, :2] = True
    log_input = log_input.masked_fill(skipped[..., None], -math.inf)
    log_forget = log_forget.masked_fill(skipped[..., None], 0)
    y, state = mlstm_scan(q, k, v, log_forget, log_input, backend=backend, chunk=4)
    assert not y[:, :2].any()
    for row in range(B):
        kept = ~skipped[row]
        alone, last = mlstm_scan(
            *(x[row : row + 1, kept] for x in (q, k, v, log_forget, log_input)), backend=backend, chunk=4
        )
        assert_equal_to_rounding(y[row, kept], alone[0], "y")
        assert_equal_to_rounding(state.max[row], last.max[0], "max")
        assert_equal_to_rounding(state.sums[row], last.sums[0], "sums")


def test_mistakes_are_named():
    q, k, v, log_forget, log_input = drawn("reference")
    with pytest.raises(ShapeError, match=r"mlstm_scan: log_input must be floating point \[2, 19, 3\]"):
        mlstm_scan(q, k, v, log_forget, log_input[..., None])
    with pytest.raises(ShapeError, match="mlstm_scan: state must be an MLSTMState, got Tensor"):
        mlstm_scan(q, k, v, log_forget, log_input, state=torch.zeros(B, H, K, V))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"mlstm_scan: state.sums must be torch.float64 \[2, 3, 4, 6\]"):
        mlstm_scan(q, k, v, log_forget, log_input, state=MLSTMState(torch.zeros(B, H, K, V), torch.zeros(B, H)))
