"""One step of each cell, forward and backward, written into given memory. Tensors are [H, B, ...].

The gates of a cell lie side by side in the last axis, G·d wide, in the order of its `GATES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matrixstate import _native

sigmoid_backward = torch.ops.aten.sigmoid_backward
tanh_backward = torch.ops.aten.tanh_backward


@dataclass(frozen=True)
class Panels:
    """The weights of one wide head, laid out so that the compiled product reads them in order."""

    panels: Tensor  # [columns / PANEL, rows, PANEL]

    @staticmethod
    def of(w: Tensor) -> "Tensor | Panels":
        """The weights [H, rows, columns] as panels where that pays, else as they are."""
        H, rows, columns = w.shape
        if H > 1 or columns % _native.PANEL or rows * columns < 2**16:
            return w.contiguous()
        return Panels(w[0].unflatten(1, (-1, _native.PANEL)).transpose(0, 1).contiguous())


def times(h: Tensor, w: Tensor | Panels, out: Tensor, plus: Tensor | None = None) -> Tensor:
    """out = plus + h w, head by head; one head is a plain product, which is much faster."""
    if isinstance(w, Panels):
        dense = out if out.is_contiguous() else torch.empty(out.shape)
        added = None if plus is None else plus[0].contiguous()
        _native.panel_product(h[0].contiguous(), w.panels, added, dense[0], torch.get_num_threads())
        return out if dense is out else out.copy_(dense)
    if len(h) > 1:
        return torch.bmm(h, w, out=out) if plus is None else torch.baddbmm(plus, h, w, out=out)
    if plus is None:
        torch.mm(h[0], w[0], out=out[0])
    else:
        torch.addmm(plus[0], h[0], w[0], out=out[0])
    return out


def parts(x: Tensor, d: int) -> tuple[Tensor, ...]:
    """The gates in a tensor."""
    return x.split(d, dim=-1)


def rnn(h: Tensor, c: None, x: Tensor, w: Tensor | Panels, bias: None, gates: Tensor) -> tuple[Tensor, None]:
    """`gates` becomes what backward needs of the step: here tanh(...)."""
    times(h, w, gates, x)
    return gates.tanh_().clone(), None  # `gates` may be written again at the next step


def rnn_backward(
    dh: Tensor, dc: None, h: Tensor, c: None, gates: Tensor, w_t: Tensor | Panels, dx: Tensor
) -> tuple[Tensor, None, None]:
    """`dx` becomes the gradient of x; returns those of h, of c, and of what h w goes into, where that is not dx."""
    dx.copy_(tanh_backward(dh, gates))
    return times(dx, w_t, torch.empty_like(h)), None, None


def gru_before(h: Tensor, c: None, x: Tensor, w: Tensor, bias: None, gates: Tensor) -> tuple[Tensor, None]:
    d = h.shape[-1]
    times(h, w[..., : 2 * d], gates[..., : 2 * d], x[..., : 2 * d])
    gates[..., : 2 * d].sigmoid_()
    f, r, z = parts(gates, d)
    times(h * r, w[..., 2 * d :], z, x[..., 2 * d :])
    return torch.lerp(z.tanh_(), h, f), None


def gru_before_backward(
    dh: Tensor, dc: None, h: Tensor, c: None, gates: Tensor, w_t: Tensor, dx: Tensor
) -> tuple[Tensor, None, None]:
    d = h.shape[-1]
    f, r, z = parts(gates, d)
    df, dr, dz = parts(dx, d)
    df.copy_(sigmoid_backward(dh * (h - z), f))
    dz.copy_(tanh_backward(dh * (1 - f), z))
    dhr = times(dz, w_t[:, 2 * d :], torch.empty_like(h))
    dr.copy_(sigmoid_backward(dhr * h, r))
    before = times(dx[..., : 2 * d], w_t[:, : 2 * d], torch.empty_like(h))
    return before.addcmul_(dh, f).addcmul_(dhr, r), None, None


def gru_after(h: Tensor, c: None, x: Tensor, w: Tensor | Panels, bias: Tensor, gates: Tensor) -> tuple[Tensor, None]:
    d = h.shape[-1]
    f, r, z, a = parts(gates, d)  # a: the candidate's product with h, before r
    product = times(h, w, torch.empty_like(x))
    torch.add(product[..., : 2 * d], x[..., : 2 * d], out=gates[..., : 2 * d]).sigmoid_()
    torch.add(product[..., 2 * d :], bias, out=a)
    torch.addcmul(x[..., 2 * d :], r, a, out=z).tanh_()
    return torch.lerp(z, h, f), None


def gru_after_backward(
    dh: Tensor, dc: None, h: Tensor, c: None, gates: Tensor, w_t: Tensor | Panels, dx: Tensor
) -> tuple[Tensor, None, Tensor]:
    f, r, z, a = parts(gates, h.shape[-1])
    df, dr, dz = parts(dx, h.shape[-1])
    df.copy_(sigmoid_backward(dh * (h - z), f))
    dz.copy_(tanh_backward(dh * (1 - f), z))
    dr.copy_(sigmoid_backward(dz * a, r))
    da = dz * r
    inner = torch.cat([df, dr, da], dim=-1)
    return times(inner, w_t, torch.empty_like(h)).addcmul_(dh, f), None, inner


def lstm(h: Tensor, c: Tensor, x: Tensor, w: Tensor | Panels, bias: None, gates: Tensor) -> tuple[Tensor, Tensor]:
    d = h.shape[-1]
    i, f, o, z, tanh_c = parts(gates, d)
    times(h, w, gates[..., : 4 * d], x)
    gates[..., : 3 * d].sigmoid_()
    c = torch.addcmul(i * z.tanh_(), f, c)
    torch.tanh(c, out=tanh_c)
    return o * tanh_c, c


def lstm_backward(
    dh: Tensor, dc: Tensor, h: Tensor, c: Tensor, gates: Tensor, w_t: Tensor | Panels, dx: Tensor
) -> tuple[Tensor, Tensor, None]:
    i, f, o, z, tanh_c = parts(gates, h.shape[-1])
    di, df, do, dz = parts(dx, h.shape[-1])
    dc = dc + tanh_backward(dh * o, tanh_c)
    di.copy_(sigmoid_backward(dc * z, i))
    df.copy_(sigmoid_backward(dc * c, f))
    do.copy_(sigmoid_backward(dh * tanh_c, o))
    dz.copy_(tanh_backward(dc * i, z))
    return times(dx, w_t, torch.empty_like(h)), dc * f, None


@dataclass(frozen=True)
class Cell:
    """How a cell goes forward and back, its gates' number G, and how many numbers per channel a step keeps."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    gates: int
    kept: int
    whole: bool = True  # whether h is multiplied by all weights at once


CELLS = {
    "rnn_scan": Cell(rnn, rnn_backward, 1, 1),
    "gru_scan": Cell(gru_before, gru_before_backward, 3, 3, whole=False),
    "gru_scan_after": Cell(gru_after, gru_after_backward, 3, 4),
    "lstm_scan": Cell(lstm, lstm_backward, 4, 5),
}
