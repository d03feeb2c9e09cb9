"""Mistakes of the ops over keys and values and of the cells: errors name the function that was called."""

import pytest
import torch

from matrixstate.errors import ShapeError
from matrixstate.ops import (
    delta_rule,
    delta_scan,
    gated_delta_product,
    gated_delta_rule,
    gru_scan,
    linear_attention,
    outer_scan,
)

B, T, H, K, V = 2, 3, 4, 5, 6
Q, KEY, VALUE, BETA = torch.zeros(B, T, H, K), torch.zeros(B, T, H, K), torch.zeros(B, T, H, V), torch.ones(B, T, H)
GATES = [torch.zeros(B, T, H, K)] * 3 + [torch.zeros(H, K, K)] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: delta_scan(Q, KEY, VALUE, read=None), r"delta_scan: read must be .* \[2, 3, 4, 5\] on cpu, got None"),
        (lambda: delta_rule(Q, KEY, VALUE, BETA[0]), r"^delta_rule: beta must be floating point \[2, 3, 4\]"),
        (lambda: delta_rule(Q, KEY, VALUE, BETA.int()), r"^delta_rule: beta must be floating point .*got torch.int32"),
        (lambda: gated_delta_rule(Q, KEY, VALUE, BETA, BETA[0]), r"^gated_delta_rule: log_decay must be .* or \["),
        (
            lambda: gated_delta_product(Q, KEY, VALUE, BETA, micro_steps=2),
            r"^gated_delta_product: v must be .*\[2, 6, ",
        ),
        (
            lambda: outer_scan(Q, KEY, VALUE, log_decay=BETA[0]),
            r"outer_scan: log_decay must be .* \[2, 3, 4\] or \[2, 3, 4, 5\] on cpu, got torch.float32 \[3, 4\]",
        ),
        (
            lambda: outer_scan(Q, KEY, VALUE, log_decay=BETA.cfloat()),
            "log_decay must be .*got torch.complex64",
        ),
        (lambda: linear_attention(Q, KEY.double(), VALUE), "linear_attention: k must be torch.float32 .*torch.float64"),
        (
            lambda: linear_attention(Q, KEY, VALUE, state=torch.zeros(B, H, K, V)),
            r"linear_attention: state must be torch.float32 \[2, 4, 5, 7\]",
        ),
        (
            lambda: gru_scan(*GATES, reset_after=True, bias=torch.zeros(3, K)),
            r"gru_scan: bias must be floating point \[5\] or \[4, 5\]",
        ),
        (lambda: gru_scan(*GATES, reset_after=True, bias=torch.zeros(())), r"gru_scan: bias must be .*got .* \[\]"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ShapeError, match=message):
        call()
