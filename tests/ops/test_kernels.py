"""Compiled kernels: as near to float64 as plain PyTorch, at every size, for any thread count and instruction set."""

import dataclasses

import pytest
import torch
from against_float64 import assert_all_as_good, draw, run, with_halves
from cases import (
    CASES,
    B,
    cell,
    conv,
    copy,
    delta,
    differentiable,
    floats,
    linear,
    m2rnn,
    matrix,
    mru,
    named_cell,
    normalised,
    outer,
    rule,
    scaled,
    snap,
)

from conftest import need

KERNELS = [case for case in CASES if case.backend in ("cpu", "triton")]
NATIVE = [case for case in KERNELS if case.backend == "cpu"]
SHAPES = [
    m2rnn("cpu", K=1, V=1, heads=(1, 1, 1, 1, 1), batch=1),
    m2rnn("cpu", K=33, V=7, heads=(1, 1, 1, 1, 1), batch=1),
    m2rnn("cpu", K=70, V=17, heads=(1, 1, 3, 3, 3)),
    m2rnn("cpu", K=64, V=16, heads=(1, 1, 40, 1, 1), batch=1),
    m2rnn("cpu", K=9, V=40, heads=(6, 3, 2, 1, 1), grad_clip=0.2),
    m2rnn("cpu", K=5, V=128, heads=(2, 1, 1, 1, 2), batch=3),
    conv("cpu", C=1, K=1, activation="silu", batch=1),
    conv("cpu", C=33, K=2),
    conv("cpu", C=48, K=40, activation="silu", batch=3),
    *(matrix("cpu", D, batch=1, heads=1) for D in (1, 2, *range(4, 34), 40, 64)),
    matrix("cpu", 8, R=3, v=True, heads=5, batch=3),
    matrix("cpu", 8, R=11, heads=1, batch=1),
    matrix("cpu", 16, R=1, v=True),
    matrix("cpu", 16, v=True, heads=7),
    matrix("cpu", 17, R=6, v=True),
    matrix("cpu", 32, v=True, heads=1, batch=1),
    matrix("cpu", 64, R=5, batch=1),
    *(scaled("cpu", D, heads=3) for D in (1, 4, 8, 13, 16, 33)),
    *(snap("cpu", D, heads=3, groups=g) for D, g in ((2, 3), (4, 3), (5, 1), (8, 3), (16, 1), (33, 3))),
    snap("cpu", 6, codes=18, heads=4, groups=2, batch=3),
    snap("cpu", 4, codes=1, heads=1, batch=1),
    *(cell("cpu", kind, 17, heads=1, batch=3, grad_clip=0.2) for kind in ("rnn", "gru", "gru, reset after", "lstm")),
    cell("cpu", "lstm", 160, heads=1, batch=9),
    cell("cpu", "gru, reset after", 192, heads=1),
    cell("cpu", "gru", 70, heads=2, batch=5),
    cell("cpu", "rnn", 256, heads=1, batch=17),
    named_cell("cpu", "slstm", 17, heads=1, batch=3, grad_clip=0.2),
    named_cell("cpu", "slstm", 70, batch=9),
    named_cell("cpu", "mgu", 33, heads=2, batch=5, grad_clip=0.2),
    named_cell("cpu", "lem", 40, heads=1, batch=1, grad_clip=0.2),
    named_cell("cpu", "multiplicative_lstm", 20, heads=2, grad_clip=0.2),
    *(
        named_cell("cpu", f"lstm_{variant}", 18, heads=1, batch=3, grad_clip=0.2)
        for variant in ("no_input_gate", "no_forget_gate", "no_output_gate", "linear_input", "linear_output")
    ),
    named_cell("cpu", "indrnn", 150, heads=1, batch=9, grad_clip=0.2),
    named_cell("cpu", "elstm", 19, heads=5, batch=1),
    delta("cpu", K=1, V=1, heads=1, batch=1),
    delta("cpu", "head", write=False, K=17, V=16, heads=1),
    delta("cpu", "channel", K=33, V=70, batch=1),
    delta("cpu", "channel", write=False, K=16, V=130, heads=5),
    delta("cpu", "channel", write=False, K=64, V=64, heads=1, batch=1),
    delta("cpu", "head", micro_steps=2, K=9, V=33, heads=3, batch=3),
    rule("cpu", K=1, V=1, heads=1, batch=1),
    rule("cpu", "head", K=17, V=16, heads=1),
    rule("cpu", "channel", K=33, V=70, batch=1),
    rule("cpu", "head", micro_steps=3, K=16, V=130, heads=3),
    outer("cpu", "none", K=1, V=1, heads=1, batch=1),
    outer("cpu", "head", "pre", K=33, V=70, heads=1),
    outer("cpu", "row and column", K=16, V=64, heads=5),
    outer("cpu", "row and column", "pre", K=20, V=40, heads=1, batch=1),
    outer("cpu", "channel", "pre", K=5, V=129, heads=3, batch=3),
    mru("cpu", 1, 3, "reshape_identity", rescale=True, heads=1, batch=1),
    *(
        mru("cpu", D, 3, "reshape_identity", rescale=True, readout="normalised", heads=1, batch=1)
        for D in (2, *range(4, 34))
    ),
    *(mru("cpu", D, D, "ldu", decay=True, rescale=True) for D in (2, 4, 8, 16, 33)),
    *(mru("cpu", D, D, "cayley", decay=True, v=True, heads=5, batch=1) for D in (1, 2, 4, 8, 11, 16, 20, 32, 64)),
    mru("cpu", 8, 17, "cayley", v=True, readout="normalised", batch=3),
    mru("cpu", 5, 40, "reshape_identity", rescale=True, readout="bounded", heads=7),
    linear("cpu", "step", 1, batch=1),
    linear("cpu", "log step", 3, 171),
    linear("cpu", "log step", 1100, batch=1),
    linear("cpu", "log step, shared", 5, 33),
    linear("cpu", "log step, shared", 2, 7, 600, batch=3),
    linear("cpu", "log constant, shared", 3, 1025),
    linear("cpu", "constant", 530, batch=5),
    linear("cpu", "complex step", 3, 100),
    linear("cpu", "complex constant", 300, batch=3),
    linear("cpu", "complex step, shared", 2, 600),
    linear("cpu", "complex log step, shared", 2, 40),
    normalised("cpu", "none", False, False, 1, batch=1),
    normalised("cpu", "constant", False, True, 3, 230),
    normalised("cpu", "step", False, False, 1100, batch=1),
    normalised("cpu", "constant", True, False, 7, 33, batch=3),
    normalised("cpu", "step", True, True, 2, 600),
]
every_kernel = pytest.mark.parametrize("case", KERNELS, ids=str, indirect=True)
every_native_kernel = pytest.mark.parametrize("case", NATIVE, ids=str, indirect=True)


