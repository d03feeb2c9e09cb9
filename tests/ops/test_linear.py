"""Linear maps by oneDNN: numbers, gradients, transforms, and when which library is taken."""

import copy

import pytest
import torch
from torch.autograd import forward_ad, gradcheck
from torch.nn.functional import linear as plain
from torch.utils.flop_counter import FlopCounterMode

from closeness import assert_as_good_as, assert_equal_to_rounding
from matrixstate.errors import BackendUnavailable
from matrixstate.evaluation.closeness import nudge
from matrixstate.layers.linear import Linear
from matrixstate.ops import OPS, _dispatch, backends, linear, prefer
from matrixstate.ops.linear_map import kernel_onednn, kernel_tf32, regime

F32, F64 = torch.float32, torch.float64
LARGE = (512, 128, 144)  # M, K, N: enough multiply-adds for oneDNN
SHAPES = [LARGE, (128, 513, 200), (1000, 65, 777), (4096, 48, 50), (300, 1024, 48), (130, 300, 1030)]
ONEDNN = OPS["linear"][0]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture
def calls(monkeypatch):
    """How often oneDNN was called. It is taken on every processor, so that these tests run everywhere."""
    count, call = [], kernel_onednn._call
    monkeypatch.setattr(kernel_onednn, "_call", lambda a, b: count.append(1) or call(a, b))
    monkeypatch.setattr(kernel_onednn, "slower", lambda *_: None)
    _dispatch._load_preferred.cache_clear()
    _dispatch._choose.cache_clear()
    yield count
    _dispatch._load_preferred.cache_clear()
    _dispatch._choose.cache_clear()


def draw(M, K, N, dtype=F32):
    return [torch.randn(shape, dtype=F64).to(dtype) for shape in ((2, M // 2, K), (N, K), (N,))]


def both(x, weight, bias=None, function=linear):
    """The output and every gradient."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = function(*leaves)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=F64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


@every_shape
def test_it_is_as_good_as_plain_pytorch(shape, calls):
    drawn, generator = draw(*shape), torch.Generator().manual_seed(2)
    got, calls_made = both(*drawn), len(calls)
    exact = both(*(t.double() for t in drawn), function=plain)
    theirs = both(*drawn, function=plain), both(*(nudge(t, generator) for t in drawn), function=plain)
    assert calls_made >= 3
    for name, value, right, *others in zip(("y", "dx", "dweight", "dbias"), got, exact, *theirs, strict=True):
        assert_as_good_as(value, others, right, name)


@pytest.mark.parametrize("K", [512, 1024, 4096])
def test_long_sums_err_as_little_as_mkls(K, calls):
    """By their root mean square, which chance hardly moves. oneDNN left alone errs 1.6 to 2.3 times as far."""
    a, b = torch.randn(256, K), torch.randn(200, K)
    exact = a.double() @ b.double().mT
    error = lambda y: (y.double() - exact).square().mean().sqrt()  # noqa: E731
    parts = zip(a.split(192, dim=1), b.split(192, dim=1), strict=True)
    assert error(linear(a, b)) < 1.3 * error(sum(x @ y.mT for x, y in parts))
    assert calls


@every_shape
def test_the_number_of_threads_changes_nothing_where_it_is_taken(shape):
    """Of PyTorch's own products that is not said."""
    drawn, results = draw(*shape), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(both(*drawn)[:3])  # the bias's gradient is PyTorch's sum
    torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            if backends("cpu", F32)["linear"] == "onednn":
                assert torch.equal(one, two)
            else:
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-3)


def test_memory_layout_does_not_matter_and_nothing_is_written(calls):
    x, weight, _ = draw(*LARGE)
    expected = both(x, weight)
    spread = lambda t: torch.full((*t.shape, 2), float("nan"))[..., 0].copy_(t)  # noqa: E731
    for w in (weight.mT.contiguous().mT, spread(weight)):
        inputs = x.mT.contiguous().mT, w
        kept = copy.deepcopy(inputs)
        for got, right in zip(both(*inputs), expected, strict=True):
            assert_equal_to_rounding(got, right, "other layout")
        assert all(torch.equal(now, then) for now, then in zip(inputs, kept, strict=True))
    weight.requires_grad_()
    linear(x, weight).sum().backward()  # a gradient without memory of its own
    assert_equal_to_rounding(weight.grad, x.sum(dim=(0, 1)).expand_as(weight), "dweight of a sum")


def test_gradients_have_gradients(calls):
    def penalty(function):
        x, weight = (t.requires_grad_() for t in copy.deepcopy(drawn))
        first = torch.autograd.grad(function(x, weight).square().mean(), (x, weight), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight))

    drawn = draw(*LARGE)[:2]
    for got, expected in zip(penalty(linear), penalty(plain), strict=True):
        assert_equal_to_rounding(got, expected, "second derivative")
    assert len(calls) > 3


def test_gradients_are_right_in_float64_which_is_pytorchs():
    assert gradcheck(linear, [t.requires_grad_() for t in draw(4, 3, 5, F64)])
    assert backends("cpu", F64)["linear"] == "reference"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own, at the first derivative
def test_transforms_give_what_they_give_of_pytorchs(calls):
    """torch.func has rules for PyTorch's products, which are taken there."""
    x, weight, bias = draw(*LARGE)
    tangent = torch.randn_like(x)

    def results(function):
        total = lambda x, w: function(x, w, bias).square().mean()  # noqa: E731
        yield from torch.func.grad(total, argnums=(0, 1))(x, weight)
        yield from torch.vmap(torch.func.grad(total, argnums=(0, 1)), in_dims=(0, None))(x, weight)
        yield torch.vmap(function, in_dims=(0, None))(x, weight)
        yield torch.func.jacrev(lambda w: function(x, w, bias).mean(dim=(0, 1))[:2])(weight)
        yield from torch.func.jvp(lambda x: function(x, weight), (x,), (tangent,))
        with forward_ad.dual_level():
            yield from forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent), weight))

    for got, expected in zip([*results(linear)], [*results(plain)], strict=True):
        assert torch.equal(got, expected)
    assert not calls


