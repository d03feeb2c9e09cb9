"""Times the delta rules: `python benchmarks/delta.py [--rounds 15] [--json FILE]`.

The bound is the time of the recurrence's multiply-adds at the peak rate, which is measured at the start. Forward there
are 3 per entry of the state and row: to read, to write and to read out. Backward there are 6 more: two products with
the state before a chunk, two with the gradient after it, and two that propagate the gradient.
"""

import torch
from recurrences import SHAPES, contests
from timing import peak_multiply_adds, run_all

from matrixstate import _native
from matrixstate.ops import delta_rule, gated_delta_rule

INPUTS = ("q", "k", "v", "beta", "log_decay")


def draw(B, T, H, K, V, gated):
    torch.manual_seed(0)
    k = torch.nn.functional.normalize(torch.randn(B, T, H, K), dim=-1)
    inputs = [torch.randn(B, T, H, K), k, torch.randn(B, T, H, V), torch.rand(B, T, H)]
    inputs += [-0.1 * torch.rand(B, T, H)] if gated else []
    return [a.requires_grad_() for a in inputs], torch.randn(B, T, H, V)


def rule(inputs, **options):
    return (gated_delta_rule if len(inputs) == 5 else delta_rule)(*inputs, **options)[0]


def rules(shape, gated, peak):
    B, T, H, K, V = shape
    seconds = B * T * H * K * V / _native.lanes() / peak  # of one multiply-add per entry of the state and row
    name = f"{'gated_delta_rule' if gated else 'delta_rule'} (B {B}, T {T}, H {H}, K {K}, V {V})"
    return contests(name, rule, *draw(*shape, gated), INPUTS, (3 * seconds, 9 * seconds))


if __name__ == "__main__":
    torch.set_num_threads(1)
    peak = peak_multiply_adds()
    run_all([c for s in SHAPES for gated in (False, True) for c in rules(s, gated, peak)], "delta rules")
