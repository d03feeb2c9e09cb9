"""Codebooks made of a model's own states: their values, their effect, and where they are refused."""

import dataclasses

import pytest
import torch

from conftest import THREADS
from matrixstate.cli.__main__ import main
from matrixstate.data.tasks import ParityConfig, WordProblemConfig
from matrixstate.errors import ConfigError
from matrixstate.evaluation.tracking import track
from matrixstate.layers import MLPConfig
from matrixstate.mixers import GRUConfig, MRUConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.training import Run, TaskRunConfig, TaskTrainingConfig, start, train
from matrixstate.training.correction import CODES_STEP, find_codes, with_codebooks, with_correction
from matrixstate.training.tasks import correct_run, load_task_model

PLAIN = MRUConfig(heads=2, state_size=32, channels=32, builder="reshape_identity", norm=True)
CORRECTED = dataclasses.replace(PLAIN, snap=4, codes=6, code_groups=2)
LENGTH = 16


def config_of(mixer, steps=200, task=None, **training):
    model = ModelConfig(32, (BlockConfig(mixer, MLPConfig(32)),), tied=False)
    options = TaskTrainingConfig(
        steps=steps, length=LENGTH, batch=32, max_batch=128, warmup=10, learning_rate=1e-2, **training
    )
    return TaskRunConfig(
        "tiny", model, task or WordProblemConfig("S3"), options, evaluate_length=32, evaluate_sequences=8
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run of an MRU that has learned S3 without correction."""
    torch.set_num_threads(THREADS)  # as in the tests, which compare bits
    run = tmp_path_factory.mktemp("correction") / "plain"
    outcome = train(start(run, config_of(PLAIN)))
    assert outcome.tracking.token_accuracy(LENGTH) > 0.99
    return run


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_correction_in_training_equals_correction_afterwards(plain, tmp_path):
    train(start(tmp_path / "fitted", config_of(CORRECTED, codebooks="answers")))
    correct_run(plain, tmp_path / "corrected", every=4)
    (before, a), (after, b) = load_task_model(tmp_path / "fitted"), load_task_model(tmp_path / "corrected")
    assert a == b
    assert same_weights(before, after)


def test_codes_are_the_mean_states_of_an_answer(plain):
    model, config = load_task_model(plain)
    (means,) = find_codes(model, config.data, LENGTH).values()
    tokens, _ = config.data.at(0, CODES_STEP, -(-100 * 6 // (LENGTH - 8)), LENGTH)
    found = {answer: [] for answer in range(6)}
    for t in range(8, LENGTH):
        logits, state = model(tokens[:, : t + 1])
        scan = state.blocks[0].scan
        for answer, matrix in zip(logits[:, t].argmax(-1).tolist(), scan.matrix, strict=True):
            found[answer].append(matrix / matrix.norm(dim=(1, 2), keepdim=True))
    for answer, states in found.items():
        torch.testing.assert_close(means[answer], torch.stack(states).mean(0), rtol=1e-4, atol=1e-5)


def test_wrong_matrices_are_corrected(plain):
    """Slightly wrong weights drift when uncorrected, and do not with the codes of the right weights."""
    model, config = load_task_model(plain)
    codes = find_codes(model, config.data, LENGTH)
    corrected = with_codebooks(model, with_correction(config.final_model(), 4, 6), codes)
    torch.manual_seed(0)
    noise = 0.01 * torch.randn_like(model.layers[0].mixer.up.weight)
    right = []
    for each in (model, corrected):
        each.layers[0].mixer.up.weight.data += noise
        right.append(track(each, config.data, (2048,), sequences=16).tail_accuracy(2048))
    assert right[0] < 0.8
    assert right[1] == 1


def test_clusters_correct_without_answers(plain, tmp_path):
    """More clusters than states, found without the answers, correct slightly wrong matrices."""
    model, config = correct_run(plain, tmp_path / "clusters", every=4, codes=24)
    assert config.model.blocks[0].mixer.codes == 24
    torch.manual_seed(0)
    model.layers[0].mixer.up.weight.data += 0.01 * torch.randn_like(model.layers[0].mixer.up.weight)
    assert track(model, config.data, (2048,), sequences=16).tail_accuracy(2048) == 1
    train(start(tmp_path / "again", config_of(dataclasses.replace(CORRECTED, codes=24), codebooks="clusters")))
    trained, same = load_task_model(tmp_path / "again")
    assert same == config
    assert same_weights(trained, load_task_model(tmp_path / "clusters")[0])


def test_nothing_changes_before_the_first_correction(plain):
    model, config = load_task_model(plain)
    codes = find_codes(model, config.data, LENGTH)
    corrected = with_codebooks(model, with_correction(config.final_model(), LENGTH + 1, 9), codes)
    tokens, _ = config.data.at(0, 0, 3, LENGTH)
    torch.testing.assert_close(corrected(tokens)[0], model(tokens)[0])
    assert torch.equal(corrected.layers[0].mixer.codebook.codes[1, 6], codes[0][0, 1:])  # the first code, repeated


def test_an_mru_that_writes_is_left_unchanged_where_another_is_corrected(tmp_path):
    writes = BlockConfig(dataclasses.replace(PLAIN, write=True, rescale=False), MLPConfig(32))

    def config_with(mixer, **training):
        config = config_of(mixer, steps=2, **training)
        model = dataclasses.replace(config.model, blocks=(*config.model.blocks, writes))
        return dataclasses.replace(config, model=model)

    train(start(tmp_path / "run", config_with(CORRECTED, codebooks="clusters")))
    model, config = load_task_model(tmp_path / "run")
    assert [layer.mixer.codebook is not None for layer in model.layers] == [True, False]
    assert list(find_codes(_without_correction(model), config.data, LENGTH)) == [0]
    train(start(tmp_path / "plain", config_with(PLAIN)))
    later, _ = correct_run(tmp_path / "plain", tmp_path / "corrected", every=4, codes=6)
    assert same_weights(model, later)


def _without_correction(model):
    plain = LanguageModel(with_correction(model.config, 0))
    plain.load_state_dict({n: w for n, w in model.state_dict().items() if "codebook" not in n})
    return plain


def test_what_cannot_be_corrected_is_refused(plain, tmp_path):
    model, config = load_task_model(plain)
    task, sizes = config.data, config.final_model()
    codes = find_codes(model, task, LENGTH)
    with pytest.raises(ConfigError, match="codes: expected at least 6, the answers that the model gives, got 5"):
        with_codebooks(model, with_correction(sizes, 4, 5), codes)
    with pytest.raises(ConfigError, match="expected a training length of more than 8 steps, got 8"):
        find_codes(model, task, 8)
    with pytest.raises(
        ConfigError, match=r"expected an uncorrected MRU that only multiplies, got others in layers \[0\]"
    ):
        find_codes(with_codebooks(model, with_correction(sizes, 4, 6), codes), task, LENGTH)
    gru = LanguageModel(dataclasses.replace(sizes, blocks=(BlockConfig(GRUConfig(conv=0)),)))
    with pytest.raises(ConfigError, match="expected a model with an MRU, got one without"):
        find_codes(gru, task, LENGTH)
    with pytest.raises(ConfigError, match="codebooks: expected trained without an MRU that corrects its state"):
        config_of(PLAIN, codebooks="answers")
    for changes, said in (
        ({"code_groups": 1}, "code_groups: expected 2, one per head, where codebooks are made of answers, got 1"),
        ({"codes": 5}, "codes: expected at least 6, the task's answers, got 5"),
    ):
        with pytest.raises(ConfigError, match=said):
            config_of(dataclasses.replace(CORRECTED, **changes), codebooks="answers")
    with pytest.raises(
        ConfigError, match="training.length: expected more than 8 for codebooks made of clusters, got 8"
    ):
        dataclasses.replace(config_of(CORRECTED), training=TaskTrainingConfig(length=8, batch=32, codebooks="clusters"))
    writes = dataclasses.replace(PLAIN, write=True, rescale=False)
    train(start(tmp_path / "writes", config_of(writes, steps=1, task=ParityConfig())))
    with pytest.raises(ConfigError, match="expected an uncorrected MRU that only multiplies"):
        correct_run(tmp_path / "writes", tmp_path / "out", 4)
    unscaled = dataclasses.replace(PLAIN, rescale=False)
    train(start(tmp_path / "unscaled", config_of(unscaled, steps=1)))
    with pytest.raises(ConfigError, match="expected an MRU with rescale true, readout normalised, .*, got none"):
        correct_run(tmp_path / "unscaled", tmp_path / "out", 4)
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(plain, tmp_path, capsys):
    out = tmp_path / "corrected"
    arguments = ["correct", str(plain), "--every", "2", "--out", str(out), "--length", "4096", "--sequences", "4"]
    assert main(arguments) == 0
    assert "4 sequences; 90 % of them without a mistake to length 4,096" in capsys.readouterr().out
    assert main(["track", str(out), "--length", "64", "--sequences", "2"]) == 0
    assert main(arguments) == 1
    assert "expected a new or empty directory" in capsys.readouterr().err


def test_a_corrected_run_is_a_run_like_any_other(tmp_path):
    """Resumed, there is nothing left to train: it is evaluated."""
    run = start(tmp_path / "run", config_of(PLAIN, steps=3))
    train(run)
    model, _ = correct_run(tmp_path / "run", tmp_path / "corrected", 4, 6)
    outcome = train(Run.open(tmp_path / "corrected"), resume=True)
    assert (outcome.step, outcome.progress.tokens) == (3, train(run, resume=True).progress.tokens)
    assert outcome.tracking is not None
    assert same_weights(load_task_model(tmp_path / "corrected")[0], model)
