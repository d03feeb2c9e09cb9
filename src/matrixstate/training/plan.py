"""The cost of a run before it starts: sizes by counting; time and memory by running a step, if the model is small."""

import dataclasses
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from matrixstate.models import Counts, LanguageModel, count
from matrixstate.training.text_config import TextRunConfig

TRY_PARAMETERS = 30_000_000  # of larger models no step is run: time is estimated from FLOPs
BYTES_PER_PARAMETER = 16  # weight, gradient and AdamW's two moments, float32


@dataclass(frozen=True)
class Plan:
    """The size and cost of a run."""

    counts: Counts
    steps: int
    tokens_per_step: int
    memory_bytes: int
    """Weights, gradients and optimizer; if `tried`, also the activations saved for the backward pass."""
    seconds: float
    """A rough estimate of the training time, on this machine with the current number of threads."""
    tried: bool
    """Whether time and activations were measured in a step. If not, time is FLOPs over a matrix product's rate."""


def make_plan(config: TextRunConfig) -> Plan:
    """The plan of a run whose model names its vocabulary. Takes a few seconds at most, and no random numbers."""
    training, counts = config.training, count(config.model, config.training.sequence)
    weights = counts.parameters * BYTES_PER_PARAMETER
    tokens = training.batch * training.sequence
    if counts.parameters <= TRY_PARAMETERS:
        seconds, activations = _try_step(config)
        return Plan(counts, training.steps, tokens, weights + activations, seconds * training.steps, True)
    seconds = 3 * counts.flops_per_token * tokens / _matmul_rate()  # the backward pass costs two forward passes
    return Plan(counts, training.steps, tokens, weights, seconds * training.steps, False)


def _try_step(config: TextRunConfig) -> tuple[float, int]:
    """Seconds per step, and the bytes that one forward pass saves for its backward pass.

    Where blocks are recomputed, those of one block, the mean of all, are added: the backward pass makes them again.
    """
    training = config.training
    rows = training.batch // training.accumulate  # of one part of the batch
    with torch.random.fork_rng(devices=[]):
        model = LanguageModel(dataclasses.replace(config.model, dropout=0.0))
        tokens = torch.randint(model.embedding.num_embeddings, (rows, training.sequence))
    saved: dict[int, int] = {}  # address of a storage -> its bytes, since saved tensors may share one

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seconds, sizes = 0.0, []
    for recompute in (False, training.recompute == "blocks"):  # the first pass warms up
        model.recompute = recompute
        began = time.perf_counter()
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
            loss = cross_entropy(model(tokens)[0].flatten(0, 1), tokens.flatten())
            loss.backward()
        seconds = time.perf_counter() - began
        sizes.append(sum(size for pointer, size in saved.items() if pointer not in parameters))
    everything, kept = sizes
    return seconds * training.accumulate, kept + (everything - kept) // len(model.blocks)


def _matmul_rate() -> float:
    """FLOP/s of a square float32 matrix product, on this machine at this moment."""
    a = torch.ones(768, 768)
    a @ a  # warms up
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
        a @ a
        rounds += 1
    return rounds * 2 * 768**3 / (time.perf_counter() - began)
