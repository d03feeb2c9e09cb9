"""The budget is met, or refused with a sentence."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import block, text_data

from matrixstate.comparison import make_suite
from matrixstate.comparison.suites.matching import BACKWARD, nearest_number
from matrixstate.comparison.suites.plan import make_plan
from matrixstate.errors import ConfigError
from matrixstate.models import count


@given(
    step=st.integers(1, 9),
    slope=st.floats(0.1, 100),
    target=st.floats(0.1, 1e6),
)
def test_the_nearest_number_is_that_of_a_search_through_all(step, slope, target):
    def measure(number):  # only every step-th number can be
        return slope * number if number % step == 0 else None

    best = max(1, round(target / slope / step)) * step
    assert abs(measure(nearest_number(measure, target)) - target) <= abs(measure(best) - target) * (1 + 1e-9)


def test_a_measure_with_invalid_numbers_is_matched():
    assert nearest_number(lambda n: n if math.isqrt(n) ** 2 == n else None, 4000) == 63**2
    with pytest.raises(ConfigError, match="from 1 to 1024, found none"):
        nearest_number(lambda n: None, 4000)


def plan(tmp_path, *assignments):
    return make_plan(make_suite(text_data(tmp_path), assignments))


def test_parameters_meet_the_budget(tmp_path):
    sizes = plan(tmp_path, "match={by: parameters, value: 9000, tolerance: 0.01}").sizes
    for size in sizes:
        assert size.varied == "blocks.*.mlp.hidden"
        assert abs(size.parameters - 9000) <= 90
        assert size.parameters == count(size.model, 16).parameters
        assert size.model.blocks[0].mlp.hidden == size.value
    assert sizes[0].value != sizes[1].value


def test_the_default_budget_is_that_of_the_control(tmp_path):
    conv, gru = plan(tmp_path, "match={by: parameters, tolerance: 0.05}", "control=gru").sizes
    assert gru.value == 8
    assert abs(conv.parameters - gru.parameters) <= 0.05 * gru.parameters


def test_state_bytes_meet_the_budget(tmp_path):
    mixer = "{kind: mru, heads: 2, state_size: 8, channels: 16}"
    conv, mru = plan(
        tmp_path,
        "match={by: state_bytes, value: 512, tolerance: 0.2}",
        f"models.1.model.blocks.0.mixer={mixer}",
        "models.1.vary=blocks.0.mixer.state_size",
        "models.0.vary=width",
    ).sizes
    assert mru.value == 128  # two heads of 8 x 8: the nearest of the sizes that are squares
    assert abs(mru.state_bytes - 512) <= 100
    assert conv.model.width == conv.value


def test_flops_set_the_steps(tmp_path):
    sizes = plan(tmp_path, "match={by: flops, value: 5e8, tolerance: 0.01}").sizes
    for size in sizes:
        assert size.flops == BACKWARD * size.flops_per_token * size.steps * 32
        assert abs(size.flops - 5e8) <= 5e6
    assert sizes[0].steps != sizes[1].steps


def test_wall_time_sets_the_steps(tmp_path):
    sizes = plan(tmp_path, "match={by: wall_time, value: 0.5}").sizes
    assert all(size.steps > 1 and size.varied == "steps" for size in sizes)


def test_the_controls_steps_stay_and_few_steps_that_miss_the_time_are_refused(tmp_path, monkeypatch):
    times = iter([1.0, 2.0, 4.0])  # of the control, and of whoever is timed after it
    monkeypatch.setattr("matrixstate.comparison.suites.matching.step_seconds", lambda model, shape: next(times))
    assert [size.steps for size in plan(tmp_path, "match={by: wall_time}").sizes] == [6, 3]
    monkeypatch.setattr("matrixstate.comparison.suites.matching.step_seconds", lambda model, shape: 0.4)
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, "match={by: wall_time, value: 1, tolerance: 0.1}")
    assert caught.value.problems == tuple(
        f"models: {name}: expected wall_time within 10.0% of 1 s, the nearest is 0.8 s (steps = 2)"
        for name in ("conv", "gru")
    )


def test_a_budget_that_cannot_be_met_is_refused_for_every_entry(tmp_path):
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, "match={by: parameters, value: 10}")
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("models: conv: expected parameters within 2.0% of 10, the nearest is ")
    with pytest.raises(ConfigError, match=r"models: conv: .*nothing may vary"):
        plan(tmp_path, "match={by: parameters, value: 10000}", "models.0.model.blocks=[conv: 1]".replace(
            "conv: 1", "{mixer: conv}"
        ))  # fmt: skip


def test_nothing_is_changed_without_a_budget(tmp_path):
    assert [(size.varied, size.steps, size.value) for size in plan(tmp_path).sizes] == [("nothing", 6, None)] * 2
    assert block()["mlp"] == {"hidden": 8}
