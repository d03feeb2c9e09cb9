"""The compiled recurrence with a rank-one transition."""

from matrixstate.ops._cpu import unsupported
from matrixstate.ops._rank_one_cpu import register

__all__ = ["unsupported"]  # the operators are called as torch.ops.matrixstate.delta_scan_cpu

register("delta_scan")
