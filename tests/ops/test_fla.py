"""The backend over flash-linear-attention: its arguments, through the library's own plain forms, give our reference.

Its kernels need a GPU and run under no interpreter; here each is replaced by the library's plain form of it.
"""

import dataclasses
import inspect
import os
import warnings
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch
from against_float64 import assert_all_as_good, draw
from cases import Case, delta, outer, rule
from torch.autograd import forward_ad

from matrixstate.errors import BackendUnavailable
from matrixstate.ops import _dispatch, _fla, delta_scan, gated_delta_product, outer_scan
from matrixstate.ops._dispatch import choose
from matrixstate.ops.outer.kernel_fla import unsupported


def part(case: Case, without: str) -> Case:
    """The case without one of its inputs."""

    def drawn(draw):
        return lambda *sizes: {name: x for name, x in draw(*sizes).items() if name != without}

    name = f"{case.name}, no {without}"
    return dataclasses.replace(case, name=name, sequence=drawn(case.sequence), fixed=drawn(case.fixed))


SIZES = {"K": 4, "V": 6}
CASES = [
    outer("fla", "none", **SIZES),
    outer("fla", "head", **SIZES),
    outer("fla", "channel", **SIZES),
    outer("fla", "none", "pre", **SIZES),
    *(
        part(outer("fla", decay, "pre", **SIZES), without)
        for decay in ("head", "channel")
        for without in ("log_input", "bonus")
    ),
    *(delta("fla", decay, write, **SIZES) for decay, write in (("none", True), ("head", False), ("channel", True))),
    *(rule("fla", decay, **SIZES) for decay in ("none", "head", "channel")),
    *(rule("fla", decay, 3, **SIZES) for decay in ("none", "head")),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(autouse=True, scope="module")
def _library():
    if find_spec("fla") is None:
        if "fla" in os.environ.get("MATRIXSTATE_TEST_BACKENDS", "").split(","):
            pytest.fail("fla must run here: fla is not installed")
        pytest.skip("fla is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that there is no GPU, and loads what PyTorch deprecates
        import_module("fla.ops")


@pytest.fixture(autouse=True)
def _choices():
    """What is chosen for a pretended machine is forgotten before and after."""
    caches = _dispatch._choose, _dispatch._load_preferred
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def with_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")


@pytest.fixture
def calls(monkeypatch):
    """Plain forms in place of the kernels, on the CPU; the functions that are called, with their arguments."""
    called = []

    def load(function):
        def run(**arguments):
            called.append((function, arguments))
            y, last = plain(function, **arguments)
            return y.to(arguments["v"].dtype), last

        return run

    monkeypatch.setattr(_fla, "unsupported", lambda *_: None)
    monkeypatch.setattr(_fla, "load", load)
    return called


def plain(function, *, cu_seqlens=None, cu_seqlens_cpu=None, initial_state=None, output_final_state, **arguments):
    """The library's plain form of a kernel; one document after another, which not all of them can take."""
    form, same = FORMS[function]
    assert output_final_state
    if cu_seqlens is None:
        return form(**same(arguments), initial_state=initial_state, output_final_state=True)
    assert torch.equal(cu_seqlens.cpu(), cu_seqlens_cpu)
    bounds, outputs, states = cu_seqlens.tolist(), [], []
    for n, (begin, end) in enumerate(pairwise(bounds)):
        part = {}
        for name, x in arguments.items():
            has_time = isinstance(x, torch.Tensor) and name != "u"
            rows = x.shape[1] // bounds[-1] if has_time else 1
            part[name] = x[:, begin * rows : end * rows] if has_time else x
        y, last = form(**same(part), initial_state=initial_state[n : n + 1], output_final_state=True)
        outputs.append(y)
        states.append(last)
    return torch.cat(outputs, dim=1), torch.cat(states)


def unscaled(arguments, name="q"):
    """For forms that divide queries by √K, without an argument for it."""
    scale = arguments.pop("scale")
    return arguments | {name: arguments[name] * scale * arguments[name].shape[-1] ** 0.5}


def heads_first(form):
    def run(initial_state, output_final_state, u=None, **arguments):
        moved = {n: x.transpose(1, 2) if isinstance(x, torch.Tensor) else x for n, x in arguments.items()}
        moved |= {} if u is None else {"u": u}
        y, last = form(**moved, initial_state=initial_state, output_final_state=output_final_state)
        return y.transpose(1, 2), last

    return run


def lazily(path):
    """A function of the library, which is imported when it is called."""
    module, _, name = path.rpartition(".")
    return lambda **arguments: getattr(import_module(f"fla.ops.{module}"), name)(**arguments)


def renamed(arguments, **names):
    return {names.get(name, name): x for name, x in arguments.items()}


def with_zeros(arguments):
    g = arguments["g"]
    return arguments | {"g": arguments["q"].new_zeros(arguments["q"].shape[:3]) if g is None else g}


FORMS = {
    "simple_gla.chunk_simple_gla": (lazily("simple_gla.naive.naive_recurrent_simple_gla"), with_zeros),
    "gla.chunk_gla": (lazily("gla.naive.naive_recurrent_gla"), lambda a: renamed(unscaled(a), g="gk")),
    "rwkv6.chunk_rwkv6": (
        heads_first(lazily("rwkv6.recurrent_naive.naive_recurrent_rwkv6")),
        lambda a: renamed(a, r="q"),
    ),
    "generalized_delta_rule.chunk_dplr_delta_rule": (
        heads_first(lazily("generalized_delta_rule.dplr.naive.dplr_recurrence")),
        lambda a: renamed(unscaled(a), a="alpha", b="beta"),
    ),
    "delta_rule.chunk_delta_rule": (heads_first(lazily("delta_rule.naive.delta_rule_recurrence")), unscaled),
    "gated_delta_rule.chunk_gated_delta_rule": (
        lazily("gated_delta_rule.naive.naive_recurrent_gated_delta_rule"),
        dict,
    ),
    "kda.chunk_kda": (lazily("kda.naive.naive_recurrent_kda"), dict),
    "gated_delta_product.chunk_gated_delta_product": (
        lazily("gated_delta_product.naive.naive_recurrent_gated_delta_product"),
        dict,
    ),
}


@every_case
def test_as_good_as_plain_pytorch_with_state_and_documents(case, calls):
    drawn = draw(case, 9)
    drawn[3][0, 0], drawn[3][1, :4] = True, torch.tensor([False, False, True, True])
    assert_all_as_good(case, drawn)
    assert "cu_seqlens" in calls[0][1]


@every_case
def test_as_good_as_plain_pytorch_without_documents(case, calls):
    case = dataclasses.replace(case, resets=False)
    for T in (1, 5):
        assert_all_as_good(case, draw(case, T))
    assert "cu_seqlens" not in calls[-1][1]


def test_every_kernel_is_reached(calls):
    for case in CASES:
        call(case, torch.float32)
    assert {function for function, _ in calls} == set(FORMS)


def call(case: Case, dtype):
    return case.run(case.sequence(5, dtype), case.fixed(dtype), case.state(dtype), torch.rand(2, 5) < 0.3)


@every_case
def test_the_library_has_these_arguments(case, calls, monkeypatch):
    y, last = call(case, torch.bfloat16)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    ((function, arguments),) = calls
    monkeypatch.undo()
    assert arguments.keys() <= inspect.signature(_fla.load(function)).parameters.keys()
    halves = {"q", "k", "v", "r", "a", "b"}
    wide = {"g", "gk", "w", "u", "beta", "initial_state"}
    for name, x in arguments.items():
        if isinstance(x, torch.Tensor) and not name.startswith("cu_seqlens"):
            assert name in halves | wide
            assert x.dtype == (torch.bfloat16 if name in halves else torch.float32), name


def test_documents_of_a_batch():
    reset = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]]).bool()
    documents = _fla.Documents.of(reset)
    assert documents.bounds.tolist() == [0, 3, 4, 8, 9, 10, 12]
    assert documents.first.tolist() == [0, 2, 3]
    assert documents.last.tolist() == [1, 2, 5]
    assert reset[1].sum() == 0  # the input is not written


