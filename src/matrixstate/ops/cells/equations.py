"""The equations of the vector cells, each once: a step is a function of the state and of named inputs and weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

State = tuple[Tensor, ...]  # tensors [B, H, d], h first
Gate = Literal["i", "f", "o"]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell with vectors as its state.

    A cell of one's own is another `Cell`: its gradients are autograd's.
    """

    name: str  # what errors call it
    inputs: tuple[str, ...]  # names of the inputs of a step, each [B, H, d]
    matrices: tuple[str, ...]  # names of the weights [H, d, d]
    vectors: tuple[str, ...]  # names of the weights [H, d]
    state: tuple[str, ...]  # names of the state's tensors, each [B, H, d]; the first is the output
    step: Callable[..., State]  # step(state, **inputs, **weights) -> state


def times(h: Tensor, w: Tensor) -> Tensor:
    """h [B, H, d] times w [H, d, d], head by head."""
    return torch.einsum("bhd,hde->bhe", h, w)


def rnn(state: State, *, x: Tensor, w: Tensor) -> State:
    """h <- tanh(h w + x)."""
    (h,) = state
    return (torch.tanh(times(h, w) + x),)


def gru(
    state: State,
    *,
    x: Tensor,
    xf: Tensor,
    xr: Tensor,
    w: Tensor,
    wf: Tensor,
    wr: Tensor,
    bias: Tensor | None = None,
) -> State:
    """h <- f h + (1 - f) z; with a bias the reset gate acts after the product."""
    (h,) = state
    f, r = torch.sigmoid(times(h, wf) + xf), torch.sigmoid(times(h, wr) + xr)
    z = torch.tanh(times(h * r, w) + x) if bias is None else torch.tanh(r * (times(h, w) + bias) + x)
    return (f * h + (1 - f) * z,)


def lstm(
    state: State,
    *,
    constant: Gate | None = None,
    coupled: bool = False,
    linear_input: bool = False,
    linear_output: bool = False,
    **tensors: Tensor,
) -> State:
    """c <- f c + i z; h <- o tanh(c), with z = tanh(h w + x).

    A gate is s(h w· + x· + p· c), s the logistic sigmoid, where p· (peepholes) may be missing; the output gate sees the
    new c. One gate may be `constant` at 1, i may be `coupled` to f as 1 - f, and either tanh may be missing.
    """
    h, c = state

    def gate(name: Gate, c: Tensor) -> Tensor | float:
        if name == constant:
            return 1.0
        raw = times(h, tensors["w" + name]) + tensors["x" + name]
        peephole = tensors.get("p" + name)
        return torch.sigmoid(raw if peephole is None else raw + peephole * c)

    f = gate("f", c)
    i = 1 - f if coupled else gate("i", c)
    z = times(h, tensors["w"]) + tensors["x"]
    c = f * c + i * (z if linear_input else torch.tanh(z))
    return gate("o", c) * (c if linear_output else torch.tanh(c)), c


def lstm_full_gate_recurrence(state: State, **tensors: Tensor) -> State:
    """The LSTM with peepholes whose gates also see all gates of the step before: r·i, r·f, r·o from i, f, o to gate ·.

    The gates are part of the state; they start at 0.
    """
    h, c, *before = state

    def gate(name: Gate, c: Tensor) -> Tensor:
        gates = (times(old, tensors["r" + name + of]) for of, old in zip("ifo", before, strict=True))
        return torch.sigmoid(sum(gates, times(h, tensors["w" + name]) + tensors["x" + name] + tensors["p" + name] * c))

    i, f = gate("i", c), gate("f", c)
    c = f * c + i * torch.tanh(times(h, tensors["w"]) + tensors["x"])
    o = gate("o", c)
    return o * torch.tanh(c), c, i, f, o


