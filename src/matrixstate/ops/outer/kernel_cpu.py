"""The compiled recurrence of decaying outer products."""

from matrixstate.ops._cpu import unsupported
from matrixstate.ops._rank_one_cpu import register

__all__ = ["unsupported"]  # the operators are called as torch.ops.matrixstate.outer_scan_cpu

register("outer_scan")
