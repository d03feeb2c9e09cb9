"""Error correction of trained MRUs: codebooks that are made of a model's own states, without training."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from matrixstate.data.tasks import TaskConfig
from matrixstate.errors import ConfigError
from matrixstate.evaluation.clusters import spherical_centres
from matrixstate.evaluation.tracking import HELD_OUT
from matrixstate.mixers.matrix.mru import MRU, MRUConfig
from matrixstate.models import LanguageModel, ModelConfig

CODES_STEP = HELD_OUT + 1  # selects the task's random numbers; neither training nor evaluation uses this step
BURN_IN = 8  # steps left out at the start, where a state is on its way from the identity to those it returns to
LENGTH = 64  # steps per sequence at most: errors of the learned matrices add up along it and blur the states
STATES_PER_ANSWER = 100  # on average
STATES_PER_CLUSTER = 32  # on average


def corrected_mixers(model: ModelConfig) -> list[MRUConfig]:
    """The configs of the model's MRUs that correct their state (`snap` > 0)."""
    return [block.mixer for block in model.blocks if isinstance(block.mixer, MRUConfig) and block.mixer.snap]


def with_correction(model: ModelConfig, every: int, codes: int = 1, sharpness: float = 16.0) -> ModelConfig:
    """The config with MRUs that correct their state, one codebook per head.

    MRUs that cannot be corrected, such as those that write, are left unchanged.

    Args:
        model: any config.
        every: `MRUConfig.snap`, steps from one correction to the next; 0 removes the correction.
        codes: `MRUConfig.codes`, codes per codebook.
        sharpness: `MRUConfig.sharpness`.

    Raises:
        ConfigError: `every` > 0 and no MRU that can be corrected.
    """

    def change(mixer: object) -> object:
        if not isinstance(mixer, MRUConfig) or not mixer.correctable:
            return mixer
        options = {"snap": every, "codes": codes, "sharpness": sharpness}
        return replace(mixer, **options, code_groups=mixer.heads) if every else replace(mixer, snap=0)

    blocks = tuple(replace(block, mixer=change(block.mixer)) for block in model.blocks)
    changed = replace(model, blocks=blocks)
    if every and not corrected_mixers(changed):
        raise ConfigError(
            "correct: expected an MRU with rescale true, readout normalised, method auto, decay and write false, "
            "got none"
        )
    return changed


class States(NamedTuple):
    """States and answers at N steps of several sequences."""

    answers: Tensor  # [N] int64, the likeliest token
    products: dict[int, Tensor]  # layer -> [N, H, D, D], the state of its MRU, of Frobenius norm 1


def find_codes(
    model: LanguageModel, task: TaskConfig, length: int, codes: int | None = None, seed: int = 0
) -> dict[int, Tensor]:
    """Codes for every MRU of a trained model whose state is a plain product, from the states that it takes.

    Only the direction of a state matters: states are normalized to Frobenius norm 1. Each head is treated by itself; a
    head that does not track the task's state gets codes that do not either, which is harmless if another head does.

    Args:
        model: without correction; is left in evaluation mode.
        task: the task that it was trained on.
        length: the training length, more than 8. Sequences of at most 64 steps are run, of which the first 8 are left
            out.
        codes: A, the number of clusters of states, whose centres become the codes; to separate the task's states takes
            two or more per state. None: the mean state of each of the A answers that the model gives, for tasks whose
            answer determines the state, such as a group's word problem.
        seed: of the sequences and of the clustering.

    Returns:
        Layer -> [A, H, D, D].

    Raises:
        ConfigError: no MRU, none whose state is a plain product, or too short a length.
    """
    wanted = STATES_PER_ANSWER * task.vocabulary if codes is None else STATES_PER_CLUSTER * codes
    answers, products = _collect_states(model, task, min(length, LENGTH), wanted, seed)
    if codes is not None:
        generator = torch.Generator().manual_seed(seed)
        return {layer: _centres(states, codes, generator) for layer, states in products.items()}
    given, which = answers.unique(return_inverse=True)
    shares = one_hot(which, len(given)).float()  # [N, A]
    shares = shares / shares.sum(dim=0)  # of a step in the mean of its answer
    return {layer: torch.einsum("na,nhij->ahij", shares, states) for layer, states in products.items()}


