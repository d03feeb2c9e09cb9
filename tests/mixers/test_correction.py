"""Error correction of the MRU's state, and the M²RNN's options for state tracking."""

import dataclasses
import itertools

import pytest
import torch

from matrixstate.errors import ConfigError
from matrixstate.mixers import M2RNNConfig, MRUConfig
from matrixstate.ops import scaled_matrix_scan, snap_scan

CORRECTED = MRUConfig(heads=2, state_size=18, channels=18, builder="reshape_identity", snap=4, codes=6, sharpness=8.0)


def permutation_matrices():
    """[6, 3, 3], the elements of S3."""
    return torch.stack([torch.eye(3, dtype=torch.float64)[list(p)] for p in itertools.permutations(range(3))])


@pytest.mark.parametrize("every", [1, 5, 16])
def test_errors_of_the_matrices_do_not_accumulate(every):
    """The product of slightly wrong permutation matrices stays right with the right codes, and drifts without."""
    torch.manual_seed(0)
    group = permutation_matrices()
    wrong = group + 0.02 * torch.randn_like(group)
    drawn = torch.randint(6, (3, 800))
    exact, exactly = torch.eye(3, dtype=torch.float64).expand(3, 3, 3), []
    for t in range(drawn.shape[1]):
        exact = exact @ group[drawn[:, t]]
        exactly.append(exact)
    right = torch.stack(exactly, dim=1)
    codes = group[None, :, None]
    h, _ = snap_scan(wrong[drawn][:, :, None], 10 * codes, codes, every=every)
    drifting, _, _ = scaled_matrix_scan(wrong[drawn][:, :, None])

    def furthest(states):
        return (states[:, :, 0] - right).abs().amax(dim=(0, 2, 3))

    assert furthest(h).max() < 0.5  # nearer to the right element than to any other
    assert furthest(drifting)[-100:].min() > 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"write": True, "rescale": False},
        {"decay": True},
        {"readout": "bounded"},
        {"rescale": False},
        {"method": "hillis_steele"},
    ],
)
def test_options_that_exclude_correction_are_refused(changes):
    with pytest.raises(ConfigError, match="snap: expected 0 unless"):
        dataclasses.replace(CORRECTED, **changes)


def test_wrong_options_are_refused():
    for changes, said in (
        ({"codes": 0}, "codes: expected at least 1, got 0"),
        ({"code_groups": 3}, "code_groups: expected a divisor of 2, got 3"),
        ({"sharpness": 0.0}, "sharpness: expected a positive number, got 0.0"),
    ):
        with pytest.raises(ConfigError) as caught:
            dataclasses.replace(CORRECTED, **changes)
        assert caught.value.problems == (said,)


def test_initialisation_with_orthogonal_weights_and_fast_gates():
    config = M2RNNConfig(heads=4, key_size=2, value_size=5, weight_kind="orthogonal", forget_start="fast")
    torch.manual_seed(0)
    mixer = config.make(12)
    torch.testing.assert_close(mixer.weight @ mixer.weight.mT, torch.eye(5).expand(4, 5, 5))
    assert not torch.allclose(mixer.weight[0], mixer.weight[1])
    assert mixer.forget_gate(torch.zeros(4)).max() < 0.4
