"""Training: exact resumption, what the optimizer does, and runs that say what is wrong with them."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import small_config

from matrixstate.cli.resume import accept_changes
from matrixstate.errors import ConfigError, DataError
from matrixstate.mixers import S4DConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.training import Run, TextTrainingConfig, runtime, start, train
from matrixstate.training.checkpoint import find_checkpoint, list_checkpoints
from matrixstate.training.optimizer import RateConfig, decayed_parameters, learning_rate, make_optimizer


def losses(run):
    return {line["step"]: line["loss"] for line in run.metrics() if "loss" in line}


def final_weights(run):
    return load_file(find_checkpoint(run.checkpoints)[0] / "model.safetensors")


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"precision": "bfloat16"}], ids=str)
def test_a_resumed_training_equals_one_that_never_stopped_bit_for_bit(options, tmp_path):
    config = small_config(tmp_path, **options)
    whole, parts = start(tmp_path / "whole", config), start(tmp_path / "parts", config)
    expected = train(whole)
    for resume, steps in ((False, 3), (True, 1), (True, None)):
        torch.manual_seed(99)  # whatever happened in between
        outcome = train(parts, resume=resume, stop_after=steps)
    assert outcome.step == expected.step == 12
    assert losses(parts) == losses(whole)
    assert len(losses(parts)) == 12
    one, other = final_weights(parts), final_weights(whole)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert outcome.validation.nats == expected.validation.nats


def test_resuming_after_a_crash_repeats_the_lost_steps(tmp_path):
    run = start(tmp_path / "run", small_config(tmp_path))
    train(run)
    expected = losses(run)
    for path in list_checkpoints(run.checkpoints):
        if path.name > "step-00000010":
            path.rename(path.with_name(".lost"))
    train(run, resume=True)
    assert losses(run) == expected


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(tmp_path):
    config = small_config(tmp_path, steps=3)
    runs = [
        start(tmp_path / name, dataclasses.replace(config, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    for run in runs:
        train(run)
    first, second, third = map(losses, runs)
    assert first == second
    assert first != third


def test_a_small_model_learns_a_repetitive_text(tmp_path):
    run = start(tmp_path / "run", small_config(tmp_path, steps=80, dropout=0.0, learning_rate=5e-3))
    outcome = train(run)
    assert outcome.validation.nats_per_token < 0.5 * losses(run)[1]
    evaluated = [line["step"] for line in run.metrics() if "validation_loss" in line]
    assert evaluated == [*range(4, 80, 4), 80]
    assert json.loads((run.directory / "status.json").read_text())["status"] == "done"


def test_accumulation_does_not_change_the_step(tmp_path):
    finals = []
    for i, parts in enumerate((1, 2, 4)):
        run = start(tmp_path / str(i), small_config(tmp_path, steps=4, dropout=0.0, accumulate=parts))
        train(run)
        finals.append(final_weights(run))
    for other in finals[1:]:
        for name in other:
            torch.testing.assert_close(other[name], finals[0][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "precision": "bfloat16"}], ids=str)
def test_recomputation_changes_no_bit_of_a_training(options, tmp_path):
    kept, again = (
        start(tmp_path / recompute, small_config(tmp_path, recompute=recompute, **options))
        for recompute in ("none", "blocks")
    )
    train(kept)
    train(again, stop_after=5)
    assert accept_changes(again, kept.config, ("training.recompute",)).config == kept.config  # may change in a run
    train(again, resume=True)
    assert losses(kept) == losses(again)
    one, other = final_weights(kept), final_weights(again)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [m["states"] for m in kept.metrics() if "states" in m] == [
        m["states"] for m in again.metrics() if "states" in m
    ]


def test_a_run_records_how_it_was_made(tmp_path):
    run = start(tmp_path / "run", small_config(tmp_path))
    again = Run.open(tmp_path / "run")
    assert again.config == run.config
    assert again.config.model.vocabulary == len(set(Path(run.config.data.files[0]).read_text()))
    about = json.loads((run.directory / "environment.json").read_text())
    assert about["packages"]["torch"] == torch.__version__
    assert about["threads"] == torch.get_num_threads()
    assert set(about["backends"]) >= {"matrix_scan", "m2rnn_scan"}


def test_a_run_directory_is_never_overwritten(tmp_path):
    config = small_config(tmp_path)
    start(tmp_path / "run", config)
    with pytest.raises(ConfigError, match="expected a new or empty directory, got .*run with files in it; resume it"):
        start(tmp_path / "run", config)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="out: cannot write .*file: Not a directory"):
        start(tmp_path / "file", config)


def test_nothing_is_written_for_a_text_that_does_not_fit(tmp_path):
    config = small_config(tmp_path, sequence=10_000)
    with pytest.raises(DataError, match="sequence must be shorter than the training text"):
        start(tmp_path / "run", config)
    model = dataclasses.replace(config.model, vocabulary=5)
    with pytest.raises(ConfigError, match=r"model.vocabulary: expected at least \d+, the tokenizer's, got 5"):
        start(tmp_path / "run", dataclasses.replace(config, model=model))
    assert not (tmp_path / "run").exists()


def test_weight_decay_acts_on_matrices_only(tmp_path):
    config = small_config(tmp_path)
    model = LanguageModel(dataclasses.replace(config.model, vocabulary=9))
    decayed = decayed_parameters(model)
    exempt = {name for name, _ in model.named_parameters()} - decayed
    assert {name.rsplit(".", 2)[-2] for name in decayed} == {"embedding", "input", "output", "gate"}
    assert {"blocks.0.mixer.weight", "blocks.0.mixer.forget_gate.A_log", "blocks.0.mixer.conv.weight"} <= exempt
    assert {"blocks.0.mixer_norm.weight", "blocks.0.mixer.norm.weight", "blocks.0.mixer.residual"} <= exempt
    groups = make_optimizer(model, config.training).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_parameters_that_are_replaced_stay_without_weight_decay(tmp_path):
    config = dataclasses.replace(small_config(tmp_path).model, vocabulary=9)
    model, other = LanguageModel(config), LanguageModel(config)
    other.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    with torch.device("meta"):
        empty = LanguageModel(config).to_empty(device="cpu")
    for changed in (copy.deepcopy(model), other, empty):
        names = decayed_parameters(changed) - {"head.weight"}  # is the embedding's, unless PyTorch has parted them
        assert names == decayed_parameters(model)


def test_a_rate_applies_to_the_parameters_that_it_names(tmp_path):
    def trained(name, **options):
        run = start(tmp_path / name, small_config(tmp_path, steps=6, **options))
        train(run)
        return final_weights(run)

    frozen, once = RateConfig("*.mixer.weight", 0.0), RateConfig("*.mixer.weight", 1.0)
    plain, same = trained("plain"), trained("same", rates=(once, frozen))  # the first that matches applies
    held, begin = trained("held", rates=(frozen,)), trained("begin", rates=(RateConfig("*", 0.0),))
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert {name for name in begin if torch.equal(begin[name], held[name])} == {"blocks.0.mixer.weight"}


def test_modules_bound_the_learning_rate_of_their_parameters(tmp_path):
    model = LanguageModel(ModelConfig(16, (BlockConfig(S4DConfig(states=2)),), 9))

    def factors(rate, *rates):
        options = dataclasses.replace(small_config(tmp_path).training, learning_rate=rate, rates=rates)
        found = {id(p): g["factor"] for g in make_optimizer(model, options).param_groups for p in g["params"]}
        return {name.rpartition(".")[2]: found[id(p)] for name, p in model.blocks[0].mixer.named_parameters()}

    lower = dict.fromkeys(("log_rate", "frequency", "log_step"), 0.25)
    assert factors(4e-3) == dict.fromkeys(factors(1e-3), 1.0) | lower
    assert set(factors(5e-4).values()) == {1.0}
    assert factors(4e-3, RateConfig("*.log_rate", 1.0))["log_rate"] == 1.0  # what a config says goes first


def test_a_rate_that_matches_no_parameter_is_refused_before_anything_is_written(tmp_path):
    config = small_config(tmp_path, rates=(RateConfig("*.weight", 2.0), RateConfig("blocks.0.mixr.weight", 2.0)))
    with pytest.raises(ConfigError, match=r"training.rates.1.parameters: expected the name of a parameter, .*mixr"):
        start(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="factor: expected 0 or more, got -1"):
        RateConfig("*", -1)


def test_the_rate_rises_and_falls():
    config = TextTrainingConfig(steps=110, warmup=10, learning_rate=1.0, final_share=0.1)
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[109] == pytest.approx(0.1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"accumulate": 5}, "accumulate: expected a divisor of batch = 12, got 5"),
        ({"learning_rate": -1.0}, "learning_rate: expected a positive number, got -1.0"),
        ({"beta2": 1.0}, r"beta2: expected a number in \[0, 1\), got 1.0"),
        ({"final_share": 2.0}, "final_share: expected a share from 0 to 1, got 2.0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TextTrainingConfig(**options)


@pytest.mark.parametrize(("fast", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_where_it_is_fast_and_is_written_into_the_run(fast, precision, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "has_fast_bfloat16", lambda: fast)
    config = small_config(tmp_path, steps=2, precision="auto")
    run = start(tmp_path / "run", config)
    train(run)
    assert Run.open(run.directory).config.training.precision == run.config.training.precision == precision
    monkeypatch.setattr(runtime, "has_fast_bfloat16", lambda: not fast)
    assert accept_changes(run, config, ()).config.training.precision == precision  # on another machine too


def test_a_processor_that_pytorch_cannot_describe_has_no_fast_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": True}, raising=False)
    assert runtime.has_fast_bfloat16()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not runtime.has_fast_bfloat16()