def _centres(states: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """[A, H, D, D], the centres of each head's states [N, H, D, D] on the unit sphere."""
    flat = states.flatten(2)
    heads = [spherical_centres(flat[:, head], codes, generator) for head in range(flat.shape[1])]
    return torch.stack(heads, dim=1).unflatten(2, tuple(states.shape[2:]))


@torch.no_grad()
def _collect_states(model: LanguageModel, task: TaskConfig, length: int, wanted: int, seed: int) -> States:
    """States and answers of the model at `wanted` steps or more, in fresh sequences of that length."""
    layers = [i for i, block in enumerate(model.layers) if isinstance(block.mixer, MRU)]
    if not layers:
        raise ConfigError("correct: expected a model with an MRU, got one without")
    if length <= BURN_IN:
        raise ConfigError(f"correct: expected a training length of more than {BURN_IN} steps, got {length}")
    tokens, _ = task.at(seed, CODES_STEP, -(-wanted // (length - BURN_IN)), length)  # rounded up
    state, answers = None, []
    collected: dict[int, list[Tensor]] = {}
    for t in range(length):
        logits, state = model.eval()(tokens[:, t : t + 1].to(model.device), state)
        if t < BURN_IN:
            continue
        answers.append(logits[:, 0].argmax(dim=-1).cpu())
        for layer in layers:
            product = _unit_product(model, layer, state.blocks[layer])
            if product is not None:
                collected.setdefault(layer, []).append(product.cpu())
    if not collected:
        raise ConfigError(f"correct: expected an uncorrected MRU that only multiplies, got others in layers {layers}")
    return States(torch.cat(answers), {layer: torch.cat(states) for layer, states in collected.items()})


def _unit_product(model: LanguageModel, layer: int, state: object) -> Tensor | None:
    """The state [N, H, D, D] of an MRU, of Frobenius norm 1; None if it is not a plain product."""
    mixer = model.layers[layer].mixer
    assert isinstance(mixer, MRU)
    found = mixer.state_matrices(state)  # pyright: ignore[reportArgumentType]
    if found is None or not found.product:
        return None
    return found.matrix / torch.linalg.matrix_norm(found.matrix, keepdim=True).clamp_min(1e-30)  # of a zero state: 0


@torch.no_grad()
def with_codebooks(model: LanguageModel, config: ModelConfig, codes: Mapping[int, Tensor]) -> LanguageModel:
    """A new model that corrects its states: the weights of a trained model, and these codes.

    Args:
        model: trained without correction.
        config: its config, changed by `with_correction`.
        codes: layer -> [A, H, D, D], as from `find_codes`. A codebook of more than A entries repeats them in order.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: a codebook of fewer than A entries.
    """
    corrected = LanguageModel(replace(config, vocabulary=model.config.vocabulary))
    corrected.load_state_dict({**corrected.state_dict(), **model.state_dict()})  # codebooks stay, until below
    for layer, found in codes.items():
        mixer = corrected.layers[layer].mixer
        assert isinstance(mixer, MRU)
        if mixer.codebook is None:
            continue
        groups, entries = mixer.codebook.codes.shape[:2]
        if entries < len(found):
            raise ConfigError(f"codes: expected at least {len(found)}, the answers that the model gives, got {entries}")
        repeated = found[torch.arange(entries) % len(found)]
        mixer.codebook.codes.copy_(repeated.unflatten(1, (groups, -1)).transpose(0, 1))  # [groups, entries, ...]
    return corrected.eval()
