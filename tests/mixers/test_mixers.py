"""The guarantees of every mixer: splitting, stepping, padding and packing documents do not change results."""

import dataclasses
import itertools
import math
import sys
from contextlib import nullcontext

import pytest
import torch
from configs import CONFIGS
from hypothesis import given, settings
from hypothesis import strategies as st

from closeness import assert_as_good_as, assert_equal_to_rounding
from matrixstate.errors import ConfigError, ShapeError
from matrixstate.layers import map_state, state_leaves
from matrixstate.mixers import (
    GRU,
    M2RNN,
    MIXERS,
    MRU,
    AttentionConfig,
    DeltaNetConfig,
    GatedConvConfig,
    GatedDeltaNetConfig,
    GatedDeltaProductConfig,
    GLAConfig,
    GRUConfig,
    HGRN2Config,
    HGRNConfig,
    KDAConfig,
    LinearTransformerConfig,
    LRUConfig,
    LSTMConfig,
    M2RNNConfig,
    Mamba2Config,
    MinGRUConfig,
    MRUAttentionConfig,
    MRUConfig,
    RetNetConfig,
    RGLRUConfig,
    RNNConfig,
    RWKV6Config,
    RWKV7Config,
    RWKVChannelMixConfig,
    S5Config,
    TransNormerConfig,
)
from matrixstate.ops import AttentionState, ForgettingState, prefer

WIDTH = 24
everywhere = pytest.mark.parametrize("name", CONFIGS)


def make(name, seed=0):
    """The mixer in float64 with perturbed weights, for at initialisation many mixers do nothing."""
    torch.manual_seed(seed)
    mixer = CONFIGS[name].make(WIDTH).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return mixer.eval()


def comparable(state):
    """The state without the unused entries at the front of an attention cache, before the longest row's first key."""
    if isinstance(state, AttentionState):
        kept = int(state.length.max()) if len(state.length) else 0
        return AttentionState(
            state.k[:, state.k.shape[1] - kept :], state.v[:, state.v.shape[1] - kept :], state.length
        )
    if isinstance(state, ForgettingState):
        gates = state.log_forget[:, state.log_forget.shape[1] - int(state.length.max()) :]
        return ForgettingState(*comparable(AttentionState(*state[:3])), gates)
    if isinstance(state, torch.Tensor) or state is None:
        return state
    return type(state)(*(comparable(part) for part in state))


def assert_states_equal(got, expected):
    pairs = list(zip(state_leaves(comparable(got)), state_leaves(comparable(expected)), strict=True))
    assert pairs or got is None
    for one, other in pairs:
        if one.is_floating_point():
            assert_equal_to_rounding(one, other, "state")
        else:
            assert torch.equal(one, other)


def gradients(y, mixer, *more):
    leaves = [*mixer.parameters(), *more]
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view_as(y)
    return torch.autograd.grad((y * weights).sum(), leaves, materialize_grads=True, retain_graph=True)


def assert_gradients_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert_equal_to_rounding(one, other, "gradient")


@everywhere
@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), min_size=1, max_size=3), seed=st.integers(0, 50))
def test_splitting_anywhere_changes_nothing(name, cuts, seed):
    mixer = make(name)
    torch.manual_seed(seed)
    x, reset = torch.randn(2, 9, WIDTH, dtype=torch.float64, requires_grad=True), torch.rand(2, 9) < 0.2
    whole, last = mixer(x, reset=reset)
    edges, state, pieces = [0, *sorted(cuts), 9], None, []
    for begin, end in itertools.pairwise(edges):
        y, state = mixer(x[:, begin:end], state, reset=reset[:, begin:end])
        pieces.append(y)
    split = torch.cat(pieces, dim=1)
    assert_equal_to_rounding(split, whole, "y")
    assert_states_equal(state, last)
    assert_gradients_equal(gradients(split, mixer, x), gradients(whole, mixer, x))


@everywhere
def test_step_by_step_equals_the_whole(name):
    mixer = make(name)
    x = torch.randn(2, 7, WIDTH, dtype=torch.float64)
    whole, last = mixer(x)
    state, steps = mixer.init_state(2), []
    for t in range(7):
        y, state = mixer(x[:, t : t + 1], state)
        steps.append(y)
    assert_equal_to_rounding(torch.cat(steps, dim=1), whole, "y")
    assert_states_equal(state, last)


