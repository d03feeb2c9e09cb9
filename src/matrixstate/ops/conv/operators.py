"""What the operators of all kernels of the causal convolution have in common: shapes of results, and the gradient."""

from typing import Any

import torch
from torch import Tensor

from matrixstate.ops._operators import differentiable, differentiable_once, fresh


def complete(backend: str) -> None:
    """Gives causal_conv_`backend`(x, weight, bias, state, reset, silu) its shapes and its gradient, which is
    causal_conv_`backend`_backward(the same, dy, dlast) and has none itself.
    """
    name = f"causal_conv_{backend}"
    torch.library.register_fake(f"matrixstate::{name}", _outputs)
    torch.library.register_fake(f"matrixstate::{name}_backward", _gradients)

    def differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple:
        x, _, bias, state, _ = saved = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else dy
        dlast = torch.zeros_like(state) if dlast is None else dlast
        run = getattr(torch.ops.matrixstate, f"{name}_backward")
        dx, dweight, dbias, dstate = run(*saved, ctx.silu, dy, dlast)
        return dx, dweight, None if bias is None else dbias, dstate, None, None

    differentiable(name, differentiate, _save_for_backward)
    differentiable_once(f"{name}_backward", "causal_conv")


def _outputs(x, weight, bias, state, reset, silu):
    return fresh(x), fresh(state)


def _gradients(x, weight, bias, state, reset, silu, dy, dlast):
    return fresh(x), fresh(weight), fresh(weight, 0 if bias is None else len(bias)), fresh(state)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)
