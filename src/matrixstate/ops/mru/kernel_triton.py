"""The Triton kernels of the MRU (triton_programs.py, triton_phases.py) as PyTorch operators."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from matrixstate.ops import _triton
from matrixstate.ops._checks import full_precision
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, needs_gradient, operator
from matrixstate.ops.matrix import ScaledState
from matrixstate.ops.mru import triton_phases, triton_programs
from matrixstate.ops.mru.flops import scan_flops
from matrixstate.ops.mru.reference import mru_step  # one token is no work for a kernel that owns all steps
from matrixstate.ops.mru.triton_phases import CUT, IDLE
from matrixstate.ops.mru.triton_steps import PADDED, RESET
from matrixstate.ops.mru.weights import State

__all__ = ["mru_scan", "mru_step", "unsupported"]

BUILDERS = ("reshape_identity", "ldu", "cayley")
INTERVAL = 16  # steps from one saved state to the next
WARPS = {16: 1, 32: 4, 64: 16}  # per program, by D padded to a power of two: so many that no register is spilled
MAX_CHANNELS = 64  # after W_down, which a program keeps in registers
FEW_WARPS, MANY_WARPS = 512, 2048  # which leave a large GPU idle; which fill it
SHORT, MIN_STEPS = 128, 32  # a sequence that is not worth dividing; of a chunk, a multiple of INTERVAL


def unsupported(
    device: str, dtype: torch.dtype, builder: str = "ldu", method: str = "auto", *details: str
) -> str | None:
    """Why the kernel cannot run such inputs; None if it can."""
    if builder not in BUILDERS:
        return f"makes the matrices of {', '.join(BUILDERS)}, not of {builder}"
    if method not in ("auto", "sequential", "chunked"):
        return f"multiplies steps one after another or in chunks, which is not method {method!r}"
    if "D > 64" in details:
        return "keeps a state in registers, for which D must be at most 64"
    return _triton.unsupported(device, dtype)


def mru_scan(
    elements: Tensor,
    down: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    state: State,
    reset: Tensor | None,
    mask: Tensor | None,
    builder: str,
    readout: str,
    bound: float,
    method: str,
) -> tuple[Tensor, State]:
    """As the reference. Of more than `MAX_CHANNELS` channels the product with W_down is PyTorch's: its factor, the
    read-out, then goes through memory.
    """
    if wide := down.shape[2] > MAX_CHANNELS:
        order = down.shape[1]
        factor = torch.eye(order, dtype=torch.float32, device=down.device).expand(*down.shape[:2], order)
    else:
        factor = down.to(torch.float32)
    matrix, exponent = state if isinstance(state, tuple) else (state, None)
    decay = None if decay is None else decay.to(torch.float32)
    inputs = elements, v, decay, factor, matrix
    flags = _flags(elements, reset, mask)
    steps = steps_of_a_chunk(method, elements.shape[0] * elements.shape[2], elements.shape[1], down.shape[1])
    options = builder, readout, bound, steps, wide, needs_gradient(*inputs)
    y, last, exponents, *_ = torch.ops.matrixstate.mru_scan_triton(*inputs, exponent, flags, *options)
    if wide:
        with full_precision(elements):
            y = (y @ down.to(torch.float32)).to(elements.dtype)
    return y, last if exponent is None else ScaledState(last, exponents[:, :, -1].clone())


def steps_of_a_chunk(method: str, chains: int, T: int, D: int) -> int:
    """How many steps a program computes: all T, or where the sequence is divided, so many that the programs just fill
    the GPU. "auto" divides long sequences of few chains. A fixed rule, so that a call gives the same bits on every GPU.
    """
    warps = chains * WARPS[_triton.padded(D)]
    if method == "sequential" or (method == "auto" and (warps >= FEW_WARPS or T < SHORT)):
        return T
    steps = -(-T // max(MANY_WARPS // warps, 2))
    return min(max(-(-steps // INTERVAL) * INTERVAL, MIN_STEPS), T)


def _flags(elements: Tensor, reset: Tensor | None, mask: Tensor | None) -> Tensor:
    """The resets and the padding [B, T] as one number each, which Triton loads."""
    flags = elements.new_zeros(elements.shape[:2], dtype=torch.int8)
    for given, bit in ((reset, RESET), (None if mask is None else ~mask, PADDED)):
        if given is not None:
            flags = flags + given.to(torch.int8) * bit.value
    return flags


def _kinds(flags: Tensor, steps: int) -> Tensor:
    """What chunks are [B, chunks]: `CUT` with a reset, `IDLE` where all is padding without a reset, else 0."""
    chunks = torch.nn.functional.pad(flags, (0, -flags.shape[1] % steps), value=PADDED.value).unflatten(1, (-1, steps))
    cut, idle = ((chunks & RESET.value) != 0).any(dim=2), (chunks == PADDED.value).all(dim=2)
    return cut.to(torch.int8) * CUT.value + idle.to(torch.int8) * IDLE.value


def _sizes(
    elements: Tensor, v: Tensor | None, decay: Tensor | None, down: Tensor, exponent: Tensor | None, builder: str
) -> dict[str, Any]:
    """The constants and the number of warps of all programs that know the inputs."""
    H, D = down.shape[:2]
    sizes = {"H": H, "D": D, "ELEMENTS": elements.shape[3], "ROWS": _triton.padded(D)}
    given = {"RESCALE": exponent is not None, "HAS_V": v is not None, "HAS_DECAY": decay is not None}
    precision = _triton.arithmetic(False)["PRECISION"]
    return sizes | given | {"BUILDER": builder, "PRECISION": precision, "warps": WARPS[sizes["ROWS"]]}


def _between(sizes: dict[str, Any], *without: str) -> dict[str, Any]:
    """Those of programs that know the chunks alone."""
    return {name: size for name, size in sizes.items() if name not in ("ELEMENTS", "BUILDER", "HAS_DECAY", *without)}


def _reading(down: Tensor, readout: str) -> dict[str, Any]:
    """The further constants of the programs that read the states out."""
    channels = down.shape[2]
    return {"C": channels, "COLUMNS": _triton.padded(channels), "READOUT": readout, "INTERVAL": INTERVAL}


def _outputs(
    elements: Tensor, down: Tensor, state: Tensor, scaled: bool, steps: int, wide: bool, save: bool
) -> tuple[Tensor, ...]:
    B, T, H, D, C = *elements.shape[:3], *down.shape[1:]
    chunks, intervals, rows = -(-T // steps), -(-T // INTERVAL) if save else 0, B if scaled else 0
    products = chunks if chunks > 1 else 0
    return (
        fresh(elements, B, T, H, D, C, dtype=torch.float32 if wide else None),
        fresh(state),
        fresh(state, rows, H, chunks, dtype=torch.int32),
        fresh(state, B, H, intervals, D, D),
        fresh(state, rows, H, intervals, dtype=torch.int32),
        fresh(state, B, H, products, D, D),
        fresh(state, rows, H, products, dtype=torch.int32),
    )


@operator("mru_scan_triton", "CUDA", "CPU")
def _forward(
    elements: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    down: Tensor,
    state: Tensor,
    exponent: Tensor | None,
    flags: Tensor,
    builder: str,
    readout: str,
    bound: float,
    steps: int,
    wide: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y (float32 if `wide`), the last state and the exponents after every chunk of `steps`; and for the backward pass,
    if `save`, the states before every INTERVAL-th step and their exponents, and the products of the chunks and their
    exponents, where there is more than one. Without `exponent` nothing is rescaled and exponents are empty.
    """
    (B, T, H), chunks = elements.shape[:3], -(-elements.shape[1] // steps)
    outputs = _outputs(elements, down, state, exponent is not None, steps, wide, save)
    y, last, after, saved, saved_exponent, products, product_exponents = outputs
    elements, v, decay, down, flags, state, exponent = dense(elements, v, decay, down, flags, state, exponent)  # type: ignore[assignment]
    sizes = _sizes(elements, v, decay, down, exponent, builder)
    if chunks > 1:
        added = None if v is None else fresh(products)
        maps = products, product_exponents, added
        _triton.launch(triton_phases.products, (B * H, chunks), (elements, v, decay, flags, *maps, T, steps), **sizes)
        before, before_exponent = fresh(products), fresh(product_exponents)
        arguments = state, exponent, *maps, _kinds(flags, steps), before, before_exponent, chunks
        _triton.launch(triton_phases.states, (B * H,), arguments, **_between(sizes))
        state, exponent = before, before_exponent
    inputs = elements, v, decay, down, flags, state, exponent
    arguments = *inputs, y, last, after, saved, saved_exponent, T, steps, bound
    _triton.launch(triton_programs.forward, (B * H, chunks), arguments, SAVE=save, **sizes, **_reading(down, readout))
    return outputs  # type: ignore[return-value]


@operator("mru_scan_triton_backward", "CUDA", "CPU")
def _backward(
    elements: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    down: Tensor,
    flags: Tensor,
    after: Tensor | None,
    saved: Tensor,
    saved_exponent: Tensor | None,
    products: Tensor,
    product_exponents: Tensor | None,
    builder: str,
    readout: str,
    bound: float,
    steps: int,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of elements, v and decay (empty where there are none), down and the first state."""
    (B, T, H), chunks = elements.shape[:3], -(-elements.shape[1] // steps)
    sizes = _sizes(elements, v, decay, down, after, builder)
    inputs = dense(elements, v, decay, down, flags, saved, saved_exponent)
    delements, dv, ddecay, _, _ = _gradients(elements, v, decay, down, dlast)
    ddown = fresh(down, B, H, chunks, *down.shape[1:])
    scratch = fresh(down, B * H * chunks, INTERVAL, 2 * sizes["ROWS"] ** 2 + 4)
    dstate = (
        dlast[:, :, None].clone(memory_format=torch.contiguous_format) if chunks == 1 else torch.zeros_like(products)
    )
    gradients = delements, None if v is None else dv, None if decay is None else ddecay, ddown
    arguments = *inputs, scratch, *dense(dy), dstate, *gradients, T, steps, bound

    def run(state_only: bool) -> None:
        constants = sizes | _reading(down, readout) | {"registers": min(255, 2048 // sizes["warps"])}
        _triton.launch(triton_programs.backward, (B * H, chunks), arguments, STATE_ONLY=state_only, **constants)

    if chunks > 1:
        run(state_only=True)
        before = None if saved_exponent is None else saved_exponent[:, :, :: steps // INTERVAL].contiguous()
        between = products, product_exponents, _kinds(flags, steps), before, after, *dense(dlast), dstate, chunks
        _triton.launch(triton_phases.gradients, (B * H,), between, **_between(sizes, "HAS_V"))
    run(state_only=False)
    return delements, dv, ddecay, ddown.sum(dim=(0, 2)), dstate[:, :, 0].clone()


def _gradients(elements: Tensor, v: Tensor | None, decay: Tensor | None, down: Tensor, state: Tensor) -> tuple:
    given = (elements, v, decay, down, state)
    return tuple(fresh(down, 0) if tensor is None else fresh(tensor) for tensor in given)


@torch.library.register_fake("matrixstate::mru_scan_triton")
def _(elements, v, decay, down, state, exponent, flags, builder, readout, bound, steps, wide, save):
    return _outputs(elements, down, state, exponent is not None, steps, wide, save)


@torch.library.register_fake("matrixstate::mru_scan_triton_backward")
def _(elements, v, decay, down, flags, after, saved, saved_exponent, products, product_exponents, *options):
    return _gradients(elements, v, decay, down, options[-1])


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    elements, v, decay, down, _, exponent, flags, *ctx.options = inputs[:-2]
    y, last, after, saved, saved_exponent, products, product_exponents = output
    exponents = after, saved_exponent, product_exponents
    ctx.mark_non_differentiable(*exponents)
    after, saved_exponent, product_exponents = (None if exponent is None else e for e in exponents)
    ctx.save_for_backward(elements, v, decay, down, flags, after, saved, saved_exponent, products, product_exponents)
    ctx.set_materialize_grads(False)
    ctx.like = y.shape, y.dtype, last.shape


def _differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None, *_: None) -> tuple:
    v, decay, down = (saved := ctx.saved_tensors)[1:4]
    y_shape, y_dtype, state_shape = ctx.like
    dy = down.new_zeros(y_shape, dtype=y_dtype) if dy is None else dy
    dlast = down.new_zeros(state_shape) if dlast is None else dlast
    gradients = torch.ops.matrixstate.mru_scan_triton_backward(*saved, *ctx.options, dy, dlast)
    delements, dv, ddecay, ddown, dstate = gradients
    wanted = delements, None if v is None else dv, None if decay is None else ddecay, ddown, dstate
    return *wanted, *[None] * 8


differentiable("mru_scan_triton", _differentiate, _save_for_backward)
differentiable_once("mru_scan_triton_backward", "mru_scan")


@register_flop_formula(torch.ops.matrixstate.mru_scan_triton)
def _forward_flops(elements, v, decay, down, state, exponent, flags, builder, *options, **shapes) -> int:
    return scan_flops(elements, down, builder)


@register_flop_formula(torch.ops.matrixstate.mru_scan_triton_backward)
def _backward_flops(
    elements, v, decay, down, flags, after, saved, exponents, products, more, builder, *_, **shapes
) -> int:
    return 2 * scan_flops(elements, down, builder)