@everywhere
@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_at_padded_steps_have_no_effect(name, backend, value):
    """Padding may be uninitialised memory."""
    mixer = make(name).float()
    x, mask, reset = torch.randn(3, 9, WIDTH), torch.ones(3, 9, dtype=torch.bool), torch.rand(3, 9) < 0.2
    mask[0, :4], mask[1, 6:] = False, False

    def results(padding):
        filled = x.masked_fill(~mask[..., None], padding).requires_grad_()
        with prefer("reference") if backend == "reference" else nullcontext():
            y, state = mixer(filled, mask=mask, reset=reset)
            gradients = torch.autograd.grad(y[mask].square().sum(), [filled, *mixer.parameters()], allow_unused=True)
        return [y[mask], *state_leaves(state), *(g for g in gradients if g is not None)]

    for got, expected in zip(results(value), results(0.0), strict=True):
        assert torch.equal(got, expected)


@everywhere
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_every_tensor_of_a_state_is_contiguous_and_owns_its_memory(name, backend):
    """A view of the outputs would keep the memory of all of them allocated as long as the state lives."""
    mixer = make(name).float()
    x, mask, reset = torch.randn(2, 19, WIDTH), torch.ones(2, 19, dtype=torch.bool), torch.rand(2, 19) < 0.2
    mask[0, :5] = False
    with prefer("reference") if backend == "reference" else nullcontext():
        states = [mixer(x)[1], mixer(x, mask=mask)[1], mixer(x, reset=reset)[1], mixer(x[:, 7:], mixer(x[:, :7])[1])[1]]
        states.append(mixer(x[:, :1], states[0])[1])
        with torch.no_grad():
            states += [mixer(x)[1], mixer(x[:, :1], states[0])[1]]
    for state in states:
        leaves = [leaf for leaf in state_leaves(state) if leaf.numel()]
        assert all(leaf.is_contiguous() for leaf in leaves)
        assert all(leaf.untyped_storage().nbytes() == leaf.numel() * leaf.element_size() for leaf in leaves)
        assert len({leaf.untyped_storage().data_ptr() for leaf in leaves}) == len(leaves)


@everywhere
@torch.no_grad()
def test_generation_is_as_accurate_as_the_whole_in_float32(name):
    """Without gradients a mixer may use a fused op for each step."""
    x = torch.randn(2, 7, WIDTH, dtype=torch.float64).float()
    mixer = make(name)
    exact, exact_last = mixer(x.double())
    mixer = mixer.float()
    with prefer("reference"):
        plain, plain_last = mixer(x)
    state, steps = None, []
    for t in range(7):
        y, state = mixer(x[:, t : t + 1], state)
        steps.append(y)
    assert_as_good_as(torch.cat(steps, dim=1), plain, exact, "y")
    for leaves in zip(*(state_leaves(comparable(s)) for s in (state, plain_last, exact_last)), strict=True):
        if leaves[0].is_floating_point():
            assert_as_good_as(*leaves, "state")


@pytest.mark.parametrize(
    ("name", "op"), [("m2rnn", "m2rnn_step"), ("mru best", "mru_step"), ("conv", "gated_conv_step")]
)
def test_the_fused_step_is_used_for_single_tokens_and_not_around_hooks(name, op, monkeypatch):
    mixer, calls = make(name), []
    module = sys.modules[type(mixer).__module__]
    ordinary = getattr(module, op)
    monkeypatch.setattr(module, op, lambda *a, **o: calls.append(op) or ordinary(*a, **o))
    x, real = torch.randn(2, 1, WIDTH, dtype=torch.float64), torch.ones(2, 1, dtype=torch.bool)
    expected, _ = mixer(x)
    with torch.no_grad():
        mixer(x, mask=real)
        mixer(x, reset=real)
        mixer(x.expand(2, 2, WIDTH))
        hooked = []
        with mixer.norm.register_forward_hook(lambda *_: hooked.append(True)):
            mixer(x)
        assert not calls
        assert hooked
        got, _ = mixer(x)
    assert len(calls) == 1
    assert_equal_to_rounding(got, expected, "y")


PADDINGS = {
    "left": [[0] * 4 + [1] * 4, [1] * 8, [0] * 7 + [1], [0] * 8],
    "right": [[1] * 4 + [0] * 4, [1] * 8, [1] + [0] * 7, [0] * 8],
    "anywhere": [[0, 1, 1, 0, 0, 1, 0, 1], [1, 0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0], [0] * 8],
}


