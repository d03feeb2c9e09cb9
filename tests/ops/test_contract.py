"""What every op promises (design, section 3), tested for all of them alike."""

import itertools

import pytest
import torch
from cases import CASES, B, copy, differentiable, floats
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from closeness import assert_equal_to_rounding
from matrixstate.errors import BackendUnavailable, ShapeError
from matrixstate.layers import state_leaves
from matrixstate.ops import OPS

F64 = torch.float64
everywhere = pytest.mark.parametrize("case", CASES, ids=str, indirect=True)


def weighted(tensors):
    """One number that depends on every entry of every output, in its own way."""
    return sum((t * torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in floats(tensors))


@everywhere
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_splitting_the_sequence_anywhere_changes_nothing(case, cuts, seed):
    torch.manual_seed(seed)
    T = 9
    sequence, fixed, state = case.sequence(T, case.dtype), case.fixed(case.dtype), case.state(case.dtype)
    reset = torch.rand(B, T) < 0.2
    results = []
    for edges in ([0, T], [0, *sorted(cuts), T]):
        parts = copy(sequence), copy(fixed), copy(state)
        leaves = differentiable(*parts)
        carried, outputs = parts[2], []
        for begin, end in itertools.pairwise(edges):
            piece = {name: value[:, begin:end] for name, value in parts[0].items()}
            *out, carried = case.call(piece, parts[1], carried, reset=reset[:, begin:end], backend=case.backend)
            outputs.append(out)
        whole = [torch.cat(column, dim=1) for column in zip(*outputs, strict=True)]
        results.append([*whole, *torch.autograd.grad(weighted(whole), leaves)])
    for i, (once, split) in enumerate(zip(*results, strict=True)):
        assert_equal_to_rounding(split, once, f"output or gradient {i}")


@everywhere
def test_a_reset_starts_as_if_no_state_had_been_given(case):
    sequence, fixed, state = case.sequence(11, case.dtype), case.fixed(case.dtype), case.state(case.dtype)
    reset = torch.zeros(B, 11, dtype=torch.bool)
    reset[:, [4, 5, 9]] = True
    packed = case.run(sequence, fixed, state, reset)
    outputs, last = [], None
    for begin, end in ((0, 4), (4, 5), (5, 9), (9, 11)):
        piece = {name: value[:, begin:end] for name, value in sequence.items()}
        *out, last = case.call(piece, fixed, state if begin == 0 else None, backend=case.backend)
        outputs.append(out)
    for i, column in enumerate(zip(*outputs, strict=True)):
        assert_equal_to_rounding(packed[i], torch.cat(column, dim=1), f"output {i}")
    states = packed[len(outputs[0]) :], state_leaves(last)
    for got, expected in zip(*states, strict=True):
        if got.is_floating_point() and case.op == "attention":  # dead entries at the front are not counted
            got = got[:, -expected.shape[1] :]
        torch.testing.assert_close(got, expected)


@everywhere
def test_gradients_do_not_pass_a_reset(case):
    sequence, fixed, state = case.sequence(6, case.dtype), case.fixed(case.dtype), case.state(case.dtype)
    reset = torch.zeros(B, 6, dtype=torch.bool)
    reset[:, 3] = True
    leaves = differentiable(sequence, state)
    outputs = case.call(sequence, fixed, state, reset=reset, backend=case.backend)[:-1]
    gradients = torch.autograd.grad(weighted([out[:, 3:] for out in outputs]), leaves, allow_unused=True)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            early = gradient[:, :3] if leaf.shape[1] == 6 else gradient
            assert not early.any()


@everywhere
def test_no_steps_are_legal(case):
    state = case.state(case.dtype)
    *outputs, last = case.call(case.sequence(0, case.dtype), case.fixed(case.dtype), state, backend=case.backend)
    assert all(out.shape[:2] == (B, 0) for out in outputs)
    assert all(torch.equal(a, b) for a, b in zip(last, state, strict=True))


@everywhere
def test_nothing_that_comes_in_is_written(case):
    sequence, fixed, state = case.sequence(7, case.dtype), case.fixed(case.dtype), case.state(case.dtype)
    before = copy(sequence), copy(fixed), copy(state)
    leaves = differentiable(sequence, fixed, state)
    outputs = floats(case.run(sequence, fixed, state))
    incoming = [torch.randn_like(out) for out in outputs]
    kept = [g.clone() for g in incoming]
    torch.autograd.grad(outputs, leaves, incoming)
    assert all(torch.equal(a, b) for a, b in zip(incoming, kept, strict=True))
    for now, then in zip((sequence, fixed), before, strict=False):
        assert all(torch.equal(now[name], then[name]) for name in now)
    assert all(torch.equal(a, b) for a, b in zip(state, before[2], strict=True))


def _as_function(case, T, reset):
    """The op as a function of its floating-point tensors alone, and those tensors."""
    sequence, fixed, state = case.sequence(T, case.dtype), case.fixed(case.dtype), case.state(case.dtype)
    leaves = differentiable(sequence, fixed, state)
    names = [*sequence, *fixed]

    def function(*tensors):
        given_state = list(tensors[len(names) :])
        new_state = _with_floats(state, given_state)
        named = dict(zip(names, tensors, strict=False))
        out = case.run({n: named[n] for n in sequence}, {n: named[n] for n in fixed}, new_state, reset)
        return tuple(floats(out))

    return function, leaves


def _with_floats(state, values):
    if isinstance(state, torch.Tensor):
        return values.pop(0) if state.is_floating_point() else state
    parts = [_with_floats(part, values) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


@pytest.mark.parametrize("case", [c for c in CASES if c.dtype == F64], ids=str, indirect=True)
def test_gradients_are_right_in_float64(case):
    reset = torch.tensor([[False, False, True, False], [False, True, False, False]])
    function, leaves = _as_function(case, 4, reset)
    assert gradcheck(function, leaves)


@pytest.mark.parametrize("case", [c for c in CASES if c.backend == "reference"], ids=str, indirect=True)
def test_second_derivatives_are_right_in_float64(case):
    reset = torch.tensor([[False, False, True], [False, True, False]])
    function, leaves = _as_function(case, 3, reset)
    assert gradgradcheck(function, leaves)


@everywhere
def test_the_future_does_not_change_the_past(case):
    sequence, fixed, state = case.sequence(8, torch.float32), case.fixed(torch.float32), case.state(torch.float32)
    before = case.call(sequence, fixed, state, backend=case.backend)[:-1]
    later = {name: torch.cat([v[:, :5], v[:, 5:] + 1], dim=1) for name, v in sequence.items()}
    after = case.call(later, fixed, state, backend=case.backend)[:-1]
    assert all(torch.equal(a[:, :5], b[:, :5]) for a, b in zip(before, after, strict=True))


@everywhere
def test_low_precision_goes_in_and_comes_out_and_sums_are_float32(case):
    T, half = 6, torch.bfloat16
    sequence, fixed, state = case.sequence(T, half), case.fixed(half), case.state(half)
    got = case.call(sequence, fixed, state, backend=case.backend)
    wide = ({n: v.float() for n, v in group.items()} for group in (sequence, fixed))
    expected = case.call(*wide, state, backend=case.backend)
    assert got[0].dtype == half
    assert all(leaf.dtype != half for leaf in floats(list(got[-1])))
    if case.backend == "reference":  # computed in float32, rounded once at the end
        assert torch.equal(got[0], expected[0].to(half))


@everywhere
def test_autocast_does_not_lower_the_precision(case):
    sequence, fixed, state = case.sequence(6, torch.float32), case.fixed(torch.float32), case.state(torch.float32)
    plain = case.run(sequence, fixed, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = case.run(sequence, fixed, state)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@pytest.mark.parametrize("case", [c for c in CASES if c.backend == "reference"], ids=str, indirect=True)
def test_the_reference_runs_on_any_device(case):
    """The device is "meta", which has no autocast either."""
    drawn = case.sequence(7, case.dtype), case.fixed(case.dtype)
    expected = case.run(*drawn, None)
    on_meta = ({name: value.to("meta") for name, value in group.items()} for group in drawn)
    for got, wanted in zip(case.run(*on_meta, None), expected, strict=True):
        assert got.device.type == "meta"
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)


@everywhere
def test_memory_layout_does_not_matter(case):
    sequence, fixed, state = case.sequence(7, case.dtype), case.fixed(case.dtype), case.state(case.dtype)
    strided = {n: v.movedim(1, -1).contiguous().movedim(-1, 1) for n, v in sequence.items()}
    assert any(not v.is_contiguous() for v in strided.values())
    for got, expected in zip(case.run(strided, fixed, state), case.run(sequence, fixed, state), strict=True):
        torch.testing.assert_close(got, expected)


@everywhere
def test_the_default_state_is_what_the_docstring_says(case):
    sequence, fixed = case.sequence(3, case.dtype), case.fixed(case.dtype)
    *_, empty = case.call({n: v[:, :0] for n, v in sequence.items()}, fixed, None, backend=case.backend)
    for got, expected in zip(case.run(sequence, fixed, empty), case.run(sequence, fixed, None), strict=True):
        assert torch.equal(got, expected)


@everywhere
def test_a_wrong_state_or_reset_is_refused_with_sizes(case):
    sequence, fixed, state = case.sequence(3, case.dtype), case.fixed(case.dtype), case.state(case.dtype)
    short = state[:1] if isinstance(state, torch.Tensor) else type(state)(*[state[0][:1], *state[1:]])
    dtype = case.named(case.dtype)
    with pytest.raises(
        ShapeError, match=rf"{case.caller or case.op}: state.* must be {dtype} \[2, .*got {dtype} \[1, "
    ):
        case.call(sequence, fixed, short, backend=case.backend)
    with pytest.raises(ShapeError, match=rf"{case.caller or case.op}: reset must be torch.bool \[2, 3\]"):
        case.call(sequence, fixed, None, reset=torch.zeros(2, 4, dtype=torch.bool), backend=case.backend)


@pytest.mark.parametrize("op", [op for op in OPS if op != "linear"])  # it has no state: tests/ops/test_linear.py
def test_an_unknown_backend_is_refused_with_the_known_ones(op):
    case = next(case for case in CASES if case.op == op)
    with pytest.raises(BackendUnavailable, match=f"{op}: backend must be one of auto, .*reference, got 'gpu'"):
        case.call(case.sequence(2, case.dtype), case.fixed(case.dtype), None, backend="gpu")


@pytest.mark.slow
@everywhere
def test_compiles_without_a_graph_break(case):
    """Forward and backward; one graph is right for any resets, so nothing of it depends on their values."""
    torch.compiler.reset()  # cases of one op share their code, and the compiler counts its recompilations
    T = 6  # two chunks, the second of them padded
    drawn = case.sequence(T, case.dtype), case.fixed(case.dtype), case.state(case.dtype)
    resets = [torch.rand(B, T) < 0.3, torch.rand(B, T) < 0.3] if case.resets else [None]
    compiled = torch.compile(lambda *inputs: case.run(*inputs), fullgraph=True, backend="aot_eager")
    for reset in resets:
        results = []
        for run in (compiled, case.run):
            parts = [copy(part) for part in drawn]
            leaves = differentiable(*parts)
            outputs = run(*parts, reset)
            results.append([*outputs, *torch.autograd.grad(weighted(outputs), leaves)])
        for i, (got, expected) in enumerate(zip(*results, strict=True)):
            torch.testing.assert_close(got, expected, msg=lambda text, i=i: f"output or gradient {i}: {text}")
