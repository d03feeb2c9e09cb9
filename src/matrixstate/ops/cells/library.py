"""Cells for `cell_scan`: functions of the recurrent weights that return the function of one step.

Weights w are [H, d, d] and act on h from the right, head by head; states and inputs are [B, H, d].
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from matrixstate.ops.cells.cell_scan import Cell, State, times


def mgu(w: Tensor, wf: Tensor) -> Cell:
    """f = σ(h wf + xf), h <- f tanh((f h) w + x) + (1 - f) h. State: h. Source: Zhou et al. 2016."""

    def step(h: Tensor, x: Tensor, xf: Tensor) -> State:
        f = torch.sigmoid(times(h, wf) + xf)
        return (f * torch.tanh(times(f * h, w) + x) + (1 - f) * h,)

    return step


def indrnn(u: Tensor) -> Cell:
    """h <- relu(x + u h), u [H, d]. State: h, which nothing bounds. Source: Li et al. 2018."""

    def step(h: Tensor, x: Tensor) -> State:
        return (relu(x + u.to(h.dtype) * h),)

    return step


def lem(w1: Tensor, w2: Tensor, wz: Tensor, wy: Tensor) -> Cell:
    """z <- (1 - d1) z + d1 tanh(y wz + xz), y <- (1 - d2) y + d2 tanh(z wy + xy), d1, d2 = σ(y w1 + x1), σ(y w2 + x2).

    y sees the new z, both gates the old y; the step of time is 1. State: y and z. Source: Rusch et al. 2022, eq. 4.
    """

    def step(y: Tensor, z: Tensor, x1: Tensor, x2: Tensor, xz: Tensor, xy: Tensor) -> State:
        d1, d2 = torch.sigmoid(times(y, w1) + x1), torch.sigmoid(times(y, w2) + x2)
        z = (1 - d1) * z + d1 * torch.tanh(times(y, wz) + xz)
        return (1 - d2) * y + d2 * torch.tanh(times(z, wy) + xy), z

    return step


def slstm(w: Tensor, wi: Tensor, wf: Tensor, wo: Tensor) -> Cell:
    """c <- σ(f) c + e^i tanh(z), n <- σ(f) n + e^i, h <- σ(o) c / n, with each of z, i, f, o = h w· + x·.

    c and n are kept divided by e^m with m <- max(i, log σ(f) + m), so no exponential exceeds 1, and the n that is kept
    is at least 1 from the first step on: the floor of 1 that the authors' fused kernels have changes nothing here. m
    has no gradient, for only c e^m and n e^m count. State: h, c, n, m; where n is 0, nothing has been written and m
    does not count. Source: Beck et al. 2024, "xLSTM", eq. 8-17.
    """

    def step(h: Tensor, c: Tensor, n: Tensor, m: Tensor, x: Tensor, xi: Tensor, xf: Tensor, xo: Tensor) -> State:
        i, decay = times(h, wi) + xi, logsigmoid(times(h, wf) + xf)
        now = torch.where(n == 0, i, torch.maximum(i, decay + m)).detach()
        kept, written = torch.exp(torch.where(n == 0, 0, decay + m - now)), torch.exp(i - now)
        c, n = kept * c + written * torch.tanh(times(h, w) + x), kept * n + written
        return torch.sigmoid(times(h, wo) + xo) * c / n, c, n, now

    return step


LSTM_VARIANTS = ("vanilla", "NIG", "NFG", "NOG", "NIAF", "NOAF", "CIFG", "NP")


def peephole_lstm(w: Tensor, wi: Tensor, wf: Tensor, wo: Tensor, peepholes: Tensor, variant: str = "vanilla") -> Cell:
    """i, f = σ(h w· + p· c + x·), c <- f c + i tanh(h w + x), o = σ(h wo + po c + xo), h <- o tanh(c).

    peepholes: [3, H, d], those of i, f and o, which sees the new c. Variants leave something out: NIG, NFG, NOG i, f or
    o = 1; NIAF, NOAF no tanh at the input or the output; CIFG f = 1 - i; NP no peepholes. State: h and c. Source: Greff
    et al. 2017, "LSTM: A Search Space Odyssey".
    """
    pi, pf, po = torch.zeros_like(peepholes) if variant == "NP" else peepholes

    def step(h: Tensor, c: Tensor, x: Tensor, xi: Tensor, xf: Tensor, xo: Tensor) -> State:
        i = torch.ones_like(c) if variant == "NIG" else torch.sigmoid(times(h, wi) + pi * c + xi)
        f = torch.sigmoid(times(h, wf) + pf * c + xf)
        f = torch.ones_like(c) if variant == "NFG" else 1 - i if variant == "CIFG" else f
        z = times(h, w) + x
        c = f * c + i * (z if variant == "NIAF" else torch.tanh(z))
        o = torch.ones_like(c) if variant == "NOG" else torch.sigmoid(times(h, wo) + po * c + xo)
        return o * (c if variant == "NOAF" else torch.tanh(c)), c

    return step
