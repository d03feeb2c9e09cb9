"""Inspection of states: the traces equal the states, and the figures are drawn."""

import json
import math

import pytest
import torch

from matrixstate.errors import DataError
from matrixstate.evaluation.equivalence import example_model
from matrixstate.evaluation.inspection import inspect_states
from matrixstate.evaluation.portrait import draw_portrait
from matrixstate.mixers import GatedConvConfig, GatedDeltaNetConfig, M2RNNConfig, Mamba2Config, MRUConfig
from matrixstate.models import BlockConfig, ModelConfig

SCALED = MRUConfig(heads=1, state_size=16, builder="ldu")
AFFINE = MRUConfig(heads=1, state_size=16, builder="cayley", rescale=False, readout="state", write=True, decay=True)


@pytest.fixture
def model():
    mixers = (SCALED, GatedConvConfig(), AFFINE, M2RNNConfig(heads=4, key_size=3, value_size=5))
    return example_model(ModelConfig(16, tuple(BlockConfig(mixer, None) for mixer in mixers), 13))


def test_traces_equal_the_states(model):
    tokens = torch.randint(13, (12,))
    found = inspect_states(model, tokens, dropped=4)
    assert [(trace.layer, trace.mixer) for trace in found.layers] == [(0, "MRU"), (2, "MRU"), (3, "M2RNN")]
    scaled, affine, m2rnn = found.layers
    with torch.no_grad():
        _, state = model(tokens[None, :8])
    matrix, exponent = state.blocks[0].scan
    norm = torch.linalg.matrix_norm(matrix)[0]
    torch.testing.assert_close(scaled.log_norm[7], norm.log() + exponent[0] * math.log(2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled.states[7], matrix[0] * (2 / norm)[:, None, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(affine.states[7], state.blocks[2].scan[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(m2rnn.states[7], state.blocks[3].scan[0], rtol=1e-4, atol=1e-5)
    difference = torch.linalg.matrix_norm(m2rnn.states[7] - m2rnn.states[6])
    torch.testing.assert_close(m2rnn.change[7], difference / torch.linalg.matrix_norm(m2rnn.states[7]))
    assert scaled.forget is None
    assert affine.forget.shape == (12, 1)
    assert m2rnn.forget.shape == (12, 4)
    assert ((m2rnn.rank >= 1 - 1e-5) & (m2rnn.rank <= 3 + 1e-5)).all()
    torch.testing.assert_close(m2rnn.singular[7], torch.linalg.svdvals(m2rnn.states[7]))


@pytest.mark.parametrize("mixer", [GatedDeltaNetConfig(heads=2, key_size=3, value_size=5), Mamba2Config(heads=2)])
def test_forget_gates_in_log_space_are_recorded_as_factors(mixer):
    model = example_model(ModelConfig(16, (BlockConfig(mixer, None),), 13))
    (trace,) = inspect_states(model, torch.randint(13, (5,))).layers
    assert trace.forget.shape == (5, 2)
    assert ((trace.forget > 0) & (trace.forget < 1)).all()


def test_a_dropped_token_changes_only_later_states(model):
    tokens = torch.randint(13, (12,))
    found = inspect_states(model, tokens, dropped=4)
    for trace in found.layers:
        assert not trace.memory[:4].any()
        assert (trace.memory[4:] > 0).all()
    kept = torch.cat([tokens[:4], tokens[5:]])
    with torch.no_grad():
        _, without = model(kept[None])
    last = without.blocks[3].scan[0]
    states = found.layers[2].states[-1]
    expected = torch.linalg.matrix_norm(states - last) / torch.linalg.matrix_norm(states)
    torch.testing.assert_close(found.layers[2].memory[-1], expected, rtol=1e-4, atol=1e-5)


def test_plain_data_and_figures(model, tmp_path):
    found = inspect_states(model, torch.randint(13, (12,)))
    data = json.loads(json.dumps(found.data()))
    assert 3 <= data["dropped"] < 12
    assert len(data["layers"][2]["singular"]) == 12
    for i in range(3):
        draw_portrait(found, i, list("abc d\n$_^efg"), tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 20_000


def test_wrong_texts_and_models_are_refused(model):
    with pytest.raises(DataError, match="expected 2 to 4096 tokens, got 1"):
        inspect_states(model, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(DataError, match="the token must be 0 to 4, got 5"):
        inspect_states(model, torch.zeros(5, dtype=torch.int64), dropped=5)
    plain = example_model(ModelConfig(16, (BlockConfig(GatedConvConfig(), None),), 13))
    with pytest.raises(DataError, match="expected a model with a matrix state"):
        inspect_states(plain, torch.zeros(5, dtype=torch.int64))
