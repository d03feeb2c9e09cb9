"""A certificate for a model: every way to compute it gives the same outputs, states and gradients.

The yardstick is the definition in float64: reference backends, whole documents, one at a time. A way passes if it errs
at most twice as far from it as the same definition does in float32, with the weights as they are or with each moved to
a neighbouring number: one run alone may be lucky in its roundings, and products of matrices make much of them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matrixstate.errors import BackendUnavailable
from matrixstate.evaluation.closeness import is_as_good, nudge
from matrixstate.layers import MoE
from matrixstate.layers.mixer import MixerConfig, State, map_state
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig, ModelState
from matrixstate.ops import OPS, AttentionState, ScaledState, prefer
from matrixstate.ops.matrix import METHODS

UNIT = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Error:
    """The largest error of one kind of result, in roundings of float32 of the largest value of the same tensor."""

    got: float
    """That of the way that is checked."""
    plain: float
    """That of plain PyTorch in float32, the larger of two runs."""

    @property
    def passes(self) -> bool:
        return is_as_good(self.got, [self.plain], 1.0)


@dataclass(frozen=True)
class Row:
    """One way of computing the model."""

    way: str
    outputs: Error
    states: Error
    gradients: Error | None
    """None for a way that has no gradients: generation's."""

    @property
    def passes(self) -> bool:
        return all(error is None or error.passes for error in (self.outputs, self.states, self.gradients))


@dataclass(frozen=True)
class Result:
    """What a way of computing gives: logits of all real tokens, numbers of the last states, gradients of parameters."""

    outputs: list[Tensor]
    states: list[Tensor]
    gradients: list[Tensor] | None


Compute = Callable[[LanguageModel], tuple[Tensor, list[ModelState]]]
"""Logits [N, vocabulary] of the real tokens in order, and the last state of every document's batch."""


def certify(
    model: LanguageModel, tokens: Tensor, *, compiled: bool = True, progress: Callable[[str], None] = lambda way: None
) -> list[Row]:
    """Checks every way to compute `model` on `tokens` [2, T], T >= 8.

    Args:
        model: float32; is put in evaluation mode, its weights are left alone.
        compiled: also through torch.compile, which takes a while.
        progress: called with the name of each way before it is tried.
    """
    model = model.eval()
    problems = _whole(tokens, compiled), _ragged(tokens), _packed(tokens)
    rows = []
    for alone, ways in problems:
        with prefer("reference"):
            exact = _result(_with_method(model, "sequential").double(), alone)
            plain = [_result(m, alone) for m in (_with_method(model, "sequential"), _nudged(model))]
        for way, (change, compute) in ways.items():
            progress(way)
            changed = change(model)
            if changed is None:
                continue
            try:
                got = _result(changed, compute)
            except BackendUnavailable:  # the backend has some of the model's ops, but not with these options
                continue
            rows.append(_compare(way, got, plain, exact))
    return rows


Ways = dict[str, tuple[Callable[[LanguageModel], LanguageModel | None], Compute]]


