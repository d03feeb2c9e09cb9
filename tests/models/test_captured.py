"""Steps recorded as a graph: the work that a graph repeats, here repeated by the function that it records."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from test_generation import MIXERS, small

from matrixstate.layers import MLPConfig, MoEConfig, state_leaves
from matrixstate.mixers import AttentionConfig
from matrixstate.models import BlockConfig, Generation, LanguageModel, ModelConfig, Sampling, begin, generate
from matrixstate.models import generation as module
from matrixstate.models.captured import CapturedStep, can_be_captured

REPEAT = partial(CapturedStep, record=lambda work: work)
FIXED = [name for name in MIXERS if name != "attention"]


def on_a_gpu(model):
    return SimpleNamespace(device=torch.device("cuda"), modules=model.modules)


@pytest.mark.parametrize("name", FIXED)
@torch.no_grad()
def test_every_step_is_that_of_the_model(name):
    model, tokens = small(MIXERS[name]), torch.randint(31, (2, 9))
    _, state = model(tokens[:, :4])
    step = REPEAT(model, state)
    for t in range(4, 9):
        logits, state = model(tokens[:, t : t + 1], state)
        torch.testing.assert_close(step(tokens[:, t : t + 1]), logits[:, -1])
    for got, expected in zip(state_leaves(step.state), state_leaves(state), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", FIXED)
def test_generation_with_it_draws_the_same_tokens_and_saves_the_same_state(name, monkeypatch):
    model, prompts = small(MIXERS[name]), [[1, 2, 3], [4]]
    plain = Generation(model, begin(model, prompts), Sampling())
    expected = [next(plain) for _ in range(8)]
    monkeypatch.setattr(module, "can_be_captured", lambda model, *states: can_be_captured(on_a_gpu(model), *states))
    monkeypatch.setattr(module, "CapturedStep", REPEAT)
    captured = Generation(model, begin(model, prompts), Sampling())
    got = [next(captured) for _ in range(4)]
    saved = captured.saved()
    got += [next(captured) for _ in range(4)]
    assert captured._captured is not None
    assert torch.equal(torch.stack(got), torch.stack(expected))
    again = Generation(model, saved, Sampling())  # the steps after it did not change what was saved
    assert torch.equal(torch.stack([next(again) for _ in range(4)]), torch.stack(expected[4:]))


def test_learned_positions_that_are_used_up_end_a_graph(monkeypatch):
    torch.manual_seed(0)
    config = dataclasses.replace(small(MIXERS["mru best"]).config, learned_positions=6)
    model = LanguageModel(config).eval()
    expected = torch.stack(list(generate(model, [[1, 2]], 12)))
    monkeypatch.setattr(module, "can_be_captured", lambda model, *states: can_be_captured(on_a_gpu(model), *states))
    monkeypatch.setattr(module, "CapturedStep", REPEAT)
    assert torch.equal(torch.stack(list(generate(model, [[1, 2]], 12))), expected)


@torch.no_grad()
def test_what_a_graph_cannot_repeat_is_not_captured():
    def captured(mixer, tokens=1, mlp=None, where=on_a_gpu):
        torch.manual_seed(0)
        model = LanguageModel(ModelConfig(64, (BlockConfig(mixer, mlp or MLPConfig()),), 31)).eval()
        before = model(torch.ones(2, tokens, dtype=torch.int64))[1]
        return can_be_captured(where(model), before, model(torch.ones(2, 1, dtype=torch.int64), before)[1])

    assert captured(MIXERS["mru best"])
    assert not captured(MIXERS["mru best"], where=lambda model: model)  # there is no graph on a CPU
    assert not captured(MIXERS["mru best"], mlp=MoEConfig(experts=4))
    assert not captured(AttentionConfig(), tokens=9)
    assert captured(AttentionConfig(window=4), tokens=9)
    assert not captured(AttentionConfig(window=4), tokens=2)  # the window is not full yet
