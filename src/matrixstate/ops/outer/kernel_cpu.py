"""The kernel of `outer_scan`: the recurrence of csrc/rank_one/ without its rank-one part."""

from torch import Tensor

from matrixstate.ops._cpu import unsupported
from matrixstate.ops._rank_one.kernel_cpu import register, run

__all__ = ["outer_scan", "unsupported"]

register("outer_scan")


def outer_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    log_decay_v: Tensor | None,
    log_input: Tensor | None,
    bonus: Tensor | None,
    read: str,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """As the reference. `chunk` is unused: the kernel's backward pass has chunks of a fixed size."""
    decays = {"log_decay": log_decay, "log_decay_v": log_decay_v, "log_input": log_input}
    return run("outer_scan", q, k, v, state, reset, **decays, bonus=bonus, read_before=read == "pre")
