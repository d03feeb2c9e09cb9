"""The thermometer measures the states exactly, and warns long before float32 overflows."""

import dataclasses
import json
import math

import pytest
import torch
from listeners import Memory
from small import small_config

from matrixstate.mixers import GatedConvConfig, M2RNNConfig, Mamba2Config, MRUConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.training import start, train
from matrixstate.training.session import Session
from matrixstate.training.stopping import Stop
from matrixstate.training.thermometer import EVERY, OverflowWatch, Reading, Thermometer


def model_of(*mixers):
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(16, tuple(BlockConfig(mixer, None) for mixer in mixers), 11))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def read(model, tokens):
    thermometer = Thermometer(model)
    assert thermometer.due(EVERY)
    _, state = model(tokens)
    return thermometer.read(state, tokens.shape[1]), state


def test_readings_agree_with_the_states():
    product = MRUConfig(heads=1, state_size=16, builder="ldu")
    model = model_of(
        product, dataclasses.replace(product, rescale=False, decay=True), M2RNNConfig(heads=4), GatedConvConfig()
    )
    (scaled, plain, m2rnn), state = read(model, torch.randint(11, (3, 20)))
    assert [scaled.layer, plain.layer, m2rnn.layer] == [0, 1, 2]
    matrix, exponent = state.blocks[0].scan
    whole = matrix * torch.exp2(exponent.float())[..., None, None]
    norms = torch.linalg.matrix_norm(whole).log().mean(dim=0)
    torch.testing.assert_close(torch.tensor(scaled.log_norm), norms)
    torch.testing.assert_close(torch.tensor(scaled.growth), (norms - math.log(2)) / 20)
    assert scaled.log_largest <= 0
    assert scaled.forget is None
    assert len(plain.forget) == 1
    assert 0 < plain.forget[0] < 1
    assert m2rnn.growth is None
    assert len(m2rnn.rank) == 4
    share = (state.blocks[2].scan.abs() > 0.9).float().mean(dim=(0, 2, 3))
    torch.testing.assert_close(torch.tensor(m2rnn.saturated), share)


def test_a_gate_in_log_space_is_recorded_as_a_factor():
    model = model_of(Mamba2Config(heads=2, key_size=3, value_size=5))
    ((reading,), state) = read(model, torch.randint(11, (2, 9)))
    assert len(reading.forget) == 2
    assert all(0 < share < 1 for share in reading.forget)
    norms = torch.linalg.matrix_norm(state.blocks[0].scan).log().mean(dim=0)
    torch.testing.assert_close(torch.tensor(reading.log_norm), norms)


def test_the_effective_rank_counts_equal_directions():
    model = model_of(MRUConfig(heads=1, state_size=16, builder="cayley"))
    ((reading,), _) = read(model, torch.randint(11, (2, 9)))
    assert reading.rank[0] == pytest.approx(4, abs=1e-4)
    assert reading.growth[0] == pytest.approx(0, abs=1e-6)


def test_gates_are_recorded_only_when_due():
    model = model_of(M2RNNConfig(heads=2))
    thermometer = Thermometer(model)
    for step in range(1, 31):
        due = thermometer.due(step)
        _, state = model(torch.randint(11, (1, 4)))
        assert (thermometer._gates[0].mean is not None) == due
        if due:
            thermometer.read(state, 4)
            thermometer._gates[0].mean = None
    assert due


def reading_of(log_largest):
    return Reading(2, (log_largest,), None, (1.0,), None, None, log_largest)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2, 0.4])
def test_a_growing_state_warns_a_hundred_steps_before_it_overflows(rate):
    watch, state, step, warned = OverflowWatch(), torch.ones(()), 0, None
    while state.isfinite():
        step += 1
        state = state * math.exp(rate)  # float32, until it is not finite
        if step % EVERY == 0 or step == 1:
            message = watch.check(step, [reading_of(float(state.log())), reading_of(-3.0)])
            if message and warned is None:
                warned = step
                assert message.startswith(f"step {step}: the state of layer 2 has reached 10^")
    assert warned is not None
    assert step - warned >= 100


def test_a_steady_state_never_warns():
    watch = OverflowWatch()
    torch.manual_seed(0)
    sizes = 3 + torch.randn(1000)
    assert not any(watch.check(step, [reading_of(float(size))]) for step, size in enumerate(sizes))


def test_a_real_run_whose_state_grows_warns_before_it_fails(tmp_path):
    """A plain product whose matrices are pushed away from the identity a little further at every step."""
    config = small_config(tmp_path, steps=1000, dropout=0.0, evaluate_every=1000, checkpoint_every=1000)
    blocks = (BlockConfig(MRUConfig(heads=1, state_size=16, builder="reshape_identity", rescale=False), None),)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, blocks=blocks))
    run, memory = start(tmp_path / "run", config), Memory()
    from matrixstate.errors import Diverged

    session, size = Session(run, [memory], False, Stop()), 0.0
    up = session.model.layers[0].mixer.up.weight
    first_overflow = None
    for step in range(1, 1001):
        size += 0.2
        session.optimizer.zero_grad()
        with torch.no_grad():
            session.model.embedding.weight.fill_(0)
            session.model.embedding.weight[:, 0] = 1
            up.zero_()
            up[0::5, 0] = size  # X = (1 + a multiple of size) I
        try:
            session.step()
        except Diverged:
            first_overflow = step
            break
    assert first_overflow is not None
    warned = int(memory.warnings[0].split()[1].rstrip(":"))
    assert "the state of layer 0 has reached" in memory.warnings[0]
    assert first_overflow - warned >= 100


def test_readings_are_in_the_metrics(tmp_path):
    run, memory = start(tmp_path / "run", small_config(tmp_path, steps=21)), Memory()
    train(run, [memory])
    lines = [line for line in run.metrics() if "states" in line]
    assert [line["step"] for line in lines] == [1, 10, 20] == [step for step, _ in memory.readings]
    (layer,) = lines[-1]["states"]
    assert layer["layer"] == 0
    assert len(layer["log_norm"]) == len(layer["rank"]) == len(layer["saturated"]) == len(layer["forget"]) == 2
    assert json.dumps(layer)