def _whole(tokens: Tensor, compiled: bool) -> tuple[Compute, Ways]:
    T = tokens.shape[1]

    def whole(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        logits, state = model(tokens)
        return logits.flatten(0, 1), [state]

    def in_pieces(sizes: Sequence[int]) -> Compute:
        def compute(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
            state, pieces = None, []
            for piece in tokens.split(list(sizes), dim=1):
                logits, state = model(piece, state)
                pieces.append(logits)
            assert state is not None
            return torch.cat(pieces, dim=1).flatten(0, 1), [state]

        return compute

    @torch.no_grad()
    def generating(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        return in_pieces([1] * T)(model)

    def through_compile(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        fullgraph = not any(isinstance(module, MoE) for module in model.modules())  # experts need a break
        logits, state = torch.compile(model, fullgraph=fullgraph, backend="aot_eager")(tokens)
        return logits.flatten(0, 1), [state]

    cuts = sorted(torch.randperm(T - 1, generator=torch.Generator().manual_seed(0))[:3].tolist())
    pieces = [b - a for a, b in itertools.pairwise([0, *(cut + 1 for cut in cuts), T])]
    ways: Ways = {"as it is": (lambda model: model, whole)}
    for name in sorted({backend.name for choices in OPS.values() for backend in choices}):
        ways[f"backend {name}"] = (
            lambda model, name=name: model if _has_backend(model, name) else None,
            _preferring(name, whole),
        )
    for method in METHODS[1:]:
        ways[f"scan {method}"] = (lambda m, method=method: _with_method(m, method) if _has_methods(m) else None, whole)
    ways["step by step"] = (lambda model: model, in_pieces([1] * T))
    ways["generation"] = (lambda model: model, generating)
    ways[f"split {'+'.join(map(str, pieces))}"] = (lambda model: model, in_pieces(pieces))
    if compiled:
        ways["torch.compile"] = (lambda model: model, through_compile)
    return whole, ways


def _ragged(tokens: Tensor) -> tuple[Compute, Ways]:
    """Two rows of different lengths."""
    T = tokens.shape[1]
    lengths = [T, T - 5]

    def alone(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        results = [model(tokens[b : b + 1, :n]) for b, n in enumerate(lengths)]
        return torch.cat([logits[0] for logits, _ in results]), [state for _, state in results]

    def padded(left: bool) -> Compute:
        def compute(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
            mask = torch.stack([torch.arange(T) >= T - n if left else torch.arange(T) < n for n in lengths])
            batch = torch.zeros_like(tokens)
            for b, n in enumerate(lengths):
                batch[b, mask[b]] = tokens[b, :n]
            logits, state = model(batch, mask=mask)
            rows = [map_state(lambda leaf, b=b: leaf[b : b + 1], state) for b in range(len(lengths))]
            return torch.cat([logits[b, mask[b]] for b in range(len(lengths))]), rows

        return compute

    same = lambda model: model  # noqa: E731
    return alone, {"padded left": (same, padded(True)), "padded right": (same, padded(False))}


def _packed(tokens: Tensor) -> tuple[Compute, Ways]:
    """Three documents of each row in one sequence."""
    T = tokens.shape[1]
    edges = [0, T // 4, T // 4 + 1, T]

    def alone(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        results = [model(tokens[:, begin:end]) for begin, end in itertools.pairwise(edges)]
        return torch.cat([logits for logits, _ in results], dim=1).flatten(0, 1), [results[-1][1]]

    def packed(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        reset = torch.zeros(tokens.shape, dtype=torch.bool)
        reset[:, edges[:-1]] = True
        logits, state = model(tokens, reset=reset)
        return logits.flatten(0, 1), [state]

    return alone, {"packed documents": (lambda model: model, packed)}


def _has_backend(model: LanguageModel, name: str) -> bool:
    """Whether some op of the model runs on it here."""
    mixers = [block.mixer for block in model.config.blocks if block.mixer is not None]
    ops = {mixer.about.op for mixer in mixers}
    ops |= {"causal_conv" for mixer in mixers if getattr(mixer, "conv", 0)}
    ops |= {"matrix_scan" for mixer in mixers if hasattr(mixer, "method")}
    return any(b.name == name and b.why_not("cpu", torch.float32) is None for op in ops if op for b in OPS[op])


def _preferring(backend: str, compute: Compute) -> Compute:
    def preferred(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        with prefer(backend):
            return compute(model)

    return preferred


def _has_methods(model: LanguageModel) -> bool:
    return any(_has_method(block.mixer) for block in model.config.blocks)


def _has_method(mixer: MixerConfig | None) -> bool:
    """Whether its scan has several orders; that of a mixer with corrections has one."""
    return hasattr(mixer, "method") and not getattr(mixer, "snap", 0)


def _with_method(model: LanguageModel, method: str) -> LanguageModel:
    """A copy of the model whose scans use `method`, where they have one."""

    def changed(block: BlockConfig) -> BlockConfig:
        if block.mixer is None or not _has_method(block.mixer):
            return block
        return dataclasses.replace(block, mixer=dataclasses.replace(block.mixer, **{"method": method}))

    copy = LanguageModel(dataclasses.replace(model.config, blocks=tuple(map(changed, model.config.blocks))))
    copy.load_state_dict(model.state_dict())
    return copy.eval()


@torch.no_grad()
def _nudged(model: LanguageModel) -> LanguageModel:
    """A copy of the model with every weight one float32 up or down."""
    copy, generator = _with_method(model, "sequential"), torch.Generator().manual_seed(0)
    for weight in copy.parameters():
        weight.copy_(nudge(weight, generator))
    return copy


def _result(model: LanguageModel, compute: Compute) -> Result:
    logits, states = compute(model)
    numbers = [n for state in states for n in _numbers(state)]
    if not logits.requires_grad:
        return Result([logits], numbers, None)
    weights = torch.linspace(0.5, 1.5, logits.numel(), dtype=logits.dtype).view_as(logits)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad((logits * weights).mean(), parameters, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return Result([logits.detach()], numbers, filled)


def _numbers(state: State) -> list[Tensor]:
    """The numbers that a state stands for, however it holds them."""
    if state is None:
        return []
    if isinstance(state, Tensor):
        return [state.detach().double()]
    if isinstance(state, ScaledState):
        return [state.matrix.detach().double() * torch.exp2(state.exponent.double())[..., None, None]]
    if isinstance(state, AttentionState):
        kept = [(part[b, part.shape[1] - int(n) :]) for b, n in enumerate(state.length) for part in (state.k, state.v)]
        return [part.detach().double() for part in kept]
    return [number for part in state for number in _numbers(part)]


def _compare(way: str, got: Result, plain: Sequence[Result], exact: Result) -> Row:
    def worst(kind: str) -> Error:
        results = (getattr(r, kind) for r in (exact, got, *plain))
        tensors = [t for t in zip(*results, strict=True) if t[0].numel()]
        # a tensor that is nearly zero beside the others is measured by their size
        least = 1e-2 * max((float(e.abs().max()) for e, *_ in tensors), default=0.0)
        errors = [[_units(g, e, least) for g in others] for e, *others in tensors]
        mine, *theirs = (max(column) for column in zip(*errors, strict=True)) if errors else (0.0, 0.0)
        return Error(mine, max(theirs))

    return Row(way, worst("outputs"), worst("states"), None if got.gradients is None else worst("gradients"))


def _units(got: Tensor, exact: Tensor, least: float) -> float:
    """The largest error in roundings of float32 of the largest exact value; infinite for another shape or a NaN."""
    if got.shape != exact.shape or not got.isfinite().all():
        return float("inf")
    scale = max(float(exact.abs().max()), least, torch.finfo(torch.float32).tiny)
    return float((got.double() - exact.double()).abs().max()) / (UNIT * scale)


def example_model(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """A model whose weights are not at their start, where many mixers do nothing that could be wrong."""
    torch.manual_seed(seed)
    model = LanguageModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model
