"""The kernel of the elementwise linear recurrence: long sequences, large outputs, and what it refuses."""

import pytest
import torch
from against_float64 import assert_all_as_good, draw
from cases import linear

from conftest import need
from matrixstate.ops import linear_scan

F64 = torch.float64


@pytest.mark.parametrize("decay", ["log step", "step", "complex step", "constant"])
def test_kernels_are_as_good_as_plain_pytorch_over_4096_steps(decay):
    """Decays of all time scales: 0.9^t is zero in float32 by t = 981, and e^-1e-8 is 1."""
    case = linear("cpu", decay, 8, batch=1)
    need("linear_scan", "cpu")
    sequence, fixed, state, reset = draw(case, 4096)
    sequence["x"] /= 8
    rates, each = torch.tensor([0.0, -1e-8, -1e-4, -1e-2, -0.1, -1.0, -30.0, -float("inf")], dtype=F64), (1, 4096, 8)
    if decay == "log step":
        sequence["log_decay"] = rates * (0.5 + torch.rand(each, dtype=F64))
    elif decay == "constant":
        fixed["decay"] = rates.exp()
    elif decay == "step":
        sequence["decay"] = rates.exp() * (2 * torch.randint(2, each) - 1)
    else:
        phases = 7 * torch.rand(each, dtype=F64)
        sequence["decay"] = torch.view_as_real(torch.polar(rates.exp().expand(each).clone(), phases))
    assert_all_as_good(case, (sequence, fixed, state, torch.zeros_like(reset)))


@pytest.mark.parametrize("kind", ["step", "log", "complex"])
def test_outputs_written_past_the_caches_are_those_of_smaller_ones(kind):
    """The kernel writes large arrays in another way: 2^21 numbers and more, here two rows of 2^20 or a little more."""
    need("linear_scan", "cpu")
    for channels in (1024, 1030):  # aligned or not
        size, dtype = (2, 1024, channels), torch.float32
        a = torch.rand(size) if kind == "step" else torch.polar(torch.rand(size), torch.rand(size))
        a, dtype = (-torch.rand(size), dtype) if kind == "log" else (a, a.dtype)
        x, dh = (torch.randn(size, dtype=dtype) for _ in range(2))

        def both(rows, x=x, a=a, dh=dh):
            leaves = [t[rows].clone().requires_grad_() for t in (x, a)]
            given = {"log_decay" if kind == "log" else "decay": leaves[1]}
            h, last = linear_scan(leaves[0], **given, backend="cpu")
            return h, last, *torch.autograd.grad(h, leaves, dh[rows])

        parts = zip(both(slice(1)), both(slice(1, 2)), strict=True)
        for whole, halves in zip(both(slice(2)), parts, strict=True):
            assert torch.equal(whole, torch.cat(halves))


NATIVE = ("x", "G", "R", "Z", "decay", "is_constant", "is_log", "state", "reset", "h", "last", "saved", "threads")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(3)}, "x must have the axes B and T"),
        ({"x": torch.zeros(2, 0, 12)}, "x must have at least one step"),
        ({"x": torch.zeros(2, 5, 11)}, r"x must be float32 of 120 numbers, got float32 \[2, 5, 11\]"),
        ({"x": torch.zeros(2, 5, 12, dtype=F64)}, "x must be float32 or bfloat16, got another type"),
        ({"x": torch.zeros(2, 12, 5).mT}, "x must be contiguous"),
        ({"R": -1}, "G and R must not be negative, Z must be 1 or 2"),
        ({"Z": 3}, "G and R must not be negative, Z must be 1 or 2"),
        ({"Z": 2, "R": 2, "is_log": True}, "a logarithm must be real"),
        ({"Z": 2, "R": 2, "x": torch.zeros(2, 5, 12).bfloat16()}, "complex numbers must be float32"),
        ({"decay": torch.zeros(3)}, r"decay must be float32 of 30 numbers, got float32 \[3\]"),
        ({"state": torch.zeros(2, 12).bfloat16()}, "state must be float32 of 24 numbers, got bfloat16"),
        ({"reset": torch.zeros(2, 5)}, r"reset must be bool \[2, 5\]"),
        ({"h": torch.zeros(2, 5, 12).bfloat16()}, "h must be float32 of 120 numbers, got bfloat16"),
        ({"saved": torch.zeros(2, 2, 12)}, "saved must be float32 of 24 numbers"),
        ({"threads": 0}, "threads must be positive"),
    ],
)
def test_a_wrong_array_is_refused_before_it_is_read(changed, message):
    need("linear_scan", "cpu")
    from matrixstate import _native

    arrays = {"x": torch.zeros(2, 5, 12), "decay": torch.zeros(2, 5, 3), "state": torch.zeros(2, 12), "reset": None}
    arrays |= {"h": torch.zeros(2, 5, 12), "last": torch.zeros(2, 12), "saved": None, "threads": 1}
    arrays |= {"G": 3, "R": 4, "Z": 1, "is_constant": False, "is_log": False}
    _native.scan_forward(*(arrays[name] for name in NATIVE))
    with pytest.raises(ValueError, match=f"scan_forward: {message}"):
        _native.scan_forward(*((arrays | changed)[name] for name in NATIVE))


def test_the_operator_keeps_the_promises_of_pytorch():
    need("linear_scan", "cpu")
    linear_scan(torch.zeros(1, 1, 1), decay=torch.zeros(1), backend="cpu")  # registers the operator
    B, H, N = 2, 3, 4
    reset = torch.rand(B, 5) < 0.2
    for decay, is_log, pairs in ((torch.rand(B, 5, H, 1), True, False), (torch.rand(H, N), False, True)):
        x, state = torch.randn(B, 5, H, N), torch.randn(B, H, N)
        if pairs:
            x, decay, state = (torch.randn(*t.shape, 2) for t in (x, decay, state))
        leaves = [t.requires_grad_() for t in (x, decay, state)]
        arguments = (*leaves[:2], is_log, pairs, leaves[2], reset, True)
        torch.library.opcheck(torch.ops.matrixstate.linear_scan_cpu, arguments)