@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 63, 64, 65])
@every_native_kernel
def test_as_good_as_plain_pytorch_at_every_length(case, T):
    assert_all_as_good(case, draw(case, T))


@pytest.mark.parametrize("case", SHAPES, ids=str, indirect=True)
def test_as_good_as_plain_pytorch_at_every_shape(case):
    assert_all_as_good(case, draw(case, 33))


@pytest.mark.slow
@every_native_kernel
def test_as_good_as_plain_pytorch_over_a_thousand_steps(case):
    assert_all_as_good(case, draw(case, 1000))


@pytest.mark.parametrize("case", [*NATIVE, *SHAPES], ids=str, indirect=True)
def test_as_good_as_plain_pytorch_in_bfloat16(case):
    """Against plain PyTorch that rounds to bfloat16 at the same places: the inputs, the outputs, their gradients."""
    drawn = draw(case, 33)
    drawn = ({n: v.bfloat16().double() for n, v in drawn[0].items()}, *drawn[1:])
    assert_all_as_good(case, drawn, halves=dataclasses.replace(case, call=with_halves(case.call)))


@pytest.mark.parametrize("v", [False, True])
def test_matrix_scan_in_bfloat16_is_as_good_in_every_draw(v):
    """Its backward pass reads the states as they were, not as they were rounded."""
    case = matrix("cpu", 3, v=v)
    for seed in range(40):
        torch.manual_seed(seed)
        drawn = draw(case, 33)
        drawn = ({n: value.bfloat16().double() for n, value in drawn[0].items()}, *drawn[1:])
        assert_all_as_good(case, drawn, halves=dataclasses.replace(case, call=with_halves(case.call)))