def test_a_decay_of_zero_is_finite(calls):
    q = torch.randn(1, 3, 2, 4)
    decay = torch.full((1, 3, 2), float("-inf"))
    y, _ = outer_scan(q, q, q, log_decay=decay, backend="fla")
    torch.testing.assert_close(y, outer_scan(q, q, q, log_decay=decay, backend="reference")[0])
    assert calls[0][1]["g"].isfinite().all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own, at the first derivative
def test_second_derivatives_and_forward_mode_are_refused(calls):
    q = torch.randn(1, 3, 2, 4, requires_grad=True)
    y, _ = outer_scan(q, q, q, backend="fla")
    with pytest.raises(NotImplementedError, match="outer_scan: backend fla has no second derivatives"):
        torch.autograd.grad(y.sum(), q, create_graph=True)
    with forward_ad.dual_level(), torch.no_grad():
        dual = forward_ad.make_dual(q.detach(), torch.ones_like(q))
        with pytest.raises(NotImplementedError, match="outer_scan: backend fla has no forward-mode derivatives"):
            outer_scan(dual, dual, dual, backend="fla")


@pytest.mark.usefixtures("with_gpu")
def test_auto_prefers_it_on_a_gpu_alone():
    for op in ("outer_scan", "delta_scan"):
        assert choose(op, "auto", "cuda", torch.bfloat16) == "fla"
        assert choose(op, "auto", "cuda", torch.float32) == "chunked"
        assert choose(op, "auto", "cpu", torch.float16) == "chunked"
        with pytest.raises(BackendUnavailable, match=f"{op}: no backend can run .* on cpu: fla: needs a GPU, got cpu"):
            choose(op, "fla", "cpu", torch.bfloat16)


