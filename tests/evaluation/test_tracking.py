"""State tracking: the accuracy at every length from one pass in chunks."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from matrixstate.data.tasks import (
    CycleNavigationConfig,
    InductionHeadsConfig,
    ModularArithmeticConfig,
    MQARConfig,
    ParityConfig,
    WordProblemConfig,
    group,
)
from matrixstate.errors import ConfigError
from matrixstate.evaluation import tracking
from matrixstate.evaluation.tracking import HELD_OUT, Tracking, track
from matrixstate.mixers import GRUConfig, MRUConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig

S3 = WordProblemConfig("S3")


class Oracle(nn.Module):
    """Answers with the product in S3 at the first `known` steps of every sequence, and with another element after."""

    device = torch.device("cpu")

    def __init__(self, known):
        super().__init__()
        self.config, self.blocks, self.known = SimpleNamespace(width=8, vocabulary=6), [None], known

    def init_state(self, batch):
        return torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64)

    def forward(self, tokens, state=None):
        product, position = state or self.init_state(len(tokens))
        table, answers = torch.from_numpy(group("S3").table), []
        for token in tokens.T:
            product = table[product, token]
            answers.append((product + (position >= self.known)) % 6)
            position = position + 1
        return nn.functional.one_hot(torch.stack(answers, dim=1), 6).float(), (product, position)


class Constant(nn.Module):
    """Always answers 1."""

    device = torch.device("cpu")

    def __init__(self, vocabulary):
        super().__init__()
        self.config, self.blocks = SimpleNamespace(width=8, vocabulary=vocabulary), [None]

    def init_state(self, batch):
        return torch.zeros(batch)

    def forward(self, tokens, state=None):
        return torch.eye(self.config.vocabulary)[torch.ones_like(tokens)], torch.zeros(len(tokens))


def tiny(mixer, vocabulary):
    return LanguageModel(ModelConfig(16, (BlockConfig(mixer, None),), vocabulary=vocabulary))


def table(right, asked, whole, prefix=True, sequences=4):
    return Tracking(prefix, sequences, *(np.array(a, dtype=np.int64) for a in (right, asked, whole)))


def test_the_measures_of_a_table_made_by_hand():
    found = table([4, 4, 4, 3, 4, 4, 3, 2] * 2, [4] * 16, [4, 4, 4, 3, 3, 3, 2, 2] + [1] * 8)
    assert found.length == 16
    assert found.token_accuracy(8) == 28 / 32
    assert found.token_accuracy(3) == 1
    assert found.tail_accuracy(8) == 2 / 4
    assert found.tail_accuracy(16) == 5 / 8
    assert found.all_correct(3) == 1
    assert found.all_correct(8) == 2 / 4
    assert found.lengths() == [*range(1, 14), 15, 16]
    assert found.horizon(1) == 3
    assert found.horizon(0.75) == 7
    assert found.horizon(0.5) == 16
    assert found.horizon(0.25) == 16
    assert table([0] * 4, [4] * 4, [0] * 4).horizon(0.5) == 0


def test_steps_without_a_question_do_not_count():
    found = table([4, 0, 4, 0, 2, 0], [4, 0, 4, 0, 4, 0], [4, 4, 4, 4, 2, 2])
    assert found.token_accuracy(6) == 10 / 12
    assert found.tail_accuracy(2) != found.tail_accuracy(2)
    assert found.horizon(0.9) == 3
    assert [point for point in found.curve() if point[1] != point[1]] == []
    assert [length for length, _ in found.curve()] == [1, 3, 5]


def test_a_table_is_restored_from_its_data():
    found = track(Oracle(5), S3, (8,), sequences=3)
    again = Tracking.from_data(found.data())
    assert again.data() == found.data()
    assert again.horizon(1) == 5


@pytest.mark.parametrize("known", [0, 1, 5, 29, 100])
@pytest.mark.parametrize("chunk", [16, 10**9])
def test_a_model_that_is_right_up_to_a_length(known, chunk, monkeypatch):
    monkeypatch.setattr(tracking, "CHUNK_NUMBERS", chunk)
    seen = []
    found = track(Oracle(known), S3, (7, 100), sequences=5, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(found.asked, 5)
    np.testing.assert_array_equal(found.right, 5 * (np.arange(100) < known))
    np.testing.assert_array_equal(found.whole, 5 * (np.arange(100) < known))
    assert found.token_accuracy(100) == known / 100
    assert found.horizon(1) == max((n for n in found.lengths() if n <= known), default=0)
    assert seen[-1] == (100, 100)
    assert len(seen) == (7 if chunk == 16 else 1)


def test_whole_sequences_are_those_without_an_error_so_far():
    model = Oracle(0)
    model.known = torch.tensor([3, 10, 50])
    found = track(model, S3, (20,), sequences=3)
    np.testing.assert_array_equal(found.whole, [3] * 3 + [2] * 7 + [1] * 10)
    np.testing.assert_array_equal(found.right, found.whole)


@pytest.mark.parametrize("mixer", [GRUConfig(conv=0), GRUConfig(), MRUConfig(heads=1, state_size=16)], ids=str)
def test_chunks_give_what_one_pass_gives(mixer, monkeypatch):
    model = tiny(mixer, 6)
    nn.init.normal_(model.embedding.weight)
    once = track(model, S3, (50,), sequences=9)
    monkeypatch.setattr(tracking, "CHUNK_NUMBERS", 1)
    assert track(model, S3, (50,), sequences=9).data() == once.data()
    tokens, targets = S3.at(0, HELD_OUT, 9, 50)
    answers = model(tokens)[0].argmax(-1)
    np.testing.assert_array_equal(once.right, (answers == targets).sum(0).numpy())


def test_tasks_whose_prefixes_are_not_sequences_are_measured_at_every_length():
    task, lengths = InductionHeadsConfig(symbols=4), (3, 20, 6, 6)
    found = track(Constant(4), task, lengths, sequences=50)
    assert found.lengths() == [3, 6, 20]
    assert found.asked.sum() == 150
    for length in (3, 6, 20):
        _, targets = task.at(0, HELD_OUT, 50, length)
        ones = int((targets == 1).sum())
        assert found.right[length - 1] == ones
        assert found.token_accuracy(length) == found.tail_accuracy(length) == ones / 50
        assert found.all_correct(length) == ones / 50
    assert [length for length, _ in found.curve()] == [3, 6, 20]
    several = track(Constant(16), MQARConfig(symbols=16, pairs=3), (16, 30), sequences=4)
    assert several.asked[[15, 29]].tolist() == [12, 12]
    assert several.whole[[15, 29]].tolist() == [0, 0]


@pytest.mark.parametrize("task", [ParityConfig(last_only=True), CycleNavigationConfig(3, last_only=True)], ids=str)
def test_a_task_with_last_only_is_asked_at_every_step(task):
    found = track(Constant(task.vocabulary), task, (40,), sequences=10)
    np.testing.assert_array_equal(found.asked, 10)


def test_modular_arithmetic_has_no_answer_after_an_operator():
    found = track(Constant(8), ModularArithmeticConfig(), (9,), sequences=10)
    assert found.asked.tolist() == [10, 0] * 4 + [10]
    assert found.data()["right"][1::2] == [0] * 4


def test_the_seed_chooses_sequences_that_no_training_step_has():
    model = tiny(GRUConfig(conv=0), 6)
    same, other = (track(model, S3, (64,), sequences=8, seed=seed).data() for seed in (0, 1))
    assert track(model, S3, (64,), sequences=8).data() == same != other
    assert not any(torch.equal(S3.at(0, HELD_OUT, 8, 8)[0], S3.at(0, step, 8, 8)[0]) for step in range(50))


@pytest.mark.parametrize(("lengths", "sequences"), [((), 1), ((0,), 1), ((4,), 0), ((4, -1), 3)])
def test_no_lengths_or_sequences_are_refused(lengths, sequences):
    with pytest.raises(ConfigError, match="track: expected lengths and sequences of at least 1"):
        track(Oracle(3), S3, lengths, sequences=sequences)


@pytest.mark.slow
def test_long_sequences_are_read_in_chunks(monkeypatch):
    monkeypatch.setattr(tracking, "CHUNK_NUMBERS", 2**16)
    model, widest = tiny(MRUConfig(heads=1, state_size=4), 2), 0
    inner = model.forward

    def watched(tokens, state=None):
        nonlocal widest
        widest = max(widest, tokens.shape[1])
        return inner(tokens, state)

    model.forward = watched
    tracemalloc.start()
    found = track(model, ParityConfig(), (65_536,), sequences=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.length == 65_536
    assert (found.asked == 2).all()
    assert widest <= 512
    assert peak < 64e6  # NumPy's; the sequences themselves take 2 MB
