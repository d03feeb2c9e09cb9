"""The causal convolution: against PyTorch's, and padding that changes nothing."""

import pytest
import torch

from matrixstate.errors import ShapeError
from matrixstate.ops import causal_conv

F64 = torch.float64


@pytest.mark.parametrize("kernel", [1, 2, 4])
def test_it_is_pytorchs_convolution_with_zeros_before(kernel):
    x, weight, bias = torch.randn(2, 9, 5, dtype=F64), torch.randn(5, kernel, dtype=F64), torch.randn(5, dtype=F64)
    y, state = causal_conv(x, weight, bias)
    padded = torch.nn.functional.pad(x.mT, (kernel - 1, 0))
    expected = torch.nn.functional.conv1d(padded, weight[:, None], bias, groups=5).mT
    torch.testing.assert_close(y, expected)
    assert torch.equal(state, x[:, 9 - kernel + 1 :])


def test_padding_anywhere_is_as_if_it_were_not_there():
    torch.manual_seed(3)
    weight = torch.randn(5, 4, dtype=F64)
    real = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0, 0, 0], [0] * 8]).bool()
    reset = torch.rand(4, 8) < 0.3
    x, state = torch.randn(4, 8, 5, dtype=F64), torch.randn(4, 3, 5, dtype=F64)
    y, last = causal_conv(x, weight, state=state, mask=real, reset=reset)
    for b in range(4):
        alone = x[b : b + 1, real[b]]
        expected, after = causal_conv(alone, weight, state=state[b : b + 1], reset=reset[b : b + 1, real[b]])
        torch.testing.assert_close(y[b : b + 1, real[b]], expected)
        assert torch.equal(last[b : b + 1], after)


def test_padded_inputs_have_no_gradient():
    x, weight = torch.randn(1, 4, 2, dtype=F64, requires_grad=True), torch.randn(2, 3, dtype=F64)
    real = torch.tensor([[True, False, True, True]])
    y, last = causal_conv(x, weight, mask=real)
    (gradient,) = torch.autograd.grad(y[:, [0, 2, 3]].sum() + last.sum(), x)
    assert not gradient[:, 1].any()
    assert gradient[:, [0, 2, 3]].all()


def test_wrong_sizes_are_refused():
    x = torch.ones(2, 3, 5)
    with pytest.raises(ShapeError, match=r"weight must be torch.float32 \[5, 4\]"):
        causal_conv(x, torch.ones(6, 4))
    with pytest.raises(ShapeError, match=r"weight must be \[C, K\] with K >= 1, got \[5, 0\]"):
        causal_conv(x, torch.ones(5, 0))
    with pytest.raises(ShapeError, match=r"mask must be torch.bool \[2, 3\]"):
        causal_conv(x, torch.ones(5, 2), mask=torch.ones(2, 3))
