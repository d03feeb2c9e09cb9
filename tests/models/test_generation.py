"""Generation: step by step equals the parallel forward, memory is constant, rows are independent, states resume."""

import dataclasses
import gc

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_models import hybrid, make

from matrixstate.errors import CheckpointError, ConfigError, DataError
from matrixstate.layers import MLPConfig
from matrixstate.mixers import AttentionConfig, GatedConvConfig, LRUConfig, M2RNNConfig, MRUConfig, RGLRUConfig
from matrixstate.models import (
    BlockConfig,
    Generation,
    LanguageModel,
    ModelConfig,
    Sampling,
    begin,
    fork,
    generate,
    load_state,
    save_state,
)
from matrixstate.models.generation import sample
from matrixstate.models.presets import M2RNN_BEST, MRU_BEST

MIXERS = {
    "mru source": MRUConfig(heads=4, state_size=64),
    "mru best": MRU_BEST,
    "m2rnn paper": M2RNNConfig(),
    "m2rnn best": M2RNN_BEST,
    "attention": AttentionConfig(positions="rotary"),
    "conv": GatedConvConfig(),
    "rg lru": RGLRUConfig(),
    "lru": LRUConfig(),
}


def small(mixer):
    torch.manual_seed(0)
    config = ModelConfig(64, (BlockConfig(mixer, MLPConfig(), repeat=2),), 31)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def rows(model, prompts, n, sampling=None, seed=0):
    return torch.stack(list(generate(model, prompts, n, sampling, seed)), dim=1).tolist()


@pytest.mark.parametrize("name", MIXERS)
@torch.no_grad()
def test_logits_token_by_token_are_those_of_the_parallel_forward(name):
    model, tokens = small(MIXERS[name]), torch.randint(31, (2, 40))
    whole, _ = model(tokens)
    state, steps = model.init_state(2), []
    for t in range(40):
        logits, state = model(tokens[:, t : t + 1], state)
        steps.append(logits)
    exact, _ = model.double()(tokens)
    error, rounding = (torch.cat(steps, dim=1) - whole).abs().max(), (whole.double() - exact).abs().max()
    assert error <= 4 * rounding + 1e-6


def test_greedy_decoding_takes_the_likeliest_token():
    model = make(hybrid())
    (got,) = rows(model, [[1, 2, 3]], 6, Sampling(temperature=0))
    tokens = [1, 2, 3]
    for _ in range(6):
        tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
    assert got == tokens[3:]


def test_rows_are_drawn_independently():
    model, prompts = make(hybrid()), [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    together = rows(model, prompts, 8, Sampling(temperature=0.9), seed=7)
    for i, prompt in enumerate(prompts):
        assert rows(model, [prompt], 8, Sampling(temperature=0.9), seed=7 + i) == [together[i]]


def test_a_long_prompt_is_read_in_chunks(monkeypatch):
    model, prompts = make(hybrid()), [torch.randint(17, (n,)).tolist() for n in (50, 23)]
    whole = rows(model, prompts, 4)
    monkeypatch.setattr("matrixstate.models.generation.PREFILL", 7)
    assert rows(model, prompts, 4) == whole


class _HeadOnCPU(torch.nn.Module):
    """Zero logits on the CPU for features on any device; records the devices."""

    def __init__(self):
        super().__init__()
        self.devices = set()

    def forward(self, features):
        self.devices.add(features.device.type)
        return torch.zeros(len(features), 31)


def test_all_inputs_of_the_model_are_on_its_device(tmp_path):
    """The device is "meta", which computes nothing; the convolution runs there, as it needs no autocast."""
    model = small(GatedConvConfig())
    first = Generation(model, begin(model, [[1, 2, 3], [4]]), Sampling())
    next(first)
    save_state(tmp_path / "s", first.saved(), "hash")
    model = model.to("meta")
    model.head = _HeadOnCPU()
    start = load_state(tmp_path / "s", model, "hash")
    assert {leaf.device.type for leaf in _tensors(start.state)} == {"meta"}
    resumed = Generation(model, dataclasses.replace(start, pending=[[5, 6], [7]]), Sampling())
    drawn = [next(resumed), next(resumed)]
    assert all(tokens.shape == (2,) and tokens.device.type == "cpu" for tokens in drawn)
    assert model.head.devices == {leaf.device.type for leaf in _tensors(resumed.saved().state)} == {"meta"}


def test_used_up_learned_positions_restart_from_the_last_half_of_the_tokens():
    model = make(hybrid(learned_positions=8))
    (got,) = rows(model, [[1, 2, 3]], 30, Sampling(temperature=0))
    assert len(got) == 30
    history, seen = [1, 2, 3], [1, 2, 3]
    for token in got[:12]:
        assert token == int(model(torch.tensor([seen]))[0][0, -1].argmax())
        history.append(token)
        seen = history[-4:] if len(seen) == 8 else [*seen, token]


@pytest.mark.parametrize("name", [name for name in MIXERS if name != "attention"])
@torch.no_grad()
def test_the_state_does_not_grow(name):
    model, state, sizes = small(MIXERS[name]), None, set()
    token = torch.zeros(1, 1, dtype=torch.int64)
    for _ in range(5):
        _, state = model(token, state)
        sizes.add(sum(t.numel() for t in _tensors(state)))
    assert len(sizes) == 1


def _tensors(state):
    from matrixstate.layers import state_leaves

    return state_leaves(state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mru source", "m2rnn paper"])
def test_ten_thousand_tokens_take_constant_memory(name):
    model, live = small(MIXERS[name]), []
    for i, _ in enumerate(generate(model, [[1]], 10_000, seed=1)):
        if i in (100, 9_999):
            gc.collect()
            live.append(sum(t.numel() for t in gc.get_objects() if type(t) is torch.Tensor))
    assert live[1] <= live[0]


def test_sampling_follows_its_options():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(4000, 4)
    generators = [torch.Generator().manual_seed(i) for i in range(4000)]

    def shares(**options):
        drawn = sample(logits, Sampling(**options), generators)
        return torch.bincount(drawn, minlength=4) / 4000

    torch.testing.assert_close(shares(), logits[0].softmax(0), atol=0.03, rtol=0)
    torch.testing.assert_close(shares(temperature=2.0), (logits[0] / 2).softmax(0), atol=0.03, rtol=0)
    assert shares(top_k=2)[:2].sum() == 0
    assert shares(top_p=0.6)[:3].sum() == 0  # the likeliest alone has 0.64
    assert shares(top_p=0.7)[:2].sum() == 0
    assert shares(top_p=0.7)[2] > 0.1
    assert shares(temperature=0)[3] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature: expected 0 or more, got -1"),
        ({"top_k": 0}, "top_k: expected at least 1, got 0"),
        ({"top_p": 0}, r"top_p: expected a number in \(0, 1\], got 0"),
    ],
)
def test_wrong_sampling_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("prompts", [[], [[1], []]], ids=str)
def test_an_empty_prompt_is_refused(prompts):
    with pytest.raises(DataError, match="prompts must hold at least one token each"):
        generate(make(hybrid()), prompts, 1)


