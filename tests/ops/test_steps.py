"""The steps of generation: as near to float64 as the ordinary ops that they stand for, and as strict."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from closeness import assert_as_good_as
from conftest import need
from matrixstate.errors import BackendUnavailable, ShapeError
from matrixstate.mixers import GatedConvConfig, MRUConfig
from matrixstate.models.presets import M2RNN_BEST, MRU_BEST
from matrixstate.ops import M2RNNWeights, MRUWeights, ScaledState, gated_conv_step, m2rnn_step, mru_step

WIDTH = 24


def m2rnn(**options: Any) -> tuple[Callable, list]:
    """m2rnn_step with the weights of a layer: its call, and what it is called with in float64."""
    mixer = _moved(dataclasses.replace(M2RNN_BEST, **options).make(WIDTH))
    B, config = 3, mixer.config
    state = torch.randn(B, config.heads, config.key_size, config.value_size, dtype=torch.float64)
    past = None if mixer.conv is None else torch.randn(mixer.conv.init_state(B).shape, dtype=torch.float64)
    x = torch.randn(B, 1, mixer.input.out_features, dtype=torch.float64)
    return m2rnn_step, [x, mixer._weights(), past, state]


def mru(config: MRUConfig, width: int) -> tuple[Callable, list]:
    """mru_step likewise."""
    mixer, B = _moved(config.make(width)), 3
    linear = (mixer.up, mixer.value, mixer.forget, mixer.gate)
    inputs = [None if a is None else torch.randn(B, 1, a.out_features, dtype=torch.float64) for a in linear]
    inputs[0] = inputs[0].unflatten(-1, (config.heads, -1))
    first = mixer.init_state(B)
    past = None if first.write is None else torch.randn(first.write.shape, dtype=torch.float64)
    state = torch.randn(B, config.heads, mixer.order, mixer.order, dtype=torch.float64)
    if config.rescale:
        state = ScaledState(state, torch.randint(-9, 9, (B, config.heads), dtype=torch.int32))
    return mru_step, [*inputs, mixer._weights(), past, state]


def conv(channels: int, taps: int) -> tuple[Callable, list]:
    mixer = _moved(GatedConvConfig(channels=channels, conv=taps).make(WIDTH))
    x, gate = torch.randn(2, 3, 1, channels, dtype=torch.float64)
    past = torch.randn(3, taps - 1, channels, dtype=torch.float64)
    return gated_conv_step, [x, gate, mixer.conv.weight, mixer.norm.weight, past]


def _moved(mixer):
    """Away from its start, where much is the identity."""
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return mixer.double()


STEPS = {
    "m2rnn best": lambda: m2rnn(),
    "m2rnn of one head": lambda: m2rnn(heads=1, key_size=1, value_size=1),
    "m2rnn of odd sizes": lambda: m2rnn(heads=3, key_size=33, value_size=7, conv=2),
    "m2rnn of wide states": lambda: m2rnn(heads=2, key_size=9, value_size=40, conv=1),
    "m2rnn, bare": lambda: m2rnn(conv=0, residual=False, unit_keys=False),
    "m2rnn, shared heads": lambda: m2rnn(
        heads=6, query_heads=6, key_heads=3, value_heads=2, forget_heads=1, gate_heads=3, weight_heads=1
    ),
    "mru best": lambda: mru(dataclasses.replace(MRU_BEST, state_size=36, channels=36), WIDTH),
    "mru, balanced": lambda: mru(dataclasses.replace(MRU_BEST, state_size=36, channels=36, balanced=True), WIDTH),
    "mru of the source": lambda: mru(MRUConfig(heads=2, state_size=50), 30),
    "mru of one number": lambda: mru(MRUConfig(heads=1, state_size=1, gate=True), 1),
    "mru, bounded": lambda: mru(
        MRUConfig(heads=3, state_size=75, builder="reshape_identity", readout="bounded", decay=True, gate=True), 30
    ),
    "mru, written to": lambda: mru(
        MRUConfig(heads=1, state_size=289, builder="cayley", rescale=False, readout="state", write=True, norm=True), 34
    ),
    "conv": lambda: conv(48, 4),
    "conv of one step": lambda: conv(33, 1),
    "conv of two channels": lambda: conv(2, 7),
}
TRITON = {name: make for name, make in STEPS.items() if name.startswith("m2rnn")}
every_step = pytest.mark.parametrize("name", STEPS)
KERNELS = ("m2rnn_scan", "mru_scan", "causal_conv")


@pytest.fixture(autouse=True)
def _native():
    for op in KERNELS:
        need(op, "cpu")


def to(inputs: list, dtype: torch.dtype, weights: torch.dtype | None = None) -> list:
    """The inputs and states in `dtype` (bfloat16: x and gate only), the weights in `weights`, default the same."""
    halves = len(inputs) - 3  # what projections give
    wide = torch.float32 if dtype == torch.bfloat16 else dtype

    def convert(i: int, value: Any) -> Any:
        if isinstance(value, ScaledState):
            return ScaledState(value.matrix.to(wide), value.exponent)
        if isinstance(value, M2RNNWeights | MRUWeights):
            return type(value)(*(v.to(weights or wide) if isinstance(v, torch.Tensor) else v for v in value))
        if isinstance(value, torch.nn.Parameter):
            return value.detach().to(weights or wide)
        return value if value is None else value.to(dtype if i < halves else wide)

    return [convert(i, value) for i, value in enumerate(inputs)]


def whole(value: Any) -> torch.Tensor:
    """A state that has an exponent as one number."""
    return torch.ldexp(value[0], value[1][..., None, None]) if isinstance(value, ScaledState) else value


def equal(one: tuple, other: tuple) -> bool:
    return all(a is b is None or torch.equal(whole(a), whole(b)) for a, b in zip(one, other, strict=True))


@torch.no_grad()
def assert_all_as_good(
    call: Callable, inputs: list, dtype: torch.dtype, weights: torch.dtype | None = None, backend: str = "cpu"
) -> None:
    rounded = to(to(inputs, dtype, weights), torch.float64)
    got = call(*to(rounded, dtype, weights), backend=backend)
    plain = call(*to(rounded, dtype, weights), backend="reference")
    exact = call(*rounded, backend="reference")
    for what, *values in zip(("y", "past", "state"), got, plain, exact, strict=False):
        if values[0] is not None:
            assert_as_good_as(*map(whole, values), what)


@every_step
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_as_good_as_the_ordinary_ops(name, dtype):
    call, inputs = STEPS[name]()
    assert_all_as_good(call, inputs, dtype)
    assert_all_as_good(call, inputs, dtype, torch.bfloat16)


@pytest.mark.parametrize("name", TRITON)
def test_a_step_in_triton_is_as_good_as_the_ordinary_ops(name):
    call, inputs = TRITON[name]()
    need("m2rnn_scan", "triton")
    assert_all_as_good(call, inputs, torch.float32, backend="triton")
    assert_all_as_good(call, inputs, torch.bfloat16, torch.bfloat16, backend="triton")


@every_step
def test_every_instruction_set_is_as_good_and_threads_change_nothing(name):
    from matrixstate import _native

    call, inputs = STEPS[name]()
    before = _native.instruction_set()
    for instructions in _native.instruction_sets():
        _native.use_instruction_set(instructions)
        assert_all_as_good(call, inputs, torch.float32)
    _native.use_instruction_set(before)  # tests of the same process may compare bits with another one's
    one, two = [], []
    for threads, results in ((1, one), (2, two)):
        torch.set_num_threads(threads)
        results += call(*to(inputs, torch.float32), backend="cpu")
    torch.set_num_threads(1)
    assert equal(one, two)


@every_step
def test_inputs_may_have_any_layout_and_are_not_written(name):
    call, inputs = STEPS[name]()
    inputs = to(inputs, torch.float32)
    spread = [torch.stack([v, v], -1)[..., 0] if isinstance(v, torch.Tensor) else v for v in inputs]
    before = [v.clone() if isinstance(v, torch.Tensor) else v for v in spread]
    expected, got = call(*inputs), call(*spread)
    assert equal(expected, got)
    lazy = [torch._neg_view(-v) if isinstance(v, torch.Tensor) else v for v in inputs]  # negated when read
    got = call(*lazy)
    assert equal(expected, got)
    assert all(torch.equal(a, b) for a, b in zip(spread, before, strict=True) if isinstance(a, torch.Tensor))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", ["m2rnn best", "conv"])
def test_wrong_sizes_are_refused(name, backend):
    call, inputs = STEPS[name]()
    inputs = to(inputs, torch.float32)
    for i, value in enumerate(inputs):
        if isinstance(value, torch.Tensor):
            state = value is inputs[-1] or (value is inputs[2] and name != "conv")
            for wrong in (value[:-1], value[..., :-1], value[None], *([value.double()] if state else [])):
                with pytest.raises(ShapeError, match=f"{call.__name__}: "):
                    call(*inputs[:i], wrong, *inputs[i + 1 :], backend=backend)
    if name == "conv":
        return
    for field in ("conv", "log_rate", "bias", "w", "residual", "norm"):
        wrong = inputs[1]._replace(**{field: getattr(inputs[1], field)[:-1]})
        with pytest.raises(ShapeError, match="m2rnn_step: "):
            call(inputs[0], wrong, *inputs[2:], backend=backend)
    for heads in ((0, 1, 16), (3, 1, 16), (1, 1, 5), (1, 1, -16)):
        with pytest.raises(ShapeError, match="m2rnn_step: every head count must divide"):
            call(inputs[0], inputs[1]._replace(heads=heads), *inputs[2:], backend=backend)
    for past, weights in ((None, inputs[1]), (inputs[2], inputs[1]._replace(conv=None))):
        with pytest.raises(ShapeError, match="m2rnn_step: past .*must be given where"):
            call(inputs[0], weights, past, inputs[3], backend=backend)


@every_step
def test_float64_takes_the_definition_and_is_refused_by_the_kernel(name):
    call, inputs = STEPS[name]()
    assert call(*inputs)[0].dtype == torch.float64
    with pytest.raises(BackendUnavailable, match="cpu: needs torch.float32 or torch.bfloat16"):
        call(*inputs, backend="cpu")


@pytest.mark.parametrize("backend", ["cpu", "composed"])
def test_a_wrong_mru_step_is_refused(backend):
    call, inputs = STEPS["mru best"]()
    inputs = to(inputs, torch.float32)
    optional = (1, 2, 5)  # what its weights want
    for i, value in enumerate(inputs):
        if isinstance(value, torch.Tensor):
            for wrong in (value[:-1], value[..., :-1], value[None], *([None] if i in optional else [])):
                with pytest.raises(ShapeError, match="mru_step: "):
                    call(*inputs[:i], wrong, *inputs[i + 1 :], backend=backend)
    weights = inputs[4]
    for field in ("down", "conv", "log_rate", "bias", "skip", "norm"):
        wrong = weights._replace(**{field: getattr(weights, field)[:-1]})
        with pytest.raises(ShapeError, match="mru_step: "):
            call(*inputs[:4], wrong, *inputs[5:], backend=backend)
    with pytest.raises(ShapeError, match="mru_step: state must be a ScaledState where rescale is True, got Tensor"):
        call(*inputs[:4], weights._replace(rescale=True), *inputs[5:], backend=backend)
