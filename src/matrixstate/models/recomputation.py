"""Activation recomputation: of a block only the input is kept for the backward pass, which computes the block again."""

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch.utils.checkpoint import checkpoint

from matrixstate.layers.router import Router
from matrixstate.models.block import Block


def recomputed(block: Block, *arguments: Any) -> Any:
    """`block(*arguments)` with the same gradients, of whose activations none are kept until the backward pass.

    The second computation has the random state, the autocast and the preferred backends of the first, so that dropout
    draws the same masks and every gradient has the same bits. Cost: a second forward pass of the block. Forward hooks
    of its parts are called twice.
    """
    # a GPU's backward pass runs in a thread of its own, without the context variables that choose backends
    context = contextvars.copy_context()
    return checkpoint(
        context.run, block, *arguments, use_reentrant=False, context_fn=lambda: (nullcontext(), _keep_losses(block))
    )


@contextmanager
def _keep_losses(block: Block) -> Iterator[None]:
    """Keeps the balancing losses of routers, as those of a second computation would hold on to all that it saved."""
    routers = [(module, module.balance_loss) for module in block.modules() if isinstance(module, Router)]
    try:
        yield
    finally:
        for module, loss in routers:
            module.balance_loss = loss