def test_modes_that_know_pytorchs_products_see_them(calls):
    x, weight, _ = draw(*LARGE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear(x, weight), plain(x, weight))
    with FlopCounterMode(display=False) as counter:
        linear(x, weight)
    assert counter.get_total_flops() == 2 * 512 * 128 * 144
    assert linear(x.to("meta"), weight.to("meta")).shape == (2, 256, 144)
    assert not calls


def test_small_products_are_pytorchs(calls):
    """A step of one token above all."""
    for x, weight in (
        (torch.randn(8, 1, 4096), torch.randn(4096, 4096)),
        (torch.randn(0, 64), torch.randn(4096, 64)),
        (torch.randn(4, 0, 64), torch.randn(4096, 64)),
        (torch.randn(70_000, 16), torch.randn(64, 16)),
        (torch.randn(64), torch.randn(80, 64)),
        (torch.randn(5, 0), torch.randn(3, 0)),
    ):
        assert torch.equal(linear(x, weight), plain(x, weight))
        with pytest.raises(BackendUnavailable, match="onednn: takes products of at least 8,388,608 multiply-adds"):
            linear(x, weight, backend="onednn")
    assert not calls


@pytest.mark.slow
def test_compiled_and_exported_it_is_pytorchs(calls):
    layer, x = Linear(128, 144), torch.randn(2, 256, 128)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},)).module()
    for function in (compiled, exported):
        assert torch.equal(function(x), plain(x, layer.weight, layer.bias))
    assert not calls


def test_the_layer_is_that_of_pytorch_to_all_who_look():
    torch.manual_seed(3)
    ours = Linear(7, 5)
    torch.manual_seed(3)
    theirs = torch.nn.Linear(7, 5)
    assert isinstance(ours, torch.nn.Linear)
    assert str(ours) == str(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())
    x = torch.randn(2, 7)
    assert torch.equal(copy.deepcopy(ours)(x), theirs(x))


def test_sizes_that_do_not_fit_are_refused_in_pytorchs_words(calls):
    x, weight, _ = draw(*LARGE)
    for wrong in (weight[:, 1:], weight.double(), weight[None]):
        with pytest.raises(RuntimeError):
            linear(x, wrong)
    assert not calls


def test_this_pytorch_has_all_that_is_needed_of_its_inside():
    """Where this fails, `linear` takes PyTorch's products: see what took the operator's place."""
    assert kernel_onednn.missing() is None


def test_a_pytorch_without_it_is_told_from_one_that_has_it(monkeypatch):
    monkeypatch.setenv("MATRIXSTATE_LINEAR", "onednn")
    assert ONEDNN.why_not("cpu", F32) is None
    monkeypatch.setattr(kernel_onednn, "SCHEMA", "mkldnn::_linear_pointwise(Tensor X) -> Tensor Y")
    assert "does not have the operator mkldnn::_linear_pointwise(Tensor X)" in ONEDNN.why_not("cpu", F32)
    monkeypatch.undo()
    monkeypatch.setenv("MATRIXSTATE_LINEAR", "onednn")
    monkeypatch.setattr(regime, "INSIDE", ("_no_such_thing",))
    assert "does not have torch._C._no_such_thing" in ONEDNN.why_not("cpu", F32)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert "built without oneDNN" in ONEDNN.why_not("cpu", F32)