def slstm(state: State, **tensors: Tensor) -> State:
    """c <- f c + e^i tanh(z), n <- f n + e^i, h <- o c / n; c and n are kept divided by e^m.

    m is the larger of log f + m and i. h does not depend on it; a state with n = 0 counts as
    empty, so that m begins at i. The n that is kept is then at least 1 from the first step on: the floor of 1 that the
    authors' fused kernels have changes nothing.
    """
    h, c, n, m = state
    z, i, f, o = (times(h, tensors["w" + g]) + tensors["x" + g] for g in ("", "i", "f", "o"))
    kept = torch.where(n == 0, i, logsigmoid(f) + m)  # else e^(kept - m) of an empty state overflows for a small i
    m = torch.maximum(i, kept)
    forget, write = torch.exp(kept - m), torch.exp(i - m)
    c, n = forget * c + write * torch.tanh(z), forget * n + write
    return torch.sigmoid(o) * c / n, c, n, m


def mgu(state: State, *, x: Tensor, xf: Tensor, w: Tensor, wf: Tensor) -> State:
    """f = s(h wf + xf), h <- f tanh((f h) w + x) + (1 - f) h."""
    (h,) = state
    f = torch.sigmoid(times(h, wf) + xf)
    return (f * torch.tanh(times(f * h, w) + x) + (1 - f) * h,)


def indrnn(state: State, *, x: Tensor, u: Tensor) -> State:
    """h <- relu(u h + x)."""
    (h,) = state
    return (torch.relu(u * h + x),)


def elstm(state: State, *, x: Tensor, xf: Tensor, v: Tensor, vf: Tensor) -> State:
    """c <- f c + (1 - f) tanh(v c + x), f = s(vf c + xf)."""
    (c,) = state
    f = torch.sigmoid(vf * c + xf)
    return (f * c + (1 - f) * torch.tanh(v * c + x),)


def lem(state: State, **tensors: Tensor) -> State:
    """z <- (1 - d1) z + d1 tanh(y wz + xz), y <- (1 - d2) y + d2 tanh(z wy + xy), d1, d2 = s(y w1 + x1), s(y w2 + x2).

    Both gates see the old y, y the new z. The step of time is 1.
    """
    y, z = state

    def raw(name: str, state: Tensor) -> Tensor:
        return times(state, tensors["w" + name]) + tensors["x" + name]

    d1, d2 = torch.sigmoid(raw("1", y)), torch.sigmoid(raw("2", y))
    z = (1 - d1) * z + d1 * torch.tanh(raw("z", y))
    return (1 - d2) * y + d2 * torch.tanh(raw("y", z)), z


def multiplicative_lstm(state: State, *, xm: Tensor, wm: Tensor, **tensors: Any) -> State:
    """The LSTM whose products see xm (h wm) in place of h."""
    h, c = state
    return lstm((xm * times(h, wm), c), **tensors)


def synapses(v: Tensor, w: Tensor, mu: Tensor, sigma: Tensor, reversal: Tensor) -> tuple[Tensor, Tensor]:
    """Current and conductance [..., H, d] of the synapses from units v [..., H, d] to others, weights [H, d, d].

    A synapse conducts w s(sigma (v - mu)), w >= 0, towards the potential `reversal`.
    """
    conductance = w * torch.sigmoid(sigma * (v[..., None] - mu))
    return (conductance * reversal).sum(-2), conductance.sum(-2)


def ltc(
    state: State,
    *,
    x: Tensor,
    xg: Tensor,
    w: Tensor,
    leak: Tensor,
    rest: Tensor,
    capacity: Tensor,
    unfolds: int = 6,
    **weights: Tensor,
) -> State:
    """C v' = g (rest - v) + the synapses' currents, by semi-implicit steps of Euler's method that make a time of 1.

    x and xg >= 0 are current and conductance of the inputs' synapses. C, g and the synapses' weights are softplus of
    `capacity`, `leak` and w.
    """
    (v,) = state
    C, g, w = unfolds * softplus(capacity), softplus(leak), softplus(w)
    for _ in range(unfolds):
        current, conductance = synapses(v, w, **weights)
        v = (C * v + g * rest + current + x) / (C + g + conductance + xg + 1e-8)
    return (v,)


