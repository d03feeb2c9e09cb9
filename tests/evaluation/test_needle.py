"""The needle in a haystack: a model that copies finds every needle, one that guesses as many as by chance."""

import json

import numpy as np
import pytest
import torch
from small import TEXT, small_config
from torch import nn

from matrixstate.cli.__main__ import main
from matrixstate.data.tokenizers import ByteTokenizer, CharacterTokenizer
from matrixstate.errors import ConfigError, DataError
from matrixstate.evaluation import needle
from matrixstate.evaluation.needle import find_needles
from matrixstate.mixers import GRUConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.training import start, train

BYTES = ByteTokenizer()
HAYSTACK = np.frombuffer(TEXT.encode() * 3, dtype=np.uint8)


class Copier(nn.Module):
    """Predicts the byte that followed the last earlier occurrence of the last ten bytes, among the last `context`."""

    device = torch.device("cpu")
    max_positions = None

    def __init__(self, context=10**9):
        super().__init__()
        self.context, self.widest = context, 0
        self.head = nn.Identity()

    def features(self, tokens, state=None):
        self.widest = max(self.widest, tokens.shape[1])
        seen, rows = list(state or []), []
        for token in tokens[0].tolist():
            seen.append(token)
            rows.append(self._next(bytes(seen[-self.context :])))
        return nn.functional.one_hot(torch.tensor([rows]), 256).float() * 20, tuple(seen)

    def forward(self, tokens, state=None):
        return self.features(tokens, state)

    def _next(self, seen):
        place = seen.rfind(seen[-10:], 0, len(seen) - 1)
        return seen[place + 10] if 0 <= place < len(seen) - 10 else 0


def find(model, **options):
    options = {"lengths": (120, 300), "depths": (0.0, 0.5, 1.0), "trials": 4, **options}
    return find_needles(model, BYTES, HAYSTACK, **options)


def test_a_model_that_copies_finds_every_needle(monkeypatch):
    monkeypatch.setattr(needle, "CHUNK", 50)
    model, seen = Copier(), []
    grid = find(model, progress=lambda done, total: seen.append((done, total)))
    assert grid.preferred.shape == grid.exact.shape == (2, 3)
    assert (grid.preferred == 1).all()
    assert (grid.exact == 1).all()
    assert grid.chance == 0.1
    assert model.widest == 50
    assert seen[-1] == (24, 24)
    assert json.loads(json.dumps(grid.data()))["preferred"] == [[1.0] * 3] * 2


def test_a_model_with_a_short_context_finds_only_near_needles():
    grid = find(Copier(context=150), lengths=(600,))
    assert grid.exact.tolist() == [[0, 0, 1]]


def test_an_untrained_model_finds_as_many_as_by_chance():
    model = LanguageModel(ModelConfig(8, (BlockConfig(GRUConfig(), None),), vocabulary=256))
    grid = find(model, lengths=(100,), depths=(0.5,), trials=100, choices=2)
    assert 0.3 < grid.preferred[0, 0] < 0.7
    assert grid.exact[0, 0] == 0
    again = find(model, lengths=(100,), depths=(0.5,), trials=100, choices=2)
    assert again.data() == grid.data()


def test_equal_scores_count_as_not_found():
    model = LanguageModel(ModelConfig(8, (BlockConfig(GRUConfig(), None),), vocabulary=256))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0)
    assert find(model, lengths=(100,), depths=(0.5,), trials=4).preferred[0, 0] == 0


def test_the_prompt_contains_text_needle_and_question(monkeypatch):
    prompts = []
    plain = needle._read
    monkeypatch.setattr(needle, "_read", lambda model, tokens: prompts.append(tokens) or plain(model, tokens))
    find(Copier(), lengths=(200,), depths=(0.0, 0.25, 1.0), trials=2)
    for prompt, depth in zip(prompts, (0, 0, 0.25, 0.25, 1, 1), strict=True):
        assert prompt.shape == (1, 200)
        text = BYTES.decode(prompt[0].tolist())
        question = text[text.rindex("\nThe secret") :]
        assert text.count(question) == 2
        place = text.index(question)
        sentence = text[place : place + len(question) + 6]
        assert sentence[-6] == " "
        assert sentence[-5:-1].isdigit()
        assert sentence[-1] == "."
        assert place == round(depth * (200 - len(sentence) - len(question)))
        assert (text[:place] + text[place + len(sentence) : -len(question)]) in TEXT * 3


def test_prompts_contain_known_characters_only():
    tokenizer = CharacterTokenizer("abcdehnorst .")
    texts = needle._Texts(tokenizer)
    assert texts.symbols == "abcdehnorst"
    question, values = texts.draw(np.random.default_rng(0), 10)
    assert tokenizer.decode(question).startswith("he secret n")
    assert len({tuple(value) for value in values}) == 10
    two = needle._Texts(CharacterTokenizer("01"))
    assert len(two.draw(np.random.default_rng(0), 10)[1][0]) == 5
    with pytest.raises(DataError, match="a tokenizer that knows two digits or two letters"):
        needle._Texts(CharacterTokenizer("0?"))


def test_all_wrong_options_are_reported_at_once():
    with pytest.raises(ConfigError) as raised:
        find(Copier(), lengths=(20,), depths=(-1.0,), trials=0, choices=1)
    assert [problem.split(":")[0] for problem in raised.value.problems] == ["lengths", "depths", "trials", "choices"]
    with pytest.raises(DataError, match=rf"a text of at least 99999 tokens, got {len(HAYSTACK)}"):
        find(Copier(), lengths=(99_999,))
    limited = Copier()
    limited.max_positions = 200
    with pytest.raises(ConfigError, match="lengths: expected at most 184, the model's positions, got \\(300,\\)"):
        find(limited, lengths=(300,))


def test_the_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    config = small_config(tmp_path, steps=2)
    train(start(tmp_path / "run", config))
    run = ["needle", str(tmp_path / "run"), "--lengths", "90", "150", "--depths", "0", "1", "--trials", "2"]
    assert main(run) == 0
    out = capsys.readouterr().out
    assert "preferred: of 10 numbers, where chance is 10%" in out
    assert (tmp_path / "run" / "needle.png").read_bytes()[:4] == b"\x89PNG"
    assert main([*run, "--json", "--text", config.data.files[0]]) == 0
    assert json.loads(capsys.readouterr().out)["lengths"] == [90, 150]
    assert main([*run[:2], "--lengths", "5"]) == 1
    assert "lengths: expected at least" in capsys.readouterr().err
