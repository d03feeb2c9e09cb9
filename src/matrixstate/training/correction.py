"""Error correction for products of matrices that have been learned: codebooks made of a model's own states."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from matrixstate.data.tasks import TaskConfig
from matrixstate.errors import ConfigError
from matrixstate.evaluation.tracking import HELD_OUT
from matrixstate.layers.mru import MRU, MRUConfig
from matrixstate.models import LanguageModel, ModelConfig

READ = HELD_OUT + 1  # the step whose random numbers these sequences draw; neither training nor evaluation does
SETTLING = 8  # steps that a state may take from the start to where it moves later
LENGTH = 64  # steps read of a sequence; over few, little drift blurs the states
VISITS = 100  # states per answer, on average


def corrects(model: ModelConfig) -> bool:
    """Whether any of its mixers is an MRU that corrects its state."""
    return any(isinstance(block.mixer, MRUConfig) and block.mixer.snap for block in model.blocks)


def with_correction(model: ModelConfig, every: int, codes: int = 1, sharpness: float = 16.0) -> ModelConfig:
    """The same model, every MRU in it corrected every so many steps, each head by a codebook of its own; 0: never.

    Raises ConfigError for an MRU that cannot be corrected.
    """

    def change(mixer: MRUConfig) -> MRUConfig:
        options = {"snap": every, "codes": codes, "sharpness": sharpness}
        return replace(mixer, **options, code_groups=mixer.heads) if every else replace(mixer, snap=0)

    blocks = [
        replace(block, mixer=change(block.mixer)) if isinstance(block.mixer, MRUConfig) else block
        for block in model.blocks
    ]
    return replace(model, blocks=tuple(blocks))


@torch.no_grad()
def states_by_answer(model: LanguageModel, task: TaskConfig, length: int, seed: int = 0) -> dict[int, Tensor]:
    """Layer -> [A, H, D, D], the mean states of its MRU at which the model gave each of the A answers it gives.

    States count up to their scale. A head that does not hold the answer has nearly equal means, which correct nothing
    and harm nothing, as long as another does.

    Args:
        model: without correction; is put in evaluation mode and left there.
        task: one whose answer says the whole state, as a group's word problem does.
        length: of training; sequences of at most 64 steps are read, and the first 8 of them left out.
        seed: of the sequences.

    Raises:
        ConfigError: no MRU, one that does more than multiply, or too short a length.
    """
    length = min(length, LENGTH)
    layers = [i for i, block in enumerate(model.layers) if isinstance(block.mixer, MRU)]
    if not layers:
        raise ConfigError("correct: expected a model with an MRU, got one without")
    if length <= SETTLING:
        raise ConfigError(f"correct: expected a training length of more than {SETTLING} steps, got {length}")
    tokens, _ = task.at(seed, READ, -(-VISITS * task.vocabulary // (length - SETTLING)), length)
    state, answers = None, []
    seen: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for t in range(length):
        logits, state = model.eval()(tokens[:, t : t + 1], state)
        if t < SETTLING:
            continue
        answers.append(logits[:, 0].argmax(dim=-1))
        for layer in layers:
            seen[layer].append(_unit_product(model, layer, state.blocks[layer]))
    given, which = torch.cat(answers).unique(return_inverse=True)
    shares = one_hot(which, len(given)).float()
    shares = shares / shares.sum(dim=0)
    return {layer: torch.einsum("na,nhij->ahij", shares, torch.cat(states)) for layer, states in seen.items()}


def _unit_product(model: LanguageModel, layer: int, state: object) -> Tensor:
    """The state [N, H, D, D] of an MRU at norm 1. Raises ConfigError if it is not a product alone."""
    mixer = model.layers[layer].mixer
    assert isinstance(mixer, MRU)
    found = mixer.state_matrices(state)  # pyright: ignore[reportArgumentType]
    if found is None or not found.product:
        raise ConfigError(f"correct: expected an uncorrected MRU that only multiplies in layer {layer}, got another")
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