@pytest.mark.parametrize("prompts", [torch.ones(1, 3, dtype=torch.int64), [torch.tensor([1])], [[torch.tensor(1)]]])
def test_tensors_for_prompts_are_refused(prompts):
    with pytest.raises(DataError, match=r"prompts must be lists of token numbers, got a tensor"):
        generate(make(hybrid()), prompts, 1)


def test_a_negative_number_of_tokens_is_refused():
    with pytest.raises(ConfigError, match="tokens: expected 0 or more, got -1"):
        generate(make(hybrid()), [[1]], -1)


@pytest.mark.parametrize("options", [{}, {"learned_positions": 12}], ids=str)
def test_a_resumed_generation_equals_an_uninterrupted_one(options, tmp_path):
    model = make(hybrid(**options))
    start = begin(model, [[1, 2, 3], [4]], seed=5)
    whole = [drawn.tolist() for drawn, _ in zip(Generation(model, start, Sampling()), range(20), strict=False)]
    first = Generation(model, begin(model, [[1, 2, 3], [4]], seed=5), Sampling())
    parts = [next(first).tolist() for _ in range(8)]
    save_state(tmp_path / "s", first.saved(), "abc")
    second = Generation(model, load_state(tmp_path / "s", model, "abc"), Sampling())
    parts += [next(second).tolist() for _ in range(12)]
    assert parts == whole


def test_a_state_file_does_not_grow_and_belongs_to_its_model(tmp_path):
    blocks = (BlockConfig(MRUConfig(heads=1, state_size=16), None), BlockConfig(M2RNNConfig(heads=2), None))
    model, sizes = make(ModelConfig(16, blocks, 17)), []
    generation = Generation(model, begin(model, [[1]]), Sampling())
    for _ in range(3):
        next(generation)
        save_state(tmp_path / "s", generation.saved(), "abc")
        sizes.append((tmp_path / "s").stat().st_size)
    assert len(set(sizes)) == 1
    with pytest.raises(CheckpointError, match="belongs to the model abc, got the model abd"):
        load_state(tmp_path / "s", model, "abd")
    with pytest.raises(CheckpointError, match="its tensors are not those of the model's state"):
        load_state(tmp_path / "s", make(hybrid()), "abc")
    content = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(content[:-3])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_state(tmp_path / "s", model, "abc")
    with pytest.raises(CheckpointError, match="cannot read .*none: No such file"):
        load_state(tmp_path / "none", model, "abc")


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        ("random/0", torch.zeros(3, dtype=torch.uint8), "random holds no state of a generator"),
        ("pending/0", torch.zeros(0, dtype=torch.int64), "pending/0 must hold at least one token"),
    ],
)
def test_a_damaged_state_file_is_refused(name, damaged, message, tmp_path):
    model = make(hybrid())
    generation = Generation(model, begin(model, [[1]]), Sampling())
    next(generation)
    save_state(tmp_path / "s", generation.saved(), "abc")
    with safe_open(tmp_path / "s", framework="pt") as file:
        about, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file({**tensors, name: damaged}, tmp_path / "s", metadata=about)
    with pytest.raises(CheckpointError, match=f"is damaged: {message}"):
        load_state(tmp_path / "s", model, "abc")


def test_a_state_of_one_text_can_be_forked(tmp_path):
    model = make(hybrid())
    one = begin(model, [[1, 2, 3]])
    three = fork(one, 3)
    greedy = Generation(model, three, Sampling(temperature=0))
    assert len(set(next(greedy).tolist())) == 1
    alone = Generation(model, one, Sampling())
    forks = Generation(model, fork(one, 3), Sampling())
    drawn = [(next(forks).tolist(), next(alone).tolist()) for _ in range(9)]
    texts = list(zip(*(tokens for tokens, _ in drawn), strict=True))
    assert len(set(texts)) == 3
    assert list(texts[0]) == [token for _, (token,) in drawn]
    with pytest.raises(CheckpointError, match="expected 3 prompts, one for each of its texts, got 2"):
        fork(three, 2)
