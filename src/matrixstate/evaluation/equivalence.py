"""The certificate of a model: every way to compute it gives the same outputs, states and gradients.

The reference is the definition in float64: reference backends, each document whole and alone. A way passes if its error
is at most twice that of the definition in float32. The latter runs twice, with the weights as they are and with each
moved to a neighbouring number, and the larger error counts: the error of one run may be small by chance, and products
of matrices amplify roundings. A way that fails is compared with the largest of sixteen such runs before it is reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matrixstate.errors import BackendUnavailable
from matrixstate.evaluation.closeness import is_as_good, nudge
from matrixstate.evaluation.ways import Compute, packed_documents, padded_sequences, whole_sequences, with_method
from matrixstate.layers.mixer import State
from matrixstate.models import LanguageModel, ModelConfig
from matrixstate.ops import AttentionState, ForgettingState, ScaledState, prefer

RUNS = 16  # of the definition in float32, at most
UNIT = torch.finfo(torch.float32).eps  # the distance of neighbouring numbers near 1


@dataclass(frozen=True)
class Error:
    """The largest errors of one kind of result, in roundings of float32 of the largest value of the same tensor."""

    got: float
    """The error of the way that is checked."""
    plain: float
    """The error of plain PyTorch in float32, the largest of its runs."""

    @property
    def passes(self) -> bool:
        """Whether `got` meets the criterion of `closeness`."""
        return is_as_good(self.got, [self.plain], 1.0)


@dataclass(frozen=True)
class Row:
    """The errors of one way to compute the model."""

    way: str
    """Its name, such as "step by step"."""
    outputs: Error
    states: Error
    gradients: Error | None
    """None for generation, which has no gradients."""

    @property
    def passes(self) -> bool:
        """Whether all of its errors pass."""
        return all(error is None or error.passes for error in (self.outputs, self.states, self.gradients))


@dataclass(frozen=True)
class Result:
    """The result of a way: logits of all real tokens, values of the last states, gradients of the parameters."""

    outputs: list[Tensor]
    states: list[Tensor]
    gradients: list[Tensor] | None


def certify(
    model: LanguageModel, tokens: Tensor, *, compiled: bool = True, progress: Callable[[str], None] = lambda way: None
) -> list[Row]:
    """Check every way to compute `model`.

    Args:
        model: float32, on the CPU; put in evaluation mode.
        tokens: [2, T] int64, T >= 8.
        compiled: whether to include torch.compile, which takes longest.
        progress: called with the name of each way before it runs.

    Returns:
        The errors of each way. Ways that do not apply are left out, such as a backend that has none of the model's ops.
    """
    model = model.eval()
    problems = whole_sequences(tokens, compiled), padded_sequences(tokens), packed_documents(tokens)
    rows = []
    for definition, ways in problems:
        with prefer("reference"):
            exact = _result(with_method(model, "sequential").double(), definition)
            plain = [_result(with_method(model, "sequential"), definition), _result(_nudged(model, 0), definition)]
        for way, (change, compute) in ways.items():
            progress(way)
            changed = change(model)
            if changed is None:
                continue
            try:
                got = _result(changed, compute)
            except BackendUnavailable:  # the backend has an op of the model, but not for its options
                continue
            row = _compare(way, got, plain, exact)
            while not row.passes and len(plain) < RUNS:
                with prefer("reference"):
                    plain.append(_result(_nudged(model, len(plain)), definition))
                row = _compare(way, got, plain, exact)
            rows.append(row)
    return rows


@torch.no_grad()
def _nudged(model: LanguageModel, seed: int) -> LanguageModel:
    """A copy of the model with every weight moved to a neighbouring number, at random."""
    copy, generator = with_method(model, "sequential"), torch.Generator().manual_seed(seed)
    for weight in copy.parameters():
        weight.copy_(nudge(weight, generator))
    return copy


def _result(model: LanguageModel, compute: Compute) -> Result:
    """Run `compute`, and the backward pass of a weighted mean of its logits."""
    logits, states = compute(model)
    values = [value for state in states for value in _values(state)]
    if not logits.requires_grad:
        return Result([logits], values, None)
    # of different weights, so that errors at different tokens do not cancel
    weights = torch.linspace(0.5, 1.5, logits.numel(), dtype=logits.dtype, device=logits.device).view_as(logits)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad((logits * weights).mean(), parameters, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return Result([logits.detach()], values, filled)


def _values(state: State) -> list[Tensor]:
    """The values of a state in float64, independent of its representation: scaled, and without unused cache entries."""
    if state is None:
        return []
    if isinstance(state, Tensor):
        return [state.detach().double()]
    if isinstance(state, ScaledState):
        return [state.matrix.detach().double() * torch.exp2(state.exponent.double())[..., None, None]]
    if isinstance(state, AttentionState | ForgettingState):
        caches = [part for part in state if part is not state.length]
        used = [part[b, part.shape[1] - int(n) :] for b, n in enumerate(state.length) for part in caches]
        return [part.detach().double() for part in used]
    return [value for part in state for value in _values(part)]


def _compare(way: str, got: Result, plain: Sequence[Result], exact: Result) -> Row:
    """The largest errors of `got` and of the runs `plain`, measured against `exact`."""

    def worst(kind: str) -> Error:
        results = (getattr(r, kind) for r in (exact, got, *plain))
        tensors = [t for t in zip(*results, strict=True) if t[0].numel()]
        # a tensor that is nearly zero compared with the others is measured on their scale
        least = 1e-2 * max((float(e.abs().max()) for e, *_ in tensors), default=0.0)
        errors = [[_units(g, e, least) for g in others] for e, *others in tensors]
        mine, *theirs = (max(column) for column in zip(*errors, strict=True)) if errors else (0.0, 0.0)
        return Error(mine, max(theirs))

    return Row(way, worst("outputs"), worst("states"), None if got.gradients is None else worst("gradients"))


def _units(got: Tensor, exact: Tensor, least: float) -> float:
    """The largest error in roundings of float32 of the largest exact value, at least `least`.

    Infinite for another shape, and for NaN or infinity.
    """
    if got.shape != exact.shape or not got.isfinite().all():
        return float("inf")
    scale = max(float(exact.abs().max()), least, torch.finfo(torch.float32).tiny)
    return float((got.double() - exact.double()).abs().max()) / (UNIT * scale)


def example_model(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """A model with perturbed weights. At initialisation many mixers are the identity, which would hide errors."""
    torch.manual_seed(seed)
    model = LanguageModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model
