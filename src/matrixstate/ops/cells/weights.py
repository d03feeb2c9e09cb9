"""What the kernels of RNN, GRU and LSTM take and save, and the gradients of their weights."""

import torch
from torch import Tensor

# Each in the order of csrc/cells/cells.h and of triton_programs.
KINDS = ("rnn_scan", "gru_scan", "gru_scan_after", "lstm_scan")
GATES = (1, 3, 3, 4)  # with the candidate
SAVED = (1, 3, 4, 5)  # numbers per unit and step that the backward pass needs


def kind_of(op: str, bias: Tensor | None) -> int:
    """Index into KINDS; a GRU with a bias is one that resets after the product."""
    return KINDS.index(op if bias is None or op != "gru_scan" else "gru_scan_after")


def weight_factors(
    kind: int, h: Tensor, y: Tensor, dx: list[Tensor], r: Tensor | None, reset: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """For every gate two tensors [B, T, H, d]: their products, summed over steps and rows, are its weights' gradient.

    Args:
        kind: index into KINDS.
        h: [B, H, d], the first state.
        y: [B, T, H, d], all states.
        dx: the gradients of the inputs of all gates, each [B, T, H, d].
        r: [B, T, H, d], the reset gate of a GRU; None for others.
        reset: [B, T] bool or None.
    """
    before = states_before(h, y, reset)
    lefts, rights = [before] * len(dx), list(dx)
    if r is not None and KINDS[kind] == "gru_scan":  # the candidate's weights multiply r h
        lefts[2] = before * r
    elif r is not None:  # r multiplies what they and the bias give
        rights[2] = dx[2] * r
    return lefts, rights


def states_before(h: Tensor, y: Tensor, reset: Tensor | None) -> Tensor:
    """h before every step, [B, T, H, d]: the first one h [B, H, d], then those of y [B, T, H, d], zeros at resets."""
    before = torch.cat([h[:, None], y[:, :-1]], dim=1)
    return before if reset is None else before.masked_fill_(reset[..., None, None], 0)
