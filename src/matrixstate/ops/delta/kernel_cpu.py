"""The kernel of `delta_scan` (csrc/rank_one/), which knows the delta rules as such."""

from torch import Tensor

from matrixstate.ops._cpu import unsupported
from matrixstate.ops._rank_one.kernel_cpu import register, run

__all__ = ["delta_scan", "gated_delta_product", "unsupported"]

register("delta_scan")


def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor,
    write: Tensor | None,
    log_decay: Tensor | None,
    micro_steps: int,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """As the reference. `micro_steps` is found from the shapes; `chunk` is unused, as in `outer_scan`."""
    return run("delta_scan", q, k, v, state, reset, read=read, write=write, log_decay=log_decay)


def gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    micro_steps: int,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """As the reference. One array of keys is read instead of three: README.md, "The rules themselves"."""
    return run("delta_scan", q, k, v, state, reset, beta=beta, log_decay=log_decay)