def cfc(state: State, *, x: Tensor, w: Tensor, gated: bool = True, **weights: Tensor) -> State:
    """z = 1.7159 tanh(0.666 (h w + x)), t = s(z wt + bt), h <- (1 - t) tanh(z w1 + b1) + t tanh(z w2 + b2).

    Without `gated` the factor 1 - t is missing.
    """
    z = _backbone(state, x, w)
    one, two, t = (times(z, weights["w" + n]) + weights["b" + n] for n in "12t")
    one, two, t = torch.tanh(one), torch.tanh(two), torch.sigmoid(t)
    return ((one - t * one if gated else one) + t * two,)


def cfc_pure(state: State, *, x: Tensor, w: Tensor, w1: Tensor, b1: Tensor, rate: Tensor, reversal: Tensor) -> State:
    """f = z w1 + b1 with the z of `cfc`, h <- reversal - reversal e^-(|rate| + |f|) f."""
    f = times(_backbone(state, x, w), w1) + b1
    return (reversal - reversal * torch.exp(-(rate.abs() + f.abs())) * f,)


def _backbone(state: State, x: Tensor, w: Tensor) -> Tensor:
    return 1.7159 * torch.tanh(0.666 * (times(state[0], w) + x))


def _four_gates(name: str, state: tuple[str, ...], step: Callable[..., State]) -> Cell:
    return Cell(name, ("x", "xi", "xf", "xo"), ("w", "wi", "wf", "wo"), (), state, step)


def _peephole(name: str, missing: Gate | None = None, **options: bool | str) -> Cell:
    """A variant of the LSTM with peepholes that has no parameters for the gate `missing`."""
    gates = [gate for gate in "ifo" if gate != missing]
    inputs, matrices, vectors = (tuple(letter + gate for gate in gates) for letter in "xwp")
    return Cell(name, ("x", *inputs), ("w", *matrices), vectors, ("h", "c"), partial(lstm, **options))


_ALL = (
    Cell("rnn", ("x",), ("w",), (), ("h",), rnn),
    Cell("gru", ("x", "xf", "xr"), ("w", "wf", "wr"), (), ("h",), gru),
    _four_gates("lstm", ("h", "c"), lstm),
    _four_gates("slstm", ("h", "c", "n", "m"), slstm),
    Cell("mgu", ("x", "xf"), ("w", "wf"), (), ("h",), mgu),
    Cell("indrnn", ("x",), (), ("u",), ("h",), indrnn),
    Cell("lem", ("x1", "x2", "xz", "xy"), ("w1", "w2", "wz", "wy"), (), ("y", "z"), lem),
    Cell("elstm", ("x", "xf"), (), ("v", "vf"), ("c",), elstm),
    Cell(
        "multiplicative_lstm",
        ("x", "xi", "xf", "xo", "xm"),
        ("w", "wi", "wf", "wo", "wm"),
        (),
        ("h", "c"),
        multiplicative_lstm,
    ),
    Cell("ltc", ("x", "xg"), ("w", "mu", "sigma", "reversal"), ("leak", "rest", "capacity"), ("v",), ltc),
    Cell("cfc", ("x",), ("w", "w1", "w2", "wt"), ("b1", "b2", "bt"), ("h",), cfc),
    Cell("cfc_no_gate", ("x",), ("w", "w1", "w2", "wt"), ("b1", "b2", "bt"), ("h",), partial(cfc, gated=False)),
    Cell("cfc_pure", ("x",), ("w", "w1"), ("b1", "rate", "reversal"), ("h",), cfc_pure),
    _peephole("peephole_lstm"),
    _peephole("lstm_no_input_gate", "i", constant="i"),
    _peephole("lstm_no_forget_gate", "f", constant="f"),
    _peephole("lstm_no_output_gate", "o", constant="o"),
    _peephole("lstm_linear_input", linear_input=True),
    _peephole("lstm_linear_output", linear_output=True),
    _peephole("lstm_coupled", "i", coupled=True),
    Cell(
        "lstm_full_gate_recurrence",
        ("x", "xi", "xf", "xo"),
        ("w", "wi", "wf", "wo", *("r" + gate + of for gate in "ifo" for of in "ifo")),
        ("pi", "pf", "po"),
        ("h", "c", "i", "f", "o"),
        lstm_full_gate_recurrence,
    ),
)
CELLS = MappingProxyType({cell.name: cell for cell in _ALL})
