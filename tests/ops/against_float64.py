"""Kernels beside plain PyTorch and float64: how inputs are drawn, and how all results are compared."""

import dataclasses

import torch
from cases import differentiable, floats

from closeness import assert_as_good_as
from matrixstate.evaluation.closeness import nudge
from matrixstate.layers import map_state, state_leaves


def draw(case, T, dtype=torch.float64):
    """Inputs, a state and resets; some steps of a recurrence with f keep everything or nothing."""
    sequence, state = case.sequence(T, dtype), case.state(dtype)
    if "f" in sequence:
        sequence["f"][:, 2::7], sequence["f"][:, 5::7] = 1, 0
    batch = next(iter(sequence.values())).shape[0]
    return sequence, case.fixed(dtype), state, torch.rand(batch, T) < 0.1 if case.resets else None


def run(case, drawn, backend, dtype, change=lambda gradient: gradient):
    """All outputs, the last state and every gradient, by name; the incoming gradients are changed by `change`."""
    case = dataclasses.replace(case, backend=backend)
    sequence, fixed, state = (_to(dtype, part) for part in drawn[:3])
    leaves = differentiable(sequence, fixed, state)
    outputs = case.run(sequence, fixed, state, drawn[3])
    generator = torch.Generator().manual_seed(1)
    drawn_on_cpu = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    incoming = [torch.randn(out.shape, **drawn_on_cpu).to(out) for out in floats(outputs)]
    gradients = torch.autograd.grad(floats(outputs), leaves, [change(gradient) for gradient in incoming])
    names = [f"output {i}" for i in range(len(outputs))] + [f"d{n}" for n in (*sequence, *fixed)]
    names += [f"dstate {i}" for i in range(len(floats(state_leaves(state))))]
    return dict(zip(names, [out.detach() for out in outputs] + list(gradients), strict=True))


def _to(dtype, part):
    """The floating-point tensors of inputs or of a state in another dtype."""
    convert = lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf  # noqa: E731
    return {n: convert(v) for n, v in part.items()} if isinstance(part, dict) else map_state(convert, part)


def nudged(drawn, seed=2):
    """Inputs whose numbers are each the next float32 up or down."""
    generator = torch.Generator().manual_seed(seed)
    move = lambda leaf: nudge(leaf.float(), generator).to(leaf) if leaf.is_floating_point() else leaf  # noqa: E731
    moved = [{n: move(v) for n, v in p.items()} if isinstance(p, dict) else map_state(move, p) for p in drawn[:3]]
    return (*moved, drawn[3])


def assert_all_as_good(case, drawn, halves=None):
    """The kernel's results beside those of plain PyTorch and of float64.

    Plain PyTorch runs twice, and sixteen times before a result is said to err too far, as in `matrixstate check`: with
    few numbers both runs may be lucky.
    """
    rounded = halves or case  # with `halves`, inputs and outputs are rounded to bfloat16
    got = run(rounded, drawn, case.backend, torch.float32)
    exact = run(case, drawn, "reference", torch.float64)
    plain = [run(rounded, inputs, "reference", torch.float32) for inputs in (drawn, nudged(drawn))]
    try:
        _assert_as_good(got, plain, exact)
    except AssertionError:
        plain += [run(rounded, nudged(drawn, seed), "reference", torch.float32) for seed in range(3, 17)]
        _assert_as_good(got, plain, exact)


def _assert_as_good(got, plain, exact):
    for name, value in got.items():
        if value.is_floating_point():
            assert_as_good_as(value, [run[name] for run in plain], exact[name], name)
        else:
            assert torch.equal(value, plain[0][name]), name


def with_halves(call):
    """A call of an op that rounds the inputs with a time axis to bfloat16, except gates."""
    wide = {"w", "wi", "wf", "wr", "wo", "f", "weight", "bias", "decay"}

    def rounded(sequence, fixed, state, **options):
        halves = {n: v if n in wide else v.bfloat16() for n, v in sequence.items()}
        return call(halves, fixed, state, **options)

    return rounded
