"""Recovery of automata: S3 from a model that computes it by construction, and not from an untrained one."""

import itertools
import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from matrixstate.cli.__main__ import main
from matrixstate.data.tasks import ParityConfig, WordProblemConfig, group, running_products
from matrixstate.errors import ConfigError, DataError
from matrixstate.evaluation import automaton
from matrixstate.evaluation.automaton import _merge, recover_automaton
from matrixstate.evaluation.clusters import cluster, spherical_centres
from matrixstate.layers import MLPConfig
from matrixstate.mixers import AttentionConfig, GRUConfig, MRUConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.training import TaskRunConfig, TaskTrainingConfig, start, train

S3 = WordProblemConfig("S3")


def s3_matrices():
    """[6, 3, 3]; the product of the matrices of g and h is that of g·h."""
    return torch.stack([torch.eye(3)[list(p)] for p in itertools.permutations(range(3))])


def exact_model(noise=0.0, means=tuple(range(6))):
    """An MRU whose state is the permutation matrix of the product; token g acts as the element means[g]."""
    mixer = MRUConfig(heads=1, state_size=9, builder="reshape_identity")
    model = LanguageModel(ModelConfig(9, (BlockConfig(mixer, None),), vocabulary=6, tied=False, norm="rms"))
    mru, matrices = model.layers[0].mixer, s3_matrices()
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(6, 9))
        mru.up.weight.zero_()
        # RMSNorm makes 3 of the 1 in a one-hot vector of 9 channels
        mru.up.weight[:, :6] = (matrices[list(means)] - torch.eye(3)).flatten(1).T / 3
        mru.up.weight.add_(noise * torch.randn_like(mru.up.weight))
        mru.down.copy_(torch.eye(3))
        mru.output.weight.copy_(1000 * torch.eye(9))  # so that the residual is negligible
        model.head.weight.copy_(matrices.flatten(1))
    return model


def test_the_automaton_of_an_exact_model_is_its_group():
    found = recover_automaton(exact_model(), S3, length=20)
    np.testing.assert_array_equal(found.table, group("S3").table)
    assert (found.clusters, found.states, found.source, found.layer) == (6, 6, "states", 0)
    assert found.purity == found.agreement == found.accuracy == 1
    assert found.silhouette > 0.999
    assert found.right == 36
    assert found.is_group
    assert found.isomorphic
    expected = "the states form 6 clusters, purity 100.0%; the automaton is S3: all 36 products of 6 elements are right"
    assert found.verdict() == f"{expected}; 100.0% of the steps follow it."
    assert json.loads(json.dumps(found.data()))["table"] == group("S3").table.tolist()


def test_the_group_is_recovered_from_generators():
    task = WordProblemConfig("S3", elements="generators")
    found = recover_automaton(exact_model(noise=1e-3), task, length=16)
    np.testing.assert_array_equal(found.table, group("S3").table)
    assert found.source == "states"


def test_a_model_that_confuses_two_tokens_gives_no_group():
    found = recover_automaton(exact_model(means=(0, 1, 2, 3, 3, 5)), S3, length=20)
    assert found.source == "states"
    assert found.agreement == 1
    assert 0 < found.right < 36
    assert not found.is_group
    assert not found.isomorphic
    np.testing.assert_array_equal(found.table[:, 4], found.table[:, 3])
    assert "the automaton is no group" in found.verdict()


def test_names_of_elements_come_from_tokens_and_not_from_the_weights():
    swapped = exact_model(means=(0, 2, 1, 4, 3, 5))  # all conjugated by the last element
    with torch.no_grad():
        swapped.head.weight.copy_(s3_matrices()[[0, 2, 1, 4, 3, 5]].flatten(1))
    found = recover_automaton(swapped, S3, length=20)
    assert found.right == 36
    assert found.accuracy == 1


@pytest.mark.parametrize("mixer", [GRUConfig(conv=0), MRUConfig(heads=2, state_size=8)], ids=["gru", "mru"])
def test_an_untrained_model_gives_no_group(mixer):
    model = LanguageModel(ModelConfig(8, (BlockConfig(mixer, MLPConfig(8)),), vocabulary=6, tied=False))
    nn.init.normal_(model.embedding.weight)
    nn.init.normal_(model.head.weight)
    found = recover_automaton(model, S3, length=16)
    assert found.right < 36
    assert not found.isomorphic
    assert found.accuracy < 0.5
    assert ("do not cluster" in found.verdict()) == (found.source == "answers")


def test_without_clusters_the_automaton_is_made_from_the_answers(monkeypatch):
    products = lambda tokens: running_products(group("S3"), tokens.numpy())  # noqa: E731
    noise = lambda model, tokens, layer: (torch.randn(*tokens.shape, 20), products(tokens))  # noqa: E731
    monkeypatch.setattr(automaton, "_read", noise)
    found = recover_automaton(exact_model(), S3, length=20)
    assert found.source == "answers"
    assert found.right == 36
    assert found.purity < 0.5
    assert re.match(
        r"the states do not cluster \(\d+ clusters, purity \d\d\.\d%\); its answers show: ", found.verdict()
    )


