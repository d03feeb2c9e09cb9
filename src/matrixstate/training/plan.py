"""What a run will cost, before it starts: sizes by counting, time and memory by trying one step where that is cheap."""

import dataclasses
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from matrixstate.models import Counts, LanguageModel, count
from matrixstate.training.text_config import TextRunConfig

TRY_PARAMETERS = 30_000_000  # above this, time is estimated from arithmetic instead of trying a step
BYTES_PER_PARAMETER = 16  # weight, gradient and AdamW's two moments, float32


@dataclass(frozen=True)
class Plan:
    """The size and cost of a run."""

    counts: Counts
    steps: int
    tokens_per_step: int
    memory_bytes: int
    """Weights, gradients, optimizer, and the activations kept for backward where they were measured."""
    seconds: float
    """Of training, on this machine with its present threads; a rough estimate."""
    tried: bool
    """Whether time and activations come from one step tried out; else time comes from the matrix-product rate."""


def make_plan(config: TextRunConfig) -> Plan:
    """The plan of a run whose model names its vocabulary. Takes a few seconds at most; changes no random state."""
    training, counts = config.training, count(config.model, config.training.sequence)
    weights = counts.parameters * BYTES_PER_PARAMETER
    tokens = training.batch * training.sequence
    if counts.parameters <= TRY_PARAMETERS:
        seconds, activations = _try_step(config)
        return Plan(counts, training.steps, tokens, weights + activations, seconds * training.steps, True)
    seconds = 3 * counts.flops_per_token * tokens / _matmul_rate()
    return Plan(counts, training.steps, tokens, weights, seconds * training.steps, False)


def _try_step(config: TextRunConfig) -> tuple[float, int]:
    """Seconds of one forward and backward pass, and the bytes it keeps in between."""
    training = config.training
    rows = training.batch // training.accumulate
    with torch.random.fork_rng(devices=[]):
        model = LanguageModel(dataclasses.replace(config.model, dropout=0.0))
        tokens = torch.randint(model.embedding.num_embeddings, (rows, training.sequence))
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    seconds = 0.0
    for _ in range(2):  # the first pass warms up
        began = time.perf_counter()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = cross_entropy(model(tokens)[0].flatten(0, 1), tokens.flatten())
            loss.backward()
        seconds = time.perf_counter() - began
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return seconds * training.accumulate, sum(size for pointer, size in kept.items() if pointer not in parameters)


def _matmul_rate() -> float:
    """Floating-point operations per second of a square matrix product here and now."""
    a = torch.ones(768, 768)
    a @ a
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
        a @ a
        rounds += 1
    return rounds * 2 * 768**3 / (time.perf_counter() - began)
