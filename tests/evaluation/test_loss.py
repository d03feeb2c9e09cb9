"""The loss of a text: every token and byte counts, independent of window and batch."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from matrixstate.errors import ConfigError, DataError
from matrixstate.evaluation import text_loss
from matrixstate.layers import MLPConfig
from matrixstate.mixers import GatedConvConfig, M2RNNConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig

TEXT = "né " * 33  # 99 characters, 132 bytes
TOKENS = np.frombuffer(TEXT.encode("utf-8"), dtype=np.uint8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    blocks = (
        BlockConfig(M2RNNConfig(heads=2, key_size=3, value_size=5), None),
        BlockConfig(GatedConvConfig(), MLPConfig()),
    )
    model = LanguageModel(ModelConfig(12, blocks, 256)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def by_hand(model, starts):
    """The sum of the losses of all tokens, with the state reset at each of `starts`."""
    total = math.log(256)
    for begin, end in zip(starts, [*starts[1:], len(TOKENS) - 1], strict=True):
        window = torch.tensor(TOKENS[begin : end + 1].astype(np.int64))
        logits, _ = model(window[None, :-1])
        total += float(cross_entropy(logits[0], window[1:], reduction="sum"))
    return total


@pytest.mark.parametrize("window", [1, 7, 64, 131, 1000])
@pytest.mark.parametrize("batch", [1, 5])
def test_every_token_and_byte_counts_in_any_window(model, window, batch):
    loss = text_loss(model, TOKENS, TEXT, window=window, batch=batch)
    assert (loss.tokens, loss.bytes, loss.characters) == (132, 132, 99)
    assert loss.nats == pytest.approx(by_hand(model, list(range(0, 131, window))), rel=1e-6)
    assert loss.nats_per_token == pytest.approx(loss.nats / 132)
    assert loss.bits_per_byte == pytest.approx(loss.nats / math.log(2) / 132)
    assert loss.bits_per_character == pytest.approx(loss.nats / math.log(2) / 99)
    assert sum(part.tokens for part in loss.by_position) == 131
    total = sum(part.tokens * part.nats_per_token for part in loss.by_position)
    assert total == pytest.approx(loss.nats - math.log(256))


def test_with_a_carried_state_the_text_is_one_sequence(model):
    carried = text_loss(model, TOKENS, TEXT, window=10, carry=True)
    whole = text_loss(model, TOKENS, TEXT, window=131)
    assert carried.nats == pytest.approx(whole.nats, rel=1e-9)
    for one, other in zip(carried.by_position, whole.by_position, strict=True):
        assert one.nats_per_token == pytest.approx(other.nats_per_token)
    assert carried.nats != pytest.approx(text_loss(model, TOKENS, TEXT, window=10).nats, rel=1e-6)


def test_positions_are_grouped_by_doubling(model):
    loss = text_loss(model, TOKENS, TEXT, window=12)
    assert [(part.first, part.end) for part in loss.by_position] == [(0, 1), (1, 2), (2, 4), (4, 8), (8, 12)]
    assert loss.by_position[0].tokens == 11


def test_the_first_token_has_the_loss_of_a_uniform_guess(model):
    loss = text_loss(model, TOKENS[:1], "n", window=5)
    assert (loss.nats, loss.tokens, loss.bytes) == (pytest.approx(math.log(256)), 1, 1)
    assert loss.by_position == ()
    with pytest.raises(DataError, match="expected at least one token, got an empty text"):
        text_loss(model, TOKENS[:0], "", window=5)


def test_progress_ends_at_the_last_token(model):
    seen = []
    text_loss(model, TOKENS, TEXT, window=50, batch=2, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (131, 131)
    assert seen == sorted(seen)


def test_a_window_must_fit_learned_positions(model):
    limited = LanguageModel(dataclasses.replace(model.config, learned_positions=8))
    text_loss(limited, TOKENS, TEXT, window=8)
    for options in ({"window": 9}, {"window": 4, "carry": True}, {"window": 0}):
        with pytest.raises(ConfigError, match="window must be 1 or more to 8, the learned positions"):
            text_loss(limited, TOKENS, TEXT, **options)


def test_the_standard_error_is_that_of_the_full_windows(model):
    loss = text_loss(model, TOKENS, TEXT, window=10, batch=3)
    with torch.no_grad():
        rows = torch.tensor(np.stack([TOKENS[s : s + 11] for s in range(0, 130, 10)]).astype(np.int64))
        logits, _ = model(rows[:, :-1])
        means = cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(13, 10).mean(dim=1)
    assert loss.standard_error == pytest.approx(float(means.std()) / 13**0.5, rel=1e-5)
    assert text_loss(model, TOKENS, TEXT, window=100).standard_error is None  # a single full window
    assert text_loss(model, TOKENS, TEXT, window=10, carry=True).standard_error is None