# Sums over all steps and rows that are left to PyTorch's products, whose order may depend on the number of threads.
SUMMED_BY_PYTORCH = {
    "rnn_scan": {"dw"},
    "gru_scan": {"dw", "dwf", "dwr"},
    "lstm_scan": {"dw", "dwi", "dwf", "dwo"},
    "cell_scan": {"dw", "dwi", "dwf", "dwo", "dwm", "dw1", "dw2", "dwy", "dwz"},
}


@pytest.mark.parametrize("case", [*NATIVE, *SHAPES], ids=str, indirect=True)
def test_the_number_of_threads_changes_nothing(case):
    drawn, results = draw(case, 50), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(case, drawn, case.backend, torch.float32))
        if case.op in SUMMED_BY_PYTORCH:
            assert_all_as_good(case, drawn)
    torch.set_num_threads(before)
    ours = results[0].keys() - SUMMED_BY_PYTORCH.get(case.op, set())
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in ours)


@pytest.mark.parametrize("case", [*NATIVE, *SHAPES], ids=str, indirect=True)
def test_every_instruction_set_is_as_good(case):
    from matrixstate import _native

    before, drawn = _native.instruction_set(), draw(case, 33)
    for name in _native.instruction_sets():
        _native.use_instruction_set(name)
        assert_all_as_good(case, drawn)
    _native.use_instruction_set(before)
    with pytest.raises(ValueError, match="cannot run mmx"):
        _native.use_instruction_set("mmx")


@every_kernel
def test_incoming_gradients_may_have_any_layout_and_are_not_written(case):
    drawn, kept = draw(case, 20), []

    def strided(gradient):
        spread = torch.full((*gradient.shape, 2), float("nan"))[..., 0].copy_(gradient)
        kept.append((spread, spread.clone()))
        return spread

    expected = run(case, drawn, case.backend, torch.float32)
    got = run(case, drawn, case.backend, torch.float32, strided)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    assert all(torch.equal(now, then) and not now.is_contiguous() for now, then in kept)


@every_kernel
def test_a_part_of_the_outputs_may_have_no_gradient(case):
    sequence, fixed, state, _ = draw(case, 20, torch.float32)
    leaves = differentiable(sequence, fixed, state)
    outputs = case.run(sequence, fixed, state)
    outputs = floats(outputs)
    for one, alone in enumerate(outputs):
        weights = [torch.randn_like(out) if i == one else torch.zeros_like(out) for i, out in enumerate(outputs)]
        together = torch.autograd.grad(outputs, leaves, weights, retain_graph=True)
        single = torch.autograd.grad(alone, leaves, weights[one], retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(together, single, strict=True))


@every_kernel
def test_second_derivatives_are_refused(case):
    sequence, fixed, state, _ = draw(case, 5, torch.float32)
    leaves = differentiable(sequence, fixed, state)
    total = sum(out.square().sum() for out in floats(case.run(sequence, fixed, state)))
    first = torch.autograd.grad(total, leaves, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"{case.op}: backend {case.backend} has no second derivatives"):
        torch.autograd.grad(sum(g.sum() for g in first), leaves)


@every_kernel
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own, at the first derivative
def test_forward_mode_derivatives_are_refused(case):
    sequence, fixed, state, _ = draw(case, 5, torch.float32)
    name, x = next(iter(sequence.items()))
    with pytest.raises(NotImplementedError, match=f": backend {case.backend} has no forward-mode derivatives"):
        torch.func.jvp(lambda x: case.run(sequence | {name: x}, fixed, state)[0], (x,), (x,))


@every_native_kernel
def test_float64_and_other_dtypes_are_refused_in_words(case):
    # PyTorch warns of complex halves, which are experimental; what calls the op converts others to float32
    halves = [] if case.is_complex or case.caller else [torch.float16]
    for dtype in (torch.float64, *halves):
        sequence, fixed, state = case.sequence(3, dtype), case.fixed(dtype), case.state(dtype)
        with pytest.raises(
            RuntimeError, match=rf"cpu: needs torch.float32 or torch.bfloat16 on cpu, got {case.named(dtype)}"
        ):
            case.run(sequence, fixed, state)


@pytest.mark.slow
@every_kernel
def test_it_can_be_exported(case):
    drawn = copy(case.sequence(6, torch.float32)), copy(case.fixed(torch.float32)), case.state(torch.float32)

    class Model(torch.nn.Module):
        def forward(self, sequence, fixed, state):
            return case.run(sequence, fixed, state)

    exported = torch.export.export(Model(), drawn).module()
    for got, expected in zip(exported(*drawn), case.run(*drawn), strict=True):
        assert torch.equal(got, expected)