def test_it_is_taken_by_processor(monkeypatch):
    slower, capability = kernel_onednn.slower, "torch.backends.cpu.get_cpu_capability"
    monkeypatch.setattr(capability, lambda: "AVX512")
    assert slower("AuthenticAMD", 26) is None
    assert "this one is AuthenticAMD, family 25" in slower("AuthenticAMD", 25)
    assert "this one is GenuineIntel, family 6" in slower("GenuineIntel", 6)
    assert "this one is unknown, family 0" in slower("unknown", 0)
    monkeypatch.setattr(capability, lambda: "AVX2")
    assert "PyTorch uses AVX2 here" in slower("AuthenticAMD", 26)


def test_the_processor_is_told_by_the_system(monkeypatch):
    processor, texts = kernel_onednn.processor.__wrapped__, "matrixstate.ops.linear_map.kernel_onednn.Path.read_text"
    linux = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n"
    monkeypatch.setattr(texts, lambda path, encoding: linux)
    assert processor() == ("AuthenticAMD", 26)
    monkeypatch.setattr(texts, lambda path, encoding: "processor\t: 0\nCPU implementer\t: 0x41\n")
    assert processor() == ("unknown", 0)

    def absent(path, encoding):
        raise FileNotFoundError

    monkeypatch.setattr(texts, absent)
    monkeypatch.setattr("platform.processor", lambda: "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel")
    assert processor() == ("GenuineIntel", 6)


def test_the_environment_and_prefer_are_ways_back(monkeypatch):
    monkeypatch.setenv("MATRIXSTATE_LINEAR", "reference")
    assert ONEDNN.why_not("cpu", F32) == "MATRIXSTATE_LINEAR is reference"
    monkeypatch.setenv("MATRIXSTATE_LINEAR", "onednn")
    assert "needs torch.float32 on cpu, got torch.bfloat16" in ONEDNN.why_not("cpu", torch.bfloat16)
    monkeypatch.setenv("MATRIXSTATE_LINEAR", "mkl")
    with pytest.raises(BackendUnavailable, match="MATRIXSTATE_LINEAR: expected one of auto, .*, got 'mkl'"):
        ONEDNN.why_not("cpu", F32)
    with prefer("cpu", "sdpa", "reference"):
        assert backends("cpu", F32)["linear"] == "reference"


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(
        BackendUnavailable, match="linear: backend must be one of auto, onednn, tf32, reference, got 'gpu'"
    ):
        linear(torch.randn(2, 3), torch.randn(4, 3), backend="gpu")


def test_tf32_is_permitted_for_its_own_products_alone(monkeypatch):
    """There is no GPU: PyTorch's setting is recorded at every product, and a CPU computes it in float32."""
    matmul, seen, product = torch.backends.cuda.matmul, [], torch.Tensor.__matmul__
    before = matmul.fp32_precision
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: seen.append(matmul.fp32_precision) or product(a, b))
    drawn = draw(6, 5, 4)
    got = both(*drawn, function=kernel_tf32.linear)
    assert seen == ["tf32"] * 3
    assert matmul.fp32_precision == before != "tf32"
    for name, value, right in zip(("y", "dx", "dweight", "dbias"), got, both(*drawn, function=plain), strict=True):
        assert_equal_to_rounding(value, right, name)
    with torch.no_grad():
        assert kernel_tf32.linear(*drawn).shape == (2, 3, 4)


def test_the_operator_of_tf32_keeps_the_rules_of_pytorch():
    arguments = [torch.randn(shape, dtype=F64, requires_grad=True) for shape in ((6, 5), (4, 5))]
    torch.library.opcheck(torch.ops.matrixstate.linear_tf32, arguments)
    assert gradcheck(torch.ops.matrixstate.linear_tf32, arguments)


def test_tf32_is_never_taken_unless_named():
    with pytest.raises(BackendUnavailable, match=r"tf32: needs torch.float32 on cuda, got torch.float32 on cpu"):
        linear(*draw(6, 5, 4), backend="tf32")
    assert _dispatch.choose("linear", "auto", "cuda", F32, "large") == "reference"
    assert _dispatch.choose("linear", "tf32", "cuda", F32, "large") == "tf32"
    with pytest.raises(BackendUnavailable, match=r"got torch.float64 on cuda"):
        _dispatch.choose("linear", "tf32", "cuda", F64, "large")
