"""Every op under one interface, so that the contract of design can be tested once for all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from matrixstate.layers import map_state, state_leaves
from matrixstate.ops import (
    AttentionState,
    LSTMState,
    ScaledState,
    SnapState,
    attention,
    causal_conv,
    delta_scan,
    gated_delta_product,
    gru_scan,
    lstm_scan,
    m2rnn_scan,
    matrix_scan,
    mru_scan,
    outer_scan,
    rnn_scan,
    scaled_matrix_scan,
    snap_scan,
)
from matrixstate.ops.mru.builders import BUILDERS

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """An op with a way to draw its inputs and to call it.

    `sequence` draws the inputs that have a time axis 1, `fixed` those that have none, `state` an initial state whose
    tensors may be differentiated. All sizes differ, so that a swapped axis cannot pass. `dtype` is the widest one that
    the backend takes.
    """

    name: str
    op: str
    sequence: Callable[[int, torch.dtype], Inputs]
    call: Callable[..., tuple[Any, ...]]  # call(sequence, fixed, state, reset=, backend=) -> (outputs..., state)
    state: Callable[[torch.dtype], Any]
    fixed: Callable[[torch.dtype], Inputs] = lambda dtype: {}
    backend: str = "reference"
    dtype: torch.dtype = torch.float64
    resets: bool = True  # whether these sizes allow a reset
    caller: str = ""  # the function that errors name, where it is not the op itself

    def __str__(self) -> str:
        return self.name

    def run(self, sequence: Inputs, fixed: Inputs, state: Any, reset: Tensor | None = None) -> list[Tensor]:
        """All outputs and the tensors of the last state."""
        *outputs, last = self.call(sequence, fixed, state, reset=reset, backend=self.backend)
        return [*outputs, *state_leaves(last)]


B = 2


def _normal(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).to(dtype)


def _near_identity(*shape: int, dtype: torch.dtype, scale: float = 0.3) -> Tensor:
    return (torch.eye(shape[-1]) + scale * torch.randn(*shape, dtype=torch.float64)).to(dtype)


def _kept(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64).to(dtype)


def _decay(*shape: int, dtype: torch.dtype) -> Tensor:
    return -2 * torch.rand(*shape, dtype=torch.float64).to(dtype)


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _attention_state(dtype: torch.dtype) -> AttentionState:
    wide = _accumulation(dtype)
    return AttentionState(_normal(B, 4, 1, 5, dtype=wide), _normal(B, 4, 1, 3, dtype=wide), torch.tensor([4, 2]))


def _attention(window: int | None, backend: str) -> Case:
    return Case(
        f"attention, window {window}, {backend}",
        "attention",
        lambda T, dtype: {
            "q": _normal(B, T, 2, 5, dtype=dtype),
            "k": _normal(B, T, 1, 5, dtype=dtype),
            "v": _normal(B, T, 1, 3, dtype=dtype),
        },
        lambda s, fixed, state, **options: attention(s["q"], s["k"], s["v"], state, window=window, **options),
        _attention_state,
        backend=backend,
    )


def matrix(
    backend: str, D: int = 3, R: int | None = None, v: bool = False, heads: int = 2, batch: int = B, scale: float = 0.5
) -> Case:
    """R: rows of the state, default D."""
    R = R or D

    def state(dtype: torch.dtype) -> Tensor:
        wide, shape = _accumulation(dtype), (batch, heads, R, D)
        return _normal(*shape, dtype=wide) if v or R != D else _near_identity(*shape, dtype=wide, scale=scale / D**0.5)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        x = {"x": _near_identity(batch, T, heads, D, D, dtype=dtype, scale=scale / D**0.5)}
        return x | ({"v": _normal(batch, T, heads, R, D, dtype=dtype)} if v else {})

    return Case(
        f"matrix_scan, {backend}, D {D}, R {R}, {'v' if v else 'no v'}, {heads} heads, batch {batch}",
        "matrix_scan",
        sequence,
        lambda s, fixed, state, **options: matrix_scan(s["x"], s.get("v"), state, **options),
        state,
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
        resets=v or R == D,
    )


def scaled(backend: str, D: int = 3, heads: int = 2, batch: int = B) -> Case:
    def state(dtype: torch.dtype) -> ScaledState:
        matrix = _near_identity(batch, heads, D, D, dtype=_accumulation(dtype), scale=0.5 / D**0.5)
        return ScaledState(matrix, torch.arange(batch * heads, dtype=torch.int32).view(batch, heads) * 3 - 5)

    return Case(
        f"scaled_matrix_scan, {backend}, D {D}, {heads} heads, batch {batch}",
        "scaled_matrix_scan",
        lambda T, dtype: {"x": 1.5 * _near_identity(batch, T, heads, D, D, dtype=dtype, scale=0.2 / D**0.5)},
        lambda s, fixed, state, **options: scaled_matrix_scan(s["x"], state, **options),
        state,
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def snap(backend: str, D: int = 3, groups: int = 1, codes: int = 5, heads: int = 2, batch: int = B) -> Case:
    """A step is padding where its first element is far from that of the identity."""
    shape = (groups, codes, heads // groups, D, D)

    def state(dtype: torch.dtype) -> SnapState:
        matrix = _near_identity(batch, heads, D, D, dtype=_accumulation(dtype), scale=0.5 / D**0.5)
        return SnapState(matrix, torch.arange(batch, dtype=torch.int32) % 3)

    def call(s: Inputs, fixed: Inputs, state: Any, **options: Any) -> tuple[Any, ...]:
        mask = s["x"][:, :, 0, 0, 0] > 1 - 0.5 / D**0.5
        return snap_scan(s["x"], fixed["keys"], fixed["values"], state, every=3, mask=mask, **options)

    return Case(
        f"snap_scan, {backend}, D {D}, {groups} groups, {codes} codes, {heads} heads, batch {batch}",
        "snap_scan",
        lambda T, dtype: {"x": _near_identity(batch, T, heads, D, D, dtype=dtype, scale=0.5 / D**0.5)},
        call,
        state,
        lambda dtype: {
            "keys": _normal(*shape, dtype=dtype, scale=1.5 / (heads // groups * D) ** 0.5),
            "values": _normal(*shape, dtype=dtype),
        },
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def mru(
    backend: str,
    D: int = 3,
    C: int = 4,
    builder: str = "ldu",
    decay: bool = False,
    v: bool = False,
    readout: str = "state",
    rescale: bool = False,
    heads: int = 2,
    batch: int = B,
) -> Case:
    """A step is padding where its first element is far below zero.

    Decays are at least 1/2: what a scale-free read-out hands back to one is rounding, divided by the decay.
    """
    scale = (0.3 if builder == "cayley" else 0.5) / D**0.5

    def state(dtype: torch.dtype) -> Any:
        wide, shape = _accumulation(dtype), (batch, heads, D, D)
        if v or not rescale:
            return _normal(*shape, dtype=wide) if v else _near_identity(*shape, dtype=wide, scale=0.5 / D**0.5)
        matrix = _near_identity(*shape, dtype=wide, scale=0.5 / D**0.5)
        return ScaledState(matrix, torch.arange(batch * heads, dtype=torch.int32).view(batch, heads) * 3 - 5)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        inputs = {"elements": _normal(batch, T, heads, BUILDERS[builder].elements(D), dtype=dtype, scale=scale)}
        inputs |= {"decay": (1 + _kept(batch, T, heads, dtype=_accumulation(dtype))) / 2} if decay else {}
        return inputs | ({"v": _normal(batch, T, heads, D, D, dtype=dtype)} if v else {})

    def call(s: Inputs, fixed: Inputs, state: Any, **more: Any) -> tuple[Any, ...]:
        mask = s["elements"][:, :, 0, 0] > -scale if s["elements"].shape[-1] else None
        options: dict[str, Any] = {"builder": builder, "readout": readout, "rescale": rescale, "mask": mask, **more}
        return mru_scan(s["elements"], fixed["down"], s.get("v"), state, decay=s.get("decay"), **options)

    on = ", ".join([*(n for n, given in (("decay", decay), ("v", v), ("rescaled", rescale)) if given), readout])
    return Case(
        f"mru_scan, {backend}, {builder}, D {D}, C {C}, {on}, {heads} heads, batch {batch}",
        "mru_scan",
        sequence,
        call,
        state,
        lambda dtype: {"down": _normal(heads, D, C, dtype=dtype)},
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def m2rnn(
    backend: str,
    K: int = 3,
    V: int = 5,
    heads: tuple[int, int, int, int, int] = (1, 1, 4, 4, 2),
    batch: int = B,
    grad_clip: float | None = None,
) -> Case:
    """`heads` are those of q, k, v, w and f."""
    q, k, v, w, f = heads
    H = max(heads)
    return Case(
        f"m2rnn_scan, {backend}, K {K}, V {V}, heads {heads}, batch {batch}, clip {grad_clip}",
        "m2rnn_scan",
        lambda T, dtype: {
            "q": _normal(batch, T, q, K, dtype=dtype),
            "k": _normal(batch, T, k, K, dtype=dtype),
            "v": _normal(batch, T, v, V, dtype=dtype),
            "f": _kept(batch, T, f, dtype=dtype),
        },
        lambda s, fixed, state, **options: m2rnn_scan(
            s["q"], s["k"], s["v"], fixed["w"], s["f"], state, grad_clip=grad_clip, **options
        ),
        lambda dtype: _normal(batch, H, K, V, dtype=_accumulation(dtype)),
        lambda dtype: {"w": _near_identity(w, V, V, dtype=dtype, scale=0.7 / V**0.5)},
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def conv(backend: str, C: int = 5, K: int = 4, activation: Literal["silu"] | None = None, batch: int = B) -> Case:
    return Case(
        f"causal_conv, {backend}, C {C}, K {K}, {activation}, batch {batch}",
        "causal_conv",
        lambda T, dtype: {"x": _normal(batch, T, C, dtype=dtype)},
        lambda s, fixed, state, **options: causal_conv(
            s["x"], fixed["weight"], fixed["bias"], state, activation=activation, **options
        ),
        lambda dtype: _normal(batch, K - 1, C, dtype=_accumulation(dtype)),
        lambda dtype: {"weight": _normal(C, K, dtype=dtype), "bias": _normal(C, dtype=dtype)},
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def outer(
    backend: str,
    decay: str,
    read: Literal["post", "pre"] = "post",
    K: int = 3,
    V: int = 5,
    heads: int = 2,
    batch: int = B,
) -> Case:
    """decay: none, or one per head, per channel, or per row and per column."""
    per_row: tuple[int, ...] = () if decay == "head" else (K,)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        inputs = {
            "q": _normal(batch, T, heads, K, dtype=dtype),
            "k": _normal(batch, T, heads, K, dtype=dtype),
            "v": _normal(batch, T, heads, V, dtype=dtype),
        }
        if decay != "none":
            inputs["log_decay"] = _decay(batch, T, heads, *per_row, dtype=dtype)
            inputs["log_input"] = _normal(batch, T, heads, dtype=dtype, scale=0.3)
        return inputs | ({"log_decay_v": _decay(batch, T, heads, V, dtype=dtype)} if decay == "row and column" else {})

    return Case(
        f"outer_scan, {backend}, decay {decay}, read {read}, K {K}, V {V}, {heads} heads, batch {batch}",
        "outer_scan",
        sequence,
        lambda s, fixed, state, **options: outer_scan(**s, **fixed, read=read, state=state, chunk=4, **options),
        lambda dtype: _normal(batch, heads, K, V, dtype=_accumulation(dtype)),
        (lambda dtype: {"bonus": _normal(heads, K, dtype=dtype)}) if read == "pre" else (lambda dtype: {}),
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def delta(
    backend: str,
    decay: str = "none",
    write: bool = True,
    micro_steps: int = 1,
    K: int = 3,
    V: int = 5,
    heads: int = 2,
    batch: int = B,
) -> Case:
    """decay: none, or one per head or per channel; micro-steps lie within a step here, so that time is axis 1."""
    per_row: tuple[int, ...] = () if decay == "head" else (K,)
    rows = ("k", "v", "read", "write") if write else ("k", "v", "read")

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        scale = 0.7 / K**0.5
        inputs = {"q": _normal(batch, T, heads, K, dtype=dtype)}
        inputs["k"] = _normal(batch, T, micro_steps, heads, K, dtype=dtype, scale=1 if write else scale)
        inputs["v"] = _normal(batch, T, micro_steps, heads, V, dtype=dtype)
        for name in rows[2:]:
            inputs[name] = _normal(batch, T, micro_steps, heads, K, dtype=dtype, scale=scale)
        return inputs | ({"log_decay": _decay(batch, T, heads, *per_row, dtype=dtype)} if decay != "none" else {})

    def call(s: Inputs, fixed: Inputs, state: Tensor | None, **options: Any) -> tuple[Any, ...]:
        flat = {name: value.flatten(1, 2) if name in rows else value for name, value in s.items()}
        return delta_scan(**flat, micro_steps=micro_steps, state=state, chunk=4, **options)

    return Case(
        f"delta_scan, {backend}, decay {decay}, write {write}, {micro_steps} micro-steps, K {K}, V {V}, {heads} heads, "
        f"batch {batch}",
        "delta_scan",
        sequence,
        call,
        lambda dtype: _normal(batch, heads, K, V, dtype=_accumulation(dtype)),
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def rule(
    backend: str, decay: str = "none", micro_steps: int = 1, K: int = 3, V: int = 5, heads: int = 2, batch: int = B
) -> Case:
    """The delta rule, which the kernel of delta_scan knows as such; decay and micro-steps as in `delta`."""
    per_row: tuple[int, ...] = () if decay == "head" else (K,)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        inputs = {"q": _normal(batch, T, heads, K, dtype=dtype)}
        inputs["k"] = _normal(batch, T, micro_steps, heads, K, dtype=dtype, scale=0.7 / K**0.5)
        inputs["v"] = _normal(batch, T, micro_steps, heads, V, dtype=dtype)
        inputs["beta"] = 2 * _kept(batch, T, micro_steps, heads, dtype=dtype)
        return inputs | ({"log_decay": _decay(batch, T, heads, *per_row, dtype=dtype)} if decay != "none" else {})

    def call(s: Inputs, fixed: Inputs, state: Tensor | None, **options: Any) -> tuple[Any, ...]:
        q, k, v, beta = s["q"], *(s[name].flatten(1, 2) for name in ("k", "v", "beta"))
        options |= {"micro_steps": micro_steps, "state": state, "chunk": 4}
        return gated_delta_product(q, k, v, beta, s.get("log_decay"), **options)

    return Case(
        f"delta rule, {backend}, decay {decay}, {micro_steps} micro-steps, K {K}, V {V}, {heads} heads, batch {batch}",
        "delta_scan",
        sequence,
        call,
        lambda dtype: _normal(batch, heads, K, V, dtype=_accumulation(dtype)),
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
        caller="gated_delta_product",
    )


def cell(backend: str, kind: str, d: int = 5, heads: int = 3, batch: int = B, grad_clip: float | None = None) -> Case:
    """kind: rnn, gru, "gru, reset after" or lstm; inputs of the rnn and weights of the lstm are shared by all heads."""
    names = {"rnn": ("",), "gru": ("", "f", "r"), "lstm": ("", "i", "f", "o")}[kind.split(",")[0]]
    of_inputs, of_weights = (1 if kind == "rnn" else heads), (1 if kind == "lstm" else heads)
    op = {"rnn": rnn_scan, "gru": gru_scan, "lstm": lstm_scan}[kind.split(",")[0]]
    more: dict[str, Any] = {"reset_after": True} if "after" in kind else {}

    def state(dtype: torch.dtype) -> Any:
        drawn = [_normal(batch, heads, d, dtype=_accumulation(dtype)) for _ in "hc"]
        return LSTMState(*drawn) if kind == "lstm" else drawn[0]

    def fixed(dtype: torch.dtype) -> Inputs:
        weights = {"w" + n: _normal(of_weights, d, d, dtype=dtype, scale=1.1 / d**0.5) for n in names}
        return weights | ({"bias": _normal(d, dtype=dtype)} if "after" in kind else {})

    return Case(
        f"{kind}, {backend}, d {d}, {heads} heads, batch {batch}, clip {grad_clip}",
        op.__name__,
        lambda T, dtype: {"x" + n: _normal(batch, T, of_inputs, d, dtype=dtype) for n in names},
        lambda s, fixed, state, **options: op(**s, **fixed, **more, state=state, grad_clip=grad_clip, **options),
        state,
        fixed,
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


OUTER: tuple[tuple[str, Literal["post", "pre"]], ...] = (
    ("none", "post"),
    ("head", "post"),
    ("row and column", "post"),
    ("channel", "pre"),
)
DELTA = (
    ("none", True, 1),
    ("head", False, 1),
    ("channel", False, 1),
    ("channel", True, 1),
    ("channel", False, 3),
    ("none", False, 2),
)


CASES = [
    matrix("reference"),
    matrix("cpu"),
    matrix("reference", R=4, v=True),
    matrix("cpu", R=4, v=True),
    scaled("reference"),
    scaled("cpu"),
    *(
        mru(backend, builder=builder, decay=decay, v=v, readout=readout, rescale=rescale)
        for backend in ("reference", "cpu")
        for builder, decay, v, readout, rescale in (
            ("reshape_identity", False, False, "normalised", True),
            ("ldu", True, False, "bounded", True),
            ("cayley", True, True, "state", False),
            ("ldu", False, True, "bounded", False),
        )
    ),
    snap("reference", groups=2),
    snap("cpu"),
    mru("composed", builder="householder", readout="state", rescale=True),
    m2rnn("reference"),
    m2rnn("cpu"),
    conv("reference"),
    conv("reference", activation="silu"),
    conv("cpu"),
    conv("cpu", activation="silu"),
    *(outer(backend, decay, read) for backend in ("reference", "chunked", "cpu") for decay, read in OUTER),
    *(
        delta(backend, decay, write, micro_steps)
        for backend in ("reference", "chunked", "cpu")
        for decay, write, micro_steps in DELTA
        # The chunked form's sums of logarithms leave rounding, not zeros, in gradients of decays before a reset.
        if backend != "chunked" or micro_steps == 1 or decay == "none"
    ),
    *(
        rule(backend, decay, micro_steps)
        for backend in ("reference", "cpu")
        for decay, micro_steps in (("none", 1), ("head", 1), ("channel", 2))
    ),
    *(cell(backend, op) for backend in ("reference", "cpu") for op in ("rnn", "gru", "gru, reset after", "lstm")),
    _attention(None, "reference"),
    _attention(3, "reference"),
    _attention(None, "sdpa"),
]


def differentiable(*groups: Any) -> list[Tensor]:
    """The floating-point tensors of states and input dictionaries, made to require gradients."""
    leaves = [leaf for g in groups for leaf in (g.values() if isinstance(g, dict) else state_leaves(g))]
    return [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]


def copy(group: Any) -> Any:
    """A fresh copy of a state or of input dictionaries."""
    if isinstance(group, dict):
        return {name: value.detach().clone() for name, value in group.items()}
    return map_state(lambda leaf: leaf.detach().clone(), group)


def floats(tensors: list[Tensor]) -> list[Tensor]:
    """Those that a gradient can flow into."""
    return [t for t in tensors if t.is_floating_point()]
