"""What `mru_scan` and `mru_step` check."""

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops import _checks
from matrixstate.ops._checks import accumulation_dtype, expect, expect_floating, identities
from matrixstate.ops.matrix import METHODS, ScaledState
from matrixstate.ops.mru.builders import BUILDERS
from matrixstate.ops.mru.weights import MRUWeights, State

READOUTS = ("state", "normalised", "bounded")


def check_inputs(
    op: str,
    elements: Tensor,
    down: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    builder: str,
    rescale: bool,
    readout: str,
    bound: float,
    method: str,
) -> tuple[int, int, int, int]:
    """Checks everything but the state and the flags; returns B, T, H, D."""
    for name, value, known in (
        ("builder", builder, BUILDERS),
        ("readout", readout, READOUTS),
        ("method", method, METHODS),
    ):
        if value not in known:
            raise ShapeError(f"{op}: {name} must be one of {', '.join(known)}, got {value!r}")
    expect_floating(op, "elements", elements, "B T H n")
    expect_floating(op, "down", down, "H D C")
    B, T, H, _ = elements.shape
    D, C = down.shape[1:]
    if D == 0 or C == 0:
        raise ShapeError(f"{op}: down must be [H, D, C] with D and C at least 1, got {list(down.shape)}")
    expect(op, "down", down, (H, D, C), elements, down.dtype)
    expect(op, "elements", elements, (B, T, H, BUILDERS[builder].elements(D)), elements)
    if v is not None:
        expect(op, "v", v, (B, T, H, D, D), elements)
    if decay is not None:
        expect_floating(op, "decay", decay, "B T H")
        expect(op, "decay", decay, (B, T, H), elements, decay.dtype)
    if rescale and v is not None:
        raise ShapeError(f"{op}: rescale must be False where v is given, got True")
    if not bound > 0:
        raise ShapeError(f"{op}: bound must be positive, got {bound}")
    return B, T, H, D


def first_state(
    op: str, like: Tensor, state: State | None, shape: tuple[int, int, int, int], rescale: bool, written: bool
) -> State:
    """The state, checked, or the default one: zeros where something is `written` at every step, else the identity."""
    if state is None:
        matrix = _checks.first_state(op, None, shape, like) if written else identities(like, shape)
        return ScaledState(matrix, like.new_zeros(shape[:2], dtype=torch.int32)) if rescale else matrix
    expect_scaled(op, state, rescale)
    if isinstance(state, Tensor):
        return _checks.first_state(op, state, shape, like)
    matrix, exponent = state
    _checks.first_state(op, matrix, shape, like, "state.matrix")
    expect(op, "state.exponent", exponent, shape[:2], like, torch.int32)
    return ScaledState(matrix, exponent)


def expect_scaled(op: str, state: State, rescale: bool) -> None:
    """`state` must be a `ScaledState` where `rescale` is True, a tensor where it is False."""
    if rescale and (not isinstance(state, tuple) or len(state) != 2):
        raise ShapeError(f"{op}: state must be a ScaledState where rescale is True, got {type(state).__name__}")
    if not rescale and not isinstance(state, Tensor):
        raise ShapeError(f"{op}: state must be a tensor where rescale is False, got {type(state).__name__}")


def check_step(
    op: str,
    elements: Tensor,
    value: Tensor | None,
    forget: Tensor | None,
    gate: Tensor | None,
    weights: MRUWeights,
    past: Tensor | None,
    state: State,
) -> None:
    """Checks all inputs of `mru_step`."""
    expect_floating(op, "elements", elements, "B 1 H n")
    expect_floating(op, "down", weights.down, "H D C")
    B, (H, D, C) = len(elements), weights.down.shape
    expect(op, "elements", elements, (B, 1, H, elements.shape[3]), elements)
    options = weights.builder, weights.rescale, weights.readout, weights.bound
    check_inputs(op, elements, weights.down, None, None, *options, "auto")
    if weights.rescale and value is not None:
        raise ShapeError(f"{op}: rescale must be False where value is given, got True")
    first_state(op, elements, state, (B, H, D, D), weights.rescale, written=False)
    pairs = {"value": (value, weights.conv), "forget": (forget, weights.log_rate), "bias": (weights.bias, forget)}
    for name, (given, other) in {**pairs, "past": (past, weights.conv)}.items():
        if (given is None) != (other is None):
            raise ShapeError(f"{op}: {name} must be given where its weights are, and only there")
    inputs = {"value": (value, H * D * D), "forget": (forget, H), "gate": (gate, H * D * C)}
    for name, (given, channels) in inputs.items():
        if given is not None:
            expect(op, name, given, (B, 1, channels), elements, given.dtype)
    shapes = {"log_rate": (H,), "bias": (H,), "skip": (H * D * D,), "norm": (H * D * C,)}
    for name, shape in shapes.items():
        tensor = getattr(weights, name)
        if tensor is not None:
            expect(op, name, tensor, shape, elements, tensor.dtype)
    if weights.balanced and (value is None or forget is None):
        raise ShapeError(f"{op}: balanced needs value and forget")
    if weights.skip is not None and (value is None or C != D):
        raise ShapeError(f"{op}: skip needs value and as many channels as that")
    if weights.conv is not None and past is not None:
        expect_floating(op, "conv", weights.conv, "H·D² taps")
        taps = weights.conv.shape[1]
        expect(op, "conv", weights.conv, (H * D * D, max(taps, 1)), elements, weights.conv.dtype)
        expect(op, "past", past, (B, taps - 1, H * D * D), elements, accumulation_dtype(elements.dtype))
