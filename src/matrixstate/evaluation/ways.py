"""The ways to compute a model that its certificate compares: backends, orders, splits, padding, packing, compiled."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from matrixstate.layers import MoE
from matrixstate.layers.mixer import MixerConfig, map_state
from matrixstate.models import BlockConfig, LanguageModel, ModelState
from matrixstate.ops import OPS, prefer
from matrixstate.ops.matrix import METHODS

Compute = Callable[[LanguageModel], tuple[Tensor, list[ModelState]]]
"""One way to run a model: logits [N, vocabulary] of the real tokens in order, and the last state of each batch."""

Ways = dict[str, tuple[Callable[[LanguageModel], LanguageModel | None], Compute]]
"""Ways by name: the change of the model, which returns None if the way does not apply, and how to run it."""


def whole_sequences(tokens: Tensor, compiled: bool) -> tuple[Compute, Ways]:
    """The definition and the ways to compute two sequences of equal length."""
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
        fullgraph = not any(isinstance(module, MoE) for module in model.modules())  # experts break the graph
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
        ways[f"scan {method}"] = (lambda m, method=method: with_method(m, method) if _has_methods(m) else None, whole)
    ways["step by step"] = (lambda model: model, in_pieces([1] * T))
    ways["generation"] = (lambda model: model, generating)
    ways[f"split {'+'.join(map(str, pieces))}"] = (lambda model: model, in_pieces(pieces))
    if compiled:
        ways["torch.compile"] = (lambda model: model, through_compile)
    return whole, ways


def padded_sequences(tokens: Tensor) -> tuple[Compute, Ways]:
    """The definition and the ways to compute two sequences of different lengths: padded left, padded right."""
    T = tokens.shape[1]
    lengths = [T, T - 5]

    def alone(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        results = [model(tokens[b : b + 1, :n]) for b, n in enumerate(lengths)]
        return torch.cat([logits[0] for logits, _ in results]), [state for _, state in results]

    def padded(left: bool) -> Compute:
        def compute(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
            t = torch.arange(T, device=tokens.device)
            mask = torch.stack([t >= T - n if left else t < n for n in lengths])
            batch = torch.zeros_like(tokens)
            for b, n in enumerate(lengths):
                batch[b, mask[b]] = tokens[b, :n]
            logits, state = model(batch, mask=mask)
            rows = [map_state(lambda leaf, b=b: leaf[b : b + 1], state) for b in range(len(lengths))]
            return torch.cat([logits[b, mask[b]] for b in range(len(lengths))]), rows

        return compute

    same = lambda model: model  # noqa: E731
    return alone, {"padded left": (same, padded(True)), "padded right": (same, padded(False))}


def packed_documents(tokens: Tensor) -> tuple[Compute, Ways]:
    """The definition and the way to compute three documents per row: packed into one sequence."""
    T = tokens.shape[1]
    edges = [0, T // 4, T // 4 + 1, T]  # the second document is a single token

    def alone(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        results = [model(tokens[:, begin:end]) for begin, end in itertools.pairwise(edges)]
        return torch.cat([logits for logits, _ in results], dim=1).flatten(0, 1), [results[-1][1]]

    def packed(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        reset = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
        for begin in edges[:-1]:
            reset[:, begin] = True
        logits, state = model(tokens, reset=reset)
        return logits.flatten(0, 1), [state]

    return alone, {"packed documents": (lambda model: model, packed)}


def _has_backend(model: LanguageModel, name: str) -> bool:
    """Whether the backend `name`, if it is meant for the model's device, can run some op of the model in float32."""
    mixers = [block.mixer for block in model.config.blocks if block.mixer is not None]
    ops = {mixer.about.op for mixer in mixers}
    ops |= {"causal_conv" for mixer in mixers if getattr(mixer, "conv", 0)}
    ops |= {"matrix_scan" for mixer in mixers if hasattr(mixer, "method")}
    device = model.device.type
    choices = [b for op in ops if op for b in OPS[op] if b.name == name and b.auto_on in (None, device)]
    return any(b.why_not(device, torch.float32) is None for b in choices)


def _preferring(backend: str, compute: Compute) -> Compute:
    """`compute` with `backend` for every op that has it."""

    def preferred(model: LanguageModel) -> tuple[Tensor, list[ModelState]]:
        with prefer(backend):
            return compute(model)

    return preferred


def _has_methods(model: LanguageModel) -> bool:
    return any(_has_method(block.mixer) for block in model.config.blocks)


def _has_method(mixer: MixerConfig | None) -> bool:
    """Whether the mixer's scan has the option `method`, which error correction (`snap`) excludes."""
    return hasattr(mixer, "method") and not getattr(mixer, "snap", 0)


def with_method(model: LanguageModel, method: str) -> LanguageModel:
    """A copy of the model whose scans use `method`, where they have that option."""

    def changed(block: BlockConfig) -> BlockConfig:
        if block.mixer is None or not _has_method(block.mixer):
            return block
        return dataclasses.replace(block, mixer=dataclasses.replace(block.mixer, **{"method": method}))

    copy = LanguageModel(dataclasses.replace(model.config, blocks=tuple(map(changed, model.config.blocks))))
    copy.load_state_dict(model.state_dict())
    return copy.to(model.device).eval()