def test_the_operators_keep_the_promises_of_pytorch():
    for case in (
        m2rnn("cpu", grad_clip=0.3),
        conv("cpu", activation="silu"),
        matrix("cpu", R=4, v=True),
        scaled("cpu"),
        mru("cpu", decay=True, v=True),
        mru("cpu", rescale=True, readout="bounded"),
    ):
        need(case.op, "cpu")
        sequence, fixed, state, reset = draw(case, 18, torch.float32)
        case.run(sequence, fixed, state)  # registers the operators
        differentiable(sequence, fixed, state)
        if case.op == "m2rnn_scan":
            inputs = (*(sequence[n] for n in "qkv"), fixed["w"], sequence["f"], state, reset, 0.3, True)
            torch.library.opcheck(torch.ops.matrixstate.m2rnn_scan_cpu, inputs)
        elif case.op == "matrix_scan":
            inputs = (sequence["x"], sequence["v"], state, None, reset)
            torch.library.opcheck(torch.ops.matrixstate.matrix_scan_cpu, inputs)
        elif case.op == "mru_scan":
            carried, exponent = state if isinstance(state, tuple) else (state, None)
            inputs = (sequence["elements"], sequence.get("v"), sequence.get("decay"), fixed["down"], carried, exponent)
            options = (reset, torch.rand(B, 18) < 0.8, "ldu", "bounded", 2.0, True)
            torch.library.opcheck(torch.ops.matrixstate.mru_scan_cpu, (*inputs, *options))
        elif case.op == "scaled_matrix_scan":
            inputs = (sequence["x"], None, state.matrix, state.exponent, None)
            torch.library.opcheck(torch.ops.matrixstate.matrix_scan_cpu, inputs)
            m = torch.randn(2, 3, 1, 4, 5, requires_grad=True)
            torch.library.opcheck(torch.ops.matrixstate.matrix_normalise_cpu, (m, torch.bfloat16))
        else:
            inputs = (sequence["x"], fixed["weight"], fixed["bias"], state, reset, True)
            torch.library.opcheck(torch.ops.matrixstate.causal_conv_cpu, inputs)


def test_the_operators_of_the_recurrent_scans_keep_the_promises_of_pytorch():
    ops = torch.ops.matrixstate
    delta_rule = rule("cpu", "head")
    peepholes = named_cell("cpu", "peephole_lstm")
    scans = (
        delta("cpu", "head", write=False),
        delta_rule,
        outer("cpu", "channel", "pre"),
        cell("cpu", "lstm"),
        peepholes,
    )
    for case in scans:
        need(case.op, "cpu")
        sequence, fixed, state, reset = draw(case, 5, torch.float32)
        case.run(sequence, fixed, state)  # registers the operators
        differentiable(sequence, fixed, state)
        if case.op in ("lstm_scan", "cell_scan"):
            x = [sequence[n].detach().expand(-1, -1, 3, -1).clone() for n in ("xi", "xf", "xo", "x")]
            x, d = [a.requires_grad_() for a in x], x[0].shape[-1]
            h, c = state.h, state.c.detach()[None].requires_grad_()
            w = [torch.randn(3, d, d, requires_grad=True) for _ in x]
            kind, p = ("lstm", None) if case.op == "lstm_scan" else ("peephole_lstm", torch.randn(3, 3, d))
            inputs = case.op, kind, x, w, p, h, c, None, reset, 0.3, True
            torch.library.opcheck(getattr(ops, f"{case.op}_cpu"), inputs)
            continue
        rows = {n: v.detach().flatten(1, 2).requires_grad_() for n, v in sequence.items() if v.ndim == 5}
        inputs, read = [(sequence | rows)[n] for n in "qkv"], rows.get("read")
        beta = sequence["beta"].detach().flatten(1, 2).requires_grad_() if case is delta_rule else None
        options = (beta, sequence["log_decay"], None, sequence.get("log_input"), fixed.get("bonus"))
        operator = ops.delta_scan_cpu if case.op == "delta_scan" else ops.outer_scan_cpu
        torch.library.opcheck(operator, (*inputs, read, None, *options, reset, case.op == "outer_scan", state, True))
