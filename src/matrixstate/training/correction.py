"""Error correction for products of matrices that have been learned: codebooks made of a model's own states."""

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

READ = HELD_OUT + 1  # the step whose random numbers these sequences draw; neither training nor evaluation does
SETTLING = 8  # steps that a state may take from the start to where it moves later
LENGTH = 64  # steps read of a sequence; over few, little drift blurs the states
VISITS = 100  # states per answer, on average,
MEMBERS = 32  # or per cluster


def corrected_mixers(model: ModelConfig) -> list[MRUConfig]:
    """Its MRUs that correct their state."""
    return [block.mixer for block in model.blocks if isinstance(block.mixer, MRUConfig) and block.mixer.snap]


def with_correction(model: ModelConfig, every: int, codes: int = 1, sharpness: float = 16.0) -> ModelConfig:
    """The same model, its MRUs corrected every so many steps, each head by a codebook of its own; 0: never.

    MRUs that cannot be corrected, such as those that write, stay as they are. Raises ConfigError where all are such.
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
    """What N steps left behind."""

    answers: Tensor  # [N], what the model answered
    products: dict[int, Tensor]  # layer -> [N, H, D, D], the state of its MRU at norm 1


def find_codes(
    model: LanguageModel, task: TaskConfig, length: int, codes: int | None = None, seed: int = 0
) -> dict[int, Tensor]:
    """Layer -> [A, H, D, D], the codes that the states of a trained model show, of every MRU that only multiplies.

    States count up to their scale, each head by itself. A head that does not hold what is tracked is corrected to
    something else that does not, as long as another head holds it.

    Args:
        model: without correction; is put in evaluation mode and left there.
        task: what it was trained on.
        length: of training; sequences of at most 64 steps are read, and the first 8 of them left out.
        codes: A, the centres of so many clusters of states; where they are to keep different states apart it takes two
            or more per state. None: the mean states of each of the A answers that the model gives, for tasks whose
            answer says the whole state, as a group's word problem does.
        seed: of the sequences and of the clusters.

    Raises:
        ConfigError: no MRU, none that only multiplies, or too short a length.
    """
    wanted = VISITS * task.vocabulary if codes is None else MEMBERS * codes
    answers, products = _read(model, task, min(length, LENGTH), wanted, seed)
    if codes is not None:
        generator = torch.Generator().manual_seed(seed)
        return {layer: _centres(states, codes, generator) for layer, states in products.items()}
    given, which = answers.unique(return_inverse=True)
    shares = one_hot(which, len(given)).float()
    shares = shares / shares.sum(dim=0)
    return {layer: torch.einsum("na,nhij->ahij", shares, states) for layer, states in products.items()}


def _centres(states: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """[codes, H, D, D], the directions round which each head's states [N, H, D, D] lie."""
    flat = states.flatten(2)
    heads = [spherical_centres(flat[:, head], codes, generator) for head in range(flat.shape[1])]
    return torch.stack(heads, dim=1).unflatten(2, tuple(states.shape[2:]))


@torch.no_grad()
def _read(model: LanguageModel, task: TaskConfig, length: int, wanted: int, seed: int) -> States:
    """At least `wanted` steps of fresh sequences of that length."""
    layers = [i for i, block in enumerate(model.layers) if isinstance(block.mixer, MRU)]
    if not layers:
        raise ConfigError("correct: expected a model with an MRU, got one without")
    if length <= SETTLING:
        raise ConfigError(f"correct: expected a training length of more than {SETTLING} steps, got {length}")
    tokens, _ = task.at(seed, READ, -(-wanted // (length - SETTLING)), length)
    state, answers = None, []
    seen: dict[int, list[Tensor]] = {}
    for t in range(length):
        logits, state = model.eval()(tokens[:, t : t + 1], state)
        if t < SETTLING:
            continue
        answers.append(logits[:, 0].argmax(dim=-1))
        for layer in layers:
            product = _unit_product(model, layer, state.blocks[layer])
            if product is not None:
                seen.setdefault(layer, []).append(product)
    if not seen:
        raise ConfigError(f"correct: expected an uncorrected MRU that only multiplies, got others in layers {layers}")
    return States(torch.cat(answers), {layer: torch.cat(states) for layer, states in seen.items()})


def _unit_product(model: LanguageModel, layer: int, state: object) -> Tensor | None:
    """The state [N, H, D, D] of an MRU at norm 1; None if it is not a product alone."""
    mixer = model.layers[layer].mixer
    assert isinstance(mixer, MRU)
    found = mixer.state_matrices(state)  # pyright: ignore[reportArgumentType]
    if found is None or not found.product:
        return None
    return found.matrix / torch.linalg.matrix_norm(found.matrix, keepdim=True).clamp_min(1e-30)


@torch.no_grad()
def with_codebooks(model: LanguageModel, config: ModelConfig, codes: Mapping[int, Tensor]) -> LanguageModel:
    """A model of `config`, which corrects, with the weights of `model`, which does not, and these codes.

    Args:
        model: what was trained.
        config: its own but for `with_correction`.
        codes: layer -> [A, H, D, D]. Where a codebook has more entries they are taken again from the first.

    Raises:
        ConfigError: a codebook with fewer than A entries.
    """
    corrected = LanguageModel(replace(config, vocabulary=model.config.vocabulary))
    corrected.load_state_dict({**corrected.state_dict(), **model.state_dict()})
    for layer, found in codes.items():
        mixer = corrected.layers[layer].mixer
        assert isinstance(mixer, MRU)
        if mixer.codebook is None:
            continue
        groups, entries = mixer.codebook.codes.shape[:2]
        if entries < len(found):
            raise ConfigError(f"codes: expected at least {len(found)}, the answers that the model gives, got {entries}")
        repeated = found[torch.arange(entries) % len(found)]
        mixer.codebook.codes.copy_(repeated.unflatten(1, (groups, -1)).transpose(0, 1))
    return corrected.eval()