def halves(*shape):
    return torch.zeros(*shape, dtype=torch.bfloat16)


def outer_of(K=4, V=4, **options):
    q, v = halves(1, 2, 3, K), halves(1, 2, 3, V)
    return lambda: outer_scan(q, q, v, backend="fla", **options)


def delta_of(K=4, m=1, **options):
    q, k = halves(1, 2, 3, K), halves(1, 2 * m, 3, K)
    return lambda: delta_scan(q, k, k, read=k, micro_steps=m, backend="fla", **options)


def rule_of(m, decay):
    q, k, beta = halves(1, 2, 3, 4), halves(1, 2 * m, 3, 4), halves(1, 2 * m, 3)
    return lambda: gated_delta_product(q, k, k, beta, decay, micro_steps=m, backend="fla")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (outer_of(log_decay_v=torch.zeros(1, 2, 3, 4)), "has no decay of columns"),
        (
            outer_of(bonus=halves(3, 4), read="pre", log_input=torch.zeros(1, 2, 3)),
            "weights the bonus with log_input too",
        ),
        (outer_of(), "needs a GPU, got cpu"),
        (delta_of(K=258), "needs keys of width 256 at most"),
        (delta_of(m=2), "has micro-steps for the delta rules alone"),
        (rule_of(2, torch.zeros(1, 2, 3, 4)), "has no decay per channel with micro-steps"),
        (rule_of(2, None), "needs a GPU, got cpu"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_in_words(run, reason):
    with pytest.raises(BackendUnavailable, match=f"on cpu: fla: {reason}"):
        run()


@pytest.mark.parametrize(("K", "V"), [(3, 4), (4, 3)])
def test_determinism_and_odd_widths_are_details_of_both_ops(K, V, monkeypatch):
    monkeypatch.setattr(_fla, "unsupported", lambda device, dtype, *details: " and ".join(details) or None)
    q, v = halves(1, 2, 3, K), halves(1, 2, 3, V)
    for run in (lambda: outer_scan(q, q, v, backend="fla"), lambda: delta_scan(q, q, v, read=q, backend="fla")):
        with pytest.raises(BackendUnavailable, match="fla: deterministic and odd width$"):
            run()


@pytest.mark.usefixtures("with_gpu")
def test_a_decay_per_head_on_hopper_needs_a_compiler_without_the_error(monkeypatch):
    triton = import_module("triton")
    details = "cuda", torch.bfloat16, "decay per head"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unsupported(*details) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    for capability, version, is_refused in (
        ((9, 0), "3.6.0", True),
        ((9, 0), "3.3.1", False),
        ((9, 0), "3.7.1", False),
        ((8, 0), "3.6.0", False),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        monkeypatch.setattr(triton, "__version__", version)
        reason = unsupported(*details)
        assert (reason is not None) == is_refused
        assert reason is None or "needs Triton 3.7.1 or later" in reason
        assert unsupported("cuda", torch.bfloat16) is None


def test_the_interpreter_odd_widths_and_determinism_are_refused_on_a_gpu(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET=1" in (unsupported("cuda", torch.bfloat16) or "")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert unsupported("cuda", torch.bfloat16, "odd width") == "needs even widths of keys and values"
    assert "has no deterministic algorithms" in (unsupported("cuda", torch.bfloat16, "deterministic") or "")