@everywhere
@pytest.mark.parametrize("where", PADDINGS)
def test_padding_changes_nothing(name, where):
    mixer = make(name)
    real = torch.tensor(PADDINGS[where]).bool()
    x = torch.randn(4, 8, WIDTH, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(4, 8) < 0.25
    _, before = mixer(torch.randn(4, 3, WIDTH, dtype=torch.float64))
    y, after = mixer(x, before, mask=real, reset=reset)
    for b in range(4):
        row = slice(b, b + 1)
        own = map_state(lambda leaf, row=row: leaf[row], before)
        alone = x[row, real[b]].detach().requires_grad_()
        expected, last = mixer(alone, own, reset=reset[row, real[b]])
        assert_equal_to_rounding(y[row, real[b]], expected, "y")
        assert_states_equal(map_state(lambda leaf, row=row: leaf[row], after), last)
        if int(real[b].sum()):
            got = gradients(y[row, real[b]], mixer, x)
            assert_gradients_equal(got[:-1], gradients(expected, mixer))
            assert_equal_to_rounding(got[-1][row, real[b]], gradients(expected, mixer, alone)[-1], "dx")
            assert not got[-1][row, ~real[b]].any()


@everywhere
def test_a_padded_step_leaves_the_state_bit_for_bit(name):
    mixer = CONFIGS[name].make(WIDTH)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    _, before = mixer(torch.randn(2, 5, WIDTH))
    _, after = mixer(torch.randn(2, 3, WIDTH), before, mask=torch.zeros(2, 3, dtype=torch.bool))
    for one, other in zip(state_leaves(comparable(after)), state_leaves(comparable(before)), strict=True):
        assert torch.equal(one, other)


@everywhere
def test_packed_documents_do_not_affect_each_other(name):
    mixer = make(name)
    documents = [torch.randn(1, n, WIDTH, dtype=torch.float64, requires_grad=True) for n in (3, 1, 5)]
    packed = torch.cat(documents, dim=1)
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[0, [0, 3, 4]] = True
    y, state = mixer(packed, reset=reset)
    alone = [mixer(document) for document in documents]
    assert_equal_to_rounding(y, torch.cat([out for out, _ in alone], dim=1), "y")
    assert_states_equal(state, alone[-1][1])
    assert_gradients_equal(gradients(y, mixer), gradients(torch.cat([out for out, _ in alone], dim=1), mixer))
    leak = torch.autograd.grad(y[:, 4:].sum(), documents[:2], allow_unused=True, retain_graph=True)
    for g in leak:
        if g is not None:  # where log decays are summed over a chunk, differences of the sums are not exactly zero
            assert_equal_to_rounding(g, torch.zeros_like(g), "leak")


@everywhere
def test_an_empty_sequence_and_the_initial_state(name):
    mixer = CONFIGS[name].make(WIDTH)
    start = mixer.init_state(3)
    y, state = mixer(torch.zeros(3, 0, WIDTH), start)
    assert y.shape == (3, 0, WIDTH)
    x = torch.randn(3, 4, WIDTH)
    for got in (mixer(x, start)[0], mixer(x, state)[0]):
        torch.testing.assert_close(got, mixer(x)[0])


@everywhere
def test_states_stay_float32_under_autocast_and_train(name):
    mixer = CONFIGS[name].make(WIDTH)
    x = torch.randn(2, 6, WIDTH, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = mixer(x)
        again, _ = mixer(x, state)
    assert all(leaf.dtype != torch.bfloat16 for leaf in state_leaves(state))
    (y.float().sum() + again.float().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


@everywhere
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_mixer_in_half_precision(name, dtype):
    mixer = CONFIGS[name].make(WIDTH).to(dtype)
    x = torch.randn(2, 6, WIDTH, dtype=dtype)
    x[:, 2:4] = 0  # where keys come from one token, they have length 0
    y, state = mixer(x)
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert all(leaf.dtype != dtype for leaf in state_leaves(state))


@everywhere
def test_an_empty_batch(name):
    mixer = CONFIGS[name].make(WIDTH)
    y, _ = mixer(torch.zeros(0, 5, WIDTH, requires_grad=True))
    y.sum().backward()
    assert y.shape == (0, 5, WIDTH)


@everywhere
def test_state_bytes_equal_the_size_of_the_state(name):
    mixer = CONFIGS[name].make(WIDTH)
    for length in (1, 9):
        _, state = mixer(torch.randn(1, length, WIDTH))
        assert mixer.state_bytes(length) == sum(leaf.numel() * leaf.element_size() for leaf in state_leaves(state))


@everywhere
def test_wrong_inputs_are_refused(name):
    mixer = CONFIGS[name].make(WIDTH)
    with pytest.raises(ShapeError, match=r"x must be floating point \[B, T, 24\], got torch.float32 \[2, 3, 23\]"):
        mixer(torch.zeros(2, 3, 23))
    with pytest.raises(ShapeError, match=r"mask must be torch.bool \[2, 3\], got torch.float32 \[2, 3\]"):
        mixer(torch.zeros(2, 3, 24), mask=torch.ones(2, 3))


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_is_made_from_its_width_and_options(name):
    cls, fields = type(MIXERS[name]().make(64)), {field.name for field in dataclasses.fields(MIXERS[name])}
    options = {"heads": 8} if "heads" in fields else {}
    torch.manual_seed(0)
    mixer = cls(256, **options)
    torch.manual_seed(0)
    same = mixer.config.make(256)
    assert type(mixer.config) is MIXERS[name]
    assert options.items() <= vars(mixer.config).items()
    assert cls(256, mixer.config).config is same.config is mixer.config
    x = torch.randn(2, 3, 256)
    y, state = mixer(x)
    assert y.shape == x.shape
    assert torch.equal(y, same(x)[0])
    assert mixer(x, state)[0].shape == x.shape


def test_an_mru_made_from_options_has_a_state_that_fits_the_width():
    assert MRU(256, heads=8).order == 4  # 256/8 = 32 channels a head: 4 divides them, and 4² fits
    assert MRU(256, heads=4).config.state_size is None  # 64 channels are 8²
    assert MRU(256, heads=8, state_size=72, channels=264).order == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MRU(256, headz=8), "MRU: headz: unknown key; did you mean 'heads'"),
        (
            lambda: GRU(256, heads="two", gaet=True),
            "GRU: gaet: unknown key; did you mean 'gate'.; GRU: heads: expected a whole number, got 'two'",
        ),
        (lambda: M2RNN(256, heads=0), "M2RNN: heads: expected at least 1, got 0"),
        (lambda: MRU(14, heads=2), "state_size: expected heads times a perfect square, got 14 for 2 heads"),
        (lambda: MRU(256, MRUConfig(), heads=8), "MRU: expected a config or options, got a config and heads"),
        (lambda: MRU(MRUConfig(), 256), r"MRU: width: expected a whole number of at least 1, got MRUConfig\("),
        (lambda: MRU(0), "MRU: width: expected a whole number of at least 1, got 0"),
    ],
)
def test_wrong_widths_and_unknown_options_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", MIXERS)
def test_defaults_make_a_mixer(name):
    y, _ = MIXERS[name]().make(64)(torch.randn(1, 3, 64))
    assert y.shape == (1, 3, 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MRUConfig(heads=0), "heads: expected at least 1, got 0"),
        (
            lambda: MRUConfig(heads=4, state_size=72),
            "state_size: expected heads times a perfect square, got 72 for 4",
        ),
        (lambda: MRUConfig(heads=4).make(72), "state_size: expected heads times a perfect square, got 72 for 4 heads"),
        (lambda: MRUConfig(builder="lu"), "builder: expected one of reshape_identity, .*got 'lu'"),
        (lambda: MRUConfig(write=True), "rescale: expected false where write is true"),
        (lambda: MRUConfig(skip=True), "skip: expected false where write is false"),
        (lambda: MRUConfig(balanced=True, decay=True), "balanced: expected false without write and decay, got true"),
        (lambda: MRUConfig(input_std=0), "input_std: expected a positive number, got 0"),
        (lambda: M2RNNConfig(weight_bound=0), "weight_bound: expected a positive number, got 0"),
        (lambda: M2RNNConfig(weight_start=math.inf), "weight_start: expected a finite number, got inf"),
        (lambda: MRUConfig(heads=4, state_size=64).make(24), "mru: width must be a multiple of heads . D"),
        (lambda: M2RNNConfig(heads=8, key_heads=3), "key_heads: expected a divisor of 8, got 3"),
        (
            lambda: M2RNNConfig(heads=8, value_heads=4, forget_heads=4, weight_heads=4),
            "heads: expected the largest number of heads apart from gate_heads, got 8",
        ),
        (lambda: M2RNNConfig(grad_clip=-1.0), "grad_clip: expected a positive number, got -1.0"),
        (lambda: AttentionConfig(heads=5).make(24), "attention: width must be a multiple of heads = 5, got 24"),
        (
            lambda: AttentionConfig(heads=8, positions="rotary").make(24),
            "rotary positions need an even head size, got 3",
        ),
        (lambda: AttentionConfig(rotary_channels=4), "rotary_channels: expected with rotary positions only, got 4"),
        (
            lambda: AttentionConfig(positions="rotary", rotary_channels=3),
            "rotary_channels: expected a positive even number, got 3",
        ),
        (
            lambda: AttentionConfig(heads=4, positions="rotary", rotary_channels=8).make(24),
            "rotary_channels: expected at most the head size 6, got 8",
        ),
        (lambda: AttentionConfig(positions="learned"), "max_positions: expected with learned positions"),
        (lambda: RWKVChannelMixConfig(hidden=0), "hidden: expected at least 1, got 0"),
        (lambda: GatedConvConfig(conv=0), "conv: expected at least 1 step, got 0"),
        (lambda: GatedConvConfig(input_std=-1), "input_std: expected a positive number, got -1"),
        (lambda: MRUAttentionConfig(order=5, start="none").make(24), "order must divide the head size 6, got 5"),
        (lambda: MRUAttentionConfig(builder="householder"), "start: expected none for householder"),
        (lambda: MRUAttentionConfig(builder="lu", start="none"), "builder: expected one of .*cayley, .*, got 'lu'"),
        (lambda: MRUAttentionConfig(builder="ldu"), "start: expected none for ldu of order 4, got rotary"),
        (lambda: MRUAttentionConfig(start="foo"), "start: expected one of rotary, none, got 'foo'"),
        (lambda: AttentionConfig(positions="rope"), "positions: expected one of none, .*, got 'rope'"),
        *(
            (lambda kind=kind: kind(input_std=-1), "input_std: expected a positive number, got -1")
            for kind in (DeltaNetConfig, GLAConfig, LinearTransformerConfig, Mamba2Config, RetNetConfig)
        ),
        *(
            (lambda kind=kind: kind(depth=-1), "depth: expected a number from 0 to 1, got -1")
            for kind in (RWKV6Config, RWKV7Config, TransNormerConfig)
        ),
        (lambda: HGRN2Config(lower_bound=1.0), "lower_bound: expected a number from 0 to below 1, got 1.0"),
        (lambda: KDAConfig(rank=0, heads=0), "rank: expected at least 1, got 0"),
        (lambda: GLAConfig(temperature=math.inf), "temperature: expected a positive number, got inf"),
        (lambda: LinearTransformerConfig(heads=0), "heads: expected at least 1, got 0"),
        (lambda: RetNetConfig(key_size=5), "key_size: expected an even number, got 5"),
        (lambda: GLAConfig(temperature=0.0), "temperature: expected a positive number, got 0.0"),
        (lambda: Mamba2Config(heads=8, groups=3), "groups: expected a divisor of 8, got 3"),
        (lambda: Mamba2Config(heads=8, norm_groups=3), "norm_groups: expected a divisor of 8, got 3"),
        (lambda: KDAConfig(unit_eps=-1.0), "unit_eps: expected 0 or more, got -1.0"),
        (lambda: DeltaNetConfig(unit_eps=math.nan), "unit_eps: expected 0 or more, got nan"),
        (lambda: DeltaNetConfig(conv=-1), "conv: expected at least 0, got -1"),
        (lambda: GatedDeltaNetConfig(heads=4, key_heads=3), "key_heads: expected a divisor of 4, got 3"),
        (lambda: GatedDeltaProductConfig(micro_steps=0), "micro_steps: expected at least 1, got 0"),
        (lambda: RNNConfig(head_size=0), "head_size: expected at least 1, got 0"),
        (lambda: GRUConfig(heads=5).make(24), "gru: width must be a multiple of heads = 5, got 24"),
        (lambda: RGLRUConfig(channels=10, heads=4), "channels: expected a multiple of heads, got 10"),
        (lambda: RGLRUConfig(heads=5).make(24), "rg_lru: width must be a multiple of heads = 5, got 24"),
        (lambda: MinGRUConfig(channels=0), "channels: expected at least 1, got 0"),
        (lambda: LRUConfig(r_min=0.9, r_max=0.9), "expected 0 <= r_min < r_max <= 1, got 0.9 and 0.9"),
        (lambda: S5Config(states=10, blocks=4), "blocks: expected a divisor of states = 10, got 4"),
        (lambda: S5Config(blocks=5).make(24), "s5: width must be a multiple of blocks = 5, got 24"),
        (lambda: S5Config(step_min=0.2), "step_min: expected a positive number up to step_max = 0.1, got 0.2"),
        (lambda: LRUConfig(max_phase=7.0), "max_phase: expected a number above 0 and at most 2π, got 7.0"),
        (lambda: HGRNConfig(lower_bound=1.0), "lower_bound: expected a number from 0 to below 1, got 1.0"),
        (lambda: LSTMConfig(grad_clip=0.0), "grad_clip: expected a positive number, got 0.0"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_step_beyond_the_learned_positions_is_refused():
    mixer = AttentionConfig(positions="learned", max_positions=4).make(24)
    _, state = mixer(torch.zeros(1, 4, 24))
    with pytest.raises(ShapeError, match="the table has 4 positions, got a step at 4"):
        mixer(torch.zeros(1, 1, 24), state)