def test_states_that_depend_on_the_last_token_are_merged(monkeypatch):
    def read(model, tokens, layer):
        products = running_products(group("S3"), tokens.numpy())
        return torch.eye(36)[torch.from_numpy(products) * 6 + tokens], products

    monkeypatch.setattr(automaton, "_read", read)
    found = recover_automaton(exact_model(), S3, length=20)
    assert (found.clusters, found.states, found.right, found.source) == (36, 6, 36, "states")
    assert "the states form 36 clusters, purity 100.0%, 6 of which differ in what follows; " in found.verdict()


def test_states_that_are_not_finite_are_refused():
    model = exact_model()
    with torch.no_grad():
        model.layers[0].mixer.up.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="automaton: expected finite states, got some of layer 0 that are not"):
        recover_automaton(model, S3, length=9)


def test_the_same_seed_gives_the_same_result():
    one, same, other = (recover_automaton(exact_model(), S3, length=12, seed=seed) for seed in (0, 0, 1))
    assert one.data() == same.data()
    np.testing.assert_array_equal(one.points, same.points)
    assert not np.array_equal(one.elements, other.elements)


def test_equivalent_states_are_merged():
    successors = np.array([[1, 2], [0, 3], [3, 0], [2, 1]])  # 0 and 3 answer 0; 1 and 2 answer 1 and lead to them
    assert len(set(_merge(successors, np.array([0, 1, 1, 0])))) == 2
    assert len(set(_merge(successors, np.array([0, 1, 1, 2])))) == 4
    assert len(set(_merge(np.array([[1], [2], [3], [3]]), np.array([0, 0, 0, 1])))) == 4


def test_spherical_centres_find_directions():
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(5, 7), dim=1)
    noisy = torch.nn.functional.normalize(directions.repeat(40, 1) + 0.03 * torch.randn(200, 7), dim=1)
    found = spherical_centres(noisy, 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(10))
    cosines = found @ directions.T
    assert cosines.amax(dim=0).min() > 0.99  # every direction has a centre
    assert cosines.amax(dim=1).min() > 0.99  # and no centre is between two
    assert torch.equal(found, spherical_centres(noisy, 10, torch.Generator().manual_seed(0)))
    same = spherical_centres(directions[:1].expand(6, 7), 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, directions[:1].expand(3, 7))


def test_the_silhouette_chooses_the_number_of_clusters():
    places = torch.tensor([[0.0, 0], [5, 0], [0, 5], [5, 5], [20, 20]])
    points = (places[:, None] + 0.3 * torch.randn(5, 40, 2)).flatten(0, 1)
    found = cluster(points, [2, 3, 4, 5, 6, 8], torch.Generator().manual_seed(0))
    assert len(found.centres) == 5
    assert found.silhouette > 0.8
    assert all(len(set(part.tolist())) == 1 for part in found.labels.view(5, 40))
    same = cluster(places[[0, 1, 0, 1, 1]], [2, 4, 5], torch.Generator().manual_seed(0))
    assert len(same.centres) == 2
    assert same.silhouette == 1
    assert cluster(places[[0, 0]], [2], torch.Generator().manual_seed(0)).silhouette == 0


def test_other_tasks_layers_and_lengths_are_refused():
    with pytest.raises(ConfigError, match="expected a model of a word problem, got one of ParityConfig"):
        recover_automaton(exact_model(), ParityConfig(), length=9)
    with pytest.raises(ConfigError, match="expected a layer with a mixer, one of 0, got 3"):
        recover_automaton(exact_model(), S3, length=9, layer=3)
    with pytest.raises(ConfigError, match="expected a length of at least 4 and at least 1 sequence, got 3 and None"):
        recover_automaton(exact_model(), S3, length=3)
    growing = LanguageModel(ModelConfig(8, (BlockConfig(AttentionConfig(heads=2), None),), vocabulary=6))
    with pytest.raises(ConfigError, match="a state of constant size, got Attention, whose state grows"):
        recover_automaton(growing, S3, length=9)


def run_of(directory, task, steps=2):
    model = ModelConfig(9, (BlockConfig(MRUConfig(heads=1, state_size=9), None),), tied=False)
    training = TaskTrainingConfig(steps=steps, length=8, batch=4, max_batch=4, warmup=0)
    train(start(directory, TaskRunConfig("tiny", model, task, training, evaluate_length=8, evaluate_sequences=2)))
    return str(directory)


def test_the_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run = run_of(tmp_path / "run", S3)
    assert main(["automaton", run, "--sequences", "40"]) == 0
    out = capsys.readouterr().out
    assert "i \\ j" in out
    assert "products of S3 are right" in out
    assert (tmp_path / "run" / "automaton.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["automaton", run, "--figure", str(tmp_path / "figure.odd")]) == 1
    assert "figure: expected a name that ends in one of" in capsys.readouterr().err
    assert main(["automaton", run, "--json", "--sequences", "40"]) == 0
    assert json.loads(capsys.readouterr().out)["group"] == "S3"
    large = run_of(tmp_path / "large", WordProblemConfig("Z20"))
    assert main(["automaton", large, "--sequences", "40", "--length", "12", "--figure", str(tmp_path / "z.png")]) == 0
    assert "products right" in capsys.readouterr().out


def test_errors_of_the_command(tmp_path, capsys):
    run = run_of(tmp_path / "parity", ParityConfig())
    for arguments, message in (
        (["automaton", str(tmp_path / "none")], "run: expected a run directory with"),
        (["automaton", run], "automaton: expected a model of a word problem, got one of ParityConfig"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
