"""Single steps on a GPU as one graph: launched at once, where launching kernel by kernel takes longer than they run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from matrixstate.layers.mixer import State, map_state, state_leaves
from matrixstate.layers.moe import MoE
from matrixstate.models.lm import LanguageModel, ModelState

WARM_UP = 2  # steps before the recording, in which kernels are compiled and libraries choose their algorithms
Recorder = Callable[[Callable[[], None]], Callable[[], None]]  # runs a function once; returns what repeats its work


def can_be_captured(model: LanguageModel, before: ModelState, after: ModelState) -> bool:
    """Whether a graph can repeat the step between two states of a model.

    A graph has fixed memory, and decisions are not made again: the state must not grow, as that of attention does until
    its window is full, and no mixture of experts may choose how many tokens each expert gets.
    """
    fixed = all(x.shape == y.shape for x, y in zip(state_leaves(before), state_leaves(after), strict=True))
    on_a_gpu = model.device.type == "cuda" and not any(isinstance(part, MoE) for part in model.modules())
    return on_a_gpu and fixed


def record_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Records the CUDA kernels that `work` launches, without running them; returns what launches them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class CapturedStep:
    """The step of one token per row as a graph, which is recorded here and replayed by every call.

    Args:
        model: in evaluation mode, on a GPU, for which `can_be_captured` is true.
        state: after the tokens so far. It is copied.
        record: makes the graph.
    """

    @torch.no_grad()
    def __init__(self, model: LanguageModel, state: ModelState, record: Recorder = record_graph) -> None:
        self._model = model
        self.state: ModelState = map_state(torch.clone, state)  # after the tokens so far; the next call overwrites it
        self._tokens = torch.zeros(len(state.position), 1, dtype=torch.int64, device=model.device)
        with _another_stream(model.device):  # as the recording will be
            for _ in range(WARM_UP):
                self._logits = self._logits_and_state_in_place()
        self._replay = record(self._step)
        self._set_state(state)

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """The logits [B, vocabulary] after tokens [B, 1] int64 of any device. The next call overwrites them."""
        self._tokens.copy_(tokens)
        self._replay()
        return self._logits

    def _step(self) -> None:
        self._logits.copy_(self._logits_and_state_in_place())

    def _logits_and_state_in_place(self) -> Tensor:
        """From the memory of the tokens and the state; the new state takes the place of the old one."""
        features, after = self._model.features(self._tokens, self.state)
        self._set_state(after)
        return self._model.head(features[:, -1])

    def _set_state(self, state: State) -> None:
        for old, new in zip(state_leaves(self.state), state_leaves(state), strict=True):
            old.copy_(new)


@contextmanager
def _another_stream(device: torch.device) -> Iterator[None]:
    """A context in which work is launched on a stream other than the default one, where nothing can be recorded."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
